//! Guidance: by the gradient of a loss (unit 2 of Hugging Face's diffusion course), and the rescaling of
//! classifier-free guidance.

mod guide;
mod losses;
mod rescale;
mod spec;
mod step;

use std::fmt::Debug;
use std::ops::Range;

use candle_core::Tensor;

use crate::Result;

pub use guide::{GuidanceWay, Guide};
pub use losses::{BrightnessGuidance, ColourGuidance, ImageGuidance, MaskedGuidance};
pub use rescale::rescale_noise_cfg;
pub use spec::{GuideKind, GuideSpec};
pub(crate) use step::Guides;

/// A loss of images. Its gradient guides a sampling towards images whose loss is small ([`Guide`]).
///
/// ```
/// use candle_core::Tensor;
/// use kakusan_pipeline::{Guidance, Guide, Predicted, Result, SampleOptions};
///
/// /// Images whose left half is the mirror of their right half.
/// #[derive(Debug)]
/// struct Symmetry;
///
/// impl Guidance for Symmetry {
///     fn loss(&self, predicted: &Predicted) -> Result<Tensor> {
///         let mirrored = predicted.images.flip(&[3])?;
///         Ok((predicted.images - mirrored)?.sqr()?.flatten_from(1)?.mean(1)?)
///     }
/// }
///
/// let options = SampleOptions::new(8).guide(Guide::new(Symmetry, 50.0));
/// # assert_eq!(options.guides.len(), 1);
/// # let half = Tensor::new(&[[[[1f32, 0.0], [0.5, 0.5]]]], &candle_core::Device::Cpu)?;
/// # let loss = Symmetry.loss(&Predicted::new(&half));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub trait Guidance: Debug + Send + Sync {
    /// The loss of each image `[b]`, computed by operations that candle or `kakusan_ops` differentiates.
    ///
    /// # Errors
    /// Those of the operations.
    fn loss(&self, predicted: &Predicted) -> Result<Tensor>;

    /// Refuses to guide a sampling of `batch_size` images of `shape` `[c, h, w]`, before it begins; the default guides
    /// any.
    ///
    /// # Errors
    /// When the images do not fit.
    fn check(&self, _batch_size: usize, _shape: [usize; 3]) -> Result<()> {
        Ok(())
    }
}

/// The images that a model call predicts, as a [`Guidance`] sees them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Predicted<'a> {
    /// `pred_original_sample` `[b, c, h, w]`, with pixels from -1 to 1 whatever the scheduler's range is; clipped where
    /// the scheduler clips it.
    pub images: &'a Tensor,
    /// Which images of the batch they are: a large batch is guided in parts, by several threads.
    pub part: Range<usize>,
    /// The number of the model call, from 0.
    pub index: usize,
}

impl<'a> Predicted<'a> {
    /// A whole batch of images `[b, c, h, w]` with pixels from -1 to 1, of the first model call.
    pub fn new(images: &'a Tensor) -> Self {
        Self { images, part: 0..images.dims().first().copied().unwrap_or(0), index: 0 }
    }
}
