use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{
    Alphas, c_in, check_calls, check_descending, check_first_two, check_timesteps, linspace_f32, ln_f32, sigmas_at,
    timesteps_of,
};
use crate::tensors::{check_same, mix, noise_like, scale};
use crate::{
    BetaConfig, BetaSchedule, Churn, Error, Family, FinalSigmasType, PredictionType, Process, Result, Run, RunOptions,
    Schedule, Scheduler, SigmaConfig, SpacingConfig, StepOutput, Steps, Supports, TimestepSpacing,
};

/// Euler's method on the probability flow ODE in σ, with noise added before a step where asked for (Karras et al. 2022,
/// algorithm 2 without its correction): diffusers' `EulerDiscreteScheduler`.
#[derive(Debug, Clone)]
pub struct EulerDiscreteScheduler {
    config: EulerDiscreteConfig,
    alphas: Alphas,
}

/// The configuration of [`EulerDiscreteScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EulerDiscreteConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Where noise levels between the timesteps' come from.
    pub interpolation_type: InterpolationType,
    /// Noise levels spaced otherwise than the timesteps.
    #[serde(flatten)]
    pub sigma: SigmaConfig,
    /// The lowest noise level of such a spacing; the last timestep's where absent.
    pub sigma_min: Option<f64>,
    /// The highest noise level of such a spacing; the first timestep's where absent.
    pub sigma_max: Option<f64>,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
    /// What a `v_prediction` model is told.
    pub timestep_type: TimestepType,
    /// The noise level that the last step leads to.
    pub final_sigmas_type: FinalSigmasType,
}

/// Where noise levels between those of training come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterpolationType {
    /// In proportion between the two timesteps beside it.
    Linear,
    /// Evenly in log σ over all of training, wherever the timesteps are.
    LogLinear,
}

/// What the model is told of the noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepType {
    /// The timestep.
    Discrete,
    /// `ln(σ) / 4`, where the model predicts a velocity (Karras et al. 2022).
    Continuous,
}

impl Default for EulerDiscreteConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, spaced `linspace` down to no noise.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            interpolation_type: InterpolationType::Linear,
            sigma: SigmaConfig::default(),
            sigma_min: None,
            sigma_max: None,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
            timestep_type: TimestepType::Discrete,
            final_sigmas_type: FinalSigmasType::Zero,
        }
    }
}

