//! The scheduler: this file is all that a new one takes.

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_rng::Generator;
use kakusan_scheduler::{Draw, Error, PixelRange, Result, Run, Scheduler, StepOutput};
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
        Ok(Draw { noise: self.initial_noise(clean.dims(), clean.device(), rng)?, levels })
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

    fn initial_noise(&self, shape: &[usize], device: &Device, rng: &mut Generator) -> Result<Tensor> {
        Ok(Tensor::from_vec(rng.rand(shape.iter().product()), shape, device)?)
    }

    fn run(&self, num_inference_steps: usize) -> Result<Box<dyn Run>> {
        let n = num_inference_steps;
        if n == 0 {
            let class_name = Self::CLASS_NAME.into();
            return Err(Error::Steps { class_name, steps: n, reason: "at least one is needed".into() });
        }
        let timesteps = (0..n).map(|i| ((n - i) as f64 / n as f64) as f32).collect();
        Ok(Box::new(CosineMixRun { scheduler: self.clone(), timesteps, i: 0 }))
    }
}

#[derive(Debug)]
struct CosineMixRun {
    scheduler: CosineMixScheduler,
    timesteps: Vec<f32>,
    i: usize,
}

impl Run for CosineMixRun {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn level(&self) -> Option<f32> {
        self.timesteps.get(self.i).copied()
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut Generator) -> Result<StepOutput> {
        let Some(level) = self.level() else { return Err(Error::RunIsOver { steps: self.timesteps.len() }) };
        if model_output.dims() != sample.dims() {
            let (got, expected) = (model_output.dims().to_vec(), sample.dims().to_vec());
            return Err(Error::Shape { what: "the model's output", got, expected });
        }
        self.i += 1;
        let share = self.scheduler.noise_share(f64::from(level));
        let next = self.level().map_or(0.0, |level| self.scheduler.noise_share(f64::from(level)));
        // sample = x0 * (1 - share) + noise * share, solved for the noise
        let noise = ((sample - model_output.affine(1.0 - share, 0.0)?)? / share)?;
        let prev_sample = (model_output.affine(1.0 - next, 0.0)? + noise.affine(next, 0.0)?)?;
        Ok(StepOutput { prev_sample, pred_original_sample: model_output.clone() })
    }
}
