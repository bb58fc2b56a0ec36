use super::canvas::{Anchor, Canvas, HEADING, INK, LABEL, PALE, TITLE, cap_height, text_width};
use super::{About, Images, PictureError};

/// A grid of images with labels; a figure has one block or several side by side.
#[derive(Debug, Clone)]
pub struct Block<'a> {
    /// The heading above the block; may be empty.
    pub title: &'a str,
    /// The images, row by row.
    pub images: Images<'a>,
    /// Images per row.
    pub columns: usize,
    /// The labels above the columns; may be empty.
    pub column_labels: Vec<String>,
    /// The labels to the left of the rows; may be empty.
    pub row_labels: Vec<String>,
}

/// The side of the square that an image's pixel becomes, unless the images in a row would be wider than `WIDTH`.
const SCALE: usize = 3;
const WIDTH: usize = 1024;
/// The distance between two images, including the line around each of them.
const GAP: usize = 8;
const MARGIN: usize = 24;
const BETWEEN_BLOCKS: usize = 36;
/// Distances below a title, a heading, a column label; to the right of a row label.
const BELOW_TITLE: usize = 20;
const BELOW_HEADING: usize = 13;
const BELOW_LABEL: usize = 10;
const BESIDE_LABEL: usize = 12;

/// A block with its dimensions, all in pixels.
struct Placed<'a> {
    block: &'a Block<'a>,
    /// The number of rows and columns of images.
    rows: usize,
    columns: usize,
    /// The distance from one image to the next.
    pitch: (usize, usize),
    /// The size of an image.
    tile: (usize, usize),
    /// The left edge and the width of the area of the images.
    left: usize,
    width: usize,
    /// The space needed to the left and to the right of the images, for labels and for a title wider than the images.
    before: usize,
    behind: usize,
}

/// Draws blocks of images side by side under a title, as PNG. An image's pixels become squares of 3 x 3, or smaller
/// ones if many images are side by side.
///
/// # Errors
/// When a block's pixels are not a whole number of images, or the picture would be too large.
pub fn figure(title: &str, blocks: &[Block], about: About) -> Result<Vec<u8>, PictureError> {
    let scale = scale(blocks)?;
    let mut content = 0;
    let mut placed = vec![];
    for block in blocks {
        let mut block = measure(block, scale)?;
        block.left = block.before + if placed.is_empty() { 0 } else { content + BETWEEN_BLOCKS };
        content = block.left + block.width + block.behind;
        placed.push(block);
    }

    // From top to bottom: title, headings, column labels, images.
    let line = |size, below, there: bool| if there { cap_height(size) + below } else { 0 };
    let has_headings = blocks.iter().any(|block| !block.title.is_empty());
    let has_labels = blocks.iter().any(|block| !block.column_labels.is_empty());
    let headings = MARGIN + line(TITLE, BELOW_TITLE, !title.is_empty());
    let labels = headings + line(HEADING, BELOW_HEADING, has_headings);
    let top = labels + line(LABEL, BELOW_LABEL, has_labels);
    let bottom = placed.iter().map(|b| top + (b.rows - 1) * b.pitch.1 + b.tile.1).max().unwrap_or(top);

    let title_width = text_width(title, TITLE)?;
    let width = content.max(title_width) + 2 * MARGIN;
    let mut canvas = Canvas::new(width, bottom + MARGIN)?;
    let shift = (width - content) / 2;
    // The title is centred over the images, not over their labels, unless it is too wide for that.
    let middle = match (placed.first(), placed.last()) {
        (Some(first), Some(last)) => shift + (first.left + last.left + last.width) / 2,
        _ => width / 2,
    };
    let half = MARGIN + title_width.div_ceil(2);
    let middle = middle.max(half).min(width - half);
    canvas.text(title, TITLE, INK, (middle, MARGIN + cap_height(TITLE)), Anchor::Centre)?;

    for Placed { block, rows, columns, pitch, tile, left, width, .. } in placed {
        let left = shift + left;
        canvas.text(block.title, HEADING, INK, (left + width / 2, headings + cap_height(HEADING)), Anchor::Centre)?;
        let x = |column: usize| left + column * pitch.0;
        let y = |row: usize| top + row * pitch.1;
        for (column, label) in block.column_labels.iter().enumerate().take(columns) {
            let middle = x(column) + tile.0 / 2;
            canvas.text(label, LABEL, PALE, (middle, labels + cap_height(LABEL)), Anchor::Centre)?;
        }
        for (row, label) in block.row_labels.iter().enumerate().take(rows) {
            let base = y(row) + (tile.1 + cap_height(LABEL)) / 2;
            canvas.text(label, LABEL, PALE, (left - BESIDE_LABEL, base), Anchor::Right)?;
        }
        for (i, image) in block.images.each().enumerate() {
            let corner = (x(i % columns), y(i / columns));
            canvas.image(image, scale, corner);
            canvas.frame(corner, tile.0, tile.1);
        }
    }
    canvas.png(about)
}

