use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{
    Alphas, c_in, check_calls, check_positive, check_timesteps, sigma_schedule, sigmas_at, with_second_calls,
};
use crate::tensors::{check_same, mix, scale};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Schedule, Scheduler,
    SigmaConfig, SpacingConfig, StepOutput, Steps, Supports, TimestepSpacing,
};

/// Heun's method in σ: Euler's step, then the same step by the mean of the slopes at both its ends (Karras et al. 2022,
/// algorithm 1): diffusers' `HeunDiscreteScheduler`.
///
/// Two model calls a step, one for the last.
#[derive(Debug, Clone)]
pub struct HeunDiscreteScheduler {
    config: HeunDiscreteConfig,
    alphas: Alphas,
}

/// The configuration of [`HeunDiscreteScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeunDiscreteConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Noise levels spaced otherwise than the timesteps.
    #[serde(flatten)]
    pub sigma: SigmaConfig,
    /// Whether predicted images are clipped.
    pub clip_sample: bool,
    /// Where they are clipped: to plus and minus this.
    pub clip_sample_range: f64,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for HeunDiscreteConfig {
    /// diffusers': 1000 timesteps, latent diffusion's betas but linear, ε-prediction, spaced `linspace`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::latent(BetaSchedule::Linear),
            prediction_type: PredictionType::Epsilon,
            sigma: SigmaConfig::default(),
            clip_sample: false,
            clip_sample_range: 1.0,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
        }
    }
}

impl HeunDiscreteScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "HeunDiscreteScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: HeunDiscreteConfig) -> Result<Self> {
        use BetaSchedule::{Exp, Linear, ScaledLinear, SquaredcosCapV2};
        use PredictionType::{Epsilon, Sample, VPrediction};
        config.prediction_type.only(Self::CLASS_NAME, &[Epsilon, Sample, VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2, Exp])?;
        config.sigma.check(Self::CLASS_NAME, [None, None])?;
        let scheduler = Self::build(config);
        check_positive(Self::CLASS_NAME, &[("clip_sample_range", scheduler.config.clip_sample_range)])?;
        scheduler.alphas.check_sigmas(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: HeunDiscreteConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, false), config }
    }
}

impl Default for HeunDiscreteScheduler {
    /// That of [`HeunDiscreteConfig::default`].
    fn default() -> Self {
        Self::build(HeunDiscreteConfig::default())
    }
}

impl Scheduler for HeunDiscreteScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Heun's method in noise levels, two model calls a step (Karras et al. 2022)"
    }

    fn process(&self) -> Process {
        self.alphas.exploding(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Timesteps])?;
        let HeunDiscreteConfig { spacing, sigma, .. } = &self.config;
        let training = self.alphas.sigmas();
        let (timesteps, sigmas) = match &options.schedule {
            Schedule::Timesteps(_) if sigma.conversion().is_some() => {
                let what = "take timesteps while its noise levels are spaced by themselves: leave out use_*_sigmas";
                return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what: what.into() });
            }
            Schedule::Timesteps(timesteps) => {
                let timesteps = check_timesteps(Self::CLASS_NAME, timesteps, training.len())?;
                let timesteps = timesteps.into_iter().map(f64::from).collect();
                let (timesteps, sigmas) = sigmas_at(timesteps, training, None, [None, None], options.num_steps());
                check_calls(Self::CLASS_NAME, &timesteps, &sigmas)?;
                (timesteps, sigmas.into_iter().chain([0.0]).map(|sigma| sigma as f32).collect())
            }
            _ => sigma_schedule(Self::CLASS_NAME, training, spacing, sigma.conversion(), options.num_steps())?,
        };
        let calls = with_second_calls(&timesteps, &timesteps[1..]);
        let steps = Steps::with_second_calls(Self::CLASS_NAME, calls, options.start)?;
        Ok(Box::new(HeunDiscreteRun { scheduler: self.clone(), steps, sigmas, first: None }))
    }
}

/// A sampling by [`HeunDiscreteScheduler`].
#[derive(Debug)]
struct HeunDiscreteRun {
    scheduler: HeunDiscreteScheduler,
    steps: Steps,
    sigmas: Vec<f32>,
    /// Within a step the sample that it began with, and the slope there.
    first: Option<(Tensor, Tensor)>,
}

impl Run for HeunDiscreteRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn init_noise_sigma(&self) -> f32 {
        self.scheduler.config.spacing.init_noise_sigma(&self.sigmas)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok((1.0, self.sigmas[self.steps.index()? / 2]))
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        scale(sample, c_in(self.sigmas[self.steps.index()?.div_ceil(2)]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let call = self.steps.index()?;
        let (sigma, next_sigma) = (self.sigmas[call / 2], self.sigmas[call / 2 + 1]);
        let shown = self.sigmas[call.div_ceil(2)];
        let config = &self.scheduler.config;
        let x0 = config.prediction_type.denoised(model_output, sample, shown)?;
        let x0 = match config.clip_sample {
            true => x0.clamp(-config.clip_sample_range as f32, config.clip_sample_range as f32)?,
            false => x0,
        };
        let slope = scale(&(sample - &x0)?, 1.0 / shown)?;
        let (prev_sample, first) = match &self.first {
            None => (mix(1.0, sample, next_sigma - sigma, &slope)?, Some((sample.clone(), slope))),
            Some((begin, first)) => (mix(1.0, begin, (next_sigma - sigma) / 2.0, &(first + slope)?)?, None),
        };
        self.first = first;
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
