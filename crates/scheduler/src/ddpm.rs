use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, Posterior, check_positive, check_steps, check_whole_timesteps};
use crate::tensors::{noise_like, scale, split_variance};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Schedule, Scheduler,
    SpacingConfig, StepOutput, Steps, Supports, ThresholdConfig, TimestepSpacing,
};

/// Denoising diffusion probabilistic models (Ho et al. 2020, algorithms 1 and 2): diffusers' `DDPMScheduler`.
///
/// ```
/// use kakusan_scheduler::{DDPMConfig, DDPMScheduler, PredictionType, Scheduler};
///
/// let config = DDPMConfig { prediction_type: PredictionType::VPrediction, ..DDPMConfig::default() };
/// let scheduler = DDPMScheduler::new(config)?;
/// assert_eq!(scheduler.run(4)?.timesteps(), [750.0, 500.0, 250.0, 0.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DDPMScheduler {
    config: DDPMConfig,
    alphas: Alphas,
}

/// The configuration of [`DDPMScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DDPMConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// The variance of the noise added in a step.
    pub variance_type: VarianceType,
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

/// The variance of the noise that DDPM adds in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// The posterior's β̃ (Ho et al. 2020, equation 7).
    FixedSmall,
    /// The same, by way of its logarithm.
    FixedSmallLog,
    /// β itself.
    FixedLarge,
    /// The same, by way of its logarithm. (diffusers takes the root of the logarithm, which is not a number.)
    FixedLargeLog,
    /// The model's, in a second half of its output channels.
    Learned,
    /// Between β̃ and β, by the second half of the model's output (Nichol and Dhariwal 2021, equation 15).
    LearnedRange,
}

impl Default for DDPMConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, `fixed_small`, clipped to ±1, spaced `leading`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            variance_type: VarianceType::FixedSmall,
            clip_sample: true,
            clip_sample_range: 1.0,
            threshold: ThresholdConfig::default(),
            spacing: SpacingConfig::new(TimestepSpacing::Leading),
        }
    }
}

impl DDPMScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "DDPMScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: DDPMConfig) -> Result<Self> {
        use BetaSchedule::{Laplace, Linear, ScaledLinear, Sigmoid, SquaredcosCapV2};
        use PredictionType::{Epsilon, Sample, VPrediction};
        config.prediction_type.only(Self::CLASS_NAME, &[Epsilon, Sample, VPrediction])?;
        config.threshold.check(Self::CLASS_NAME)?;
        let known = [Linear, ScaledLinear, SquaredcosCapV2, Sigmoid, Laplace];
        config.beta.check(Self::CLASS_NAME, &known)?;
        let scheduler = Self::build(config);
        check_positive(Self::CLASS_NAME, &[("clip_sample_range", scheduler.config.clip_sample_range)])?;
        scheduler.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: DDPMConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, config.rescale_betas_zero_snr), config }
    }
}

impl Default for DDPMScheduler {
    /// That of [`DDPMConfig::default`].
    fn default() -> Self {
        Self::build(DDPMConfig::default())
    }
}

impl Scheduler for DDPMScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "the ancestral sampler of denoising diffusion, new noise in every step (Ho et al. 2020)"
    }

    fn process(&self) -> Process {
        self.alphas.preserving(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Timesteps])?;
        let timesteps = match &options.schedule {
            Schedule::Timesteps(timesteps) => check_whole_timesteps(Self::CLASS_NAME, timesteps, self.alphas.len())?,
            _ => {
                let (t, n) = (self.alphas.len(), options.num_steps());
                self.config.spacing.whole(Self::CLASS_NAME, t, check_steps(Self::CLASS_NAME, n, t)?)?
            }
        };
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        let clips = self.config.clip_sample && !self.config.threshold.thresholding;
        self.alphas.check_calls(Self::CLASS_NAME, &steps, self.config.prediction_type, clips)?;
        let emptied = steps.timesteps().iter().filter(|&&t| self.alphas.of_call(t as i64) == 0.0).count();
        if emptied > 1 {
            let what = "step from noise alone to noise alone: the betas leave nothing of the image at more than one of its \
                        timesteps; take smaller ones, or fewer steps";
            return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what: what.into() });
        }
        Ok(Box::new(DDPMRun { scheduler: self.clone(), steps }))
    }
}

/// A sampling by [`DDPMScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct DDPMRun {
    scheduler: DDPMScheduler,
    steps: Steps,
}

impl Run for DDPMRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.scheduler.alphas.alpha_sigma(self.timesteps()[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        let DDPMScheduler { config, alphas } = &self.scheduler;
        let i = self.steps.index()?;
        let timesteps = self.steps.timesteps();
        let t = timesteps[i] as i64;
        let prev_t = timesteps.get(i + 1).map_or(-1, |&prev| prev as i64);
        let learns = matches!(config.variance_type, VarianceType::Learned | VarianceType::LearnedRange);
        let (output, learned) = split_variance(learns, model_output, sample)?;

        let (alpha_prod, alpha_prod_prev) = (alphas.of_call(t), alphas.at(prev_t, 1.0));
        let posterior = Posterior::new(alpha_prod, alpha_prod_prev);

        let x0 =
            config.prediction_type.original_sample(&output, sample, alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt())?;
        let x0 = config.threshold.threshold_or_clip(x0, config.clip_sample.then_some(config.clip_sample_range))?;

        let mean = posterior.mean(&x0, sample)?;
        self.steps.advance();
        if t <= 0 {
            return Ok(StepOutput { prev_sample: mean, pred_original_sample: x0 });
        }
        let noise = noise_like(&output, rng)?;
        let noise = match (config.variance_type, learned) {
            (VarianceType::FixedSmall | VarianceType::FixedSmallLog, _) => scale(&noise, posterior.small.sqrt())?,
            (VarianceType::FixedLarge | VarianceType::FixedLargeLog, _) => scale(&noise, posterior.beta.sqrt())?,
            (VarianceType::Learned, Some(variance)) => (variance.sqrt()? * noise)?,
            (VarianceType::LearnedRange, Some(v)) => (posterior.learned_deviation(&v)? * noise)?,
            (VarianceType::Learned | VarianceType::LearnedRange, None) => noise,
        };
        Ok(StepOutput { prev_sample: (mean + noise)?, pred_original_sample: x0 })
    }
}
