use super::canvas::{Canvas, NOT_FINITE, encode};
use super::{About, Images, PictureError};

/// The display time of an animation's frame, and of the last one, in milliseconds.
const FRAME: u16 = 80;
const LAST_FRAME: u16 = 2000;

/// Draws images without text, `columns` per row, as PNG. Each pixel becomes a square of side `scale` (0 counts as 1),
/// with two such squares between the images.
///
/// # Errors
/// When the pixels are not a whole number of images, or the picture would be too large.
pub fn grid(images: Images, columns: usize, scale: usize, about: About) -> Result<Vec<u8>, PictureError> {
    draw(images, columns, scale)?.png(about)
}

/// How the command `sample` lays out this many images of this width, for [`grid`]: the number of columns, eight as in
/// the tutorial or a square for many images, and the scale, which enlarges small images.
///
/// ```
/// use kakusan_report::pictures::layout;
///
/// assert_eq!([layout(64, 28), layout(100, 28), layout(2, 256)], [(8, 3), (10, 3), (2, 1)]);
/// ```
pub fn layout(count: usize, width: usize) -> (usize, usize) {
    let columns = if count <= 64 { count.min(8) } else { (count as f64).sqrt().ceil() as usize };
    (columns, if width <= 64 { 3 } else { 1 })
}

/// Draws one [`grid`] per frame, as an animated PNG that pauses on the last frame before it repeats.
///
/// # Errors
/// As [`grid`]; also when there are no frames, or they differ in size.
pub fn animation(frames: &[Images], columns: usize, scale: usize, about: About) -> Result<Vec<u8>, PictureError> {
    let canvases = frames.iter().map(|images| draw(*images, columns, scale)).collect::<Result<Vec<_>, _>>()?;
    let size = |canvas: &Canvas| (canvas.width, canvas.height);
    if canvases.windows(2).any(|pair| size(&pair[0]) != size(&pair[1])) {
        return Err(PictureError::Drawing("the frames of an animation are of one size".into()));
    }
    let mut delays = vec![FRAME; canvases.len()];
    if let Some(last) = delays.last_mut() {
        *last = LAST_FRAME;
    }
    encode(&canvases.iter().collect::<Vec<_>>(), &delays, png::ColorType::Rgb, about)
}

/// One image as a PNG of the same size, as diffusers' pipelines return it: grey or coloured, 1 is white, rounded half
/// to even. Non-finite values are magenta, which makes a grey image a coloured one.
///
/// # Errors
/// When the pixels are not those of exactly one image.
pub fn file(image: Images, about: About) -> Result<Vec<u8>, PictureError> {
    let Images { pixels, channels, height, width } = image;
    if image.count()? != 1 {
        return Err(PictureError::Size { pixels: pixels.len(), height, width });
    }
    let byte = |value: f32| (255.0 * value.clamp(0.0, 1.0)).round_ties_even() as u8;
    let area = height * width;
    let bad = |pixel: usize| (0..channels).any(|channel| !pixels[channel * area + pixel].is_finite());
    let coloured = channels == 3 || (0..area).any(bad);
    // [c, h, w] -> [h, w, c]
    let pixel = |pixel: usize| -> Vec<u8> {
        let value = |channel: usize| byte(pixels[channel.min(channels - 1) * area + pixel]);
        match (coloured, bad(pixel)) {
            (_, true) => NOT_FINITE.to_vec(),
            (true, false) => [0, 1, 2].map(value).to_vec(),
            (false, false) => vec![value(0)],
        }
    };
    let bytes = (0..area).flat_map(pixel).collect();
    let color = if coloured { png::ColorType::Rgb } else { png::ColorType::Grayscale };
    encode(&[&Canvas { width, height, bytes }], &[], color, about)
}

fn draw(images: Images, columns: usize, scale: usize) -> Result<Canvas, PictureError> {
    let count = images.count()?;
    let (columns, scale) = (columns.clamp(1, count.max(1)), scale.max(1));
    let side = |size: usize, n: usize| (n * (size + 2) + 2).saturating_mul(scale);
    let mut canvas = Canvas::new(side(images.width, columns), side(images.height, count.div_ceil(columns)))?;
    for (i, image) in images.each().enumerate() {
        let (column, row) = (i % columns, i / columns);
        canvas.image(
            image,
            scale,
            ((2 + column * (images.width + 2)) * scale, (2 + row * (images.height + 2)) * scale),
        );
    }
    Ok(canvas)
}
