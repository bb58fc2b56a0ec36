//! The optimisers, clipping, and the average of weights.

pub(crate) mod adam;
pub(crate) mod clip;
pub(crate) mod ema;
pub(crate) mod muon;
pub(crate) mod power_function;
pub(crate) mod sgd;
mod state;
