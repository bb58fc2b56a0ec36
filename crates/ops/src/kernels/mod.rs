//! What computes: our kernels on the CPU, and the reference, composed of candle's operations.

pub(crate) mod cpu;
pub(crate) mod reference;
