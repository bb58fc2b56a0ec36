use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{check_positive, check_sigma_range, check_train_timesteps, check_whole_timesteps};
use crate::tensors::{check_same, mix, noise_like, scale};
use crate::{
    Error, Levels, PredictionType, Process, Result, Run, RunOptions, Schedule, Scheduler, StepOutput, Steps, Supports,
};

/// One-step and multistep sampling of consistency models (Song et al. 2023, algorithm 1): diffusers'
/// `CMStochasticIterativeScheduler`.
///
/// The model is told `250 ln σ` and sees `x / sqrt(σ² + σ_data²)`; its output `F` stands for the image
/// `c_skip x + c_out F` (appendix C). A step predicts the image and, but for the last, adds new noise of the next level.
/// Timesteps asked for by hand are places among those of training: `[22, 0]` is the paper's two-step schedule for 40.
///
/// ```
/// use kakusan_scheduler::{CMStochasticIterativeScheduler, RunOptions, Scheduler};
///
/// let run = CMStochasticIterativeScheduler::default().run_with(&RunOptions::timesteps([22.0, 0.0]))?;
/// assert_eq!(run.sigmas().map(|sigmas| sigmas[0]), Some(80.0));
/// assert_eq!(run.timesteps().len(), 2);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CMStochasticIterativeScheduler {
    config: CMStochasticIterativeConfig,
}

/// The configuration of [`CMStochasticIterativeScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CMStochasticIterativeConfig {
    /// N, the noise levels of training.
    pub num_train_timesteps: usize,
    /// The lowest noise level.
    pub sigma_min: f64,
    /// The highest noise level.
    pub sigma_max: f64,
    /// The standard deviation of the images' pixels.
    pub sigma_data: f64,
    /// The standard deviation of the noise added, 1 or a little more.
    pub s_noise: f64,
    /// ρ, how much closer together the noise levels lie where there is little noise.
    pub rho: f64,
    /// Whether predicted images are clipped to ±1.
    pub clip_denoised: bool,
}

impl Default for CMStochasticIterativeConfig {
    /// The paper's: 40 levels from 0.002 to 80, a σ_data of 0.5 and a ρ of 7, clipped.
    fn default() -> Self {
        Self {
            num_train_timesteps: 40,
            sigma_min: 0.002,
            sigma_max: 80.0,
            sigma_data: 0.5,
            s_noise: 1.0,
            rho: 7.0,
            clip_denoised: true,
        }
    }
}

impl CMStochasticIterativeScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "CMStochasticIterativeScheduler";

    /// Takes the configuration.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn new(config: CMStochasticIterativeConfig) -> Result<Self> {
        check_train_timesteps(Self::CLASS_NAME, config.num_train_timesteps, 2)?;
        check_sigma_range(Self::CLASS_NAME, config.sigma_min, config.sigma_max)?;
        check_positive(Self::CLASS_NAME, &[("sigma_data", config.sigma_data), ("rho", config.rho)])?;
        if !(config.s_noise.is_finite() && config.s_noise >= 0.0) {
            let reason = format!("s_noise is {}; it must be a number of at least 0", config.s_noise);
            return Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        }
        Ok(Self { config })
    }

    /// The noise level at a place among those of training, the highest at 0 (Karras et al. 2022, equation 5).
    fn sigma_at(&self, place: usize) -> f64 {
        let CMStochasticIterativeConfig { sigma_min, sigma_max, rho, .. } = self.config;
        let ramp = place as f64 / (self.config.num_train_timesteps - 1) as f64;
        let (min_root, max_root) = (sigma_min.powf(1.0 / rho), sigma_max.powf(1.0 / rho));
        (max_root + ramp * (min_root - max_root)).powf(rho)
    }

    /// The weights of the sample and of the model's output in the image, which is the sample itself at the lowest level.
    fn c_skip_out(&self, sigma: f32) -> (f32, f32) {
        let (sigma_min, sigma_data) = (self.config.sigma_min as f32, self.config.sigma_data as f32);
        let above = sigma - sigma_min;
        let variance_data = sigma_data * sigma_data;
        (variance_data / (above * above + variance_data), above * sigma_data / (sigma * sigma + variance_data).sqrt())
    }

    /// The levels of training but for the lowest, where the model's output does not count.
    fn training_levels(&self) -> Vec<f32> {
        (0..self.config.num_train_timesteps - 1).map(|place| level_of(self.sigma_at(place))).collect()
    }

    /// The weights of image and noise in the output that stands for the clean image, `(x₀ - c_skip x) / c_out`.
    fn target_weights(&self, sigma: f32) -> (f32, f32) {
        let (c_skip, c_out) = self.c_skip_out(sigma);
        if c_out <= 0.0 {
            return (0.0, 0.0); // the output does not count
        }
        // 1 - c_skip without the loss of digits
        let above = sigma - self.config.sigma_min as f32;
        let rest = above * above * c_skip / (self.config.sigma_data * self.config.sigma_data) as f32;
        (rest / c_out, -c_skip * sigma / c_out)
    }

    fn c_in(&self, sigma: f32) -> f32 {
        1.0 / (sigma * sigma + (self.config.sigma_data * self.config.sigma_data) as f32).sqrt()
    }

    /// The places of a sampling among the noise levels of training, the highest level first.
    fn places(&self, options: &RunOptions) -> Result<Vec<usize>> {
        let t = self.config.num_train_timesteps;
        if let Schedule::Timesteps(timesteps) = &options.schedule {
            let mut timesteps = check_whole_timesteps(Self::CLASS_NAME, timesteps, t)?;
            timesteps.reverse();
            return Ok(timesteps.into_iter().map(|timestep| timestep as usize).collect());
        }
        let steps = options.num_steps();
        let refuse = |reason: String| Err(Error::Steps { class_name: Self::CLASS_NAME.into(), steps, reason });
        match steps {
            0 => refuse("at least one is needed".into()),
            _ if steps > t => refuse(format!("it was trained on {t} noise levels, so it can do at most {t}")),
            _ => Ok((0..steps).map(|i| i * (t / steps)).collect()),
        }
    }
}

