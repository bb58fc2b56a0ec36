use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, TwoCalls, c_in, halfway, sigma_schedule};
use crate::tensors::{check_same, mix, scale};
use crate::{
    BetaConfig, BetaSchedule, PredictionType, Process, Result, Run, RunOptions, Scheduler, SigmaConfig, SpacingConfig,
    StepOutput, Steps, TimestepSpacing,
};

/// The midpoint method in σ, halfway in log σ (DPM-Solver-2, Lu et al. 2022, algorithm 1, in the terms of Karras et al. 2022;
/// after k-diffusion's `sample_dpm_2`): diffusers' `KDPM2DiscreteScheduler`.
///
/// Two model calls a step, the second halfway; one for the last.
#[derive(Debug, Clone)]
pub struct KDPM2DiscreteScheduler {
    config: KDPM2DiscreteConfig,
    alphas: Alphas,
}

/// The configuration of [`KDPM2DiscreteScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KDPM2DiscreteConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// What the model predicts: ε or a velocity.
    pub prediction_type: PredictionType,
    /// Noise levels spaced otherwise than the timesteps.
    #[serde(flatten)]
    pub sigma: SigmaConfig,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for KDPM2DiscreteConfig {
    /// diffusers': 1000 timesteps, latent diffusion's betas but linear, ε-prediction, spaced `linspace`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::latent(BetaSchedule::Linear),
            prediction_type: PredictionType::Epsilon,
            sigma: SigmaConfig::default(),
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
        }
    }
}

impl KDPM2DiscreteScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "KDPM2DiscreteScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: KDPM2DiscreteConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        config.prediction_type.only(Self::CLASS_NAME, &[PredictionType::Epsilon, PredictionType::VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        config.sigma.check(Self::CLASS_NAME, [None, None])?;
        let scheduler = Self::build(config);
        scheduler.alphas.check_sigmas(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: KDPM2DiscreteConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, false), config }
    }
}

impl Default for KDPM2DiscreteScheduler {
    /// That of [`KDPM2DiscreteConfig::default`].
    fn default() -> Self {
        Self::build(KDPM2DiscreteConfig::default())
    }
}

impl Scheduler for KDPM2DiscreteScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "the midpoint method in noise levels, two model calls a step (DPM-Solver-2, after k-diffusion)"
    }

    fn process(&self) -> Process {
        self.alphas.exploding(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let KDPM2DiscreteConfig { spacing, sigma, .. } = &self.config;
        let training = self.alphas.sigmas();
        let (mut timesteps, sigmas) =
            sigma_schedule(Self::CLASS_NAME, training, spacing, sigma.conversion(), options.num_steps())?;
        if sigma.use_karras_sigmas {
            timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
        }
        let (levels, calls) = TwoCalls::new(&timesteps, sigmas, halfway, training);
        let steps = Steps::with_second_calls(Self::CLASS_NAME, calls, options.start)?;
        Ok(Box::new(KDPM2DiscreteRun { scheduler: self.clone(), steps, levels, begin: None }))
    }
}

/// A sampling by [`KDPM2DiscreteScheduler`].
#[derive(Debug)]
struct KDPM2DiscreteRun {
    scheduler: KDPM2DiscreteScheduler,
    steps: Steps,
    levels: TwoCalls,
    /// Within a step the sample that it began with.
    begin: Option<Tensor>,
}

impl Run for KDPM2DiscreteRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(self.levels.sigmas())
    }

    fn init_noise_sigma(&self) -> f32 {
        self.scheduler.config.spacing.init_noise_sigma(self.levels.sigmas())
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok((1.0, self.levels.at(self.steps.index()?)))
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        scale(sample, c_in(self.levels.at(self.steps.index()?)))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let call = self.steps.index()?;
        let ((sigma, next_sigma), shown) = (self.levels.step_of(call), self.levels.at(call));
        let x0 = self.scheduler.config.prediction_type.denoised(model_output, sample, shown)?;

        let slope = scale(&(sample - &x0)?, 1.0 / shown)?;
        let (prev_sample, begin) = match &self.begin {
            None => (mix(1.0, sample, self.levels.second_of(call) - sigma, &slope)?, Some(sample.clone())),
            Some(begin) => (mix(1.0, begin, next_sigma - sigma, &slope)?, None),
        };
        self.begin = begin;
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
