//! What noise schedules share: the betas of training, the timesteps of sampling, conversions of noise levels, what
//! models predict.

mod alphas;
mod betas;
mod brownian;
mod checks;
mod deis;
mod distilled;
mod dpm_solver;
mod edm;
mod flow;
mod history;
mod jumps;
mod k_diffusion;
mod numbers;
mod path;
mod posterior;
mod prediction;
mod pseudo_numerical;
mod sigmas;
mod solver;
mod spacing;
mod stochastic_adams;
mod threshold;
mod unipc;

pub(crate) use alphas::Alphas;
pub use betas::{BetaConfig, BetaSchedule};
pub(crate) use brownian::BrownianMotion;
pub(crate) use checks::{
    MOST_STEPS, check_count, check_descending, check_eta, check_order, check_positive, check_sigma_range, check_steps,
    check_timesteps, check_train_timesteps, check_whole_timesteps,
};
pub(crate) use deis::deis_coefficients;
pub use deis::{DEISAlgorithmType, DEISSolverType};
pub use distilled::DistilledConfig;
pub use dpm_solver::{DPMAlgorithmType, DPMSolverConfig, DPMSolverType};
pub(crate) use dpm_solver::{DPMMultistep, DPMStep};
pub use edm::{EDMConfig, SigmaSchedule};
pub use flow::{DynamicShiftConfig, FlowConfig, TimeShiftType};
pub(crate) use flow::{Flow, check_flow_levels, check_terminal, shifted, shifted_by_run, stretched, stretched_to};
pub(crate) use history::{History, multistep_order};
pub(crate) use jumps::jumps;
pub use k_diffusion::KDiffusionConfig;
pub(crate) use k_diffusion::{ancestral_step, euler, halfway, to_zero};
pub(crate) use numbers::{
    adams_bashforth, arange_down, lagrange, linspace_f32, linspace_f64, ln_f32, serialize_whole, solve,
};
pub(crate) use path::{Path, Spaced, inference_steps, last_timestep};
pub(crate) use posterior::Posterior;
pub use prediction::PredictionType;
pub(crate) use pseudo_numerical::PseudoNumerical;
pub use sigmas::{FinalSigmasType, SigmaConfig};
pub(crate) use sigmas::{
    SigmaConversion, c_in, check_apart, check_calls, check_first_two, check_last, interpolate, karras, karras_sigma,
    sigma_to_t, sigmas_at, timesteps_of,
};
pub(crate) use solver::{ForwardProcess, Integrand, Point, learned_or_none};
pub use solver::{LearnedVarianceType, SolverConfig};
pub use spacing::{SpacingConfig, TimestepSpacing};
pub(crate) use stochastic_adams::StochasticAdams;
pub use stochastic_adams::{SAAlgorithmType, SATau};
pub use threshold::{ClipConfig, ThresholdConfig};
pub(crate) use unipc::UniPC;
pub use unipc::UniPCSolverType;
