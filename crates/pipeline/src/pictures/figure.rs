use plotters::element::Text;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::{Canvas, INK, PALE, text, text_width};
use super::{About, Images, PictureError};

/// A grid of images with its labels; a figure has one or several side by side.
#[derive(Debug, Clone)]
pub struct Block<'a> {
    /// Above the block; may be empty.
    pub title: &'a str,
    /// The images, row by row.
    pub images: Images<'a>,
    /// Images in a row.
    pub columns: usize,
    /// Above each column; may be empty.
    pub column_labels: Vec<String>,
    /// At the left of each row; may be empty.
    pub row_labels: Vec<String>,
}

const SCALE: usize = 3;
const GAP: usize = 6;
const MARGIN: usize = 24;
const BETWEEN_BLOCKS: usize = 36;
const TITLE_SIZE: f64 = 22.0;
const BLOCK_SIZE: f64 = 18.0;
const LABEL_SIZE: f64 = 15.0;

/// Draws blocks of images side by side under a title, as PNG.
///
/// # Errors
/// When a block's pixels are not whole images, or the picture would be too large.
pub fn figure(title: &str, blocks: &[Block], about: About) -> Result<Vec<u8>, PictureError> {
    let mut left = MARGIN;
    let mut bottom = 0;
    let head = if title.is_empty() { MARGIN } else { MARGIN + TITLE_SIZE as usize + 16 };
    let has_titles = blocks.iter().any(|block| !block.title.is_empty());
    let has_labels = blocks.iter().any(|block| !block.column_labels.is_empty());
    let titles = if has_titles { BLOCK_SIZE as usize + 10 } else { 0 };
    let labels = if has_labels { LABEL_SIZE as usize + 8 } else { 0 };
    let top = head + titles + labels;

    let mut placed = vec![];
    for block in blocks {
        let count = count(block.images)?;
        let mut label_width = 0;
        for label in &block.row_labels {
            label_width = label_width.max(text_width(label, LABEL_SIZE)? + 14);
        }
        let columns = block.columns.clamp(1, count.max(1));
        let (tile_w, tile_h) = (block.images.width * SCALE + GAP, block.images.height * SCALE + GAP);
        let width = (columns * tile_w - GAP).max(text_width(block.title, BLOCK_SIZE)?);
        placed.push((block, left + label_width, columns, tile_w, tile_h));
        left += label_width + width + BETWEEN_BLOCKS;
        bottom = bottom.max(top + count.div_ceil(columns) * tile_h);
    }
    let width = (left + MARGIN).saturating_sub(BETWEEN_BLOCKS).max(text_width(title, TITLE_SIZE)? + 2 * MARGIN);
    let mut canvas = Canvas::new(width, bottom + MARGIN - GAP)?;

    for &(block, x, columns, tile_w, tile_h) in &placed {
        let size = block.images.height * block.images.width;
        for (i, image) in block.images.pixels.chunks_exact(size).enumerate() {
            let at = (x + i % columns * tile_w, top + i / columns * tile_h);
            canvas.image(image, block.images.width, SCALE, at);
        }
    }
    canvas.draw(|area| {
        let put = |line: &str, size: f64, color, x: usize, y: usize, h, v| {
            let style = text(size, color).pos(Pos::new(h, v));
            area.draw(&Text::new(line.to_owned(), (x as i32, y as i32), style)).map_err(|e| e.to_string())
        };
        put(title, TITLE_SIZE, INK, width / 2, MARGIN, HPos::Center, VPos::Top)?;
        for &(block, x, columns, tile_w, tile_h) in &placed {
            let centre = x + (columns * tile_w - GAP) / 2;
            put(block.title, BLOCK_SIZE, INK, centre, head, HPos::Center, VPos::Top)?;
            for (i, label) in block.column_labels.iter().enumerate().take(columns) {
                let centre = x + i * tile_w + (tile_w - GAP) / 2;
                put(label, LABEL_SIZE, PALE, centre, top - 6, HPos::Center, VPos::Bottom)?;
            }
            for (i, label) in block.row_labels.iter().enumerate() {
                put(label, LABEL_SIZE, PALE, x - 12, top + i * tile_h + (tile_h - GAP) / 2, HPos::Right, VPos::Center)?;
            }
        }
        area.present().map_err(|e| e.to_string())
    })?;
    canvas.png(about)
}

/// Draws images `columns` to a row without any text, each pixel a square of `scale`, as PNG.
///
/// # Errors
/// As [`figure`].
pub fn grid(images: Images, columns: usize, scale: usize, about: About) -> Result<Vec<u8>, PictureError> {
    let count = count(images)?;
    let (columns, gap) = (columns.clamp(1, count.max(1)), 2 * scale);
    let (tile_w, tile_h) = (images.width * scale + gap, images.height * scale + gap);
    let mut canvas = Canvas::new(columns * tile_w + gap, count.div_ceil(columns) * tile_h + gap)?;
    for (i, image) in images.pixels.chunks_exact(images.height * images.width).enumerate() {
        canvas.image(image, images.width, scale, (gap + i % columns * tile_w, gap + i / columns * tile_h));
    }
    canvas.png(about)
}

/// How many images there are.
fn count(Images { pixels, height, width }: Images) -> Result<usize, PictureError> {
    let size = height * width;
    if size == 0 || !pixels.len().is_multiple_of(size) {
        return Err(PictureError::Size { pixels: pixels.len(), height, width });
    }
    Ok(pixels.len() / size)
}
