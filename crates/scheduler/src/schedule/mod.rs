//! What noise schedules share: the betas of training, the timesteps of sampling, conversions of noise levels, what models predict.

mod alphas;
mod betas;
mod brownian;
mod numbers;
mod prediction;
mod sigmas;
mod spacing;
mod threshold;
mod two_calls;

pub(crate) use alphas::Alphas;
pub use betas::{BetaConfig, BetaSchedule};
pub(crate) use brownian::BrownianMotion;
pub(crate) use numbers::{linspace_f32, linspace_f64};
pub use prediction::PredictionType;
pub use sigmas::{FinalSigmasType, SigmaConfig};
pub(crate) use sigmas::{ancestral_step, halfway, interpolate, sigma_schedule, sigmas_at, timesteps_of};
pub use spacing::{SpacingConfig, TimestepSpacing};
pub(crate) use spacing::{check_descending, check_timesteps};
pub use threshold::ThresholdConfig;
pub(crate) use two_calls::{TwoCalls, with_second_calls};