/// The largest scale at which the blocks fit.
fn scale(blocks: &[Block]) -> Result<usize, PictureError> {
    let mut across = 1;
    for Block { images, columns, .. } in blocks {
        across += images.width * (*columns).clamp(1, images.count()?.max(1));
    }
    Ok((WIDTH / across).clamp(1, SCALE))
}

fn measure<'a>(block: &'a Block, scale: usize) -> Result<Placed<'a>, PictureError> {
    let count = block.images.count()?;
    let columns = block.columns.clamp(1, count.max(1));
    let rows = count.div_ceil(columns).max(1);
    let widest = |labels: &[String], most| {
        let widths = labels.iter().take(most).map(|label| text_width(label, LABEL));
        widths.collect::<Result<Vec<_>, _>>().map(|widths| widths.into_iter().max())
    };
    let tile = (block.images.width * scale, block.images.height * scale);
    let label = widest(&block.column_labels, columns)?.unwrap_or(0);
    let labels = widest(&block.row_labels, rows)?.map_or(0, |label| label + BESIDE_LABEL);
    // Labels need space even if the images are small.
    let pitch = (tile.0.max(label) + GAP, tile.1.max(if labels > 0 { LABEL as usize } else { 0 }) + GAP);
    let width = (columns - 1) * pitch.0 + tile.0;
    // The outer column labels may reach halfway into the margin.
    let overhang = (label.saturating_sub(tile.0).div_ceil(2)).saturating_sub(MARGIN / 2);
    let overhang = overhang.max(text_width(block.title, HEADING)?.saturating_sub(width).div_ceil(2));
    Ok(Placed { block, rows, columns, pitch, tile, left: 0, width, before: labels.max(overhang), behind: overhang })
}

#[cfg(test)]
mod tests {
    use super::super::canvas::tests::{Decoded, decode};
    use super::*;
    use crate::pictures::grid;

    fn block(images: Images, columns: usize) -> Block {
        Block { title: "", images, columns, column_labels: vec![], row_labels: vec![] }
    }

    const BLACK: [u8; 3] = [0; 3];
    const WHITE: [u8; 3] = [255; 3];

    #[test]
    fn one_is_black_zero_is_white_each_in_its_place() {
        let pixels = [vec![1.0; 784], vec![0.0; 784], vec![0.0; 784], vec![1.0; 784]].concat();
        let picture = decode(
            &figure("", &[block(Images { pixels: &pixels, channels: 1, height: 28, width: 28 }, 2)], &[]).unwrap(),
        );
        assert_eq!((picture.width, picture.height), (24 + 84 + 8 + 84 + 24, 24 + 84 + 8 + 84 + 24));
        for (column, row, color) in [(0, 0, BLACK), (1, 0, WHITE), (0, 1, WHITE), (1, 1, BLACK)] {
            let (x, y) = (24 + column * 92, 24 + row * 92);
            assert!(picture.all(x..x + 84, y..y + 84, color), "{column} {row}");
            for (x, y) in [(x - 1, y - 1), (x + 84, y + 84), (x - 1, y + 50), (x + 50, y + 84)] {
                assert_eq!(picture.at(x, y), [205; 3], "the frame at {x} {y}");
            }
        }
        assert!(picture.all(0..23, 0..picture.height, WHITE) && picture.all(0..picture.width, 0..23, WHITE));
    }

