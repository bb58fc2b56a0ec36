//! The scheduler: this file is all that a new one takes.

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_rng::{Generator, Noise};
use kakusan_scheduler::{Draw, Error, PixelRange, Result, Run, RunOptions, Scheduler, StepOutput, Steps};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Mixes image and noise as the tutorial does, but along a cosine: at level `t` in 0..1 the noise's share is
/// `m(t) = sin(t * pi/2) ^ exponent`, so that levels dwell near the image and near the noise. Sampling is deterministic:
/// each step takes the noise that the prediction leaves over, and mixes both anew at the next level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CosineMixScheduler {
    /// How long the levels dwell near the image.
    pub exponent: f64,
}

impl Default for CosineMixScheduler {
    fn default() -> Self {
        Self { exponent: 2.0 }
    }
}

impl CosineMixScheduler {
    pub const CLASS_NAME: &'static str = "CosineMixScheduler";

    /// What [`Registry::register`](kakusan_scheduler::Registry::register) takes.
    pub fn from_config(config: Map<String, Value>) -> Result<Arc<dyn Scheduler>> {
        let refused = |reason: String| Error::Config { class_name: Self::CLASS_NAME.into(), reason };
        let scheduler: Self = serde_json::from_value(config.into()).map_err(|e| refused(e.to_string()))?;
        if !(scheduler.exponent.is_finite() && scheduler.exponent > 0.0) {
            return Err(refused(format!("`exponent` is {}; it must be above 0", scheduler.exponent)));
        }
        Ok(Arc::new(scheduler))
    }

    fn noise_share(&self, level: f64) -> f64 {
        (level * FRAC_PI_2).sin().powf(self.exponent)
    }
}

impl Scheduler for CosineMixScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        Map::from_iter([("exponent".to_owned(), self.exponent.into())])
    }

    fn pixel_range(&self) -> PixelRange {
        PixelRange::ZeroToOne
    }

    fn draw(&self, clean: &Tensor, rng: &mut Generator) -> Result<Draw> {
        let batch = clean.dim(0)?;
        let levels = Tensor::from_vec(rng.rand(batch), batch, clean.device())?;
        Ok(Draw { noise: uniform_noise(clean.dims(), clean.device(), rng)?, levels })
    }

    fn add_noise(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        let batch = clean.dim(0)?;
        if noise.dims() != clean.dims() || levels.dims() != [batch] {
            let (got, expected) = (noise.dims().to_vec(), clean.dims().to_vec());
            return Err(Error::Shape { what: "the noise, or its levels", got, expected });
        }
        let shares = levels.to_vec1::<f32>()?.iter().map(|&t| self.noise_share(f64::from(t)) as f32).collect();
        let share = Tensor::from_vec(shares, (batch, 1, 1, 1), clean.device())?;
        Ok((clean.broadcast_mul(&share.affine(-1.0, 1.0)?)? + noise.broadcast_mul(&share)?)?)
    }

    fn target(&self, clean: &Tensor, _noise: &Tensor, _levels: &Tensor) -> Result<Tensor> {
        Ok(clean.clone())
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?; // a number of steps and where to begin, nothing else
        let n = options.num_steps();
        let timesteps = (0..n).map(|i| ((n - i) as f64 / n as f64) as f32).collect();
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        Ok(Box::new(CosineMixRun { scheduler: self.clone(), steps }))
    }
}

#[derive(Debug)]
struct CosineMixRun {
    scheduler: CosineMixScheduler,
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
        let share = self.scheduler.noise_share(f64::from(level));
        let next = self.level().map_or(0.0, |level| self.scheduler.noise_share(f64::from(level)));
        // sample = x0 * (1 - share) + noise * share, solved for the noise
        let noise = ((sample - model_output.affine(1.0 - share, 0.0)?)? / share)?;
        let prev_sample = (model_output.affine(1.0 - next, 0.0)? + noise.affine(next, 0.0)?)?;
        Ok(StepOutput { prev_sample, pred_original_sample: model_output.clone() })
    }
}

fn uniform_noise(shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
    Ok(Tensor::from_vec(rng.rand_tensor(shape)?, shape, device)?)
}
