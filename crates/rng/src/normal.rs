//! Normal values by the Box-Muller transform. torch has two forms of it and chooses by the size of the tensor.

use std::f64::consts::TAU;

use crate::{Generator, cephes};

/// The number of values that torch transforms at a time: eight radii and eight angles.
const BLOCK: usize = 16;
const HALF: usize = BLOCK / 2;
/// The number of blocks that are transformed together.
const BLOCKS: usize = 32;

impl Generator {
    /// `torch.randn(n)`: normal with mean 0 and standard deviation 1. `n` is the number of elements; the shape does not
    /// matter.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        self.normal(n, 0.0, 1.0)
    }

    /// [`Generator::randn`] into existing memory.
    pub fn fill_randn(&mut self, out: &mut [f32]) {
        self.fill_normal(out, 0.0, 1.0);
    }

    /// `torch.empty(n).normal_(mean, std)`, for `std >= 0`.
    pub fn normal(&mut self, n: usize, mean: f64, std: f64) -> Vec<f32> {
        let mut out = vec![0.0; n];
        self.fill_normal(&mut out, mean, std);
        out
    }

    /// [`Generator::randn`] for a tensor that is not contiguous: torch fills it one value after another, at any size.
    pub fn randn_strided(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next_normal() as f32).collect()
    }

    /// `torch.randn(n, dtype=torch.float64)`.
    pub fn randn_f64(&mut self, n: usize) -> Vec<f64> {
        if n < BLOCK {
            return (0..n).map(|_| self.next_normal()).collect();
        }
        let mut out = self.rand_f64(n);
        out.chunks_exact_mut(BLOCK).for_each(transform_f64);
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut out[n - BLOCK..];
            tail.fill_with(|| self.unit_f64());
            transform_f64(tail);
        }
        out
    }

    fn fill_normal(&mut self, out: &mut [f32], mean: f64, std: f64) {
        let n = out.len();
        if n < BLOCK {
            out.fill_with(|| self.next_normal().mul_add(std, mean) as f32);
            return;
        }
        let (mean, std) = (mean as f32, std as f32);
        self.fill_rand(out);
        pulp::Arch::new().dispatch(Transform { blocks: out.as_chunks_mut().0, mean, std });
        // torch draws the last 16 values again if the length is not a multiple of 16; they overwrite the end of a
        // block.
        if !n.is_multiple_of(BLOCK)
            && let Some(tail) = out.last_chunk_mut::<BLOCK>()
        {
            self.fill_rand(tail);
            pulp::Arch::new().dispatch(Transform { blocks: std::slice::from_mut(tail), mean, std });
        }
    }

    /// One value. Values are made in pairs; the second is kept for the next call.
    fn next_normal(&mut self) -> f64 {
        if let Some(normal) = self.cached_normal.take() {
            return normal;
        }
        let angle = TAU * self.unit_f64();
        let radius = (-2.0 * (-self.unit_f64()).ln_1p()).sqrt();
        self.cached_normal = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Transforms 16 uniform values to 16 normal values, block by block: the first eight give the radii, the others the
/// angles.
struct Transform<'a> {
    blocks: &'a mut [[f32; BLOCK]],
    mean: f32,
    std: f32,
}

impl pulp::NullaryFnOnce for Transform<'_> {
    type Output = ();

    /// Compiled for each vector width. It loops over the halves of many blocks, because short loops are not vectorised.
    #[inline(always)]
    fn call(self) {
        for blocks in self.blocks.chunks_mut(BLOCKS) {
            let (mut cosines, mut sines) = ([0.0; BLOCKS * HALF], [0.0; BLOCKS * HALF]);
            let n = blocks.len() * HALF;
            for (i, block) in blocks.iter().enumerate() {
                cosines[HALF * i..][..HALF].copy_from_slice(&block[..HALF]);
                sines[HALF * i..][..HALF].copy_from_slice(&block[HALF..]);
            }
            for (first, second) in cosines[..n].iter_mut().zip(&mut sines[..n]) {
                let radius = (-2.0 * cephes::ln(1.0 - *first)).sqrt();
                let (sin, cos) = cephes::sin_cos(TAU as f32 * *second);
                *first = (radius * cos).mul_add(self.std, self.mean);
                *second = (radius * sin).mul_add(self.std, self.mean);
            }
            for (i, block) in blocks.iter_mut().enumerate() {
                block[..HALF].copy_from_slice(&cosines[HALF * i..][..HALF]);
                block[HALF..].copy_from_slice(&sines[HALF * i..][..HALF]);
            }
        }
    }
}

fn transform_f64(block: &mut [f64]) {
    for j in 0..HALF {
        let radius = (-2.0 * (1.0 - block[j]).ln()).sqrt();
        let angle = TAU * block[j + HALF];
        block[j] = radius * angle.cos();
        block[j + HALF] = radius * angle.sin();
    }
}
