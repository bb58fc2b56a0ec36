//! One picture decoded: from the bytes of a PNG, JPEG, WebP or GIF file to pixels.

use std::{io::Cursor, panic::catch_unwind};

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, metadata::Orientation};

use crate::{jpeg::Jpeg, resize::resize};

/// The most pixels of a picture, as it is and as it is resized. What claims more is taken for a decompression bomb.
pub(crate) const MAX_PIXELS: u64 = 1 << 27;
/// The largest file of a picture.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 28;

/// A picture of any size: `pixels` is `[h, w, c]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raster {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
}

/// What a file says of its picture before that is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) grey: bool,
}

/// Reads a picture's header; `bytes` may be just the file's beginning, if the header lies in it.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, String> {
    guarded(|| {
        let mut decoder = open(bytes)?;
        let (width, height) = decoder.dimensions();
        let turned = is_turned(orientation(&mut decoder));
        let (width, height) = if turned { (height, width) } else { (width, height) };
        let grey = !decoder.color_type().has_color();
        Ok(Header { width: width as usize, height: height as usize, grey })
    })
}

/// Decodes a picture, upright as its EXIF says, of a GIF or an animation the first frame. What is transparent lies on `background`; 16 bits
/// become 8; grey from colour is ITU-R 601's luma, as Pillow's `convert("L")`.
pub(crate) fn decode(bytes: &[u8], channels: usize, background: [u8; 3]) -> Result<Raster, String> {
    guarded(|| {
        let mut decoder = open(bytes)?;
        let orientation = orientation(&mut decoder);
        let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        image.apply_orientation(orientation);
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (own, pixels) = match image {
            DynamicImage::ImageLuma8(image) => (1, image.into_raw()),
            DynamicImage::ImageRgb8(image) => (3, image.into_raw()),
            other => (3, other.into_rgba8().pixels().flat_map(|pixel| flatten(pixel.0, background)).collect()),
        };
        Ok(Raster { width, height, channels: own, pixels }.with_channels(channels))
    })
}

impl Raster {
    /// From pixels `[c, h, w]`.
    pub(crate) fn of_planes(planes: &[u8], [channels, height, width]: [usize; 3]) -> Self {
        let size = height * width;
        let pixels = (0..size).flat_map(|at| (0..channels).map(move |channel| planes[channel * size + at])).collect();
        Self { width, height, channels, pixels }
    }

    /// The picture in grey or in RGB.
    pub(crate) fn with_channels(self, channels: usize) -> Self {
        let pixels = match (self.channels, channels) {
            (1, 3) => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            (3, 1) => self.pixels.as_chunks::<3>().0.iter().map(|&pixel| luma(pixel)).collect(),
            _ => return self,
        };
        Self { channels, pixels, ..self }
    }

    /// The picture with its shorter side resized, as torchvision's `Resize(side)`.
    pub(crate) fn with_shorter_side(self, side: usize) -> Self {
        let (width, height) = resized(self.width, self.height, side);
        if (width, height) == (self.width, self.height) { self } else { resize(self, width, height) }
    }

    /// The pixels of a window of `height` x `width`, one channel after the other: `[c, h, w]`.
    pub(crate) fn for_each_in_window(
        &self,
        (top, left): (usize, usize),
        (height, width): (usize, usize),
        flip: bool,
        mut use_pixel: impl FnMut(u8),
    ) {
        for channel in 0..self.channels {
            for y in top..top + height {
                let start = (y * self.width + left) * self.channels;
                let row = self.pixels[start..start + width * self.channels].iter();
                match flip {
                    false => row.skip(channel).step_by(self.channels).for_each(|&pixel| use_pixel(pixel)),
                    true => {
                        row.rev().skip(self.channels - 1 - channel).step_by(self.channels).for_each(|&p| use_pixel(p))
                    }
                }
            }
        }
    }
}

/// Width and height of a picture whose shorter side becomes `side`.
pub(crate) fn resized(width: usize, height: usize, side: usize) -> (usize, usize) {
    let long = |long: usize, short: usize| (side as u64 * long as u64 / short as u64) as usize;
    if width <= height { (side, long(height, width)) } else { (long(width, height), side) }
}

fn flatten([r, g, b, alpha]: [u8; 4], background: [u8; 3]) -> [u8; 3] {
    let mix = |over: u8, under: u8| {
        let sum = u32::from(over) * u32::from(alpha) + u32::from(under) * (255 - u32::from(alpha));
        ((sum + 127) / 255) as u8
    };
    [mix(r, background[0]), mix(g, background[1]), mix(b, background[2])]
}

pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

