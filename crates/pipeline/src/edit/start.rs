use candle_core::{Device, Tensor};
use kakusan_rng::Noise;
use kakusan_scheduler::{Run, RunOptions, Scheduler};

use super::Known;
use crate::{Error, Result, SampleOptions};

/// What a sampling starts with.
pub(crate) struct Start {
    /// The sample `[b, c, h, w]` of the first model call.
    pub(crate) sample: Tensor,
    /// What is known of the images outside of a mask.
    pub(crate) known: Option<Known>,
}

impl SampleOptions {
    /// Starts from `images` `[n, c, h, w]` in the scheduler's range instead of from noise: noises them part of the way,
    /// and draws from there (SDEdit, Meng et al. 2022). Fewer images than the batch take turns.
    ///
    /// `strength`, above 0 and up to 1, is the share of the steps that is done, as in diffusers' img2img pipelines: of
    /// `n` steps the last `int(n * strength)`, each with all of its model calls. The more, the further the result is
    /// from the images; with 1 hardly anything of them is left.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// # use std::sync::Arc;
    /// # use candle_core::{Device, Tensor};
    /// # use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
    /// # use kakusan_pipeline::{DDPMPipeline, SampleOptions};
    /// # use kakusan_rng::Generator;
    /// # use kakusan_scheduler::LinearMixScheduler;
    ///
    /// # let config = Arc::new(BasicUNetConfig::default());
    /// # let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    /// # let pipeline = DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default()))?;
    /// let picture = Tensor::full(0.5f32, (1, 1, 28, 28), &Device::Cpu)?;
    /// let options = SampleOptions::new(2).steps(10).image_to_image(picture, 0.3);
    /// let mut calls = 0;
    /// let images = pipeline.sample_with(&options, &mut Generator::new(0), |_| {
    ///     calls += 1;
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!((images.dims(), calls), (&[2, 1, 28, 28][..], 3));
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    pub fn image_to_image(mut self, images: Tensor, strength: f64) -> Self {
        self.images = Some(images);
        self.strength = Some(strength);
        self
    }

    /// The scheduler's options, with the steps that the strength leaves out.
    pub(crate) fn run_from_start(&self) -> Result<RunOptions> {
        let Some(strength) = self.strength else { return Ok(self.run.clone()) };
        if self.images.is_none() {
            return Err(Error::Unfit(format!("a strength ({strength}) needs images to start from")));
        }
        let start = left_out(self.run.num_steps(), strength)?;
        Ok(RunOptions { start, ..self.run.clone() })
    }

    /// The sample that a run starts with.
    pub(crate) fn start(
        &self,
        scheduler: &dyn Scheduler,
        run: &dyn Run,
        shape: &[usize; 4],
        device: &Device,
        rng: &mut dyn Noise,
    ) -> Result<Start> {
        let refuse = |reason: String| Err(Error::Unfit(reason));
        let Some(images) = &self.images else {
            if self.mask.is_some() {
                return refuse("a mask needs images, of which it keeps a part".into());
            }
            let sample = match &self.initial_sample {
                None if self.run.start > 0 => {
                    return refuse("a run that skips its first steps (`start`) needs images to start from".into());
                }
                None => run.initial_noise(shape, device, rng)?,
                Some(sample) if sample.dims() != shape => {
                    return refuse(format!("the initial sample has shape {:?}, expected {shape:?}", sample.dims()));
                }
                Some(sample) => sample.clone(),
            };
            return Ok(Start { sample, known: None });
        };
        if self.initial_sample.is_some() {
            return refuse("a sampling starts from images or from an initial sample, not from both".into());
        }
        match images.dims() {
            [count, image @ ..] if *count > 0 && *count <= shape[0] && image == &shape[1..] => {}
            got => return refuse(format!("the images to start from have shape {got:?}, expected {shape:?}")),
        }
        let images = in_turns(images, shape[0])?;
        let noise = scheduler.process().noise(shape, device, rng)?;
        let sample = run.add_noise(&images, &noise)?;
        let known = self.mask.as_ref().map(|mask| Known::new(images, noise, mask)).transpose()?;
        Ok(Start { sample, known })
    }
}

/// The steps that `strength` leaves out of so many: diffusers' `t_start`.
fn left_out(steps: usize, strength: f64) -> Result<usize> {
    if !(0.0..=1.0).contains(&strength) {
        return Err(Error::Unfit(format!(
            "the strength is {strength}; it must be above 0, which leaves the images as they are, and at most 1"
        )));
    }
    let done = (steps as f64 * strength) as usize;
    if done == 0 {
        return Err(Error::Unfit(format!(
            "with strength {strength} none of {steps} steps would be done: choose a larger strength or more steps, at \
             least one step divided by the other"
        )));
    }
    Ok(steps - done.min(steps))
}

/// So many of the images `[n, c, h, w]`; if they are fewer, they take turns.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let images = Tensor::new(&[1f32, 2.0], &Device::Cpu)?.reshape((2, 1, 1, 1))?;
/// let three = kakusan_pipeline::in_turns(&images, 3)?;
/// assert_eq!(three.flatten_all()?.to_vec1::<f32>()?, [1.0, 2.0, 1.0]);
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
///
/// # Errors
/// When there is no image.
pub fn in_turns(images: &Tensor, count: usize) -> Result<Tensor> {
    let given = images.dim(0)?;
    if given == 0 {
        return Err(Error::Unfit("there are no images to take turns".into()));
    }
    if given == count {
        return Ok(images.clone());
    }
    let places: Vec<u32> = (0..count).map(|i| (i % given) as u32).collect();
    Ok(images.index_select(&Tensor::new(places, images.device())?, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `steps - min(int(steps * strength), steps)` by Python.
    #[test]
    fn a_strength_leaves_out_the_steps_of_diffusers() {
        let cases = [(50, 0.6, 20), (50, 0.58, 22), (50, 1.0, 0), (4, 0.5, 2), (10, 0.1, 9), (3, 0.34, 2)];
        for (steps, strength, start) in cases {
            assert_eq!(left_out(steps, strength).unwrap(), start, "{steps} {strength}");
        }
        for (strength, word) in [(-0.1, "above 0"), (1.01, "at most 1"), (f64::NAN, "NaN"), (0.0, "none of 50 steps")] {
            let error = left_out(50, strength).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(word), "{error}");
        }
    }
}
