//! The tutorial's pictures as PNG: grids of images with their labels, and the loss curve.
//!
//! Images are grey, `[n, h, w]` with values 0..1, and drawn as in the tutorial: dark ink on white, 1 is black.

mod canvas;
mod curve;
mod figure;

pub use curve::loss_curve;
pub use figure::{Block, figure, grid};

/// Grey images beside each other in memory.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// `[n, height, width]`; values outside 0..1 are clipped, NaN is drawn white.
    pub pixels: &'a [f32],
    /// Rows of one image.
    pub height: usize,
    /// Columns of one image.
    pub width: usize,
}

/// Text kept in a PNG file, as keyword and value: the seed, the scheduler, the steps.
pub type About<'a> = &'a [(&'a str, String)];

/// Why a picture could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The pixels are not whole images of the size given.
    #[error("{pixels} pixels are not whole images of {height} x {width}")]
    Size {
        /// The number of pixels.
        pixels: usize,
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