/// The decoder of a picture whose size is within the limits.
fn open(bytes: &[u8]) -> Result<Box<dyn ImageDecoder + '_>, String> {
    let format = image::guess_format(bytes).map_err(|_| format!("is no picture that is known; {FORMATS}"))?;
    if !matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Gif) {
        return Err(format!("is a {} file; {FORMATS}", format.extensions_str().first().unwrap_or(&"foreign")));
    }
    let limits = |bytes: u64| {
        let mut limits = Limits::default();
        limits.max_alloc = Some(bytes);
        limits
    };
    let mut decoder: Box<dyn ImageDecoder> = if format == ImageFormat::Jpeg {
        Box::new(Jpeg::open(bytes).map_err(damaged)?)
    } else {
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.limits(limits(MAX_PIXELS * 8)); // a pixel has 8 bytes at most: four channels of 16 bits
        Box::new(reader.into_decoder().map_err(damaged)?)
    };
    let (width, height) = decoder.dimensions();
    match u64::from(width) * u64::from(height) {
        0 => Err(format!("has {width} x {height} pixels")),
        pixels if pixels > MAX_PIXELS => {
            Err(format!("claims {width} x {height} pixels; more than {MAX_PIXELS} are taken for a decompression bomb"))
        }
        _ if format == ImageFormat::WebP && !webp_fits(bytes, width, height) => {
            Err(format!("is damaged: a frame is larger than the picture of {width} x {height} pixels"))
        }
        pixels => {
            if format == ImageFormat::Gif {
                // a frame may claim to be larger than the picture, by as little as this
                decoder.set_limits(limits(pixels * 4 + (1 << 22))).map_err(damaged)?;
            }
            Ok(decoder)
        }
    }
}

fn damaged(error: ImageError) -> String {
    format!("is damaged: {error}")
}

const FORMATS: &str = "expected PNG, JPEG, WebP or GIF";

/// Damaged EXIF is as none.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Whether each lossy frame of a WebP lies within the picture: its decoder unpacks a frame first and compares then.
fn webp_fits(bytes: &[u8], width: u32, height: u32) -> bool {
    let mut at = 12;
    while let Some(&[a, b, c, d, ref len @ ..]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let (start, len) = (at + 8, u32::from_le_bytes(*len) as usize);
        at = match &[a, b, c, d] {
            b"ANMF" => start + 16, // where the frame's own chunks begin
            _ => start.saturating_add(len).saturating_add(len % 2),
        };
        if &[a, b, c, d] == b"VP8 "
            && let Some(&[w0, w1, h0, h1]) = bytes.get(start + 6..).and_then(|rest| rest.first_chunk::<4>())
        {
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            if side(w0, w1) > width || side(h0, h1) > height {
                return false;
            }
        }
    }
    true
}

/// A decoder that gives up with a panic is an error like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T, String> + std::panic::UnwindSafe) -> Result<T, String> {
    catch_unwind(work).unwrap_or_else(|_| Err("is damaged: its decoder gave up on it".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzzer's: 14 million pixels that a picture of 9 x 7 would be cut out of.
    #[test]
    fn a_gif_frame_far_larger_than_its_picture_is_refused() {
        let of_sides = |width: u16, height: u16| {
            let frame = [&[0x2c, 0, 0, 0, 0][..], &width.to_le_bytes(), &height.to_le_bytes(), &[0, 2, 0]].concat();
            decode(&[b"GIF89a\x09\0\x07\0\x80\0\0\0\0\0\xff\xff\xff", &frame[..], b";"].concat(), 3, [0; 3])
        };
        let reason = of_sides(8855, 1651).unwrap_err();
        assert!(reason.contains("Memory limit"), "{reason}");
        assert_ne!(of_sides(90, 70).unwrap_err(), reason);
    }

    /// What a WebP of 9 x 7 pixels says of a lossy frame in it decides how much is unpacked.
    #[test]
    fn a_webp_frame_larger_than_its_picture_is_refused() {
        let of_side = |side: u16| {
            let chunk = |name: &[u8], data: &[u8]| [name, &(data.len() as u32).to_le_bytes(), data].concat();
            let frame =
                [&[0x10, 0, 0, 0x9d, 0x01, 0x2a][..], &side.to_le_bytes(), &side.to_le_bytes(), &[0; 6]].concat();
            let chunks = [chunk(b"VP8X", &[0, 0, 0, 0, 8, 0, 0, 6, 0, 0]), chunk(b"VP8 ", &frame)].concat();
            header(&[b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat())
        };
        assert_eq!(of_side(7), Ok(Header { width: 9, height: 7, grey: false }));
        assert!(of_side(0x3fff).unwrap_err().contains("larger than the picture of 9 x 7"));
    }
}