impl EulerDiscreteScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "EulerDiscreteScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: EulerDiscreteConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        use PredictionType::{Epsilon, Sample, VPrediction};
        config.prediction_type.only(Self::CLASS_NAME, &[Epsilon, Sample, VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        config.sigma.check(Self::CLASS_NAME, [config.sigma_min, config.sigma_max])?;
        let scheduler = Self::build(config);
        scheduler.alphas.check_sigmas(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: EulerDiscreteConfig) -> Self {
        Self { alphas: Alphas::with_finite_sigmas(&config.beta, config.rescale_betas_zero_snr), config }
    }

    /// Whether the model is told of σ instead of the timestep.
    fn is_continuous(&self) -> bool {
        self.config.timestep_type == TimestepType::Continuous
            && self.config.prediction_type == PredictionType::VPrediction
    }

    /// The levels that the model is told, and the noise levels between which the steps lead, one more.
    fn schedule(&self, options: &RunOptions) -> Result<(Vec<f32>, Vec<f32>)> {
        let config = &self.config;
        let training = self.alphas.sigmas();
        let conversion = config.sigma.conversion();
        let timesteps = match &options.schedule {
            Schedule::Sigmas(sigmas) => {
                check_descending(Self::CLASS_NAME, sigmas)?;
                let calls: Vec<f64> = sigmas[..sigmas.len() - 1].iter().map(|&sigma| f64::from(sigma as f32)).collect();
                let timesteps = timesteps_of(&calls, training);
                check_calls(Self::CLASS_NAME, &timesteps, &calls)?;
                return Ok(self.told(timesteps, sigmas.iter().map(|&sigma| sigma as f32).collect()));
            }
            Schedule::Timesteps(_) if conversion.is_some() || self.is_continuous() => {
                let what = "take timesteps while its noise levels are spaced by themselves: leave out use_*_sigmas and \
                            timestep_type continuous, or give sigmas";
                return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what: what.into() });
            }
            Schedule::Timesteps(timesteps) => check_timesteps(Self::CLASS_NAME, timesteps, self.alphas.len())?,
            Schedule::Steps(n) => {
                let timesteps = config.spacing.exact(Self::CLASS_NAME, self.alphas.len(), *n)?;
                timesteps.into_iter().map(|timestep| timestep as f32).collect()
            }
        };
        let (timesteps, mut sigmas) = match config.interpolation_type {
            InterpolationType::LogLinear => {
                // one level more than there are timesteps, so that the last step leads to the lowest of training
                let [first, last] = [training[0], training[training.len() - 1]].map(ln_f32);
                let steps = options.num_steps();
                let sigmas: Vec<f64> =
                    linspace_f32(last, first, steps + 1).into_iter().map(|log| f64::from(log.exp())).collect();
                match conversion {
                    None => (timesteps, sigmas),
                    Some(conversion) => {
                        let limits = [config.sigma_max.unwrap_or(sigmas[0]), config.sigma_min.unwrap_or(sigmas[steps])];
                        let sigmas = conversion.sigmas(limits, steps);
                        (timesteps_of(&sigmas, training), sigmas)
                    }
                }
            }
            InterpolationType::Linear => {
                let timesteps = timesteps.into_iter().map(f64::from).collect();
                let limits = [config.sigma_min, config.sigma_max];
                sigmas_at(timesteps, training, conversion, limits, options.num_steps())
            }
        };
        check_first_two(Self::CLASS_NAME, &timesteps, training.len())?;
        check_calls(Self::CLASS_NAME, &timesteps, &sigmas)?;
        sigmas.push(match config.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => training[0].into(),
        });
        Ok(self.told(timesteps, sigmas.into_iter().map(|sigma| sigma as f32).collect()))
    }

    /// What the model is told at `timesteps`, which have the noise levels `sigmas`; and these.
    fn told(&self, timesteps: Vec<f32>, sigmas: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
        match self.is_continuous() {
            true => (sigmas[..sigmas.len() - 1].iter().map(|sigma| 0.25 * sigma.ln()).collect(), sigmas),
            false => (timesteps, sigmas),
        }
    }
}

impl Default for EulerDiscreteScheduler {
    /// That of [`EulerDiscreteConfig::default`].
    fn default() -> Self {
        Self::build(EulerDiscreteConfig::default())
    }
}

impl Scheduler for EulerDiscreteScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Euler's method in noise levels, one model call a step (Karras et al. 2022)"
    }

    fn process(&self) -> Process {
        let process = self.alphas.exploding(self.config.prediction_type);
        if self.is_continuous() {
            return process.of_family(Family::Own(format!("{} with timestep_type continuous", Self::CLASS_NAME)));
        }
        process
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Timesteps, Supports::Sigmas, Supports::Churn])?;
        let (timesteps, sigmas) = self.schedule(options)?;
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        let churn = options.churn.unwrap_or_default();
        Ok(Box::new(EulerDiscreteRun { scheduler: self.clone(), steps, sigmas, churn }))
    }
}

/// A sampling by [`EulerDiscreteScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct EulerDiscreteRun {
    scheduler: EulerDiscreteScheduler,
    steps: Steps,
    sigmas: Vec<f32>,
    churn: Churn,
}

impl Run for EulerDiscreteRun {
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
        let gamma = self.churn.gamma(sigma, self.sigmas.len() - 1);
        let sigma_hat = sigma * (gamma + 1.0);
        let sample = match gamma > 0.0 {
            true => {
                let added = self.churn.s_noise as f32 * (sigma_hat * sigma_hat - sigma * sigma).sqrt();
                mix(1.0, sample, added, &noise_like(sample, rng)?)?
            }
            false => sample.clone(),
        };
        let prediction_type = self.scheduler.config.prediction_type;
        let shown = if prediction_type == PredictionType::VPrediction { sigma } else { sigma_hat };
        let x0 = prediction_type.denoised(model_output, &sample, shown)?;
        // sample + (sample - x0) / sigma_hat * (next_sigma - sigma_hat)
        let kept = next_sigma / sigma_hat;
        self.steps.advance();
        Ok(StepOutput { prev_sample: mix(kept, &sample, 1.0 - kept, &x0)?, pred_original_sample: x0 })
    }
}
