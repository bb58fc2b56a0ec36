//! The operations of diffusion models, on candle's tensors: those that candle does not have, gets wrong or computes
//! slowly.
//!
//! Every function takes and gives [`candle_core::Tensor`]s and is differentiable by `Tensor::backward`. A whole network
//! is faster as one: inside [`network`] the same operations are methods of [`Features`], which lie channels last in
//! memory that is used again, and [`backward`] differentiates it without candle's graph. [`gradients`] does so for a
//! training step, one part of the batch on each thread; [`PreparedWeights`] prepares the weights once for a step or a
//! sampling.
//!
//! On the CPU, f32 runs through our own kernels: with the machine's widest vectors on rayon's threads, with results and
//! gradients that do not depend, bit for bit, on the number of threads. On CUDA devices, with the feature `cuda`, f32
//! runs through kernels of ours, too. In f64 and on other devices candle's operations compute the same, with the same
//! gradients.
//!
//! Inputs may be strided in any way. Errors are candle's; nothing panics on bad input.

#![deny(missing_docs)]

mod backward;
mod check;
mod checkpoint;
mod device;
mod features;
mod kernels;
mod memory;
mod network;
mod op;
mod optim;
mod parts;
mod prepared;
mod tape;
mod threads;
mod tree;

pub use backward::backward;
pub use checkpoint::checkpoint;
#[cfg(feature = "nccl")]
pub use device::Nccl;
pub use device::{AllReduce, CudaCard, describe_cuda, is_out_of_memory, open_cuda};
pub use features::Features;
pub use kernels::cpu::vectors::{Vectors, limit_vectors, vectors};
pub use kernels::trim_memory;
pub use memory::keep_freed_memory;
pub use network::network;
pub use op::activation::{Activation, silu};
pub use op::attention::attention;
pub use op::conv::{conv2d, conv2d_silu};
pub use op::conv_shape::ConvOptions;
pub use op::fir::{fir_downsample2d, fir_upsample2d};
pub use op::linear::linear;
pub use op::loss::{huber_loss, l1_loss, mse_loss};
pub use op::norm::{group_norm, group_norm_silu};
pub use op::pool::max_pool2d;
pub use op::upsample::{upsample_add, upsample_nearest2d};
pub use optim::adam::{Adam, AdamConfig, AdamState};
pub use optim::clip::{clip_factor, clip_grad_norm, grad_norm};
pub use optim::ema::{Ema, EmaConfig, EmaState};
pub use optim::muon::{Muon, MuonConfig};
pub use optim::power_function::{PowerFunction, PowerFunctionFit};
pub use optim::sgd::{Sgd, SgdConfig};
pub use parts::{PartialSum, Share, accumulate, gradients, gradients_of_share, part_count, predict};
pub use prepared::PreparedWeights;
pub use threads::{share_of_cores, use_threads};
pub use tree::{TreeSum, tree_nodes};

/// Whether this crate was compiled without optimisation, which a debug build of a dependent does by default: the
/// kernels are a hundred times slower then. A program that trains or samples should warn of it once. The remedy in its
/// `Cargo.toml`:
///
/// ```toml
/// [profile.dev.package."*"]
/// opt-level = 3
/// ```
pub fn built_unoptimised() -> bool {
    cfg!(unoptimised)
}
