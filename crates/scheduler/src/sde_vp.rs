use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{MOST_STEPS, check_count, check_train_timesteps, linspace_f32, serialize_whole};
use crate::tensors::{check_same, mix, noise_like};
use crate::{Error, Levels, PredictionType, Process, Result, Run, RunOptions, Scheduler, StepOutput, Steps};

/// The Euler-Maruyama method on the reverse of the variance preserving SDE (Song et al. 2021, equations 6 and 11):
/// diffusers' deprecated `ScoreSdeVpScheduler`.
///
/// The model is told the time, from 1 down to `sampling_eps`, and predicts the noise. The last step comes without its
/// noise, as in the paper's own sampler: diffusers returns both, and has no pipeline that would choose.
#[derive(Debug, Clone, Default)]
pub struct ScoreSdeVpScheduler {
    config: ScoreSdeVpConfig,
}

/// The configuration of [`ScoreSdeVpScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreSdeVpConfig {
    /// The times that training draws from.
    pub num_train_timesteps: usize,
    /// β at time 0.
    pub beta_min: f64,
    /// β at time 1.
    #[serde(serialize_with = "serialize_whole")]
    pub beta_max: f64,
    /// The time of the last step, where that of the first is 1.
    pub sampling_eps: f64,
}

impl Default for ScoreSdeVpConfig {
    /// diffusers': 2000 times from 1 to 0.001, β from 0.1 to 20.
    fn default() -> Self {
        Self { num_train_timesteps: 2000, beta_min: 0.1, beta_max: 20.0, sampling_eps: 1e-3 }
    }
}

impl ScoreSdeVpScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "ScoreSdeVpScheduler";

    /// Takes the configuration.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn new(config: ScoreSdeVpConfig) -> Result<Self> {
        check_train_timesteps(Self::CLASS_NAME, config.num_train_timesteps, 1)?;
        let ScoreSdeVpConfig { beta_min, beta_max, sampling_eps, .. } = config;
        let refuse = |reason: String| Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        if !(sampling_eps > 0.0 && sampling_eps < 1.0) {
            return refuse(format!("sampling_eps is {sampling_eps}; it must be between 0 and 1"));
        }
        if !(beta_min >= 0.0 && beta_max > beta_min && beta_max.is_finite()) {
            return refuse(format!("beta_min is {beta_min} and beta_max {beta_max}; β must grow from at least 0"));
        }
        Ok(Self { config })
    }

    /// The shares of the image and of the noise in a sample (equation 29).
    fn mean_and_std(&self, time: f32) -> (f32, f32) {
        let (beta_min, range) = (self.config.beta_min as f32, (self.config.beta_max - self.config.beta_min) as f32);
        let log_mean = -0.25 * time * time * range - 0.5 * time * beta_min;
        (log_mean.exp(), (1.0 - (2.0 * log_mean).exp()).sqrt())
    }
}

impl Scheduler for ScoreSdeVpScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Euler-Maruyama on the variance preserving SDE, a thousand steps or more (Song et al. 2021)"
    }

    fn process(&self) -> Process {
        let times = linspace_f32(1.0, self.config.sampling_eps as f32, self.config.num_train_timesteps);
        let scheduler = self.clone();
        Process::new(Levels::one_of(times), PredictionType::Epsilon, move |time| scheduler.mean_and_std(time))
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=MOST_STEPS
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let n = check_count(Self::CLASS_NAME, options.num_steps())?;
        let times = linspace_f32(1.0, self.config.sampling_eps as f32, n);
        let steps = Steps::new(Self::CLASS_NAME, times, options.start)?;
        Ok(Box::new(ScoreSdeVpRun { scheduler: self.clone(), steps }))
    }
}

/// A sampling by [`ScoreSdeVpScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct ScoreSdeVpRun {
    scheduler: ScoreSdeVpScheduler,
    steps: Steps,
}

impl Run for ScoreSdeVpRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        let (mean, std) = self.scheduler.mean_and_std(self.timesteps()[self.steps.index()?]);
        Ok((mean, std))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let ScoreSdeVpConfig { beta_min, beta_max, .. } = self.scheduler.config;
        let i = self.steps.index()?;
        let time = self.timesteps()[i];
        let (mean_coeff, std) = self.scheduler.mean_and_std(time);
        let x0 = mix(1.0 / mean_coeff, sample, -std / mean_coeff, model_output)?;

        // x - (-β/2 x - β score) / n, where the score is -ε / std
        let n = self.timesteps().len() as f32;
        let beta = beta_min as f32 + time * (beta_max - beta_min) as f32;
        let mean = mix(1.0 + 0.5 * beta / n, sample, -beta / n / std, model_output)?;
        let noise = noise_like(sample, rng)?;
        self.steps.advance();
        let prev_sample = match self.steps.timestep() {
            Some(_) => mix(1.0, &mean, (beta / n).sqrt(), &noise)?,
            None => mean,
        };
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
