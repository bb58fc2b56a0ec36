use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{
    MOST_STEPS, check_count, check_positive, check_sigma_range, check_train_timesteps, linspace_f32,
};
use crate::tensors::{check_same, mix, noise_like};
use crate::{
    Error, Levels, PixelRange, PredictionType, Process, Result, Run, RunOptions, Scheduler, StepOutput, Steps,
};

/// The predictor-corrector sampler of the variance exploding SDE (Song et al. 2021, algorithms 2 and 4): diffusers'
/// `ScoreSdeVeScheduler`, used as its pipeline does.
///
/// A step is `correct_steps` corrections by Langevin dynamics and then a prediction, each with a model call of its own; the
/// model is told σ and predicts the score, `-noise / σ`. The last prediction comes without its noise. Pixels are from 0 to 1.
/// (One step alone goes from the lowest noise level in diffusers; here it goes from the highest.)
#[derive(Debug, Clone, Default)]
pub struct ScoreSdeVeScheduler {
    config: ScoreSdeVeConfig,
}

/// The configuration of [`ScoreSdeVeScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreSdeVeConfig {
    /// The noise levels that training draws from.
    pub num_train_timesteps: usize,
    /// r, the size of the corrector's steps.
    pub snr: f64,
    /// The lowest noise level.
    pub sigma_min: f64,
    /// The highest noise level.
    pub sigma_max: f64,
    /// The time of the last step, where that of the first is 1.
    pub sampling_eps: f64,
    /// Corrections in a step.
    pub correct_steps: usize,
}

impl Default for ScoreSdeVeConfig {
    /// diffusers': 2000 levels from 0.01 to 1348, one correction a step with a ratio of 0.15.
    fn default() -> Self {
        Self {
            num_train_timesteps: 2000,
            snr: 0.15,
            sigma_min: 0.01,
            sigma_max: 1348.0,
            sampling_eps: 1e-5,
            correct_steps: 1,
        }
    }
}

impl ScoreSdeVeScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "ScoreSdeVeScheduler";
    /// More corrections than this are taken for a slip.
    const MAX_CORRECT_STEPS: usize = 1000;
    /// More model calls than this are taken for a slip.
    const MAX_CALLS: usize = 10_000_000;

    /// Takes the configuration.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn new(config: ScoreSdeVeConfig) -> Result<Self> {
        check_train_timesteps(Self::CLASS_NAME, config.num_train_timesteps, 1)?;
        check_sigma_range(Self::CLASS_NAME, config.sigma_min, config.sigma_max)?;
        check_positive(Self::CLASS_NAME, &[("snr", config.snr)])?;
        let refuse = |reason: String| Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        if !(0.0..1.0).contains(&config.sampling_eps) {
            return refuse(format!("sampling_eps is {}; it must be at least 0 and below 1", config.sampling_eps));
        }
        if config.correct_steps > Self::MAX_CORRECT_STEPS {
            let (steps, most) = (config.correct_steps, Self::MAX_CORRECT_STEPS);
            return refuse(format!("correct_steps is {steps}; it must be at most {most}"));
        }
        Ok(Self { config })
    }

    /// `n` noise levels evenly in `log σ`, ascending.
    fn discrete_sigmas(&self, n: usize) -> Vec<f32> {
        let ScoreSdeVeConfig { sigma_min, sigma_max, .. } = self.config;
        let from = if n == 1 { sigma_max } else { sigma_min };
        linspace_f32(from.ln() as f32, sigma_max.ln() as f32, n).into_iter().map(f32::exp).collect()
    }
}

