//! Decodes one picture: from the bytes of a PNG, JPEG, WebP, GIF, TIFF or BMP file to pixels.

use std::{fmt, io::Cursor, panic::catch_unwind};

use image::{
    ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, codecs::bmp::BmpDecoder,
    metadata::Orientation,
};

use crate::{
    Resolution,
    jpeg::Jpeg,
    resize::{Weighed, resize},
};

/// The most pixels of a picture, both as decoded and as resized. A picture that claims more is treated as a
/// decompression bomb.
pub(crate) const MAX_PIXELS: u64 = 1 << 27;
/// The largest file of a picture, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 28;

/// A picture of any size: `pixels` is `[h, w, c]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raster<T> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<T>,
}

/// A decoded picture, at the bit depth of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Picture {
    Eight(Raster<u8>),
    Sixteen(Raster<u16>),
}

/// The channels of a picture's file, and their depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Mode {
    /// 1: grey, 2: grey and alpha, 3: RGB, 4: RGB and alpha.
    pub channels: u8,
    /// The bits of each channel: 8 or 16.
    pub bits: u8,
}

impl Mode {
    /// Channels of 8 bits.
    pub(crate) fn of_bytes(channels: usize) -> Self {
        Self { channels: channels as u8, bits: 8 }
    }
}

impl From<ColorType> for Mode {
    fn from(kind: ColorType) -> Self {
        let channels = kind.channel_count();
        Self { channels, bits: 8 * (kind.bytes_per_pixel() / channels) }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.channels {
            1 => "grey",
            2 => "grey with alpha",
            3 => "RGB",
            _ => "RGB with alpha",
        })?;
        if self.bits == 8 { Ok(()) } else { write!(f, " of {} bits", self.bits) }
    }
}

/// The value of one channel of a pixel: 8 or 16 bits.
pub(crate) trait Sample: Copy + Into<u32> {
    /// The largest value.
    const FULL: u32;

    /// Converts a number, clamped to [`FULL`](Self::FULL).
    fn of(value: u32) -> Self;

    /// The nearest value in 8 bits.
    fn to_byte(self) -> u8;

    /// The value as a number from 0 to 1.
    fn to_f32(self) -> f32;
}

impl Sample for u8 {
    const FULL: u32 = 0xff;

    fn of(value: u32) -> Self {
        value.min(Self::FULL) as u8
    }

    fn to_byte(self) -> u8 {
        self
    }

    fn to_f32(self) -> f32 {
        f32::from(self) / 255.0
    }
}

impl Sample for u16 {
    const FULL: u32 = 0xffff;

    fn of(value: u32) -> Self {
        value.min(Self::FULL) as u16
    }

    fn to_byte(self) -> u8 {
        ((u32::from(self) + 128) / 257) as u8
    }

    fn to_f32(self) -> f32 {
        f32::from(self) / 65_535.0
    }
}

/// The header of a picture's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) grey: bool,
    /// Whether a channel has 16 bits.
    pub(crate) deep: bool,
}

/// Reads a picture's header. `bytes` may be only the beginning of the file, if it includes the header.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, String> {
    guarded(|| {
        let mut decoder = open(bytes)?;
        let (width, height) = decoder.dimensions();
        let turned = is_turned(orientation(&mut decoder));
        let (width, height) = if turned { (height, width) } else { (width, height) };
        let kind = decoder.color_type();
        let grey = !kind.has_color() || is_grey_bmp(bytes);
        let deep = kind.bytes_per_pixel() > kind.channel_count();
        Ok(Header { width: width as usize, height: height as usize, grey, deep })
    })
}

/// Decodes a picture: the first frame of a GIF, an animation or a TIFF, rotated upright as its EXIF data says.
/// Transparent pixels are blended with `background`. 16-bit values stay 16-bit. Colour becomes grey by ITU-R 601's
/// luma, as Pillow's `convert("L")` does.
pub(crate) fn decode(bytes: &[u8], channels: usize, background: [u8; 3]) -> Result<Picture, String> {
    guarded(|| Ok(flattened(upright(bytes)?, channels, background)))
}

/// A picture in RGB, the mode of its file, and whether it has a transparent pixel.
pub(crate) fn look(bytes: &[u8], background: [u8; 3]) -> Result<(Picture, Mode, bool), String> {
    guarded(|| {
        let image = upright(bytes)?;
        let (mode, transparent) = (image.color().into(), is_transparent(&image));
        Ok((flattened(image, 3, background), mode, transparent))
    })
}

