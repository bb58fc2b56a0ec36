use ab_glyph::{Font, FontRef, PxScaleFont, ScaleFont, point};

use super::{About, Images, PictureError};

/// The longest side that a picture may have.
pub(super) const MAX_SIDE: usize = 20_000;
/// The most pixels that a picture may have.
const MAX_PIXELS: usize = 100_000_000;

/// Text sizes, in pixels from the top of the highest letter to the bottom of the lowest.
pub(super) const TITLE: f32 = 23.0;
pub(super) const HEADING: f32 = 19.0;
pub(super) const LABEL: f32 = 17.0;

pub(super) const INK: [u8; 3] = [0; 3];
pub(super) const PALE: [u8; 3] = [80; 3];
const FRAME: [u8; 3] = [205; 3];
/// The colour of values that are not finite: no image is entirely of this colour.
pub(super) const NOT_FINITE: [u8; 3] = [255, 0, 255];

/// Which point of a line of text the coordinates name.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Left,
    Centre,
    Right,
    /// Centred, reading from bottom to top.
    Upwards,
}

/// A picture to draw on, white at first.
pub(super) struct Canvas {
    pub(super) width: usize,
    pub(super) height: usize,
    /// `[height, width, 3]`
    pub(super) bytes: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Result<Self, PictureError> {
        let pixels = width.checked_mul(height).filter(|&n| n <= MAX_PIXELS && width.max(height) <= MAX_SIDE);
        let Some(pixels) = pixels else { return Err(PictureError::TooLarge { width, height }) };
        Ok(Self { width, height, bytes: vec![255; pixels * 3] })
    }

    fn pixel(&mut self, x: usize, y: usize) -> Option<&mut [u8; 3]> {
        let i = (x < self.width && y < self.height).then(|| (y * self.width + x) * 3)?;
        self.bytes.get_mut(i..i + 3)?.try_into().ok()
    }

    /// Draws one image with its corner at `(x, y)`; each of its pixels becomes a square of side `scale`.
    pub(super) fn image(&mut self, image: Images, scale: usize, (x, y): (usize, usize)) {
        let Images { pixels, channels, height, width } = image;
        let byte = |value: f32| (255.0 * value.clamp(0.0, 1.0)).round() as u8;
        for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
            let value = |channel: usize| pixels[(channel * height + row) * width + column];
            let rgb = match channels {
                _ if (0..channels).any(|channel| !value(channel).is_finite()) => NOT_FINITE,
                3 => [0, 1, 2].map(|channel| byte(value(channel))),
                _ => [byte(1.0 - value(0).clamp(0.0, 1.0)); 3],
            };
            for dy in 0..scale {
                for dx in 0..scale {
                    if let Some(pixel) = self.pixel(x + column * scale + dx, y + row * scale + dy) {
                        *pixel = rgb;
                    }
                }
            }
        }
    }

    /// Draws a line, one pixel wide, around the rectangle whose first pixel is `(x, y)`.
    pub(super) fn frame(&mut self, (x, y): (usize, usize), width: usize, height: usize) {
        let across = (x - 1..=x + width).flat_map(|x| [(x, y - 1), (x, y + height)]);
        let down = (y..y + height).flat_map(|y| [(x - 1, y), (x + width, y)]);
        for (x, y) in across.chain(down) {
            if let Some(pixel) = self.pixel(x, y) {
                *pixel = FRAME;
            }
        }
    }

    /// Writes a line at `(x, y)`. `y` is the baseline; for [`Anchor::Upwards`], `x` is.
    ///
    /// Uses `ab_glyph` directly: plotters puts each letter on a whole pixel and ignores its bearing, so that words fall
    /// apart.
    pub(super) fn text(
        &mut self,
        line: &str,
        size: f32,
        ink: [u8; 3],
        (x, y): (usize, usize),
        anchor: Anchor,
    ) -> Result<(), PictureError> {
        let font = font(size)?;
        let width = advance(&font, line, |_, _| {});
        let shift = match anchor {
            Anchor::Left => 0.0,
            Anchor::Centre | Anchor::Upwards => -(width / 2.0).round(),
            Anchor::Right => -width,
        };
        advance(&font, line, |letter, at| {
            let Some(outline) =
                font.outline_glyph(font.glyph_id(letter).with_scale_and_position(font.scale(), point(at + shift, 0.0)))
            else {
                return;
            };
            let corner = outline.px_bounds().min;
            outline.draw(|dx, dy, coverage| {
                let (along, down) = (corner.x as isize + dx as isize, corner.y as isize + dy as isize);
                let (dx, dy) = if matches!(anchor, Anchor::Upwards) { (down, -along) } else { (along, down) };
                let at = x.checked_add_signed(dx).zip(y.checked_add_signed(dy));
                if let Some(pixel) = at.and_then(|(x, y)| self.pixel(x, y)) {
                    for (paper, ink) in pixel.iter_mut().zip(ink) {
                        *paper = (f32::from(*paper) + (f32::from(ink) - f32::from(*paper)) * coverage.min(1.0)).round()
                            as u8;
                    }
                }
            });
        });
        Ok(())
    }

    /// The picture as PNG.
    pub(super) fn png(&self, about: About) -> Result<Vec<u8>, PictureError> {
        encode(&[self], &[], png::ColorType::Rgb, about)
    }
}

