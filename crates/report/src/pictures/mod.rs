//! The tutorial's pictures as PNG: grids of images with their labels, and the loss curve.
//!
//! Images have values in 0..1. Grey ones are drawn as in the tutorial, dark ink on white: 1 is black. Coloured ones are
//! drawn unchanged.
//!
//! ```
//! use kakusan_report::pictures::{Block, Images, figure};
//!
//! let pixels: Vec<f32> = (0..2 * 8 * 8).map(|i| i as f32 / 128.0).collect(); // [2, 8, 8]
//! let block = Block {
//!     title: "",
//!     images: Images { pixels: &pixels, channels: 1, height: 8, width: 8 },
//!     columns: 1,
//!     column_labels: vec![],
//!     row_labels: vec!["first".into(), "second".into()],
//! };
//! let png = figure("Two images", &[block], &[("seed", "0".into())])?;
//! assert!(png.starts_with(b"\x89PNG"));
//! # Ok::<(), kakusan_report::pictures::PictureError>(())
//! ```

mod canvas;
mod curve;
mod figure;
mod grid;

pub use curve::loss_curve;
pub use figure::{Block, figure};
pub use grid::{animation, file, grid, layout};

/// Images that are contiguous in memory.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// `[n, channels, height, width]`. Values outside 0..1 are clipped; non-finite ones are drawn in magenta.
    pub pixels: &'a [f32],
    /// 1 for grey, 3 for red, green and blue.
    pub channels: usize,
    /// The height of one image in pixels.
    pub height: usize,
    /// The width of one image in pixels.
    pub width: usize,
}

impl<'a> Images<'a> {
    /// The number of images. Fails if one is larger than a picture may be.
    fn count(&self) -> Result<usize, PictureError> {
        let Self { pixels, channels, height, width } = *self;
        if !matches!(channels, 1 | 3) {
            return Err(PictureError::Channels { channels });
        }
        match height.checked_mul(width).and_then(|pixels| pixels.checked_mul(channels)) {
            Some(1..) if height.max(width) > canvas::MAX_SIDE => Err(PictureError::TooLarge { width, height }),
            Some(size @ 1..) if pixels.len().is_multiple_of(size) => Ok(pixels.len() / size),
            _ => Err(PictureError::Size { pixels: pixels.len(), height, width }),
        }
    }

    /// Iterates over the images.
    fn each(self) -> impl Iterator<Item = Self> + 'a {
        let Self { pixels, channels, height, width } = self;
        pixels.chunks_exact((channels * height * width).max(1)).map(move |pixels| Self { pixels, ..self })
    }
}

/// A message that says how many values are not finite; `None` if all are finite.
///
/// ```
/// use kakusan_report::pictures::not_finite;
///
/// assert_eq!(not_finite([0.0, 1.0]), None);
/// let said = "1 of 2 values is not finite (drawn in magenta)";
/// assert_eq!(not_finite([0.0, f32::NAN]).as_deref(), Some(said));
/// ```
pub fn not_finite(pixels: impl IntoIterator<Item = f32>) -> Option<String> {
    let (mut all, mut bad) = (0, 0);
    for pixel in pixels {
        all += 1;
        bad += usize::from(!pixel.is_finite());
    }
    let are = if bad == 1 { "is" } else { "are" };
    let (all, count) = (crate::thousands(all), crate::thousands(bad));
    (bad > 0).then(|| format!("{count} of {all} values {are} not finite (drawn in magenta)"))
}

/// Text for a PNG file, as keyword and value: the seed, the scheduler, the steps.
pub type About<'a> = &'a [(&'a str, String)];

/// Why a picture could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The pixels are not a whole number of images of the given size.
    #[error("{pixels} pixels are not whole images of {height} x {width}")]
    Size {
        /// The number of pixels.
        pixels: usize,
        /// The height of one image in pixels.
        height: usize,
        /// The width of one image in pixels.
        width: usize,
    },
    /// Images that are neither grey nor coloured.
    #[error("images of {channels} channels cannot be shown; 1 or 3 can")]
    Channels {
        /// The number of channels.
        channels: usize,
    },
    /// More pixels than a picture may have.
    #[error("a picture of {width} x {height} pixels is too large; show fewer images")]
    TooLarge {
        /// The width of the picture in pixels.
        width: usize,
        /// The height of the picture in pixels.
        height: usize,
    },
    /// The drawing library failed.
    #[error("the picture could not be drawn: {0}")]
    Drawing(String),
    /// The PNG encoder failed.
    #[error("the picture could not be encoded: {0}")]
    Encoding(#[from] png::EncodingError),
}

impl From<PictureError> for kakusan_pipeline::Error {
    fn from(error: PictureError) -> Self {
        Self::Observer(Box::new(error))
    }
}
