use std::sync::Once;

use plotters::backend::BitMapBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::style::{BLACK, Color, FontStyle, RGBColor, TextStyle, WHITE, register_font};

use super::{About, PictureError};

/// The largest side of a picture.
const MAX_SIDE: usize = 20_000;
/// The most pixels in a picture.
const MAX_PIXELS: usize = 100_000_000;
pub(super) const FONT: &str = "DejaVu Sans";

/// A white picture that is drawn on.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Result<Self, PictureError> {
        let pixels = width.checked_mul(height).filter(|&n| n <= MAX_PIXELS && width.max(height) <= MAX_SIDE);
        let Some(pixels) = pixels else { return Err(PictureError::TooLarge { width, height }) };
        Ok(Self { width, height, rgb: vec![255; pixels * 3] })
    }

    /// Draws an image of `height` rows, each of its pixels a square of `scale`, with its corner at `(x, y)`.
    pub(super) fn image(&mut self, pixels: &[f32], width: usize, scale: usize, (x, y): (usize, usize)) {
        for (row, pixels) in pixels.chunks(width).enumerate() {
            for (column, &value) in pixels.iter().enumerate() {
                let grey = (255.0 * (1.0 - value.clamp(0.0, 1.0))).round();
                let grey = if grey.is_nan() { 255 } else { grey as u8 };
                for dy in 0..scale {
                    let start = ((y + row * scale + dy) * self.width + x + column * scale) * 3;
                    if let Some(line) = self.rgb.get_mut(start..start + scale * 3) {
                        line.fill(grey);
                    }
                }
            }
        }
    }

    /// Lets plotters draw.
    pub(super) fn draw<'a>(
        &'a mut self,
        draw: impl FnOnce(DrawingArea<BitMapBackend<'a>, Shift>) -> Result<(), String>,
    ) -> Result<(), PictureError> {
        static FONT_IS_THERE: Once = Once::new();
        FONT_IS_THERE.call_once(|| {
            let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular()); // a failure shows when text is drawn
        });
        let size = (self.width as u32, self.height as u32);
        draw(BitMapBackend::with_buffer(&mut self.rgb, size).into_drawing_area()).map_err(PictureError::Drawing)
    }

    pub(super) fn png(&self, about: About) -> Result<Vec<u8>, PictureError> {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        for (keyword, text) in about {
            encoder.add_itxt_chunk((*keyword).to_owned(), text.clone())?;
        }
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(bytes)
    }
}

/// Text in the pictures' font: DejaVu Sans, the font of the tutorial's own.
pub(super) fn text(size: f64, color: RGBColor) -> TextStyle<'static> {
    TextStyle { color: color.to_backend_color(), ..TextStyle::from((FONT, size)) }
}

pub(super) const INK: RGBColor = BLACK;
pub(super) const PALE: RGBColor = RGBColor(90, 90, 90);
pub(super) const PAPER: RGBColor = WHITE;

/// The width in pixels of a line of text.
pub(super) fn text_width(line: &str, size: f64) -> Result<usize, PictureError> {
    let mut probe = Canvas::new(1, 1)?;
    let mut width = 0;
    probe.draw(|area| {
        width = area.estimate_text_size(line, &text(size, INK)).map_err(|e| e.to_string())?.0 as usize;
        Ok(())
    })?;
    Ok(width)
}
