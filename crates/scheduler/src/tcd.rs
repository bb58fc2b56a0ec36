use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, check_original_steps, check_positive, distilled_timesteps};
use crate::tensors::{check_same, mix, noise_like};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Scheduler, SpacingConfig,
    StepOutput, Steps, Supports, ThresholdConfig, TimestepSpacing,
};

/// Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, algorithm 4): diffusers'
/// `TCDScheduler`.
///
/// A step goes down to timestep `(1 - η) t'` and, but for the last, from there back up to the next timestep `t'` with new
/// noise; η, the paper's γ, is [`RunOptions::eta`], 0.3 where it is not set.
#[derive(Debug, Clone)]
pub struct TCDScheduler {
    config: TCDConfig,
    alphas: Alphas,
}

/// The configuration of [`TCDScheduler`], under diffusers' names. It has keys that only other samplers use, as in
/// diffusers, because files are handed from one sampler to the other: those say so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TCDConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// On how many timesteps, evenly spaced, the model was distilled; a sampling visits some of them.
    pub original_inference_steps: usize,
    /// Of other samplers: this one does not clip, as in diffusers.
    pub clip_sample: bool,
    /// Of other samplers, as above.
    pub clip_sample_range: f64,
    /// Of other samplers: no step of this one leads below the first timestep.
    pub set_alpha_to_one: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Of other samplers: this one does not threshold, as in diffusers.
    #[serde(flatten)]
    pub threshold: ThresholdConfig,
    /// Of other samplers: the timesteps of this one are those of the distillation.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
    /// Of other samplers: by what LCM multiplies timesteps.
    pub timestep_scaling: f64,
    /// Whether betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
}

impl Default for TCDConfig {
    /// diffusers': latent diffusion's betas, ε-prediction, distilled on 50 timesteps.
    fn default() -> Self {
        Self {
            beta: BetaConfig::latent(BetaSchedule::ScaledLinear),
            original_inference_steps: 50,
            clip_sample: false,
            clip_sample_range: 1.0,
            set_alpha_to_one: true,
            prediction_type: PredictionType::Epsilon,
            threshold: ThresholdConfig::default(),
            spacing: SpacingConfig::new(TimestepSpacing::Leading),
            timestep_scaling: 10.0,
            rescale_betas_zero_snr: false,
        }
    }
}

impl TCDScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "TCDScheduler";
    const DEFAULT_ETA: f64 = 0.3;

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: TCDConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        use PredictionType::{Epsilon, Sample, VPrediction};
        config.prediction_type.only(Self::CLASS_NAME, &[Epsilon, Sample, VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        config.threshold.check(Self::CLASS_NAME)?;
        check_original_steps(Self::CLASS_NAME, config.original_inference_steps, config.beta.num_train_timesteps)?;
        let scheduler = Self::build(config);
        check_positive(Self::CLASS_NAME, &[("clip_sample_range", scheduler.config.clip_sample_range)])?;
        scheduler.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: TCDConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, config.rescale_betas_zero_snr), config }
    }
}

impl Default for TCDScheduler {
    /// That of [`TCDConfig::default`].
    fn default() -> Self {
        Self::build(TCDConfig::default())
    }
}

impl Scheduler for TCDScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "the sampler of trajectory consistency models, for few steps and for many (Zheng et al. 2024)"
    }

    fn process(&self) -> Process {
        self.alphas.preserving(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.config.original_inference_steps
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Timesteps, Supports::Eta])?;
        let eta = options.eta.unwrap_or(Self::DEFAULT_ETA);
        if !(0.0..=1.0).contains(&eta) {
            return Err(Error::OptionValue { option: "eta", value: eta, expected: "it must be between 0 and 1" });
        }
        let original_steps = self.config.original_inference_steps;
        let timesteps = distilled_timesteps(Self::CLASS_NAME, options, original_steps, self.alphas.len())?;
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        self.alphas.check_calls(Self::CLASS_NAME, &steps, self.config.prediction_type, false)?;
        Ok(Box::new(TCDRun { scheduler: self.clone(), steps, eta: eta as f32 }))
    }
}

/// A sampling by [`TCDScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct TCDRun {
    scheduler: TCDScheduler,
    steps: Steps,
    eta: f32,
}

impl Run for TCDRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.scheduler.alphas.alpha_sigma(self.timesteps()[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let TCDScheduler { config, alphas } = &self.scheduler;
        let i = self.steps.index()?;
        let next = self.timesteps().get(i + 1).copied();
        let prev_t = next.unwrap_or(0.0);
        let s = ((1.0 - self.eta) * prev_t).floor();

        let alpha_prod = alphas.at(self.timesteps()[i] as i64, 1.0);
        let (alpha_prod_prev, alpha_prod_s) = (alphas.at(prev_t as i64, 1.0), alphas.at(s as i64, 1.0));
        let (alpha, sigma) = (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt());
        let x0 = config.prediction_type.original_sample(model_output, sample, alpha, sigma)?;
        let epsilon = config.prediction_type.epsilon(model_output, sample, alpha, sigma)?;
        let x_s = mix(alpha_prod_s.sqrt(), &x0, (1.0 - alpha_prod_s).sqrt(), &epsilon)?;

        self.steps.advance();
        let prev_sample = match self.eta > 0.0 && next.is_some() {
            true => {
                let kept = alpha_prod_prev / alpha_prod_s;
                mix(kept.sqrt(), &x_s, (1.0 - kept).sqrt(), &noise_like(sample, rng)?)?
            }
            false => x_s,
        };
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
