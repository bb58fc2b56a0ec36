//! torch's random numbers: those of its CPU generator, bit for bit, and those of its CUDA generator.
//!
//! A diffusion model draws its initial weights, its batches, its noise and its samples at random, so a training can be
//! compared with PyTorch only if the random numbers are PyTorch's. [`Generator`] is torch's CPU generator (PyTorch
//! 2.15, x86-64 with AVX2): the same seed and the same sequence of draws give the same values. [`CudaGenerator`] gives
//! the numbers that torch draws on a card.
//!
//! ```
//! use kakusan_rng::Generator;
//!
//! let mut generator = Generator::new(0); // torch.manual_seed(0)
//! assert_eq!(generator.rand(2), [0.49625659, 0.7682218]); // torch.rand(2)
//!
//! let mut twin = generator.clone();
//! assert_eq!(generator.randn(17), twin.randn(17)); // torch.randn(17), twice from the same place
//! ```
//!
//! Uniform values, integers, permutations and `f32` normals of 16 values or more have the same bits on every machine.
//! Fewer than 16 normals, and all `f64` normals, use the platform's `ln`, `sin` and `cos`, as torch does: on Linux with
//! glibc they have torch's bits, elsewhere they may differ in the last bit of an `f64`.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

// Every crate that computes depends on this one, so this line is the check for all of them.
#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "Kakusan needs a 64-bit target: sizes of tensors and files are computed in usize and could overflow 32 bits"
);

mod cephes;
mod cuda_generator;
mod error;
mod generator;
mod integer;
mod mt19937;
mod noise;
mod normal;
mod philox;
mod state;
mod uniform;

pub use cuda_generator::{Card, CudaGenerator};
pub use error::Error;
pub use generator::Generator;
pub use integer::dataloader_permutation;
pub use noise::{Noise, PerImage};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
