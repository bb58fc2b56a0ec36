//! The scheduler: this file is all that a new one takes.

use std::f64::consts::FRAC_PI_2;

use candle_core::{Device, Tensor};
use kakusan_rng::Noise;
use kakusan_scheduler::{
    Error, Levels, Method, PixelRange, PredictionType, Process, Result, Run, RunOptions, StepOutput, Steps,
};
use serde::{Deserialize, Serialize};

/// Mixes image and noise as the tutorial does, but along a cosine: at level `t` in 0..1 the noise's weight is `σ =
/// sin(t * pi/2) ^ exponent`, the image's `1 - σ`, so that levels dwell near the image and near the noise. Sampling is
/// deterministic: each step takes the noise that the prediction leaves over, and mixes both again at the next level.
///
/// The fields are the keys of `[scheduler]` and of `scheduler_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CosineMix {
    /// How long the levels dwell near the image.
    pub exponent: f64,
}

impl Default for CosineMix {
    fn default() -> Self {
        Self { exponent: 2.0 }
    }
}

impl Method for CosineMix {
    const CLASS_NAME: &'static str = "CosineMixScheduler";

    fn check(&self) -> Result<()> {
        if self.exponent.is_finite() && self.exponent > 0.0 {
            return Ok(());
        }
        Err(Error::config(format!("`exponent` is {}; it must be above 0", self.exponent)))
    }

    fn process(&self) -> Process {
        let exponent = self.exponent;
        let sigma = move |level: f32| (f64::from(level) * FRAC_PI_2).sin().powf(exponent) as f32;
        Process::new(Levels::continuous(|u| u), PredictionType::Sample, move |level| (1.0 - sigma(level), sigma(level)))
            .uniform_noise()
            .on_pixels(PixelRange::ZeroToOne)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let n = options.num_steps();
        let timesteps = (0..n).map(|i| ((n - i) as f64 / n as f64) as f32).collect();
        Ok(Box::new(CosineMixRun { process: process.clone(), steps: Steps::new(timesteps, options.start)? }))
    }
}

#[derive(Debug)]
struct CosineMixRun {
    process: Process,
    steps: Steps,
}

impl Run for CosineMixRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn initial_noise(&self, shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
        uniform_noise(shape, device, rng)
    }

    fn pred_original_sample(&self, model_output: &Tensor, _sample: &Tensor) -> Result<Tensor> {
        Ok(model_output.clone())
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        let level = self.timesteps()[self.steps.index()?];
        if model_output.dims() != sample.dims() {
            let (got, expected) = (model_output.dims().to_vec(), sample.dims().to_vec());
            return Err(Error::Shape { what: "the model's output", got, expected });
        }
        self.steps.advance();
        let (alpha, sigma) = self.process.alpha_sigma(level)?;
        let (next_alpha, next_sigma) =
            self.timestep().map_or(Ok((1.0, 0.0)), |level| self.process.alpha_sigma(level))?;
        // sample = x0 * α + noise * σ, solved for the noise
        let noise = ((sample - model_output.affine(alpha.into(), 0.0)?)? / f64::from(sigma))?;
        let x0 = model_output.affine(next_alpha.into(), 0.0)?;
        let prev_sample = (x0 + noise.affine(next_sigma.into(), 0.0)?)?;
        Ok(StepOutput { prev_sample, pred_original_sample: model_output.clone() })
    }
}

fn uniform_noise(shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
    Ok(Tensor::from_vec(rng.rand_tensor(shape)?, shape, device)?)
}
