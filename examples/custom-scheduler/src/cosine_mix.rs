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

impl CosineMix {
    fn sigma(&self, level: f32) -> f32 {
        (f64::from(level) * FRAC_PI_2).sin().powf(self.exponent) as f32
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
        let config = self.clone();
        let mix = move |level: f32| (1.0 - config.sigma(level), config.sigma(level));
        Process::new(Levels::continuous(|u| u), PredictionType::Sample, mix)
            .uniform_noise()
            .on_pixels(PixelRange::ZeroToOne)
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let n = options.num_steps();
        let timesteps = (0..n).map(|i| ((n - i) as f64 / n as f64) as f32).collect();
        Ok(Box::new(CosineMixRun { config: self.clone(), steps: Steps::new(timesteps, options.start)? }))
    }
}

#[derive(Debug)]
struct CosineMixRun {
    config: CosineMix,
    steps: Steps,
}

impl Run for CosineMixRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn initial_noise(&self, shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
        uniform_noise(shape, device, rng)
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        let level = self.timesteps()[self.steps.index()?];
        if model_output.dims() != sample.dims() {
            let (got, expected) = (model_output.dims().to_vec(), sample.dims().to_vec());
            return Err(Error::Shape { what: "the model's output", got, expected });
        }
        self.steps.advance();
        let sigma = self.config.sigma(level);
        let next_sigma = self.timestep().map_or(0.0, |level| self.config.sigma(level));
        // sample = x0 * (1 - σ) + noise * σ, solved for the noise
        let noise = ((sample - model_output.affine(f64::from(1.0 - sigma), 0.0)?)? / f64::from(sigma))?;
        let x0 = model_output.affine(f64::from(1.0 - next_sigma), 0.0)?;
        let prev_sample = (x0 + noise.affine(next_sigma.into(), 0.0)?)?;
        Ok(StepOutput { prev_sample, pred_original_sample: model_output.clone() })
    }
}

fn uniform_noise(shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
    Ok(Tensor::from_vec(rng.rand_tensor(shape)?, shape, device)?)
}
