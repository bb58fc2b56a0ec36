//! What noise schedules share: the betas of training, the timesteps of sampling, conversions of noise levels, what models predict.

mod alphas;
mod betas;
mod brownian;
mod checks;
mod distilled;
mod edm;
mod flow_match;
mod jumps;
mod numbers;
mod posterior;
mod prediction;
mod sigmas;
mod spacing;
mod threshold;
mod two_calls;

pub(crate) use alphas::Alphas;
pub use betas::{BetaConfig, BetaSchedule};
pub(crate) use brownian::BrownianMotion;
pub(crate) use checks::{check_count, check_positive, check_sigma_range, check_train_timesteps, check_whole_timesteps};
pub(crate) use distilled::{check_original_steps, distilled_timesteps};
pub use edm::{EDMConfig, SigmaSchedule};
pub(crate) use flow_match::{Flow, check_flow_levels, stretched_to};
pub(crate) use jumps::jumps;
pub(crate) use numbers::{linspace_f32, linspace_f64, serialize_whole};
pub(crate) use posterior::Posterior;
pub use prediction::PredictionType;
pub use sigmas::{FinalSigmasType, SigmaConfig};
pub(crate) use sigmas::{ancestral_step, halfway, interpolate, sigma_schedule, sigmas_at, timesteps_of};
pub use spacing::{SpacingConfig, TimestepSpacing};
pub(crate) use spacing::{check_descending, check_timesteps};
pub use threshold::ThresholdConfig;
pub(crate) use two_calls::{TwoCalls, with_second_calls};