/// What the model is told of a noise level.
fn level_of(sigma: f64) -> f32 {
    (250.0 * (sigma + 1e-44).ln()) as f32
}

/// The noise level that the model is told of as `level`.
fn sigma_of(level: f32) -> f32 {
    (f64::from(level) / 250.0).exp() as f32
}

impl Scheduler for CMStochasticIterativeScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "the sampler of consistency models, for one step or a few (Song et al. 2023)"
    }

    fn process(&self) -> Process {
        let (table, scheduler) = (self.training_levels(), self.clone());
        let weights = move |level| scheduler.target_weights(sigma_of(level));
        let scheduler = self.clone();
        Process::new(Levels::one_of(table), PredictionType::Sample, |level| (1.0, sigma_of(level)))
            .target_weights(weights)
            .model_input(move |level| (scheduler.c_in(sigma_of(level)), 0.0))
            .with_snr(|level| sigma_of(level).powi(-2))
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.config.num_train_timesteps
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Timesteps])?;
        let sigmas: Vec<f64> = self.places(options)?.into_iter().map(|place| self.sigma_at(place)).collect();
        let levels = sigmas.iter().map(|&sigma| level_of(sigma)).collect();
        let steps = Steps::new(Self::CLASS_NAME, levels, options.start)?;
        let sigmas = sigmas.into_iter().chain([self.config.sigma_min]).map(|sigma| sigma as f32).collect();
        Ok(Box::new(CMStochasticIterativeRun { scheduler: self.clone(), steps, sigmas }))
    }
}

/// A sampling by [`CMStochasticIterativeScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct CMStochasticIterativeRun {
    scheduler: CMStochasticIterativeScheduler,
    steps: Steps,
    sigmas: Vec<f32>,
}

impl Run for CMStochasticIterativeRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn init_noise_sigma(&self) -> f32 {
        self.scheduler.config.sigma_max as f32
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok((1.0, self.sigmas[self.steps.index()?]))
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        scale(sample, self.scheduler.c_in(self.sigmas[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let config = &self.scheduler.config;
        let i = self.steps.index()?;
        let (c_skip, c_out) = self.scheduler.c_skip_out(self.sigmas[i]);
        let x0 = mix(c_out, model_output, c_skip, sample)?;
        let x0 = if config.clip_denoised { x0.clamp(-1f32, 1f32)? } else { x0 };

        self.steps.advance();
        if self.timesteps().len() == 1 {
            return Ok(StepOutput { prev_sample: x0.clone(), pred_original_sample: x0 });
        }
        let (sigma_min, sigma_max) = (config.sigma_min as f32, config.sigma_max as f32);
        let sigma_hat = self.sigmas[i + 1].max(sigma_min).min(sigma_max);
        let added = config.s_noise as f32 * (sigma_hat * sigma_hat - sigma_min * sigma_min).max(0.0).sqrt();
        // drawn in the last step, too, where none is added
        let noise = noise_like(sample, rng)?;
        Ok(StepOutput { prev_sample: mix(1.0, &x0, added, &noise)?, pred_original_sample: x0 })
    }
}
