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
mod check;
mod clip;
mod compose;
mod conv;
mod denormals;
mod ema;
mod host;
mod loss;
mod memory;
mod pool;
mod silu;
mod threads;
mod upsample;
mod vectors;

pub use adam::{Adam, AdamConfig, AdamState};
pub use clip::{clip_factor, clip_grad_norm, grad_norm};
pub use conv::{conv2d, conv2d_silu};
pub use ema::{Ema, EmaConfig, EmaState};
pub use loss::mse_loss;
pub use memory::keep_freed_memory;
pub use pool::max_pool2d;
pub use silu::silu;
pub use threads::use_threads;
pub use upsample::{upsample_add, upsample_nearest2d};
pub use vectors::{Vectors, limit_vectors, vectors};
