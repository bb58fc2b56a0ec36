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
    BetaConfig, BetaSchedule, PredictionType, Process, Result, Run, RunOptions, Scheduler, SpacingConfig, StepOutput,
    Steps, Supports, ThresholdConfig, TimestepSpacing,
};

/// Multistep sampling of latent consistency models (Luo et al. 2023, algorithm 3): diffusers' `LCMScheduler`.
///
/// Each model call predicts the image; but for the last, it is then brought to the next, lower timestep with new noise.
#[derive(Debug, Clone)]
pub struct LCMScheduler {
    config: LCMConfig,
    alphas: Alphas,
}

/// The configuration of [`LCMScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LCMConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// On how many timesteps, evenly spaced, the model was distilled; a sampling visits some of them.
    pub original_inference_steps: usize,
    /// Whether predicted images are clipped.
    pub clip_sample: bool,
    /// Where they are clipped: to plus and minus this.
    pub clip_sample_range: f64,
    /// Of files that come from other samplers. No step of this one leads below the first timestep, so it is of no
    /// consequence, in diffusers neither.
    pub set_alpha_to_one: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Thresholding of predicted images, in place of clipping.
    #[serde(flatten)]
    pub threshold: ThresholdConfig,
    /// Of files that come from other samplers. The timesteps of this one are those of the distillation, whatever is here,
    /// as in diffusers.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
    /// By what timesteps are multiplied in `c_skip` and `c_out`.
    pub timestep_scaling: f64,
    /// Whether betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
}

impl Default for LCMConfig {
    /// diffusers': latent diffusion's betas, ε-prediction, distilled on 50 timesteps, not clipped.
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

impl LCMScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "LCMScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: LCMConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        use PredictionType::{Epsilon, Sample, VPrediction};
        config.prediction_type.only(Self::CLASS_NAME, &[Epsilon, Sample, VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        config.threshold.check(Self::CLASS_NAME)?;
        check_original_steps(Self::CLASS_NAME, config.original_inference_steps, config.beta.num_train_timesteps)?;
        check_positive(Self::CLASS_NAME, &[("timestep_scaling", config.timestep_scaling)])?;
        let scheduler = Self::build(config);
        check_positive(Self::CLASS_NAME, &[("clip_sample_range", scheduler.config.clip_sample_range)])?;
        scheduler.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: LCMConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, config.rescale_betas_zero_snr), config }
    }

    /// The weights of the sample and of the predicted image in the consistency function, which is the sample itself at
    /// timestep 0.
    fn c_skip_out(&self, t: f32) -> (f32, f32) {
        const SIGMA_DATA: f32 = 0.5;
        let scaled = t * self.config.timestep_scaling as f32;
        let sum = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        (SIGMA_DATA * SIGMA_DATA / sum, scaled / sum.sqrt())
    }
}

impl Default for LCMScheduler {
    /// That of [`LCMConfig::default`].
    fn default() -> Self {
        Self::build(LCMConfig::default())
    }
}

impl Scheduler for LCMScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "the sampler of latent consistency models, for 1 to 8 steps (Luo et al. 2023)"
    }

    fn process(&self) -> Process {
        self.alphas.preserving(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.config.original_inference_steps
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Timesteps])?;
        let original_steps = self.config.original_inference_steps;
        let timesteps = distilled_timesteps(Self::CLASS_NAME, options, original_steps, self.alphas.len())?;
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        let clips = self.config.clip_sample && !self.config.threshold.thresholding;
        self.alphas.check_calls(Self::CLASS_NAME, &steps, self.config.prediction_type, clips)?;
        Ok(Box::new(LCMRun { scheduler: self.clone(), steps }))
    }
}

/// A sampling by [`LCMScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct LCMRun {
    scheduler: LCMScheduler,
    steps: Steps,
}

impl Run for LCMRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.scheduler.alphas.alpha_sigma(self.timesteps()[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let LCMScheduler { config, alphas } = &self.scheduler;
        let i = self.steps.index()?;
        let t = self.timesteps()[i];
        let alpha_prod = alphas.at(t as i64, 1.0);

        let x0 = config.prediction_type.original_sample(
            model_output,
            sample,
            alpha_prod.sqrt(),
            (1.0 - alpha_prod).sqrt(),
        )?;
        let x0 = config.threshold.threshold_or_clip(x0, config.clip_sample.then_some(config.clip_sample_range))?;
        let (c_skip, c_out) = self.scheduler.c_skip_out(t);
        let denoised = mix(c_out, &x0, c_skip, sample)?;

        let prev_sample = match self.timesteps().get(i + 1) {
            Some(&prev_t) => {
                let alpha_prod_prev = alphas.at(prev_t as i64, 1.0);
                mix(alpha_prod_prev.sqrt(), &denoised, (1.0 - alpha_prod_prev).sqrt(), &noise_like(sample, rng)?)?
            }
            None => denoised.clone(),
        };
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: denoised })
    }
}
