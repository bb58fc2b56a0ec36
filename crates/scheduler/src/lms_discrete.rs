use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Alphas, c_in, sigma_schedule};
use crate::tensors::{check_same, mix, scale};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Scheduler, SigmaConfig,
    SpacingConfig, StepOutput, Steps, Supports, TimestepSpacing,
};

/// A linear multistep method in σ, by the integrals of the polynomial through earlier derivatives (Adams and Bashforth, for
/// uneven steps; after k-diffusion's `sample_lms`): diffusers' `LMSDiscreteScheduler`.
///
/// [`RunOptions::order`] is how many derivatives it looks at, 4 if not said otherwise. A run that leaves out its first
/// steps has no derivatives before it; as in diffusers it takes those for 0, which its first steps feel.
#[derive(Debug, Clone)]
pub struct LMSDiscreteScheduler {
    config: LMSDiscreteConfig,
    alphas: Alphas,
}

/// The configuration of [`LMSDiscreteScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LMSDiscreteConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Noise levels spaced otherwise than the timesteps.
    #[serde(flatten)]
    pub sigma: SigmaConfig,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for LMSDiscreteConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, spaced `linspace`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            prediction_type: PredictionType::Epsilon,
            sigma: SigmaConfig::default(),
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
        }
    }
}

impl LMSDiscreteScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "LMSDiscreteScheduler";
    /// Polynomials of higher order than this swing too far to be of use.
    const MAX_ORDER: usize = 20;

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: LMSDiscreteConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        use PredictionType::{Epsilon, Sample, VPrediction};
        config.prediction_type.only(Self::CLASS_NAME, &[Epsilon, Sample, VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        config.sigma.check(Self::CLASS_NAME, [None, None])?;
        let scheduler = Self::build(config);
        scheduler.alphas.check_sigmas(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: LMSDiscreteConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, false), config }
    }
}

impl Default for LMSDiscreteScheduler {
    /// That of [`LMSDiscreteConfig::default`].
    fn default() -> Self {
        Self::build(LMSDiscreteConfig::default())
    }
}

impl Scheduler for LMSDiscreteScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "a linear multistep method in noise levels, one model call a step (after k-diffusion)"
    }

    fn process(&self) -> Process {
        self.alphas.exploding(self.config.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Order])?;
        let order = options.order.unwrap_or(4);
        if !(1..=Self::MAX_ORDER).contains(&order) {
            let expected = "at least 1, Euler's method, and at most 20; 4 is usual";
            return Err(Error::OptionValue { option: "order", value: order as f64, expected });
        }
        let LMSDiscreteConfig { spacing, sigma, .. } = &self.config;
        let training = self.alphas.sigmas();
        let (timesteps, sigmas) =
            sigma_schedule(Self::CLASS_NAME, training, spacing, sigma.conversion(), options.num_steps())?;
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        Ok(Box::new(LMSDiscreteRun { scheduler: self.clone(), steps, sigmas, order, derivatives: VecDeque::new() }))
    }
}

/// A sampling by [`LMSDiscreteScheduler`].
#[derive(Debug)]
struct LMSDiscreteRun {
    scheduler: LMSDiscreteScheduler,
    steps: Steps,
    sigmas: Vec<f32>,
    order: usize,
    /// The newest first, one a noise level.
    derivatives: VecDeque<Tensor>,
}

impl Run for LMSDiscreteRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn init_noise_sigma(&self) -> f32 {
        self.scheduler.config.spacing.init_noise_sigma(&self.sigmas)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok((1.0, self.sigmas[self.steps.index()?]))
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        scale(sample, c_in(self.sigmas[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let i = self.steps.index()?;
        let sigma = self.sigmas[i];
        let x0 = self.scheduler.config.prediction_type.denoised(model_output, sample, sigma)?;

        if i > 0 && self.sigmas[i - 1] == sigma {
            self.derivatives.pop_front(); // a call at the same level again
        }
        self.derivatives.push_front(scale(&(sample - &x0)?, 1.0 / sigma)?);
        self.derivatives.truncate(self.order);
        // as in diffusers those, too, at which a run that begins in the middle has no derivative
        let mut levels: Vec<f32> = self.sigmas[..=i].iter().rev().copied().collect();
        levels.dedup();
        levels.truncate(self.order);
        let mut prev = sample.clone();
        for (weight, derivative) in coefficients(&levels, self.sigmas[i + 1]).into_iter().zip(&self.derivatives) {
            prev = mix(1.0, &prev, weight as f32, derivative)?;
        }
        self.steps.advance();
        Ok(StepOutput { prev_sample: prev, pred_original_sample: x0 })
    }
}

/// What the derivatives at these noise levels, the newest first, add to the step from the newest to `to`: the integral over
/// the step of the polynomial that is 1 at its σ and 0 at the others'. (diffusers integrates numerically.)
fn coefficients(levels: &[f32], to: f32) -> Vec<f64> {
    let order = levels.len();
    let (from, length) = (f64::from(levels[0]), f64::from(to) - f64::from(levels[0]));
    if length == 0.0 {
        return vec![0.0; order];
    }
    // as shares of the step, which is then from 0 to 1
    let nodes: Vec<f64> = levels.iter().map(|&level| (f64::from(level) - from) / length).collect();
    let integral = |j: usize| {
        let mut polynomial = vec![1.0]; // its coefficients, the constant first
        for (_, node) in nodes.iter().enumerate().filter(|(k, _)| *k != j) {
            // times (u - node) / (u_j - node)
            let by = nodes[j] - node;
            let times_u = std::iter::once(0.0).chain(polynomial.iter().copied());
            let rest = polynomial.iter().copied().chain([0.0]);
            polynomial = times_u.zip(rest).map(|(times_u, rest)| (times_u - node * rest) / by).collect();
        }
        let powers = polynomial.iter().enumerate().map(|(power, a)| a / (power + 1) as f64);
        length * powers.sum::<f64>()
    };
    (0..order).map(integral).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_integrate_polynomials_exactly() {
        let sigmas = [9.0f64, 7.0, 4.0, 2.5, 1.0];
        for order in 1..=4 {
            let weights = coefficients(&[2.5, 4.0, 7.0, 9.0][..order], 1.0);
            for power in 0..order as i32 {
                // of σ^power, from 2.5 to 1
                let ours: f64 = weights.iter().enumerate().map(|(k, w)| w * sigmas[3 - k].powi(power)).sum();
                let exact = (1.0 - 2.5f64.powi(power + 1)) / f64::from(power + 1);
                assert!(
                    (ours - exact).abs() < 1e-12 * exact.abs().max(1.0),
                    "order {order}, σ^{power}: {ours} {exact}"
                );
            }
        }
        // Adams and Bashforth's own for even steps
        let even = coefficients(&[1.0, 2.0, 3.0, 4.0], 0.0);
        for (ours, theirs) in even.iter().zip([55.0, -59.0, 37.0, -9.0]) {
            assert!((ours + theirs / 24.0).abs() < 1e-12, "{ours}");
        }
    }
}