/// A decoded picture, rotated upright.
fn upright(bytes: &[u8]) -> Result<DynamicImage, String> {
    let mut decoder = open(bytes)?;
    let orientation = orientation(&mut decoder);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// A picture in grey or RGB.
fn flattened(image: DynamicImage, channels: usize, background: [u8; 3]) -> Picture {
    let size = (image.width() as usize, image.height() as usize);
    match image {
        DynamicImage::ImageLuma8(image) => Picture::Eight(raster(size, 1, image.into_raw(), channels)),
        DynamicImage::ImageRgb8(image) => Picture::Eight(raster(size, 3, image.into_raw(), channels)),
        DynamicImage::ImageLuma16(image) => Picture::Sixteen(raster(size, 1, image.into_raw(), channels)),
        DynamicImage::ImageRgb16(image) => Picture::Sixteen(raster(size, 3, image.into_raw(), channels)),
        image @ (DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_)) => {
            let pixels = image.into_rgba16().pixels().flat_map(|pixel| flatten(pixel.0, background)).collect();
            Picture::Sixteen(raster(size, 3, pixels, channels))
        }
        other => {
            let pixels = other.into_rgba8().pixels().flat_map(|pixel| flatten(pixel.0, background)).collect();
            Picture::Eight(raster(size, 3, pixels, channels))
        }
    }
}

fn is_transparent(image: &DynamicImage) -> bool {
    match image {
        DynamicImage::ImageLumaA8(image) => image.pixels().any(|pixel| pixel.0[1] < u8::MAX),
        DynamicImage::ImageRgba8(image) => image.pixels().any(|pixel| pixel.0[3] < u8::MAX),
        DynamicImage::ImageLumaA16(image) => image.pixels().any(|pixel| pixel.0[1] < u16::MAX),
        DynamicImage::ImageRgba16(image) => image.pixels().any(|pixel| pixel.0[3] < u16::MAX),
        _ => false,
    }
}

/// A raster in grey or RGB, from pixels with `own` channels.
fn raster<T: Sample>((width, height): (usize, usize), own: usize, pixels: Vec<T>, channels: usize) -> Raster<T> {
    Raster { width, height, channels: own, pixels }.with_channels(channels)
}

impl Picture {
    pub(crate) fn width_and_height(&self) -> (usize, usize) {
        match self {
            Self::Eight(raster) => (raster.width, raster.height),
            Self::Sixteen(raster) => (raster.width, raster.height),
        }
    }

    /// The picture resized at its depth, as torchvision's `Resize(resolution)` does.
    pub(crate) fn resized(self, resolution: Resolution) -> Self {
        match self {
            Self::Eight(raster) => Self::Eight(raster.resized(resolution)),
            Self::Sixteen(raster) => Self::Sixteen(raster.resized(resolution)),
        }
    }

    /// Passes each value of a window, in the order `[c, h, w]`, to the function for its depth, and the result to
    /// `use_pixel`.
    pub(crate) fn for_each_in_window<V>(
        &self,
        corner: (usize, usize),
        size: (usize, usize),
        flip: bool,
        of_8: impl Fn(u8) -> V,
        of_16: impl Fn(u16) -> V,
        mut use_pixel: impl FnMut(V),
    ) {
        match self {
            Self::Eight(raster) => raster.for_each_in_window(corner, size, flip, |pixel| use_pixel(of_8(pixel))),
            Self::Sixteen(raster) => raster.for_each_in_window(corner, size, flip, |pixel| use_pixel(of_16(pixel))),
        }
    }
}

impl Raster<u8> {
    /// A raster from pixels `[c, h, w]`.
    pub(crate) fn of_planes(planes: &[u8], [channels, height, width]: [usize; 3]) -> Self {
        let size = height * width;
        let pixels = (0..size).flat_map(|at| (0..channels).map(move |channel| planes[channel * size + at])).collect();
        Self { width, height, channels, pixels }
    }
}

impl<T: Sample> Raster<T> {
    /// The picture in grey or in RGB.
    pub(crate) fn with_channels(self, channels: usize) -> Self {
        let pixels = match (self.channels, channels) {
            (1, 3) => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            (3, 1) => self.pixels.as_chunks::<3>().0.iter().map(|&pixel| luma(pixel)).collect(),
            _ => return self,
        };
        Self { channels, pixels, ..self }
    }

    /// The picture resized, as torchvision's `Resize(resolution)` does.
    pub(crate) fn resized(self, resolution: Resolution) -> Self
    where
        T: Weighed,
    {
        let (width, height) = resized(self.width, self.height, resolution);
        if (width, height) == (self.width, self.height) { self } else { resize(self, width, height) }
    }

