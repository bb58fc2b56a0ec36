//! Kernels for f32 on a CUDA device: features channels last (`[b, h, w, c]`) in a pool of memory.
//!
//! The kernels are CUDA C in the `.cu` files of this folder, compiled by NVRTC when a card is first used. The [`Card`]
//! is all that is left to a device: `device.rs` is a real one, by the libraries of CUDA; `host` is that of the tests,
//! which runs the same kernels as C++ on the CPU.

mod attention;
mod backend;
mod buffer;
mod card;
mod conv;
#[cfg(feature = "cuda")]
pub(crate) mod device;
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod host;
mod loss;
mod norm;
mod optim;
mod tests;

use std::marker::PhantomData;

use card::Card;

/// Our own kernels, on a card.
pub(crate) struct Cuda<C: Card>(PhantomData<C>);

/// The files of the program that all kernels are, the one that the others need first.
pub(crate) const SOURCES: [(&str, &str); 9] = [
    ("common.cuh", include_str!("common.cuh")),
    ("attention.cu", include_str!("attention.cu")),
    ("elementwise.cu", include_str!("elementwise.cu")),
    ("layout.cu", include_str!("layout.cu")),
    ("loss.cu", include_str!("loss.cu")),
    ("norm.cu", include_str!("norm.cu")),
    ("optim.cu", include_str!("optim.cu")),
    ("resample.cu", include_str!("resample.cu")),
    ("sums.cu", include_str!("sums.cu")),
];
