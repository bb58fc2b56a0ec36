use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::{check_positive, stretched_to};
use crate::{Error, Result};

/// The noise levels of a flow (Liu et al. 2022), under diffusers' names: `x = (1 - σ) x₀ + σ ε` in place of a
/// diffusion's `sqrt(ᾱ) x₀ + sqrt(1 - ᾱ) ε`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FlowConfig {
    /// Whether images are noised as in a flow; timestep `t` of T then has the noise level `t / T`.
    pub use_flow_sigmas: bool,
    /// How much more of a sampling is spent at high noise levels: `s σ / (1 + (s - 1) σ)` in place of σ; 1 is even.
    pub flow_shift: f64,
}

/// A shift of a flow's schedule that each run is told, under diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DynamicShiftConfig {
    /// Whether the run's [`mu`](crate::RunOptions::mu) takes the place of `flow_shift`.
    pub use_dynamic_shifting: bool,
    /// What `mu` is.
    pub time_shift_type: TimeShiftType,
}

/// What `mu` is to the shift of a flow's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeShiftType {
    /// Its logarithm.
    #[default]
    Exponential,
    /// The shift itself.
    Linear,
}

impl Default for FlowConfig {
    /// No flow.
    fn default() -> Self {
        Self { use_flow_sigmas: false, flow_shift: 1.0 }
    }
}

impl FlowConfig {
    /// Says what is out of range.
    pub(crate) fn check(&self, class_name: &str) -> Result<()> {
        check_positive(class_name, &[("flow_shift", self.flow_shift)])
    }
}

impl DynamicShiftConfig {
    /// Refuses what has no flow to shift, and types that the scheduler does not know.
    pub(crate) fn check(&self, class_name: &str, flow: &FlowConfig, known: &[TimeShiftType]) -> Result<()> {
        let refuse = |reason: String| Err(Error::Config { class_name: class_name.to_owned(), reason });
        if self.use_dynamic_shifting && !flow.use_flow_sigmas {
            return refuse(
                "use_dynamic_shifting shifts the noise levels of a flow, but use_flow_sigmas is false".into(),
            );
        }
        match !self.use_dynamic_shifting || known.contains(&self.time_shift_type) {
            true => Ok(()),
            false => refuse(format!("it has no time_shift_type {:?}; it knows {known:?}", self.time_shift_type)),
        }
    }

    /// The shift of a run; `None` where it is to be the configuration's.
    pub(crate) fn shift(&self, class_name: &str, mu: Option<f64>) -> Result<Option<f64>> {
        let Some(mu) = mu else { return Ok(None) };
        if !self.use_dynamic_shifting {
            let what = "shift by `mu` unless use_dynamic_shifting is true".into();
            return Err(Error::Unsupported { class_name: class_name.to_owned(), what });
        }
        let shift = match self.time_shift_type {
            TimeShiftType::Exponential => mu.exp(),
            TimeShiftType::Linear => mu,
        };
        if shift.is_finite() && shift > 0.0 {
            return Ok(Some(shift));
        }
        Err(Error::OptionValue {
            option: "mu",
            value: mu,
            expected: "the shift it stands for has to be a number above 0",
        })
    }
}

/// The noise level that the shift `s` puts in the place of `sigma`.
pub(crate) fn shifted(sigma: f64, s: f64) -> f64 {
    s * sigma / (1.0 + (s - 1.0) * sigma)
}

/// The same in the order in which diffusers computes it for a run's own shift.
pub(crate) fn shifted_by_run(sigma: f64, s: f64) -> f64 {
    s / (s + (1.0 / sigma - 1.0))
}

/// A flow's shifted noise levels, stretched for the last to be `terminal`. One at which nothing is left of
/// the image, so that its λ is infinite, is brought below.
pub(crate) fn stretched(class_name: &str, mut sigmas: Vec<f64>, terminal: Option<f64>) -> Result<Vec<f64>> {
    if let Some(terminal) = terminal.filter(|terminal| *terminal > 0.0) {
        sigmas = stretched_to(&sigmas, terminal).ok_or_else(|| {
            let reason = format!("shift_terminal is {terminal}, but its only step begins at 1; more would do");
            Error::Steps { class_name: class_name.to_owned(), steps: sigmas.len(), reason }
        })?;
    }
    if let Some(first) = sigmas.first_mut().filter(|first| (**first - 1.0).abs() < 1e-6) {
        *first -= 1e-6;
    }
    Ok(sigmas)
}
