use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, check_positive, check_steps};
use crate::tensors::{check_same, mix};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Scheduler, SpacingConfig,
    StepOutput, Steps, TimestepSpacing,
};

/// DDIM the other way, from an image to the noise that leads to it (Song et al. 2021, section 4.3): diffusers'
/// `DDIMInverseScheduler`.
///
/// A run begins with images in place of [`Run::initial_noise`], and its levels ascend. The model is told the level that a
/// step leads to, and shown the sample of the one before it, which [`Run::add_noise`] brings images to; at the first step
/// that is the image itself, or the first timestep without `set_alpha_to_one`. Every step leads `T / N` timesteps up,
/// rounded to whole ones, whatever the spacing.
#[derive(Debug, Clone)]
pub struct DDIMInverseScheduler {
    config: DDIMInverseConfig,
    alphas: Alphas,
}

/// The configuration of [`DDIMInverseScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DDIMInverseConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Whether the first step begins with the image; otherwise at the first timestep.
    pub set_alpha_to_one: bool,
    /// Whether predicted images are clipped.
    pub clip_sample: bool,
    /// Where they are clipped: to plus and minus this.
    pub clip_sample_range: f64,
    /// Which timesteps a run visits; not `linspace`.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for DDIMInverseConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, clipped to ±1, spaced `leading`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            set_alpha_to_one: true,
            clip_sample: true,
            clip_sample_range: 1.0,
            spacing: SpacingConfig::new(TimestepSpacing::Leading),
        }
    }
}

impl DDIMInverseScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "DDIMInverseScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: DDIMInverseConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        use PredictionType::{Epsilon, Sample, VPrediction};
        config.prediction_type.only(Self::CLASS_NAME, &[Epsilon, Sample, VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        if config.spacing.timestep_spacing == TimestepSpacing::Linspace {
            let reason = "it has no timestep_spacing linspace; it knows leading and trailing".into();
            return Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        }
        let scheduler = Self::build(config);
        check_positive(Self::CLASS_NAME, &[("clip_sample_range", scheduler.config.clip_sample_range)])?;
        scheduler.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: DDIMInverseConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, config.rescale_betas_zero_snr), config }
    }
}

impl Default for DDIMInverseScheduler {
    /// That of [`DDIMInverseConfig::default`].
    fn default() -> Self {
        Self::build(DDIMInverseConfig::default())
    }
}

impl Scheduler for DDIMInverseScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "DDIM the other way, from an image to the noise that leads to it (Song et al. 2021)"
    }

    fn process(&self) -> Process {
        self.alphas.preserving(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let mut timesteps = {
            let (t, n) = (self.alphas.len(), options.num_steps());
            self.config.spacing.whole(Self::CLASS_NAME, t, check_steps(Self::CLASS_NAME, n, t)?)?
        };
        timesteps.reverse();
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        let stride = (self.alphas.len() / options.num_steps()) as i64;
        let run = DDIMInverseRun { scheduler: self.clone(), steps, stride };
        let begins_with_image = self.alphas.at(run.levels()?.1, run.initial_alpha()) == 1.0;
        if begins_with_image && self.config.prediction_type == PredictionType::Sample {
            // diffusers divides by the noise's share
            let what = "begin with an image and prediction_type sample: an image's noise is 0 times what such a model says \
                        of it; set set_alpha_to_one to false";
            return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what: what.into() });
        }
        Ok(Box::new(run))
    }
}

/// A run of [`DDIMInverseScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct DDIMInverseRun {
    scheduler: DDIMInverseScheduler,
    steps: Steps,
    stride: i64,
}

impl DDIMInverseRun {
    /// The level that the next step leads to, and that of the sample it begins with.
    fn levels(&self) -> Result<(i64, i64)> {
        let next = self.timesteps()[self.steps.index()?] as i64;
        Ok((next, (next - self.stride).min(self.scheduler.alphas.len() as i64 - 1)))
    }

    /// ᾱ of images.
    fn initial_alpha(&self) -> f32 {
        let DDIMInverseScheduler { config, alphas } = &self.scheduler;
        if config.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) }
    }
}

impl Run for DDIMInverseRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        let alpha_prod = self.scheduler.alphas.at(self.levels()?.1, self.initial_alpha());
        Ok((alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt()))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let DDIMInverseScheduler { config, alphas } = &self.scheduler;
        let (next, t) = self.levels()?;
        let (alpha_prod, alpha_prod_next) = (alphas.at(t, self.initial_alpha()), alphas.at(next, 1.0));
        let (alpha, sigma) = (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt());

        let x0 = config.prediction_type.original_sample(model_output, sample, alpha, sigma)?;
        let x0 = match config.clip_sample {
            true => x0.clamp(-config.clip_sample_range as f32, config.clip_sample_range as f32)?,
            false => x0,
        };
        let epsilon = config.prediction_type.epsilon(model_output, sample, alpha, sigma)?;
        let next_sample = mix(alpha_prod_next.sqrt(), &x0, (1.0 - alpha_prod_next).sqrt(), &epsilon)?;
        self.steps.advance();
        Ok(StepOutput { prev_sample: next_sample, pred_original_sample: x0 })
    }
}
