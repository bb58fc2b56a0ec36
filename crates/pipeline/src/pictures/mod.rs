//! The tutorial's pictures as PNG: grids of images with their labels, and the loss curve.
//!
//! Images are `[n, c, h, w]` with values 0..1. Grey ones are drawn as in the tutorial, dark ink on white, 1 is black; RGB ones as they are.
//!
//! ```
//! use kakusan_pipeline::pictures::{Block, Images, figure};
//!
//! let pixels: Vec<f32> = (0..2 * 8 * 8).map(|i| i as f32 / 128.0).collect(); // [2, 1, 8, 8]
//! let block = Block {
//!     title: "",
//!     images: Images { pixels: &pixels, channels: 1, height: 8, width: 8 },
//!     columns: 1,
//!     column_labels: vec![],
//!     row_labels: vec!["first".into(), "second".into()],
//! };
//! let png = figure("Two images", &[block], &[("seed", "0".into())])?;
//! assert!(png.starts_with(b"\x89PNG"));
//! # Ok::<(), kakusan_pipeline::pictures::PictureError>(())
//! ```

mod canvas;
mod curve;
mod figure;

pub use curve::loss_curve;
pub use figure::{Block, figure, grid};

/// Grey or RGB images beside each other in memory.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// `[n, channels, height, width]`; values outside 0..1 are clipped, NaN counts as 0.
    pub pixels: &'a [f32],
    /// 1: grey; 3: red, green and blue.
    pub channels: usize,
    /// Rows of one image.
    pub height: usize,
    /// Columns of one image.
    pub width: usize,
}

impl Images<'_> {
    /// How many images there are, none of them larger than a picture may be.
    fn count(&self) -> Result<usize, PictureError> {
        let Self { pixels, channels, height, width } = *self;
        let size = height.checked_mul(width).and_then(|size| size.checked_mul(channels));
        match size.filter(|_| channels == 1 || channels == 3) {
            Some(1..) if height.max(width) > canvas::MAX_SIDE => Err(PictureError::TooLarge { width, height }),
            Some(size @ 1..) if pixels.len().is_multiple_of(size) => Ok(pixels.len() / size),
            _ => Err(PictureError::Size { pixels: pixels.len(), channels, height, width }),
        }
    }
}

/// Text kept in a PNG file, as keyword and value: the seed, the scheduler, the steps.
pub type About<'a> = &'a [(&'a str, String)];

/// Why a picture could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The pixels are not whole images of the size given.
    #[error("{pixels} values are not whole images of {channels} x {height} x {width}, grey (1) or RGB (3)")]
    Size {
        /// The number of values.
        pixels: usize,
        /// Channels of one image.
        channels: usize,
        /// Rows of one image.
        height: usize,
        /// Columns of one image.
        width: usize,
    },
    /// More pixels than a picture may have.
    #[error("a picture of {width} x {height} pixels is too large; show fewer images")]
    TooLarge {
        /// Columns of the picture.
        width: usize,
        /// Rows of the picture.
        height: usize,
    },
    /// The drawing library failed.
    #[error("the picture could not be drawn: {0}")]
    Drawing(String),
    /// The PNG encoder failed.
    #[error("the picture could not be encoded: {0}")]
    Encoding(#[from] png::EncodingError),
}