    #[test]
    fn values_are_clipped_and_what_is_not_finite_is_magenta() {
        let pixels = [-1.0, 0.5, 2.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let picture = decode(&grid(Images { pixels: &pixels, channels: 1, height: 1, width: 6 }, 1, 1, &[]).unwrap());
        assert_eq!((picture.width, picture.height), (2 + 6 + 2, 2 + 1 + 2));
        let row: Vec<[u8; 3]> = (2..8).map(|x| picture.at(x, 2)).collect();
        const MAGENTA: [u8; 3] = [255, 0, 255];
        assert_eq!(row, [WHITE, [128; 3], BLACK, MAGENTA, MAGENTA, MAGENTA]);
        let coloured = [1.0, 0.0, f32::NAN, 0.0, 0.5, 1.0]; // [3, 1, 2]
        let picture = decode(&grid(Images { pixels: &coloured, channels: 3, height: 1, width: 2 }, 1, 1, &[]).unwrap());
        assert_eq!([picture.at(2, 2), picture.at(3, 2)], [MAGENTA, [0, 0, 255]]);
    }

    #[test]
    fn a_grid_has_each_image_in_its_place() {
        let pixels: Vec<f32> = (0..5).flat_map(|i| [i as f32 / 5.0; 6]).collect(); // [5, 2, 3]
        let picture = decode(&grid(Images { pixels: &pixels, channels: 1, height: 2, width: 3 }, 2, 3, &[]).unwrap());
        assert_eq!((picture.width, picture.height), ((2 + 5 + 5) * 3, (2 + 4 + 4 + 4) * 3));
        for i in 0..5 {
            let (x, y) = ((2 + i % 2 * 5) * 3, (2 + i / 2 * 4) * 3);
            let grey = (255.0 * (1.0 - i as f32 / 5.0)).round() as u8;
            assert!(picture.all(x..x + 9, y..y + 6, [grey; 3]), "{i}");
        }
        let one = decode(&grid(Images { pixels: &pixels[..6], channels: 1, height: 2, width: 3 }, 0, 0, &[]).unwrap());
        assert_eq!((one.width, one.height), (7, 6)); // at least one column, at least the original size
    }

    /// How many runs of ink a region has, going right or down, with at least `gap` white pixels between them.
    fn stretches(
        picture: &Decoded,
        xs: std::ops::Range<usize>,
        ys: std::ops::Range<usize>,
        gap: usize,
        right: bool,
    ) -> usize {
        let (lines, across) = if right { (xs, ys) } else { (ys, xs) };
        let ink = |i: usize| across.clone().any(|j| if right { picture.at(i, j) } else { picture.at(j, i) } != WHITE);
        let inked: Vec<usize> = lines.filter(|&i| ink(i)).collect();
        usize::from(!inked.is_empty()) + inked.windows(2).filter(|pair| pair[1] - pair[0] > gap).count()
    }

    #[test]
    fn text_has_room_whatever_its_length() {
        let long = "mmmmmmmmmmmmmmmmmmmm";
        let pixels = vec![1.0; 3 * 28 * 28];
        let images = Images { pixels: &pixels, channels: 1, height: 28, width: 28 };
        let margins_are_white = |picture: &Decoded, margin: usize| {
            let (width, height) = (picture.width, picture.height);
            picture.all(0..margin, 0..height, WHITE) && picture.all(width - margin..width, 0..height, WHITE)
        };

        // A title wider than its images.
        let picture = decode(&figure(&long.repeat(2), &[block(images, 1)], &[]).unwrap());
        assert!(margins_are_white(&picture, 20) && picture.width > 600);
        let (left, top) = ((picture.width - 84) / 2, picture.height - 24 - 84);
        assert!(picture.all(left..left + 84, top..top + 84, BLACK) && picture.at(left - 1, top) != BLACK); // in the middle
        // A title that fits the picture but not the images, which are far to the right.
        let labelled = Block { row_labels: vec![long.repeat(2)], ..block(images, 1) };
        assert!(margins_are_white(&decode(&figure(long, &[labelled], &[]).unwrap()), 20));

        // Headings wider than their images: at least 30 pixels apart, both before and behind other blocks.
        let wide = Block { title: long, ..block(images, 1) };
        let picture = decode(&figure("", &[wide.clone(), wide.clone(), block(images, 1)], &[]).unwrap());
        assert!(margins_are_white(&picture, 20));
        assert_eq!(stretches(&picture, 0..picture.width, 24..36, 30, true), 2);

        // Column labels wider than their images: they do not touch, and none covers an image.
        let labelled = Block { column_labels: vec![long.into(); 5], ..block(images, 3) };
        let picture = decode(&figure("", &[labelled.clone(), labelled], &[]).unwrap());
        assert!(margins_are_white(&picture, 10));
        assert_eq!(stretches(&picture, 0..picture.width, 24..35, 6, true), 6);
        assert_eq!(stretches(&picture, 0..picture.width, 0..picture.height, 6, false), 2);

        // Row labels higher than their images, and more labels than rows.
        let flat = Images { pixels: &pixels[..6 * 200], channels: 1, height: 1, width: 200 };
        let labelled = Block { row_labels: vec!["gypsy".into(); 9], ..block(flat, 1) };
        let picture = decode(&figure("", &[labelled], &[]).unwrap());
        assert_eq!(stretches(&picture, 0..80, 0..picture.height, 1, false), 6);
        assert_eq!(stretches(&picture, 0..picture.width, 0..picture.height, 6, true), 2); // the labels, the images
    }

    #[test]
    fn text_is_kept_in_the_file() {
        let about = [("seed", "0".to_owned()), ("model", "/home/渡辺/run".to_owned())];
        let picture = decode(&grid(Images { pixels: &[0.0], channels: 1, height: 1, width: 1 }, 1, 1, &about).unwrap());
        assert_eq!(picture.texts, about.map(|(keyword, text)| (keyword.to_owned(), text)));
        let endless = "k".repeat(80);
        let refused =
            grid(Images { pixels: &[0.0], channels: 1, height: 1, width: 1 }, 1, 1, &[(&endless, String::new())]);
        assert!(matches!(refused, Err(PictureError::Encoding(_))));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let pixels = [0.0; 12];
        for (len, height, width) in [(12, 5, 2), (12, 0, 3), (12, 3, 0), (0, 0, 0), (12, usize::MAX, 3), (12, 7, 7)] {
            let images = Images { pixels: &pixels[..len], channels: 1, height, width };
            assert!(matches!(grid(images, 2, 1, &[]), Err(PictureError::Size { .. })), "{len} {height} {width}");
            assert!(
                matches!(figure("", &[block(images, 2)], &[]), Err(PictureError::Size { .. })),
                "{len} {height} {width}"
            );
        }
        let images = Images { pixels: &pixels, channels: 1, height: 3, width: 4 };
        for scale in [100_000, usize::MAX] {
            assert!(matches!(grid(images, 1, scale, &[]), Err(PictureError::TooLarge { .. })));
        }
        for (height, width) in [(usize::MAX, 1), (1, usize::MAX), (20_001, 1)] {
            let images = Images { pixels: &[], channels: 1, height, width };
            assert!(matches!(grid(images, 2, 1, &[]), Err(PictureError::TooLarge { .. })));
            assert!(matches!(figure("", &[block(images, 2)], &[]), Err(PictureError::TooLarge { .. })));
        }
        let many = vec![0.0; 20_000];
        assert!(matches!(
            figure("", &[block(Images { pixels: &many, channels: 1, height: 1, width: 1 }, 1)], &[]),
            Err(PictureError::TooLarge { .. })
        ));
        assert!(matches!(figure(&"endless ".repeat(10_000), &[], &[]), Err(PictureError::TooLarge { .. })));
        let nothing = Images { pixels: &[], channels: 1, height: 3, width: 4 };
        assert!(figure("Nothing yet", &[block(nothing, 8)], &[]).is_ok() && figure("", &[], &[]).is_ok());
        assert!(grid(nothing, 8, 3, &[]).is_ok());
    }
}
