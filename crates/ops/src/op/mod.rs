//! The operations: their sizes, their checks, their gradients.

pub(crate) mod activation;
pub(crate) mod conv;
pub(crate) mod conv_shape;
pub(crate) mod fir;
pub(crate) mod layers;
pub(crate) mod loss;
pub(crate) mod pool;
mod scale_shift;
pub(crate) mod silu;
pub(crate) mod upsample;