impl Scheduler for ScoreSdeVeScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "predictor and corrector for the variance exploding SDE, thousands of model calls (Song et al. 2021)"
    }

    fn process(&self) -> Process {
        let sigmas = self.discrete_sigmas(self.config.num_train_timesteps);
        Process::new(Levels::one_of(sigmas), PredictionType::Epsilon, |sigma| (1.0, sigma))
            .target_weights(|sigma| (0.0, -1.0 / sigma)) // the score of the noisy image given the clean one
            .weighted(|sigma| sigma * sigma) // weighs all levels alike (equation 7)
            .with_snr(|sigma| sigma.powi(-2))
            .on_pixels(PixelRange::ZeroToOne)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=MOST_STEPS.min(Self::MAX_CALLS / (self.config.correct_steps + 1))
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let ScoreSdeVeConfig { sigma_min, sigma_max, sampling_eps, correct_steps, .. } = self.config;
        let n = check_count(Self::CLASS_NAME, options.num_steps())?;
        if n * (correct_steps + 1) > Self::MAX_CALLS {
            let most = Self::MAX_CALLS;
            let reason = format!("with correct_steps {correct_steps} they are more than {most} model calls");
            return Err(Error::Steps { class_name: Self::CLASS_NAME.into(), steps: n, reason });
        }
        let times = linspace_f32(1.0, sampling_eps as f32, n);
        let ratio = (sigma_max / sigma_min) as f32;
        let sigma = |time: f32| sigma_min as f32 * ratio.powf(time);
        let calls = times.iter().flat_map(|&time| std::iter::repeat_n(sigma(time), correct_steps + 1)).collect();
        let start = options.start.saturating_mul(correct_steps + 1);
        let steps = Steps::new(Self::CLASS_NAME, calls, start)?;
        let (config, discrete_sigmas) = (self.config.clone(), self.discrete_sigmas(n));
        Ok(Box::new(ScoreSdeVeRun { config, times, discrete_sigmas, steps }))
    }
}

/// A sampling by [`ScoreSdeVeScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct ScoreSdeVeRun {
    config: ScoreSdeVeConfig,
    times: Vec<f32>,
    discrete_sigmas: Vec<f32>,
    steps: Steps,
}

impl Run for ScoreSdeVeRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn init_noise_sigma(&self) -> f32 {
        self.config.sigma_max as f32
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok((1.0, self.timesteps()[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let call = self.steps.index()?;
        let (step, within) = (call / (self.config.correct_steps + 1), call % (self.config.correct_steps + 1));
        let sigma = self.timesteps()[call];
        let x0 = mix(1.0, sample, sigma * sigma, model_output)?;
        let noise = noise_like(sample, rng)?;

        let prev_sample = if within < self.config.correct_steps {
            // Langevin dynamics (algorithm 4), as far as the ratio of the two norms, over the whole batch, allows
            let (grad_norm, noise_norm) = (mean_norm(model_output)?, mean_norm(&noise)?);
            let step_size = (self.config.snr * noise_norm / grad_norm).powi(2) * 2.0;
            // without a score there is nowhere to go
            let step_size = if grad_norm > 0.0 { step_size as f32 } else { 0.0 };
            let mean = mix(1.0, sample, step_size, model_output)?;
            mix(1.0, &mean, (step_size * 2.0).sqrt(), &noise)?
        } else {
            // reverse diffusion (algorithm 2), to the noise level below
            let place = (self.times[step] * (self.times.len() - 1) as f32) as usize;
            let sigma = self.discrete_sigmas[place];
            let adjacent_sigma = if place == 0 { 0.0 } else { self.discrete_sigmas[place - 1] };
            let diffusion = (sigma * sigma - adjacent_sigma * adjacent_sigma).sqrt();
            let mean = mix(1.0, sample, diffusion * diffusion, model_output)?;
            let is_last = step + 1 == self.times.len();
            if is_last { mean } else { mix(1.0, &mean, diffusion, &noise)? }
        };
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}

/// The mean over the batch of the images' norms.
fn mean_norm(images: &Tensor) -> Result<f64> {
    let images: Vec<Vec<f32>> = images.flatten_from(1)?.to_vec2()?;
    let norm = |image: &Vec<f32>| image.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    Ok(images.iter().map(norm).sum::<f64>() / images.len() as f64)
}
