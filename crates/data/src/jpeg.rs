//! JPEG, decoded to the same pixels as libjpeg-turbo, and therefore Pillow and torchvision.

use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult, error::DecodingError};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

use crate::raster::MAX_PIXELS;

/// A picture whose header is read. Grey stays grey; everything else becomes RGB, including CMYK.
pub(crate) struct Jpeg<'a>(Decoder<'a>);

impl<'a> Jpeg<'a> {
    pub(crate) fn open(bytes: &'a [u8]) -> ImageResult<Self> {
        let limits = DecodeLimits {
            max_scans: 100,                    // each scan passes over the entire picture
            max_memory: Some(MAX_PIXELS * 20), // 4 channels of coefficients, samples, pixels: <= 16 bytes per pixel
            ..DecodeLimits::default()
        };
        let mut decoder = Decoder::new_with_limits(bytes, limits).map_err(error)?;
        let (bits, channels) = (decoder.header().precision, decoder.header().components.len());
        if bits != 8 || ![1, 3, 4].contains(&channels) {
            return Err(error(JpegError::Unsupported(format!("{channels} channels of {bits} bits"))));
        }
        decoder.set_output_format(if channels == 1 { PixelFormat::Grayscale } else { PixelFormat::Rgb });
        decoder.set_block_smoothing(true); // as libjpeg does for a progressive picture without its last scans
        Ok(Self(decoder))
    }
}

impl ImageDecoder for Jpeg<'_> {
    fn dimensions(&self) -> (u32, u32) {
        (self.0.header().width.into(), self.0.header().height.into())
    }

    fn color_type(&self) -> ColorType {
        if self.0.header().components.len() == 1 { ColorType::L8 } else { ColorType::Rgb8 }
    }

    fn exif_metadata(&mut self) -> ImageResult<Option<Vec<u8>>> {
        Ok(self.0.exif_data().map(<[u8]>::to_vec))
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        self.0.decode_image_into(pixels).map(drop).map_err(error)
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

fn error(error: JpegError) -> ImageError {
    let reason = match error {
        JpegError::UnexpectedEof => "the JPEG is cut short".to_owned(),
        other => other.to_string(),
    };
    ImageError::Decoding(DecodingError::new(ImageFormat::Jpeg.into(), reason))
}