/// Encodes pictures of one size as a PNG, animated if there are several. `delays` are the milliseconds that each is
/// shown.
pub(super) fn encode(
    frames: &[&Canvas],
    delays: &[u16],
    color: png::ColorType,
    about: About,
) -> Result<Vec<u8>, PictureError> {
    let Some(first) = frames.first() else { return Err(PictureError::Drawing("there is nothing to draw".into())) };
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, first.width as u32, first.height as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    if frames.len() > 1 {
        encoder.set_animated(frames.len() as u32, 0)?; // endless loop
    }
    for (keyword, text) in about {
        let (keyword, text) = ((*keyword).to_owned(), text.clone());
        match text.is_ascii() {
            true => encoder.add_text_chunk(keyword, text)?,
            false => encoder.add_itxt_chunk(keyword, text)?, // the same, in UTF-8
        }
    }
    let mut writer = encoder.write_header()?;
    for (i, frame) in frames.iter().enumerate() {
        if let Some(&delay) = delays.get(i) {
            writer.set_frame_delay(delay, 1000)?;
        }
        writer.write_image_data(&frame.bytes)?;
    }
    writer.finish()?;
    Ok(bytes)
}

/// The width in pixels of a line of text.
pub(super) fn text_width(line: &str, size: f32) -> Result<usize, PictureError> {
    Ok(advance(&font(size)?, line, |_, _| {}).ceil() as usize)
}

/// The height of a capital letter, used to place lines.
pub(super) fn cap_height(size: f32) -> usize {
    (size * 0.626).round() as usize // DejaVu Sans: 1493 of its 2384 units
}

/// DejaVu Sans, the font of the tutorial's pictures.
fn font(size: f32) -> Result<PxScaleFont<FontRef<'static>>, PictureError> {
    match FontRef::try_from_slice(dejavu::sans::regular()) {
        Ok(font) => Ok(font.into_scaled(size)),
        Err(e) => Err(PictureError::Drawing(e.to_string())),
    }
}

/// Visits a line letter by letter with each letter's position, and returns the width of the line.
fn advance(font: &PxScaleFont<FontRef>, line: &str, mut letter: impl FnMut(char, f32)) -> f32 {
    let mut at = 0.0;
    let mut before = None;
    for c in line.chars() {
        let id = font.glyph_id(c);
        at += before.map_or(0.0, |before| font.kern(before, id));
        letter(c, at);
        at += font.h_advance(id);
        before = Some(id);
    }
    at
}

/// Helpers for the tests of all pictures.
#[cfg(test)]
pub(super) mod tests {
    /// A decoded PNG.
    pub(in crate::pictures) struct Decoded {
        pub(in crate::pictures) width: usize,
        pub(in crate::pictures) height: usize,
        pub(in crate::pictures) rgb: Vec<[u8; 3]>,
        pub(in crate::pictures) texts: Vec<(String, String)>,
    }

    impl Decoded {
        pub(in crate::pictures) fn at(&self, x: usize, y: usize) -> [u8; 3] {
            self.rgb[y * self.width + x]
        }

        pub(in crate::pictures) fn all(
            &self,
            xs: std::ops::Range<usize>,
            ys: std::ops::Range<usize>,
            color: [u8; 3],
        ) -> bool {
            ys.into_iter().all(|y| xs.clone().all(|x| self.at(x, y) == color))
        }
    }

    pub(in crate::pictures) fn decode(bytes: &[u8]) -> Decoded {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut buffer).unwrap();
        assert_eq!(info.color_type, png::ColorType::Rgb);
        let rgb = buffer.as_chunks().0.to_vec();
        let texts = reader.info().uncompressed_latin1_text.iter().map(|t| (t.keyword.clone(), t.text.clone()));
        let utf8 = reader.info().utf8_text.iter().map(|t| (t.keyword.clone(), t.get_text().unwrap()));
        Decoded { width: info.width as usize, height: info.height as usize, rgb, texts: texts.chain(utf8).collect() }
    }
}
