use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Flow, MOST_STEPS, check_count};
use crate::tensors::{check_same, mix, noise_like};
use crate::{Churn, Process, Result, Run, RunOptions, Scheduler, StepOutput, Steps, Supports};

/// Heun's method along the paths of a flow (Karras et al. 2022, algorithm 2; Lipman et al. 2022): diffusers'
/// `FlowMatchHeunDiscreteScheduler`.
///
/// A step from σ to σ' calls the model at both and goes by the mean of the two velocities; the last, to 0, calls it once.
/// [`RunOptions::start`] counts steps, not calls.
#[derive(Debug, Clone, Default)]
pub struct FlowMatchHeunDiscreteScheduler {
    config: FlowMatchHeunDiscreteConfig,
}

/// The configuration of [`FlowMatchHeunDiscreteScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowMatchHeunDiscreteConfig {
    /// T: the model is told `T σ`.
    pub num_train_timesteps: usize,
    /// By how much noise levels are shifted up.
    pub shift: f64,
}

impl Default for FlowMatchHeunDiscreteConfig {
    /// diffusers': 1000 timesteps, not shifted.
    fn default() -> Self {
        Self { num_train_timesteps: 1000, shift: 1.0 }
    }
}

impl FlowMatchHeunDiscreteScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "FlowMatchHeunDiscreteScheduler";

    /// Takes the configuration.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn new(config: FlowMatchHeunDiscreteConfig) -> Result<Self> {
        let scheduler = Self { config };
        scheduler.flow().check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn flow(&self) -> Flow {
        let FlowMatchHeunDiscreteConfig { num_train_timesteps, shift } = self.config;
        Flow { num_train_timesteps, shift, inverted: false }
    }
}

impl Scheduler for FlowMatchHeunDiscreteScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Heun's method for flows, two model calls a step (Karras et al. 2022)"
    }

    fn process(&self) -> Process {
        self.flow().process()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=MOST_STEPS
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Churn])?;
        let n = check_count(Self::CLASS_NAME, options.num_steps())?;
        let flow = self.flow();
        let sigmas = flow.spaced(n).into_iter().map(|sigma| flow.shifted(sigma) as f32);
        let sigmas: Vec<f32> = sigmas.chain([0.0]).collect();
        // at both ends of each step, but for the last, which leads to 0
        let calls = sigmas.array_windows().flat_map(|&[from, to]| [from, to]).take(2 * n - 1);
        let calls = calls.map(|sigma| flow.level(sigma)).collect();
        let steps = Steps::with_second_calls(Self::CLASS_NAME, calls, options.start)?;
        let churn = options.churn.unwrap_or_default();
        Ok(Box::new(FlowMatchHeunDiscreteRun { flow, steps, sigmas, churn, first: None }))
    }
}

/// A sampling by [`FlowMatchHeunDiscreteScheduler`]; between the two calls of a step it remembers the first.
#[derive(Debug)]
struct FlowMatchHeunDiscreteRun {
    flow: Flow,
    steps: Steps,
    sigmas: Vec<f32>,
    churn: Churn,
    first: Option<FirstCall>,
}

/// Where a step began, its derivative there, and how far it goes.
#[derive(Debug)]
struct FirstCall {
    sample: Tensor,
    derivative: Tensor,
    dt: f32,
}

impl Run for FlowMatchHeunDiscreteRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.flow.alpha_sigma(self.sigmas[self.steps.index()? / 2]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let call = self.steps.index()?;
        let (sigma, next_sigma) = (self.sigmas[call / 2], self.sigmas[call / 2 + 1]);
        let gamma = self.churn.gamma(sigma, self.timesteps().len());
        let sigma_hat = sigma * (gamma + 1.0);
        // drawn at the second call, too, where it makes no difference
        let noise = if gamma > 0.0 { Some(noise_like(sample, rng)?) } else { None };

        if let Some(FirstCall { sample: start, derivative, dt }) = &self.first {
            check_same("the sample", sample, start)?;
            let mean = mix(0.5, derivative, 0.5, model_output)?;
            let prev_sample = mix(1.0, start, *dt, &mean)?;
            let x0 = self.flow.original_sample(model_output, sample, next_sigma)?;
            self.first = None;
            self.steps.advance();
            return Ok(StepOutput { prev_sample, pred_original_sample: x0 });
        }
        let sample = match noise {
            Some(noise) => {
                let added = self.churn.s_noise as f32 * (sigma_hat * sigma_hat - sigma * sigma).sqrt();
                mix(1.0, sample, added, &noise)?
            }
            None => sample.clone(),
        };
        let x0 = self.flow.original_sample(model_output, &sample, sigma)?;
        let derivative = model_output.affine(f64::from(sigma / sigma_hat), 0.0)?; // (sample - x0) / sigma_hat
        let dt = next_sigma - sigma_hat;
        let prev_sample = mix(1.0, &sample, dt, &derivative)?;
        if next_sigma > 0.0 {
            self.first = Some(FirstCall { sample, derivative, dt });
        }
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
