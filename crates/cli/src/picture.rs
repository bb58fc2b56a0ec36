//! Writes pictures in the format that the file's extension names.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::gif::{GifEncoder, Repeat};
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPEncoder;
use image::{AnimationDecoder, ExtendedColorType, Frame, ImageFormat, ImageResult, RgbImage};
use kakusan::pipeline::{Result, write_whole};
use kakusan::report::pictures::PictureError;
use libjpeg_turbo_rs::{PixelFormat, Subsampling};

/// From 0 to 100. With a lower quality, blocks become visible around digits.
const JPEG_QUALITY: u8 = 95;

/// The path of a picture, if this program can write the format of its extension. Without an extension it is a PNG.
pub(crate) fn still(text: &str) -> std::result::Result<PathBuf, String> {
    with_ending(text, &["png", "jpg", "jpeg", "webp", "gif"])
}

/// The path of an animated picture, if this program can write the format of its extension.
pub(crate) fn film(text: &str) -> std::result::Result<PathBuf, String> {
    with_ending(text, &["png", "apng", "gif"])
}

/// Whether the format of the path's extension can be animated.
pub(crate) fn can_move(path: &Path) -> bool {
    matches!(ending(path).as_str(), "" | "png" | "apng" | "gif")
}

/// `text` as a path, if it has one of these extensions or none.
pub(crate) fn with_ending(text: &str, endings: &[&str]) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text == "-" {
        return Err("expected a file; the standard output is not supported".into());
    }
    match ending(&path).as_str() {
        "" => Ok(path),
        own if endings.contains(&own) => Ok(path),
        own => {
            let endings: Vec<String> = endings.iter().map(|ending| format!(".{ending}")).collect();
            Err(format!(".{own} is not supported; expected one of {}", endings.join(", ")))
        }
    }
}

/// Writes a PNG, animated or not, in the format of the file's extension.
pub(crate) fn write(path: &Path, png: Vec<u8>) -> Result<()> {
    let failed = |reason: String| PictureError::Drawing(format!("{}: {reason}", path.display()));
    let bytes = match ending(path).as_str() {
        "jpg" | "jpeg" => jpeg(&png).map_err(failed)?,
        "webp" => webp(&png).map_err(|e| failed(e.to_string()))?,
        "gif" => gif(&png).map_err(|e| failed(e.to_string()))?,
        _ => png,
    };
    write_whole(path, &bytes)
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn decode(png: &[u8]) -> ImageResult<RgbImage> {
    Ok(image::load_from_memory_with_format(png, ImageFormat::Png)?.into_rgb8())
}

fn jpeg(png: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let image = decode(png).map_err(|e| e.to_string())?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    libjpeg_turbo_rs::compress(&image, width, height, PixelFormat::Rgb, JPEG_QUALITY, Subsampling::S444)
        .map_err(|e| e.to_string())
}

/// Lossless WebP.
fn webp(png: &[u8]) -> ImageResult<Vec<u8>> {
    let (image, mut bytes) = (decode(png)?, vec![]);
    WebPEncoder::new_lossless(&mut bytes).encode(&image, image.width(), image.height(), ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

/// Frame by frame, each with its own palette of 256 colours; grey images keep every value.
fn gif(png: &[u8]) -> ImageResult<Vec<u8>> {
    let (decoder, mut bytes) = (PngDecoder::new(Cursor::new(png))?, vec![]);
    let mut encoder = GifEncoder::new(&mut bytes);
    if decoder.is_apng()? {
        encoder.set_repeat(Repeat::Infinite)?;
        encoder.try_encode_frames(decoder.apng()?.into_frames())?;
    } else {
        encoder.encode_frame(Frame::new(image::load_from_memory_with_format(png, ImageFormat::Png)?.into_rgba8()))?;
    }
    drop(encoder);
    Ok(bytes)
}
