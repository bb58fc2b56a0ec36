use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{MOST_STEPS, check_count, check_descending};
use crate::tensors::{check_same, mix, noise_like, scale};
use crate::{
    Churn, EDMConfig, FinalSigmasType, Process, Result, Run, RunOptions, Schedule, Scheduler, StepOutput, Steps,
    Supports,
};

/// Euler's method on the probability flow ODE with EDM's preconditioning, with noise added before a step where asked
/// for (Karras et al. 2022, algorithm 2 without its correction): diffusers' `EDMEulerScheduler`.
///
/// Noise levels asked for by hand are those of the run. (diffusers takes its `sigmas` for places between 0 and 1 on the
/// schedule, and one step on an `exponential` schedule begins with its lowest noise; here with its highest.)
#[derive(Debug, Clone, Default)]
pub struct EDMEulerScheduler {
    config: EDMEulerConfig,
}

/// The configuration of [`EDMEulerScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EDMEulerConfig {
    /// The noise levels and what the model's output stands for.
    #[serde(flatten)]
    pub edm: EDMConfig,
    /// The noise level that the last step leads to.
    pub final_sigmas_type: FinalSigmasType,
}

impl EDMEulerScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "EDMEulerScheduler";

    /// Takes the configuration.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: EDMEulerConfig) -> Result<Self> {
        config.edm.check(Self::CLASS_NAME)?;
        Ok(Self { config })
    }

    /// The noise levels between which the steps lead.
    fn sigmas(&self, options: &RunOptions) -> Result<Vec<f32>> {
        if let Schedule::Sigmas(sigmas) = &options.schedule {
            check_descending(Self::CLASS_NAME, sigmas)?;
            return Ok(sigmas.iter().map(|&sigma| sigma as f32).collect());
        }
        let n = check_count(Self::CLASS_NAME, options.num_steps())?;
        let mut sigmas: Vec<f32> = self.config.edm.sigmas(n).into_iter().map(|sigma| sigma as f32).collect();
        sigmas.push(match self.config.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => sigmas[n - 1],
        });
        Ok(sigmas)
    }
}

impl Scheduler for EDMEulerScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Euler's method for models with EDM's preconditioning (Karras et al. 2022)"
    }

    fn process(&self) -> Process {
        self.config.edm.process()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=MOST_STEPS
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Sigmas, Supports::Churn])?;
        let sigmas = self.sigmas(options)?;
        let levels = sigmas[..sigmas.len() - 1].iter().map(|&sigma| self.config.edm.c_noise(sigma)).collect();
        let steps = Steps::new(Self::CLASS_NAME, levels, options.start)?;
        let churn = options.churn.unwrap_or_default();
        Ok(Box::new(EDMEulerRun { edm: self.config.edm.clone(), steps, sigmas, churn }))
    }
}

/// A sampling by [`EDMEulerScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct EDMEulerRun {
    edm: EDMConfig,
    steps: Steps,
    sigmas: Vec<f32>,
    churn: Churn,
}

impl Run for EDMEulerRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn init_noise_sigma(&self) -> f32 {
        (self.edm.sigma_max * self.edm.sigma_max + 1.0).sqrt() as f32
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok((1.0, self.sigmas[self.steps.index()?]))
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        scale(sample, self.edm.c_in(self.sigmas[self.steps.index()?]))
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
        let (c_skip, c_out) = self.edm.c_skip_out(sigma_hat);
        let x0 = mix(c_skip, &sample, c_out, model_output)?;
        // sample + (sample - x0) / sigma_hat * (next_sigma - sigma_hat)
        let kept = next_sigma / sigma_hat;
        self.steps.advance();
        Ok(StepOutput { prev_sample: mix(kept, &sample, 1.0 - kept, &x0)?, pred_original_sample: x0 })
    }
}
