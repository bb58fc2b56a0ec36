use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use kakusan_rng::Generator;
use kakusan_scheduler::{DDIMInverseScheduler, DDIMScheduler, Registry, RunOptions, Scheduler, saved_config};

use crate::{DDPMPipeline, Error, Result, SampleOptions, SampleStep};

/// Images that were inverted to noise, and drawn again from it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inversion {
    /// The noise `[b, c, h, w]` that leads to the images.
    pub noise: Tensor,
    /// The images `[b, c, h, w]` drawn from the noise, in the scheduler's range.
    pub images: Tensor,
    /// The mean over all pixels of how far these are from the given images, with pixels in 0..1.
    pub mean_error: f64,
}

impl DDPMPipeline {
    /// Inverts images to the noise that leads to them, and draws them again: DDIM's inversion (Song et al. 2021,
    /// section 4.3) by diffusers' `DDIMInverseScheduler`, then DDIM with η = 0 in as many steps. The more steps, the
    /// nearer the second images are to the first.
    ///
    /// `images` `[b, c, h, w]` are in the scheduler's range. Of `options`, the number of steps, the classes and the
    /// guidance count. The configuration is that of the pipeline's scheduler, with three exceptions: predicted images
    /// are neither clipped nor thresholded, which could not be inverted; steps are spaced `leading` where they were
    /// spaced `linspace`, which the inversion does not know; and fitted steps are not used.
    ///
    /// If `watch` returns [`ControlFlow::Break`], the result is `None`.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// # use std::sync::Arc;
    /// # use candle_core::{Device, Tensor};
    /// # use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
    /// # use kakusan_pipeline::{DDPMPipeline, SampleOptions};
    /// # use kakusan_rng::Generator;
    /// # use kakusan_scheduler::DDPMScheduler;
    ///
    /// # let config = Arc::new(BasicUNetConfig::default());
    /// # let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    /// # let pipeline = DDPMPipeline::new(config, weights, Arc::new(DDPMScheduler::default()))?;
    /// let picture = Tensor::full(0.5f32, (1, 1, 28, 28), &Device::Cpu)?;
    /// let options = SampleOptions::new(1).steps(10);
    /// let inversion = pipeline.invert(&picture, &options, |_| ControlFlow::Continue(()))?.unwrap();
    /// assert_eq!(inversion.noise.dims(), [1, 1, 28, 28]);
    /// assert!((0.0..=1.0).contains(&inversion.mean_error)); // near 0 for a trained network
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the model is not one that DDIM samples, η is above 0, the options ask for other images to start from, and
    /// as [`sample_with`](Self::sample_with).
    pub fn invert(
        &self,
        images: &Tensor,
        options: &SampleOptions,
        mut watch: impl FnMut(&SampleStep) -> ControlFlow<()>,
    ) -> Result<Option<Inversion>> {
        let refuse = |reason: &str| Err(Error::Unfit(format!("an inversion {reason}")));
        if options.run.eta.is_some_and(|eta| eta != 0.0) {
            return refuse("draws no noise: leave out eta, or set it to 0");
        }
        if options.images.is_some() || options.mask.is_some() || options.initial_sample.is_some() {
            return refuse("starts from the images that it inverts: leave out other images, masks and samples");
        }
        if !options.guides.is_empty() {
            return refuse("follows the model alone: leave out guides");
        }
        let (inverse, ddim) = self.inverse_and_ddim()?;
        let mut options = SampleOptions { batch_size: images.dim(0)?, ..options.clone() };
        options.run = RunOptions { eta: None, unfitted: true, ..options.run };
        let mut draw = |scheduler: &dyn Scheduler, from: &Tensor| -> Result<Option<Tensor>> {
            let options = options.clone().initial_sample(from.clone());
            let mut stopped = false;
            let sample = self.sample_by(scheduler, &options, &mut Generator::new(0), |step| {
                let flow = watch(step);
                stopped |= flow.is_break();
                flow
            })?;
            Ok((!stopped).then_some(sample))
        };
        let Some(noise) = draw(inverse.as_ref(), images)? else { return Ok(None) };
        let Some(again) = draw(ddim.as_ref(), &noise)? else { return Ok(None) };
        let range = self.scheduler().process().pixel_range();
        let difference = (range.to_unit(&again)? - range.to_unit(images)?)?.abs()?;
        let mean_error = difference.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
        Ok(Some(Inversion { noise, images: again, mean_error }))
    }

    /// DDIM the other way, and DDIM, for this pipeline's model.
    fn inverse_and_ddim(&self) -> Result<(Arc<dyn Scheduler>, Arc<dyn Scheduler>)> {
        let registry = Registry::default();
        let ddim = registry.swap(DDIMScheduler::CLASS_NAME, self.scheduler()).map_err(|e| {
            Error::Unfit(format!("DDIM's inversion is for the models of a diffusion that DDIM samples: {e}"))
        })?;
        let mut config = saved_config(ddim.as_ref());
        config.insert("clip_sample".into(), false.into());
        config.insert("thresholding".into(), false.into());
        if config.get("timestep_spacing").and_then(|spacing| spacing.as_str()) == Some("linspace") {
            config.insert("timestep_spacing".into(), "leading".into());
        }
        let build = |class_name| registry.from_config(class_name, &config);
        Ok((build(DDIMInverseScheduler::CLASS_NAME)?, build(DDIMScheduler::CLASS_NAME)?))
    }
}
