//! The scheduler: this file is all that a new one takes.

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_rng::Noise;
use kakusan_scheduler::{
    Error, Levels, PixelRange, PredictionType, Process, Result, Run, RunOptions, Scheduler, StepOutput, Steps,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Mixes image and noise as the tutorial does, but along a cosine: at level `t` in 0..1 the noise's weight is
/// `σ = sin(t * pi/2) ^ exponent`, the image's `1 - σ`, so that levels dwell near the image and near the noise. Sampling is deterministic:
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

    fn sigma(&self, level: f32) -> f32 {
        (f64::from(level) * FRAC_PI_2).sin().powf(self.exponent) as f32
    }
}

impl Scheduler for CosineMixScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        Map::from_iter([("exponent".to_owned(), self.exponent.into())])
    }

    fn process(&self) -> Process {
        let scheduler = self.clone();
        let mix = move |level: f32| (1.0 - scheduler.sigma(level), scheduler.sigma(level));
        Process::new(Levels::continuous(|u| u), PredictionType::Sample, mix)
            .uniform_noise()
            .on_pixels(PixelRange::ZeroToOne)
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
        let sigma = self.scheduler.sigma(level);
        let next_sigma = self.timestep().map_or(0.0, |level| self.scheduler.sigma(level));
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
