//! What noise schedules share: the betas of training, the timesteps of sampling, conversions of noise levels, what models predict.

mod alphas;
mod betas;
mod dpm_solver;
mod flow;
mod history;
mod numbers;
mod path;
mod prediction;
mod process;
mod sigmas;
mod spacing;
mod stochastic_adams;
mod threshold;
mod unipc;

pub(crate) use alphas::Alphas;
pub use betas::{BetaConfig, BetaSchedule};
pub use dpm_solver::{DPMAlgorithmType, DPMSolverType};
pub(crate) use dpm_solver::{DPMMultistep, DPMStep};
pub use flow::{DynamicShiftConfig, FlowConfig, TimeShiftType};
pub(crate) use flow::{check_flow, shifted, stretched};
pub(crate) use history::{History, multistep_order};
pub(crate) use numbers::{linspace_f32, linspace_f64, solve};
pub(crate) use path::{Path, Spaced, check_steps, last_timestep};
pub use prediction::PredictionType;
pub(crate) use process::{Integrand, Level, Process, check_order};
pub use process::{LearnedVarianceType, SolverConfig};
pub use sigmas::{FinalSigmasType, SigmaConfig};
pub(crate) use sigmas::{SigmaConversion, interpolate, null_is_false, sigmas_at, timesteps_of};
pub use spacing::{SpacingConfig, TimestepSpacing};
pub(crate) use spacing::{check_descending, check_timesteps};
pub(crate) use stochastic_adams::StochasticAdams;
pub use threshold::ThresholdConfig;
pub(crate) use unipc::UniPC;
pub use unipc::UniPCSolverType;
