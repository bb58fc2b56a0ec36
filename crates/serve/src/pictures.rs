//! What was drawn, as PNG files.

use kakusan::candle::{DType, Device, Tensor};
use kakusan::pipeline::Result;
use kakusan::report::pictures::{self, Images};
use kakusan::scheduler::PixelRange;

use crate::draw::Draw;
use crate::refusal::Refusal;

/// The channels that a picture shows: those of grey and coloured images, otherwise the first or the first three.
pub(crate) fn shown(channels: usize) -> usize {
    if channels >= 3 { 3 } else { 1 }
}

/// The shown channels of a sample, with pixels in 0..1 `[n, c, h, w]`.
pub(crate) fn unit(sample: &Tensor, range: PixelRange) -> Result<Tensor> {
    let sample = sample.narrow(1, 0, shown(sample.dim(1)?))?;
    Ok(range.to_unit(&sample)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
}

/// Pixels in 0..1 as bytes; those that are not finite are black.
pub(crate) fn bytes(pixels: &[f32]) -> Vec<u8> {
    pixels.iter().map(|value| (255.0 * value.clamp(0.0, 1.0)).round_ties_even() as u8).collect()
}

/// Images `[n, c, h, w]` side by side.
pub(crate) fn strip(bytes: &[u8], [channels, height, width]: [usize; 3]) -> std::result::Result<Vec<u8>, Refusal> {
    let (channels, area) = (shown(channels), height * width);
    let count = bytes.len() / (channels * area).max(1);
    let mut rows = Vec::with_capacity(bytes.len());
    for y in 0..height {
        for image in bytes.chunks_exact(channels * area) {
            for x in y * width..(y + 1) * width {
                rows.extend((0..channels).map(|channel| image[channel * area + x]));
            }
        }
    }
    let encode = || -> std::result::Result<Vec<u8>, png::EncodingError> {
        let mut file = vec![];
        let mut encoder = png::Encoder::new(&mut file, (count * width) as u32, height as u32);
        encoder.set_color(if channels == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale });
        encoder.set_compression(png::Compression::Fast); // noise cannot be compressed anyway
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&rows)?;
        writer.finish()?;
        Ok(file)
    };
    encode().map_err(|e| Refusal::internal(format!("the picture cannot be encoded: {e}")))
}

/// Image `i` of a finished draw, with its settings inside, as `kakusan sample --separate` writes it.
pub(crate) fn image(draw: &Draw, i: usize) -> std::result::Result<Vec<u8>, Refusal> {
    let images = images(draw)?;
    let size = images.channels * images.height * images.width;
    let missing = || Refusal::not_found(format!("there is no image {i}; there are 0 to {}", draw.plan.count - 1));
    let pixels = images.pixels.get(i * size..(i + 1) * size).ok_or_else(missing)?;
    let own = match &draw.plan.settings.interpolate {
        None => draw.plan.settings.seeds.get(i).map(|seed| ("seed", seed.to_string())),
        Some(_) => Some(("image", i.to_string())),
    };
    let about: Vec<_> = draw.plan.about.iter().cloned().chain(own).collect();
    pictures::file(Images { pixels, ..images }, &about).map_err(|e| Refusal::internal(e.to_string()))
}

/// All images of a finished draw, as `kakusan sample --out` writes them.
pub(crate) fn sheet(draw: &Draw) -> std::result::Result<Vec<u8>, Refusal> {
    let images = images(draw)?;
    let (columns, scale) = pictures::layout(draw.plan.count, images.width);
    pictures::grid(images, columns, scale, &draw.plan.about).map_err(|e| Refusal::internal(e.to_string()))
}

fn images(draw: &Draw) -> std::result::Result<Images<'_>, Refusal> {
    let [channels, height, width] = draw.plan.model.shape;
    match draw.images() {
        Some(pixels) => Ok(Images { pixels, channels: shown(channels), height, width }),
        None => {
            let state = draw.state();
            let why = state.error.unwrap_or_else(|| "it is not finished".into());
            Err(Refusal::new(axum::http::StatusCode::CONFLICT, format!("this draw has no images: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_strip_has_the_images_side_by_side() {
        // two images of 1 x 2 pixels in colour: [n, c, h, w]
        let bytes = [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16];
        let file = super::strip(&bytes, [3, 1, 2]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        assert_eq!((reader.info().width, reader.info().height), (4, 1));
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, [1, 3, 5, 2, 4, 6, 11, 13, 15, 12, 14, 16]);
    }

    #[test]
    fn bytes_are_those_of_the_files() {
        assert_eq!(super::bytes(&[-1.0, 0.0, 0.5, 1.0, 2.0, f32::NAN]), [0, 0, 128, 255, 255, 0]);
    }
}
