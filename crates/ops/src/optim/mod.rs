//! The optimisers, clipping, and the average of weights.

pub(crate) mod adam;
pub(crate) mod clip;
pub(crate) mod ema;
pub(crate) mod muon;
pub(crate) mod power_function;
pub(crate) mod sgd;
mod state;

use candle_core::{Result, bail};

/// Refuses a setting of `optimizer` that is negative or not finite.
fn check_not_negative(optimizer: &str, name: &str, value: f64) -> Result<()> {
    if !(value >= 0.0 && value.is_finite()) {
        bail!("{optimizer}: {name} is {value}, it must be a number from 0 on")
    }
    Ok(())
}
