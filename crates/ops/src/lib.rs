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

mod check;
mod checkpoint;
mod kernels;
mod memory;
mod network;
mod op;
mod optim;
mod parts;
mod still;
mod tape;
mod threads;

pub use checkpoint::checkpoint;
pub use kernels::cpu::vectors::{Vectors, limit_vectors, vectors};
pub use memory::keep_freed_memory;
pub use network::{Features, network};
pub use op::activation::Activation;
pub use op::conv::{conv2d, conv2d_silu};
pub use op::conv_shape::ConvOptions;
pub use op::fir::{fir_downsample2d, fir_upsample2d};
pub use op::layers::{attention, group_norm, group_norm_silu, linear};
pub use op::loss::{huber_loss, l1_loss, mse_loss};
pub use op::pool::max_pool2d;
pub use op::silu::silu;
pub use op::upsample::{upsample_add, upsample_nearest2d};
pub use optim::adam::{Adam, AdamConfig, AdamState};
pub use optim::clip::{clip_factor, clip_grad_norm, grad_norm};
pub use optim::ema::{Ema, EmaConfig, EmaState};
pub use optim::sgd::{Sgd, SgdConfig};
pub use parts::{gradients, predict};
pub use still::with_still_weights;
pub use tape::backward;
pub use threads::use_threads;
