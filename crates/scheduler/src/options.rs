use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};

use crate::tensors::{mix, noise_like};
use crate::{Error, Result};

/// What one sampling asks of a scheduler beyond its configuration: what diffusers passes to `set_timesteps` and `step`.
///
/// A scheduler refuses what it has no use for, by name, instead of leaving it out.
///
/// ```
/// use kakusan_scheduler::{DDPMScheduler, RunOptions, Scheduler};
///
/// let scheduler = DDPMScheduler::default();
/// let run = scheduler.run_with(&RunOptions::timesteps([900.0, 500.0, 100.0]))?;
/// assert_eq!(run.timesteps(), [900.0, 500.0, 100.0]);
/// let refused = scheduler.run_with(&RunOptions { eta: Some(0.5), ..RunOptions::steps(10) }).unwrap_err();
/// assert_eq!(refused.to_string(), "DDPMScheduler has no use for `eta`");
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunOptions {
    /// How many steps, or which.
    pub schedule: Schedule,
    /// Steps to leave out at the beginning, whole ones where a step has several model calls, for images that are not
    /// noise alone (`strength` below 1): the run begins where [`Run::add_noise`](crate::Run::add_noise) brings them.
    pub start: usize,
    /// How much of a step's noise is new, from 0, none, to 1: DDIM's η, TCD's γ.
    pub eta: Option<f64>,
    /// Whether DDIM takes the noise again from the clipped prediction.
    pub use_clipped_model_output: Option<bool>,
    /// Noise added before a step.
    pub churn: Option<Churn>,
    /// How many earlier derivatives LMS looks at.
    pub order: Option<usize>,
    /// The shift of a flow's schedule, with `use_dynamic_shifting`.
    pub mu: Option<f64>,
    /// Whether so many steps are spaced as the scheduler is configured although as many were fitted to the model
    /// ([`FittedSteps`](crate::FittedSteps)).
    pub unfitted: bool,
}

/// How many steps a sampling has, or which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// So many steps, spaced as the scheduler is configured, or fitted to the model
    /// ([`FittedSteps`](crate::FittedSteps)).
    Steps(usize),
    /// Steps at these timesteps, in descending order.
    Timesteps(Vec<f64>),
    /// Steps between these noise levels, in descending order, the last included.
    Sigmas(Vec<f64>),
}

impl Schedule {
    /// The number of steps.
    pub(crate) fn num_steps(&self) -> usize {
        match self {
            Self::Steps(n) => *n,
            Self::Timesteps(timesteps) => timesteps.len(),
            Self::Sigmas(sigmas) => sigmas.len().saturating_sub(1), // n levels have n - 1 steps between them
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Steps(50)
    }
}

/// Noise added before a step, as in Algorithm 2 of Karras et al. (2022).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churn {
    /// How much, over all steps; 0 is none.
    pub s_churn: f64,
    /// The lowest noise level at which noise is added.
    pub s_tmin: f64,
    /// The highest noise level at which noise is added.
    pub s_tmax: f64,
    /// The standard deviation of the noise added, 1 or a little more.
    pub s_noise: f64,
}

impl Default for Churn {
    fn default() -> Self {
        Self { s_churn: 0.0, s_tmin: 0.0, s_tmax: f64::INFINITY, s_noise: 1.0 }
    }
}

impl Churn {
    /// Refuses what is not a number, or below 0; the highest level alone may be infinite.
    fn check(&self) -> Result<()> {
        let levels = [("s_tmin", self.s_tmin), ("s_tmax", self.s_tmax)];
        let amounts = [("s_churn", self.s_churn), ("s_noise", self.s_noise)];
        let expected = "it must be a number of at least 0";
        let bad =
            |&(option, value): &(&str, f64)| value.is_nan() || value < 0.0 || value.is_infinite() && option != "s_tmax";
        match amounts.into_iter().chain(levels).find(bad) {
            Some((option, value)) => Err(Error::OptionValue { option, value, expected }),
            None => Ok(()),
        }
    }

    /// γ, by how much of itself a step of `steps` raises the noise level `sigma` before it begins.
    pub(crate) fn gamma(&self, sigma: f32, steps: usize) -> f32 {
        if (self.s_tmin..=self.s_tmax).contains(&sigma.into()) {
            (self.s_churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0) as f32
        } else {
            0.0
        }
    }

    /// A sample with noise added, and its noise level: `x̂ = x + sqrt(σ̂² - σ²) ε` with `σ̂ = (1 + γ) σ`.
    pub(crate) fn raise(&self, x: &Tensor, sigma: f32, steps: usize, rng: &mut dyn Noise) -> Result<(Tensor, f32)> {
        let gamma = self.gamma(sigma, steps);
        let sigma_hat = sigma * (gamma + 1.0);
        if gamma <= 0.0 {
            return Ok((x.clone(), sigma_hat));
        }
        let added = self.s_noise as f32 * (sigma_hat * sigma_hat - sigma * sigma).sqrt();
        Ok((mix(1.0, x, added, &noise_like(x, rng)?)?, sigma_hat))
    }
}

/// An option of [`RunOptions`] that not every scheduler supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supports {
    /// [`Schedule::Timesteps`].
    Timesteps,
    /// [`Schedule::Sigmas`].
    Sigmas,
    /// [`RunOptions::eta`].
    Eta,
    /// [`RunOptions::use_clipped_model_output`].
    ClippedModelOutput,
    /// [`RunOptions::churn`].
    Churn,
    /// [`RunOptions::order`].
    Order,
    /// [`RunOptions::mu`].
    Mu,
}

impl RunOptions {
    /// So many steps, and nothing else.
    pub fn steps(num_inference_steps: usize) -> Self {
        Self { schedule: Schedule::Steps(num_inference_steps), ..Self::default() }
    }

    /// Steps at these timesteps, and nothing else.
    pub fn timesteps(timesteps: impl IntoIterator<Item = f64>) -> Self {
        Self { schedule: Schedule::Timesteps(timesteps.into_iter().collect()), ..Self::default() }
    }

    /// Steps between these noise levels, and nothing else.
    pub fn sigmas(sigmas: impl IntoIterator<Item = f64>) -> Self {
        Self { schedule: Schedule::Sigmas(sigmas.into_iter().collect()), ..Self::default() }
    }

    /// The number of steps, for a scheduler that takes no [`Schedule`] of another kind.
    pub fn num_steps(&self) -> usize {
        self.schedule.num_steps()
    }

    /// Refuses every option that was set and is not among those that the scheduler supports, and a [`Churn`] of
    /// values that mean nothing.
    ///
    /// # Errors
    /// [`Error::Option`] with the option's name, [`Error::OptionValue`] with the value.
    pub fn only(&self, supported: &[Supports]) -> Result<()> {
        let set = [
            ("timesteps", Supports::Timesteps, matches!(self.schedule, Schedule::Timesteps(_))),
            ("sigmas", Supports::Sigmas, matches!(self.schedule, Schedule::Sigmas(_))),
            ("eta", Supports::Eta, self.eta.is_some()),
            ("use_clipped_model_output", Supports::ClippedModelOutput, self.use_clipped_model_output.is_some()),
            ("churn", Supports::Churn, self.churn.is_some()),
            ("order", Supports::Order, self.order.is_some()),
            ("mu", Supports::Mu, self.mu.is_some()),
        ];
        if let Some((option, ..)) = set.into_iter().find(|(_, option, set)| *set && !supported.contains(option)) {
            return Err(Error::Option { class_name: String::new(), option });
        }
        self.churn.map_or(Ok(()), |churn| churn.check())
    }
}
