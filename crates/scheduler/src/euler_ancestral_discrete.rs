use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, ancestral_step, c_in, sigma_schedule};
use crate::tensors::{check_same, mix, noise_like, scale};
use crate::{
    BetaConfig, BetaSchedule, PredictionType, Process, Result, Run, RunOptions, Scheduler, SpacingConfig, StepOutput,
    Steps, TimestepSpacing,
};

/// Euler's method in σ, ancestral: each step goes further down than its level and adds new noise to come back up to it
/// (Song et al. 2021, DDPM's variance; after k-diffusion's `sample_euler_ancestral`): diffusers'
/// `EulerAncestralDiscreteScheduler`.
#[derive(Debug, Clone)]
pub struct EulerAncestralDiscreteScheduler {
    config: EulerAncestralDiscreteConfig,
    alphas: Alphas,
}

/// The configuration of [`EulerAncestralDiscreteScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EulerAncestralDiscreteConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts: ε or a velocity.
    pub prediction_type: PredictionType,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for EulerAncestralDiscreteConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, spaced `linspace`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
        }
    }
}

impl EulerAncestralDiscreteScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "EulerAncestralDiscreteScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: EulerAncestralDiscreteConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        config.prediction_type.only(Self::CLASS_NAME, &[PredictionType::Epsilon, PredictionType::VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        let scheduler = Self::build(config);
        scheduler.alphas.check_sigmas(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: EulerAncestralDiscreteConfig) -> Self {
        Self { alphas: Alphas::with_finite_sigmas(&config.beta, config.rescale_betas_zero_snr), config }
    }
}

impl Default for EulerAncestralDiscreteScheduler {
    /// That of [`EulerAncestralDiscreteConfig::default`].
    fn default() -> Self {
        Self::build(EulerAncestralDiscreteConfig::default())
    }
}

impl Scheduler for EulerAncestralDiscreteScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Euler's method in noise levels with new noise in every step (after k-diffusion)"
    }

    fn process(&self) -> Process {
        self.alphas.exploding(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let training = self.alphas.sigmas();
        let (timesteps, sigmas) =
            sigma_schedule(Self::CLASS_NAME, training, &self.config.spacing, None, options.num_steps())?;
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        Ok(Box::new(EulerAncestralDiscreteRun { scheduler: self.clone(), steps, sigmas }))
    }
}

/// A sampling by [`EulerAncestralDiscreteScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct EulerAncestralDiscreteRun {
    scheduler: EulerAncestralDiscreteScheduler,
    steps: Steps,
    sigmas: Vec<f32>,
}

impl Run for EulerAncestralDiscreteRun {
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
        Ok((1.0, self.sigmas[self.steps.index()?]))
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        scale(sample, c_in(self.sigmas[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let i = self.steps.index()?;
        let (sigma, next_sigma) = (self.sigmas[i], self.sigmas[i + 1]);
        let x0 = self.scheduler.config.prediction_type.denoised(model_output, sample, sigma)?;

        let (sigma_down, sigma_up) = ancestral_step(sigma, next_sigma);
        // sample + (sample - x0) / sigma * (sigma_down - sigma)
        let kept = sigma_down / sigma;
        let down = mix(kept, sample, 1.0 - kept, &x0)?;
        let prev_sample = mix(1.0, &down, sigma_up, &noise_like(sample, rng)?)?;
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
