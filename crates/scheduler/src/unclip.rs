use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, Posterior, check_positive, linspace_f64};
use crate::tensors::{noise_like, scale, split_variance};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Scheduler, StepOutput, Steps,
    VarianceType,
};

/// DDPM's sampler as Karlo has it for unCLIP (Ho et al. 2020; Ramesh et al. 2022): diffusers' `UnCLIPScheduler`.
///
/// It differs from [`DDPMScheduler`](crate::DDPMScheduler) in its timesteps, which reach from the last to the first. A step
/// leads to the next of them, as it does in diffusers' pipeline, which passes that as `prev_timestep`. (One step alone is a
/// division by zero in diffusers; here it begins at the last timestep.)
#[derive(Debug, Clone)]
pub struct UnCLIPScheduler {
    config: UnCLIPConfig,
    betas: Vec<f32>,
    alphas: Alphas,
}

/// The configuration of [`UnCLIPScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnCLIPConfig {
    /// T, the timesteps of training.
    pub num_train_timesteps: usize,
    /// The variance of the noise added in a step: `fixed_small_log` or `learned_range`.
    pub variance_type: VarianceType,
    /// Whether predicted images are clipped.
    pub clip_sample: bool,
    /// Where they are clipped: to plus and minus this.
    pub clip_sample_range: f64,
    /// What the model predicts: `epsilon` or `sample`.
    pub prediction_type: PredictionType,
    /// `squaredcos_cap_v2`.
    pub beta_schedule: BetaSchedule,
}

impl Default for UnCLIPConfig {
    /// diffusers': 1000 timesteps, `fixed_small_log`, ε-prediction, clipped to ±1.
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            variance_type: VarianceType::FixedSmallLog,
            clip_sample: true,
            clip_sample_range: 1.0,
            prediction_type: PredictionType::Epsilon,
            beta_schedule: BetaSchedule::SquaredcosCapV2,
        }
    }
}

impl UnCLIPScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "UnCLIPScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: UnCLIPConfig) -> Result<Self> {
        config.prediction_type.only(Self::CLASS_NAME, &[PredictionType::Epsilon, PredictionType::Sample])?;
        Self::beta_config(&config).check(Self::CLASS_NAME, &[BetaSchedule::SquaredcosCapV2])?;
        let known = [VarianceType::FixedSmallLog, VarianceType::LearnedRange];
        if !known.contains(&config.variance_type) {
            let reason = format!("it has no use for variance_type {:?}; it takes {known:?}", config.variance_type);
            return Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        }
        let scheduler = Self::build(config);
        check_positive(Self::CLASS_NAME, &[("clip_sample_range", scheduler.config.clip_sample_range)])?;
        scheduler.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: UnCLIPConfig) -> Self {
        let beta = Self::beta_config(&config);
        Self { betas: beta.betas(), alphas: Alphas::new(&beta, false), config }
    }

    fn beta_config(config: &UnCLIPConfig) -> BetaConfig {
        let UnCLIPConfig { num_train_timesteps, beta_schedule, .. } = *config;
        BetaConfig { num_train_timesteps, beta_schedule, ..BetaConfig::default() }
    }

    /// `n` timesteps, evenly from the last of training to the first.
    fn timesteps(&self, n: usize) -> Result<Vec<f32>> {
        let t = self.alphas.len();
        let refuse = |reason: String| Err(Error::Steps { class_name: Self::CLASS_NAME.into(), steps: n, reason });
        match n {
            0 => refuse("at least one is needed".into()),
            1 => Ok(vec![(t - 1) as f32]),
            _ if n > t => refuse(format!("it was trained on {t} timesteps, so it can do at most {t}")),
            _ => {
                let places = linspace_f64(0.0, (t - 1) as f64, n).into_iter().rev();
                Ok(places.map(|place| place.round_ties_even() as f32).collect())
            }
        }
    }
}

impl Default for UnCLIPScheduler {
    /// That of [`UnCLIPConfig::default`].
    fn default() -> Self {
        Self::build(UnCLIPConfig::default())
    }
}

impl Scheduler for UnCLIPScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "DDPM's sampler as Karlo's unCLIP has it (Ramesh et al. 2022)"
    }

    fn process(&self) -> Process {
        self.alphas.preserving(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let steps = Steps::new(Self::CLASS_NAME, self.timesteps(options.num_steps())?, options.start)?;
        Ok(Box::new(UnCLIPRun { scheduler: self.clone(), steps }))
    }
}

/// A sampling by [`UnCLIPScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct UnCLIPRun {
    scheduler: UnCLIPScheduler,
    steps: Steps,
}

impl Run for UnCLIPRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.scheduler.alphas.alpha_sigma(self.timesteps()[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        let UnCLIPScheduler { config, betas, alphas } = &self.scheduler;
        let i = self.steps.index()?;
        let timesteps = self.steps.timesteps();
        let t = timesteps[i] as usize;
        let prev_t = timesteps.get(i + 1).map_or(-1, |&prev| prev as i64);
        let learns = config.variance_type == VarianceType::LearnedRange;
        let (output, learned) = split_variance(learns, model_output, sample)?;

        let (alpha_prod, alpha_prod_prev) = (alphas.at(t as i64, 1.0), alphas.at(prev_t, 1.0));
        // α is 1 - β, with the digits that this loses where α is next to nothing
        let beta = if prev_t + 1 == t as i64 { betas[t] } else { 1.0 - alpha_prod / alpha_prod_prev };
        let posterior = Posterior::with_alpha_beta(alpha_prod, alpha_prod_prev, 1.0 - beta, beta);
        let (alpha, sigma) = (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt());
        let x0 = config.prediction_type.original_sample(&output, sample, alpha, sigma)?;
        let range = config.clip_sample_range as f32;
        let x0 = if config.clip_sample { x0.clamp(-range, range)? } else { x0 };
        let mean = posterior.mean(&x0, sample)?;

        self.steps.advance();
        if t == 0 {
            return Ok(StepOutput { prev_sample: mean, pred_original_sample: x0 });
        }
        let noise = noise_like(&output, rng)?;
        let noise = match learned {
            Some(v) => (posterior.learned_deviation(&v)? * noise)?,
            None => scale(&noise, posterior.small.sqrt())?,
        };
        Ok(StepOutput { prev_sample: (mean + noise)?, pred_original_sample: x0 })
    }
}
