//! Kernels for f32 on the CPU: the machine's widest vectors, rayon's threads, features channels last.

pub(crate) mod attention;
pub(crate) mod buffer;
pub(crate) mod conv;
pub(crate) mod denormals;
pub(crate) mod elementwise;
pub(crate) mod host;
pub(crate) mod linear;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod scratch;
pub(crate) mod silu;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod transpose;
pub(crate) mod vectors;
