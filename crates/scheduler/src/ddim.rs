use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, check_positive, check_steps};
use crate::tensors::{check_same, mix, noise_like};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Scheduler, SpacingConfig,
    StepOutput, Steps, Supports, ThresholdConfig, TimestepSpacing,
};

/// Denoising diffusion implicit models (Song et al. 2021, equation 12): diffusers' `DDIMScheduler`.
///
/// As in diffusers every step leads `T / N` timesteps down, rounded to whole ones. Spaced `leading` that is where the next
/// step begins; spaced `linspace`, or `trailing` where N does not divide T, it is a little beside it.
///
/// ```
/// use kakusan_scheduler::{DDIMScheduler, RunOptions, Scheduler};
///
/// let scheduler = DDIMScheduler::default();
/// let stochastic = scheduler.run_with(&RunOptions { eta: Some(1.0), ..RunOptions::steps(4) })?;
/// assert_eq!(stochastic.timesteps(), [750.0, 500.0, 250.0, 0.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DDIMScheduler {
    config: DDIMConfig,
    alphas: Alphas,
}

/// The configuration of [`DDIMScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DDIMConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Whether the last step leads to the image; otherwise to the first timestep.
    pub set_alpha_to_one: bool,
    /// Whether predicted images are clipped.
    pub clip_sample: bool,
    /// Where they are clipped: to plus and minus this.
    pub clip_sample_range: f64,
    /// Thresholding of predicted images, in place of clipping.
    #[serde(flatten)]
    pub threshold: ThresholdConfig,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for DDIMConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, clipped to ±1, spaced `leading`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            set_alpha_to_one: true,
            clip_sample: true,
            clip_sample_range: 1.0,
            threshold: ThresholdConfig::default(),
            spacing: SpacingConfig::new(TimestepSpacing::Leading),
        }
    }
}

impl DDIMScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "DDIMScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: DDIMConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        use PredictionType::{Epsilon, Sample, VPrediction};
        config.prediction_type.only(Self::CLASS_NAME, &[Epsilon, Sample, VPrediction])?;
        config.threshold.check(Self::CLASS_NAME)?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        let scheduler = Self::build(config);
        check_positive(Self::CLASS_NAME, &[("clip_sample_range", scheduler.config.clip_sample_range)])?;
        scheduler.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: DDIMConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, config.rescale_betas_zero_snr), config }
    }
}

impl Default for DDIMScheduler {
    /// That of [`DDIMConfig::default`].
    fn default() -> Self {
        Self::build(DDIMConfig::default())
    }
}

impl Scheduler for DDIMScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "the implicit sampler of denoising diffusion, with as little new noise as asked for (Song et al. 2021)"
    }

    fn process(&self) -> Process {
        self.alphas.preserving(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Eta, Supports::ClippedModelOutput])?;
        let eta = options.eta.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&eta) {
            let expected = "from 0, no new noise, to 1, as much as DDPM's";
            return Err(Error::OptionValue { option: "eta", value: eta, expected });
        }
        let timesteps = {
            let (t, n) = (self.alphas.len(), options.num_steps());
            self.config.spacing.whole(Self::CLASS_NAME, t, check_steps(Self::CLASS_NAME, n, t)?)?
        };
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        let clips = self.config.clip_sample && !self.config.threshold.thresholding;
        self.alphas.check_calls(Self::CLASS_NAME, &steps, self.config.prediction_type, clips)?;
        Ok(Box::new(DDIMRun {
            scheduler: self.clone(),
            steps,
            stride: (self.alphas.len() / options.num_steps()) as i64,
            eta: eta as f32,
            use_clipped_model_output: options.use_clipped_model_output.unwrap_or(false),
        }))
    }
}

/// A sampling by [`DDIMScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct DDIMRun {
    scheduler: DDIMScheduler,
    steps: Steps,
    stride: i64,
    eta: f32,
    use_clipped_model_output: bool,
}

impl Run for DDIMRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.scheduler.alphas.alpha_sigma(self.timesteps()[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let DDIMScheduler { config, alphas } = &self.scheduler;
        let t = self.timesteps()[self.steps.index()?] as i64;
        let final_alpha = if config.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) };
        let (alpha_prod, alpha_prod_prev) = (alphas.of_call(t), alphas.at(t - self.stride, final_alpha));
        let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);

        let (alpha, sigma) = (alpha_prod.sqrt(), beta_prod.sqrt());
        let x0 = config.prediction_type.original_sample(model_output, sample, alpha, sigma)?;
        let x0 = config.threshold.threshold_or_clip(x0, config.clip_sample.then_some(config.clip_sample_range))?;
        let epsilon = match self.use_clipped_model_output {
            true => PredictionType::Sample.epsilon(&x0, sample, alpha, sigma)?,
            false => config.prediction_type.epsilon(model_output, sample, alpha, sigma)?,
        };

        // η times the standard deviation of DDPM's noise (equation 16)
        let std = match self.eta > 0.0 && beta_prod > 0.0 && alpha_prod_prev > 0.0 {
            true => self.eta * (beta_prod_prev / beta_prod * (1.0 - alpha_prod / alpha_prod_prev)).sqrt(),
            false => 0.0,
        };
        let mut prev = mix(alpha_prod_prev.sqrt(), &x0, (beta_prod_prev - std * std).max(0.0).sqrt(), &epsilon)?;
        if self.eta > 0.0 {
            prev = mix(1.0, &prev, std, &noise_like(sample, rng)?)?;
        }
        self.steps.advance();
        Ok(StepOutput { prev_sample: prev, pred_original_sample: x0 })
    }
}
