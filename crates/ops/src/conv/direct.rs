//! Convolution in f32, directly.
//!
//! An image is copied, channels last and padded, into a buffer that the cache holds. There, for one row of the kernel,
//! the window of a pixel is one contiguous run of `k * channels` floats, and so is that of the weights: a tile of
//! pixels times a panel of output channels is summed in registers while both run by. The gradient of the images is the
//! same with the kernel turned round, the gradient of the weights a sum of outer products over all pixels.

use candle_core::Result;
use pulp::Simd;

use super::micro::{Dot, Outer, Panel, tiles, widest};
use super::pass::{Pass, Way};
use crate::host::{build, piece};
use crate::scratch::{Aligned, SLACK};

/// The sums of a wide pass over padded images, `[panels, n, pixels, channels]`.
#[inline(always)]
pub(super) fn sums<S: Simd>(simd: S, pass: &Pass, count: usize, padded: &[f32], weights: &[f32], sums: &mut [f32]) {
    let &Pass { c, o, k, oh, ow, .. } = pass;
    let (row, window, pixels) = (pass.row(), pass.window(), oh * ow);
    let panel = 2 * S::F32_LANES;
    for first in (0..o).step_by(panel) {
        let width = panel.min((o - first).next_multiple_of(S::F32_LANES));
        let weights = &weights[k * window * first..][..k * window * width];
        let sums = &mut sums[count * pixels * first..][..count * pixels * width];
        for (line, rows, start, len) in blocks(k, window, BLOCK / width) {
            let weights = &weights[(line * window + start) * width..][..rows * len * width];
            for (image, sums) in sums.chunks_exact_mut(pixels * width).enumerate() {
                for (y, sums) in sums.chunks_exact_mut(ow * width).enumerate() {
                    let x = &padded[image * pass.padded() + (y + line) * row + start..];
                    for (at, size) in tiles(ow, widest::<S>()) {
                        let sums = &mut sums[at * width..][..size * width];
                        let first = line == 0 && start == 0;
                        Panel { x: &x[at * c..], row, step: c, len, weights, sums, first }.run(
                            simd,
                            size,
                            width / S::F32_LANES,
                        );
                    }
                }
            }
        }
    }
}

/// The results of a narrow pass over padded images.
#[inline(always)]
pub(super) fn narrow<S: Simd>(
    simd: S,
    pass: &Pass,
    count: usize,
    padded: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let &Pass { c, o, k, oh, ow, .. } = pass;
    let (row, window) = (pass.row(), pass.window());
    for (image, line) in (0..count).flat_map(|image| (0..oh).map(move |line| (image, line))) {
        for (start, size) in tiles(ow, widest::<S>()) {
            let x = &padded[image * pass.padded() + line * row + start * c..];
            for channel in 0..o {
                let weights = &weights[channel * k * window..][..k * window];
                let sums = &mut y[((image * o + channel) * oh + line) * ow + start..][..size];
                Dot { x, row, step: c, len: window, weights, sums: &mut *sums }.run(simd);
                if let Some(bias) = bias {
                    sums.iter_mut().for_each(|y| *y += bias[channel]);
                }
            }
        }
    }
}

/// Floats of the block of weights that stays in the first level cache while all pixels pass by.
const BLOCK: usize = 5 * 1024;

/// Cuts the reduction over `k` rows of `window` into blocks of about `most`: several whole rows, or parts of one;
/// `(first row, rows, start, length)`.
fn blocks(k: usize, window: usize, most: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let rows = (most / window).clamp(1, k);
    (0..k).step_by(rows).flat_map(move |line| {
        let parts = if window > most { window.div_ceil(most) } else { 1 };
        tiles(window, window.div_ceil(parts)).map(move |(start, len)| (line, rows.min(k - line), start, len))
    })
}

/// The layout of the sums that become the gradient of the weights: `[k, scalars, vectors]`. The scalars are the places
/// of the window and the vectors output channels, or the other way round for a narrow pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightSums {
    narrow: bool,
    k: usize,
    scalars: usize,
    /// Floats, filled up to whole vectors.
    width: usize,
    co: usize,
    ci: usize,
}

impl WeightSums {
    pub(super) fn new(forward: &Pass, lanes: usize) -> Self {
        let narrow = forward.way == Way::Narrow;
        let (scalars, vectors) = if narrow { (forward.o, forward.window()) } else { (forward.window(), forward.o) };
        Self { narrow, k: forward.k, scalars, width: vectors.next_multiple_of(lanes), co: forward.o, ci: forward.c }
    }

    pub(super) fn len(&self) -> usize {
        self.k * self.scalars * self.width
    }

    /// Where the sum of a scalar and a float of the vectors lies.
    pub(super) fn place(&self, line: usize, scalar: usize, vector: usize) -> usize {
        (line * self.scalars + scalar) * self.width + vector
    }

    /// Adds the outer products of some images and their results' gradients.
    #[inline(always)]
    #[expect(clippy::too_many_arguments)]
    pub(super) fn add<S: Simd>(
        &self,
        simd: S,
        forward: &Pass,
        pass: &Pass,
        count: usize,
        x: &[f32],
        grad: &[f32],
        sums: &mut [f32],
    ) {
        let (x_strides, grad_strides) = (forward.strides(), pass.strides());
        let grad = &grad[pass.pad * (pass.row() + pass.c)..];
        let vectors = Outer::vectors(self.scalars);
        for (first, count_vectors) in tiles(self.width / S::F32_LANES, vectors) {
            for line in 0..self.k {
                let x = &x[line * forward.row()..];
                for (scalar, size) in tiles(self.scalars, widest::<S>()) {
                    let vector = first * S::F32_LANES;
                    let sums = &mut sums[self.place(line, scalar, vector)..];
                    let pixels = [count, forward.oh, forward.ow];
                    let (a, a_strides, b, b_strides) = if self.narrow {
                        (grad, grad_strides, x, x_strides)
                    } else {
                        (x, x_strides, grad, grad_strides)
                    };
                    Outer { a: &a[scalar..], a_strides, b: &b[vector..], b_strides, pixels, sums, stride: self.width }
                        .run(simd, size, count_vectors);
                }
            }
        }
    }

    /// The sum of all parts, in their order, as `[co, ci, k, k]`.
    pub(super) fn total(&self, parts: &[(Aligned, Vec<f32>)]) -> Result<Vec<f32>> {
        const PIECE: usize = 4096;
        let ([sums], _) = build(self.len(), PIECE, |i, [sums]| {
            for (part, _) in parts {
                sums.iter_mut().zip(piece(part.get(), i, PIECE)).for_each(|(sum, &part)| *sum += part);
            }
        })?;
        let &Self { narrow, k, co, ci, .. } = self;
        let ([weight], _) = build(co * ci * k * k, ci * k * k, |o, [weight]| {
            for c in 0..ci {
                for (place, weight) in weight[c * k * k..][..k * k].iter_mut().enumerate() {
                    let (ky, kx) = (place / k, place % k);
                    let window = kx * ci + c;
                    let (scalar, vector) = if narrow { (o, window) } else { (window, o) };
                    *weight = sums[self.place(ky, scalar, vector)];
                }
            }
        })?;
        Ok(weight)
    }
}

const _: () = assert!(SLACK >= 16, "the kernels read up to a vector behind the last pixel");
