use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::{Generator, Noise};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, BrownianMotion, TwoCalls, ancestral_step, c_in, check_calls, halfway, sigmas_at};
use crate::tensors::{check_same, mix, scale};
use crate::{
    BetaConfig, BetaSchedule, Churn, Error, PredictionType, Process, Result, Run, RunOptions, Scheduler, SigmaConfig,
    SpacingConfig, StepOutput, Steps, Supports, TimestepSpacing,
};

/// The stochastic DPM-Solver++ of second order, in one step of two model calls (Lu et al. 2022, with noise after k-diffusion's
/// `sample_dpmpp_sde`): diffusers' `DPMSolverSDEScheduler`.
///
/// Its noise is the increments of one Brownian motion over σ, from which both halves of a step take theirs. The motion is
/// determined by seeds alone: by `noise_sampler_seed`, or by numbers drawn at the first step, one motion for each image. So
/// runs from the same seed follow the same motion in whatever number of steps. diffusers takes its motion from torchsde,
/// whose numbers these are not; where there is no noise (`s_noise` 0) the samples are diffusers'.
///
/// Of [`RunOptions::churn`] it takes `s_noise`, by which the noise is multiplied.
#[derive(Debug, Clone)]
pub struct DPMSolverSDEScheduler {
    config: DPMSolverSDEConfig,
    alphas: Alphas,
}

/// The configuration of [`DPMSolverSDEScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DPMSolverSDEConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// What the model predicts: ε or a velocity.
    pub prediction_type: PredictionType,
    /// Noise levels spaced otherwise than the timesteps.
    #[serde(flatten)]
    pub sigma: SigmaConfig,
    /// What the noise is drawn from in place of the run's generator.
    pub noise_sampler_seed: Option<u64>,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for DPMSolverSDEConfig {
    /// diffusers': 1000 timesteps, latent diffusion's betas but linear, ε-prediction, spaced `linspace`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::latent(BetaSchedule::Linear),
            prediction_type: PredictionType::Epsilon,
            sigma: SigmaConfig::default(),
            noise_sampler_seed: None,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
        }
    }
}

impl DPMSolverSDEScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "DPMSolverSDEScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: DPMSolverSDEConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        config.prediction_type.only(Self::CLASS_NAME, &[PredictionType::Epsilon, PredictionType::VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        config.sigma.check(Self::CLASS_NAME, [None, None])?;
        let scheduler = Self::build(config);
        scheduler.alphas.check_sigmas(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: DPMSolverSDEConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, false), config }
    }
}

impl Default for DPMSolverSDEScheduler {
    /// That of [`DPMSolverSDEConfig::default`].
    fn default() -> Self {
        Self::build(DPMSolverSDEConfig::default())
    }
}

impl Scheduler for DPMSolverSDEScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "the stochastic DPM-Solver++ of second order, two model calls a step (after k-diffusion)"
    }

    fn process(&self) -> Process {
        self.alphas.exploding(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Churn])?;
        let churn = options.churn.unwrap_or_default();
        if churn != (Churn { s_noise: churn.s_noise, ..Churn::default() }) {
            let expected = "this scheduler takes s_noise of it alone, and 0 for s_churn";
            return Err(Error::OptionValue { option: "churn", value: churn.s_churn, expected });
        }
        let DPMSolverSDEConfig { spacing, sigma, .. } = &self.config;
        let training = self.alphas.sigmas();
        // in f64, where the other classes have timesteps in f32
        let timesteps = spacing.exact(Self::CLASS_NAME, training.len(), options.num_steps())?;
        let (timesteps, sigmas) = sigmas_at(timesteps, training, sigma.conversion(), [None, None], options.num_steps());
        check_calls(Self::CLASS_NAME, &timesteps, &sigmas)?;
        let sigmas: Vec<f32> = sigmas.into_iter().chain([0.0]).map(|sigma| sigma as f32).collect();
        let (levels, calls) = TwoCalls::new(&timesteps, sigmas, halfway, training);
        let steps = Steps::with_second_calls(Self::CLASS_NAME, calls, options.start)?;
        let s_noise = churn.s_noise as f32;
        let (motion, begin) = (None, None);
        Ok(Box::new(DPMSolverSDERun { scheduler: self.clone(), steps, levels, s_noise, motion, begin }))
    }
}

/// A sampling by [`DPMSolverSDEScheduler`].
#[derive(Debug)]
struct DPMSolverSDERun {
    scheduler: DPMSolverSDEScheduler,
    steps: Steps,
    levels: TwoCalls,
    s_noise: f32,
    /// Where the noise comes from, begun at the first step.
    motion: Option<BrownianMotion>,
    /// Within a step the sample that it began with.
    begin: Option<Tensor>,
}

impl DPMSolverSDERun {
    /// Standard normal noise for a step from one noise level to another, for a tensor like `sample`.
    fn noise(&mut self, from: f32, to: f32, sample: &Tensor, rng: &mut dyn Noise) -> Result<Tensor> {
        let DPMSolverSDEScheduler { config, alphas } = &self.scheduler;
        let motion = match &mut self.motion {
            Some(motion) => motion,
            None => {
                let mut own = config.noise_sampler_seed.map(Generator::new);
                let rng = own.as_mut().map_or(rng, |own| own as &mut dyn Noise);
                self.motion.insert(BrownianMotion::new(sample.dims(), alphas.sigmas(), rng)?)
            }
        };
        motion.increment(from, to, sample)
    }
}

impl Run for DPMSolverSDERun {
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

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let call = self.steps.index()?;
        let ((sigma, next_sigma), shown) = (self.levels.step_of(call), self.levels.at(call));
        let x0 = self.scheduler.config.prediction_type.denoised(model_output, sample, shown)?;
        if next_sigma == 0.0 {
            self.steps.advance();
            return Ok(StepOutput { prev_sample: x0.clone(), pred_original_sample: x0 });
        }
        let (begin, to) = match &self.begin {
            None => (sample.clone(), self.levels.second_of(call)),
            Some(begin) => (begin.clone(), next_sigma),
        };
        let (sigma_down, sigma_up) = ancestral_step(sigma, to);
        let kept = sigma_down / sigma;
        let down = mix(kept, &begin, 1.0 - kept, &x0)?;
        let noise = self.noise(sigma, to, sample, rng)?;
        let prev_sample = mix(1.0, &down, sigma_up * self.s_noise, &noise)?;
        self.begin = self.begin.is_none().then_some(begin);
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
