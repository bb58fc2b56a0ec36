//! The arithmetic of diffusion models that candle lacks, gets wrong or does slowly, on candle's tensors.
//!
//! Every function takes and gives [`candle_core::Tensor`]s and is differentiable by `Tensor::backward`. A whole network is
//! faster as one: inside [`network`] the same operations are methods of [`Features`], which lie channels last in memory
//! that is used again, and [`backward`] goes back through it without candle's graph. [`gradients`] does so for a training
//! step, one part of the batch on each thread; [`with_still_weights`] spares a sampling the work on the weights.
//!
//! On the CPU, f32 runs through our own kernels: with the machine's widest vectors on rayon's threads, with results and
//! gradients that do not depend, bit for bit, on the number of threads. In f64, the reference, and on other devices the
//! operations are composed of candle's, with the same gradients.
//!
//! Inputs may be strided in any way. Errors are candle's; nothing panics on bad input.

#![deny(missing_docs)]

mod activation;
mod adam;
mod attention;
mod buffer;
mod check;
mod checkpoint;
mod clip;
mod compose;
mod conv;
mod denormals;
mod elementwise;
mod ema;
mod fir;
mod host;
mod layers;
mod linear;
mod loss;
mod matmul;
mod memory;
mod network;
mod norm;
mod parts;
mod pool;
#[cfg(test)]
mod reference;
mod scale_shift;
mod scratch;
mod sgd;
mod silu;
mod still;
mod tape;
mod threads;
mod transpose;
mod upsample;
mod vectors;

pub use activation::Activation;
pub use adam::{Adam, AdamConfig, AdamState};
pub use checkpoint::checkpoint;
pub use clip::{clip_factor, clip_grad_norm, grad_norm};
pub use conv::{ConvOptions, conv2d, conv2d_silu};
pub use ema::{Ema, EmaConfig, EmaState};
pub use fir::{fir_downsample2d, fir_upsample2d};
pub use layers::{attention, group_norm, group_norm_silu, linear};
pub use loss::{huber_loss, l1_loss, mse_loss};
pub use memory::keep_freed_memory;
pub use network::{Features, network};
pub use parts::{gradients, predict};
pub use pool::max_pool2d;
pub use sgd::{Sgd, SgdConfig};
pub use silu::silu;
pub use still::with_still_weights;
pub use tape::backward;
pub use threads::use_threads;
pub use upsample::{upsample_add, upsample_nearest2d};
pub use vectors::{Vectors, limit_vectors, vectors};
