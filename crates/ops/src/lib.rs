//! The arithmetic of diffusion models that candle lacks, gets wrong or does slowly, on candle's tensors.
//!
//! Every function takes and gives [`candle_core::Tensor`]s and is differentiable by `Tensor::backward`. On the CPU, f32
//! and f64 run through our own kernels: f32 with the machine's widest vectors on rayon's threads, with results and
//! gradients that do not depend, bit for bit, on the number of threads; f64 plainly, as the reference. On other devices
//! the functions are composed of candle's operations, with the same gradients.
//!
//! Inputs may be strided in any way. Errors are candle's; nothing panics on bad input.

#![deny(missing_docs)]

mod adam;
#[cfg_attr(not(test), expect(dead_code, reason = "hooked into the tape next"))]
mod attention;
mod check;
mod compose;
mod conv;
mod denormals;
#[cfg_attr(not(test), expect(dead_code, reason = "hooked into the tape next"))]
mod elementwise;
mod host;
#[cfg_attr(not(test), expect(dead_code, reason = "hooked into the tape next"))]
mod linear;
mod loss;
mod matmul;
mod memory;
#[cfg_attr(not(test), expect(dead_code, reason = "hooked into the tape next"))]
mod norm;
mod pool;
#[cfg(test)]
mod reference;
mod scratch;
mod silu;
mod upsample;

pub use adam::{Adam, AdamConfig, AdamState};
pub use conv::{conv2d, conv2d_silu};
pub use loss::{huber_loss, l1_loss, mse_loss};
pub use memory::keep_freed_memory;
pub use pool::max_pool2d;
pub use silu::silu;
pub use upsample::{upsample_add, upsample_nearest2d};
