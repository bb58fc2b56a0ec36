use candle_core::Tensor;
use kakusan_scheduler::Run;

use crate::{Error, Result, SampleOptions};

/// What is known of the images that a sampling repaints in part.
pub(crate) struct Known {
    images: Tensor,
    /// The noise that they are noised with at every level.
    noise: Tensor,
    /// Where they are repainted: u8 `[b, c, h, w]`.
    repainted: Tensor,
}

impl SampleOptions {
    /// Repaints the images of [`image_to_image`](Self::image_to_image) where `mask` is 0.5 or more, and keeps them
    /// elsewhere: after each step, what is kept is put back, noised to the level that the step leads to. This is the
    /// arithmetic of diffusers' inpainting pipelines, and goes with any scheduler that can start from images. The
    /// result has exactly the values of the images where they are kept.
    ///
    /// `mask` has the shape of the images, or 1 in place of any dimension: `[1, 1, h, w]`.
    ///
    /// The two parts fit better with [`DDPMPipeline::repaint`](crate::DDPMPipeline::repaint), which takes many more
    /// model calls.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// # use std::sync::Arc;
    /// # use candle_core::{Device, IndexOp, Tensor};
    /// # use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
    /// # use kakusan_pipeline::{DDPMPipeline, SampleOptions};
    /// # use kakusan_rng::Generator;
    /// # use kakusan_scheduler::LinearMixScheduler;
    ///
    /// # let config = Arc::new(BasicUNetConfig::default());
    /// # let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    /// # let pipeline = DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default()))?;
    /// let picture = Tensor::full(0.5f32, (1, 1, 28, 28), &Device::Cpu)?;
    /// let lower_half: Vec<f32> = (0..28 * 28).map(|pixel| if pixel < 14 * 28 { 0.0 } else { 1.0 }).collect();
    /// let mask = Tensor::from_vec(lower_half, (1, 1, 28, 28), &Device::Cpu)?;
    /// let options = SampleOptions::new(2).steps(10).image_to_image(picture, 1.0).mask(mask);
    /// let images = pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(()))?;
    /// assert_eq!(images.i((1, 0, 13))?.to_vec1::<f32>()?, [0.5; 28]);
    /// assert_ne!(images.i((1, 0, 14))?.to_vec1::<f32>()?, [0.5; 28]);
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    pub fn mask(mut self, mask: impl Into<Option<Tensor>>) -> Self {
        self.mask = mask.into();
        self
    }
}

impl Known {
    pub(crate) fn new(images: Tensor, noise: Tensor, mask: &Tensor) -> Result<Self> {
        let repainted = mask.broadcast_as(images.shape()).map_err(|_| {
            let (mask, images) = (mask.dims(), images.dims());
            Error::Unfit(format!("the mask has shape {mask:?}, which does not fit images of shape {images:?}"))
        })?;
        let repainted = repainted.ge(0.5f64)?.contiguous()?;
        Ok(Self { images, noise, repainted })
    }

    /// A sample in which what is kept was put back, at the level of the run's next call; after the last, the images.
    pub(crate) fn kept(&self, run: &dyn Run, sample: &Tensor) -> Result<Tensor> {
        let known = match run.timestep() {
            Some(_) => &run.add_noise(&self.images, &self.noise)?,
            None => &self.images,
        };
        Ok(self.repainted.where_cond(sample, known)?)
    }
}