    /// Visits the values of a window of `height` x `width`, one channel after the other: `[c, h, w]`.
    pub(crate) fn for_each_in_window(
        &self,
        (top, left): (usize, usize),
        (height, width): (usize, usize),
        flip: bool,
        mut use_pixel: impl FnMut(T),
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

/// The width and height of a resized picture. One side in `resolution` is the new shorter side; two are height and
/// width.
pub(crate) fn resized(width: usize, height: usize, resolution: Resolution) -> (usize, usize) {
    let side = match resolution {
        Resolution::Shorter(side) => side,
        Resolution::Both([height, width]) => return (width, height),
    };
    let long = |long: usize, short: usize| (side as u64 * long as u64 / short as u64) as usize;
    if width <= height { (side, long(height, width)) } else { (long(width, height), side) }
}

fn flatten<T: Sample>([r, g, b, alpha]: [T; 4], background: [u8; 3]) -> [T; 3] {
    let alpha: u32 = alpha.into();
    let mix = |over: T, under: u8| {
        // fits into u32: at most FULL * FULL + FULL / 2
        let sum = over.into() * alpha + u32::from(under) * (T::FULL / 255) * (T::FULL - alpha);
        T::of((sum + T::FULL / 2) / T::FULL)
    };
    [mix(r, background[0]), mix(g, background[1]), mix(b, background[2])]
}

pub(crate) fn luma<T: Sample>([r, g, b]: [T; 3]) -> T {
    // the weights sum to 65,536, so that the sum fits into u32 for 16-bit values too
    T::of((r.into() * 19_595 + g.into() * 38_470 + b.into() * 7_471 + 0x8000) >> 16)
}

/// The decoder of a picture whose size is within the limits.
fn open(bytes: &[u8]) -> Result<Box<dyn ImageDecoder + '_>, String> {
    let format = image::guess_format(bytes).map_err(|_| format!("is not a picture in a known format; {FORMATS}"))?;
    use ImageFormat::{Bmp, Gif, Jpeg as Jfif, Png, Tiff, WebP};
    if !matches!(format, Png | Jfif | WebP | Gif | Tiff | Bmp) {
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
        reader.limits(limits(MAX_PIXELS * 8)); // a pixel has at most 8 bytes: four channels of 16 bits
        Box::new(reader.into_decoder().map_err(damaged)?)
    };
    if matches!(decoder.color_type(), ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err("has floating-point numbers for pixels, of no known range; expected 8 or 16 bits".to_owned());
    }
    let (width, height) = decoder.dimensions();
    match u64::from(width) * u64::from(height) {
        0 => Err(format!("has {width} x {height} pixels")),
        pixels if pixels > MAX_PIXELS => {
            Err(format!("claims {width} x {height} pixels; more than {MAX_PIXELS} count as a decompression bomb"))
        }
        _ if format == ImageFormat::WebP && !webp_fits(bytes, width, height) => {
            Err(format!("is damaged: a frame is larger than the picture of {width} x {height} pixels"))
        }
        pixels => {
            if format == ImageFormat::Gif {
                // a frame may claim to be larger than the picture by this little
                decoder.set_limits(limits(pixels * 4 + (1 << 22))).map_err(damaged)?;
            }
            Ok(decoder)
        }
    }
}

fn damaged(error: ImageError) -> String {
    match error {
        ImageError::Unsupported(error) => format!("is of an unsupported kind: {error}"),
        error => format!("is damaged: {error}"),
    }
}

/// The formats that are decoded, for a message.
pub(crate) const FORMATS: &str = "expected PNG, JPEG, WebP, GIF, TIFF or BMP";

/// Whether a picture is a BMP with only grey colours. BMP has no other way to mark a grey picture.
fn is_grey_bmp(bytes: &[u8]) -> bool {
    let palette = |decoder: BmpDecoder<_>| {
        decoder.get_palette().is_some_and(|colors| colors.iter().all(|[r, g, b]| r == g && g == b))
    };
    bytes.starts_with(b"BM") && BmpDecoder::new(Cursor::new(bytes)).is_ok_and(palette)
}

/// The orientation from the EXIF data. Damaged EXIF data is ignored.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Whether each lossy frame of a WebP fits into the picture. The decoder checks this only after it has decoded a frame.
fn webp_fits(bytes: &[u8], width: u32, height: u32) -> bool {
    let mut at = 12;
    while let Some(&[a, b, c, d, ref len @ ..]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let (start, len) = (at + 8, u32::from_le_bytes(*len) as usize);
        at = match &[a, b, c, d] {
            b"ANMF" => start + 16, // where the frame's chunks begin
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

/// Turns a decoder's panic into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, String> + std::panic::UnwindSafe) -> Result<T, String> {
    catch_unwind(work).unwrap_or_else(|_| Err("is damaged: its decoder failed on it".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzzer: a frame of 14 million pixels in a picture of 9 x 7.
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

    /// The size that a lossy frame claims determines how much is decoded; the picture has 9 x 7 pixels.
    #[test]
    fn a_webp_frame_larger_than_its_picture_is_refused() {
        let of_side = |side: u16| {
            let chunk = |name: &[u8], data: &[u8]| [name, &(data.len() as u32).to_le_bytes(), data].concat();
            let frame =
                [&[0x10, 0, 0, 0x9d, 0x01, 0x2a][..], &side.to_le_bytes(), &side.to_le_bytes(), &[0; 6]].concat();
            let chunks = [chunk(b"VP8X", &[0, 0, 0, 0, 8, 0, 0, 6, 0, 0]), chunk(b"VP8 ", &frame)].concat();
            header(&[b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat())
        };
        assert_eq!(of_side(7), Ok(Header { width: 9, height: 7, grey: false, deep: false }));
        assert!(of_side(0x3fff).unwrap_err().contains("larger than the picture of 9 x 7"));
    }
}
