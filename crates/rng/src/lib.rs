//! torch's CPU random numbers, bit for bit.
//!
//! A diffusion model is noise from its first weight to its last sample, so a run can be checked against PyTorch only if the
//! noise is PyTorch's own. [`Generator`] is torch's CPU generator (PyTorch 2.15, x86-64 with AVX2): the same seed gives the same
//! values, drawn in the same order, whatever is drawn between.
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
//! What is exact where: uniform values, integers, permutations and `f32` normals of 16 values or more are the same bits on every
//! machine. Fewer than 16 normals, and all `f64` normals, go through the platform's `ln`, `sin` and `cos`, as torch's do: on Linux
//! with glibc they are torch's bits, elsewhere they may differ in the last bit of an `f64`.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod cephes;
mod error;
mod generator;
mod integer;
mod mt19937;
mod noise;
mod normal;
mod state;
mod uniform;

pub use error::Error;
pub use generator::Generator;
pub use integer::dataloader_permutation;
pub use noise::{Noise, PerImage};
