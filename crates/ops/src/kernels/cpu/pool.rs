//! Pooling of 2x2 blocks, channels last.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::denormals::FlushDenormals;
use super::host::{arch, min_tasks_of};
use crate::features::Dims;

/// `[b, h, w, c] -> [b, h / 2, w / 2, c]`
pub(crate) fn max(dims: Dims, x: &[f32], y: &mut [f32]) {
    let image = dims.pixels() * dims.c;
    let half = (dims.h / 2) * (dims.w / 2) * dims.c;
    let images = y.par_chunks_mut(half).zip(x.par_chunks(image));
    images.with_min_len(min_tasks_of(image)).for_each(|(y, x)| {
        arch().dispatch(Pool { dims, x, y });
    });
}

/// Writes the gradients to the places of their maxima; adds them to `dx` unless that is `fresh`.
pub(crate) fn max_backward(dims: Dims, x: &[f32], grad: &[f32], dx: &mut [f32], fresh: bool) {
    let image = dims.pixels() * dims.c;
    let half = (dims.h / 2) * (dims.w / 2) * dims.c;
    let images = dx.par_chunks_mut(image).zip(x.par_chunks(image)).zip(grad.par_chunks(half));
    images.with_min_len(min_tasks_of(image)).for_each(|((dx, x), grad)| {
        let _flush = FlushDenormals::new();
        if fresh {
            dx.fill(0.0);
        }
        arch().dispatch(Unpool { dims, x, grad, dx });
    });
}

/// The four pixels of a block, as ranges of a whole image `[h, w, c]`, in reading order.
#[inline(always)]
fn block(Dims { c, w, .. }: Dims, y: usize, x: usize) -> [std::ops::Range<usize>; 4] {
    let at = |y: usize, x: usize| (y * w + x) * c..(y * w + x + 1) * c;
    [at(2 * y, 2 * x), at(2 * y, 2 * x + 1), at(2 * y + 1, 2 * x), at(2 * y + 1, 2 * x + 1)]
}

/// Pools one image.
struct Pool<'a> {
    dims: Dims,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { dims, x, y } = self;
        for (at, y) in y.chunks_exact_mut(dims.c).enumerate() {
            let [a, b, c, d] =
                block(dims, at / (dims.w / 2), at % (dims.w / 2)).map(|pixel| S::as_simd_f32s(&x[pixel]));
            let (vectors, rest) = S::as_mut_simd_f32s(y);
            for (i, y) in vectors.iter_mut().enumerate() {
                let (_, largest) = larger(simd, a.0[i], b.0[i]);
                let (_, largest) = larger(simd, largest, c.0[i]);
                *y = larger(simd, largest, d.0[i]).1;
            }
            for (i, y) in rest.iter_mut().enumerate() {
                *y = [b.1[i], c.1[i], d.1[i]].into_iter().fold(a.1[i], |y, x| if beats(x, y) { x } else { y });
            }
        }
    }
}

/// Where `later` beats `sooner` (see [`beats`]), and the maximum.
#[inline(always)]
fn larger<S: Simd>(simd: S, sooner: S::f32s, later: S::f32s) -> (S::m32s, S::f32s) {
    let nan = simd.not_m32s(simd.equal_f32s(later, later));
    let taken = simd.or_m32s(simd.greater_than_f32s(later, sooner), nan);
    (taken, simd.select_f32s(taken, later, sooner))
}

/// Whether `later` replaces `sooner` as the maximum, by torch's rule: NaN always does.
fn beats(later: f32, sooner: f32) -> bool {
    later > sooner || later.is_nan()
}

/// Adds the gradients of one image's blocks to the places of their maxima.
struct Unpool<'a> {
    dims: Dims,
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for Unpool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { dims, x, grad, dx } = self;
        for (at, grad) in grad.chunks_exact(dims.c).enumerate() {
            let pixels = block(dims, at / (dims.w / 2), at % (dims.w / 2));
            let (grad, grad_rest) = S::as_simd_f32s(grad);
            let [a, b, c, d] =
                block(dims, at / (dims.w / 2), at % (dims.w / 2)).map(|pixel| S::as_simd_f32s(&x[pixel]));
            for (i, &grad) in grad.iter().enumerate() {
                let (to_b, largest) = larger(simd, a.0[i], b.0[i]);
                let (to_c, largest) = larger(simd, largest, c.0[i]);
                let (to_d, _) = larger(simd, largest, d.0[i]);
                let zero = simd.splat_f32s(0.0);
                // from the last to the first: a pixel gets what no later one has taken
                let (of_d, left) = (simd.select_f32s(to_d, grad, zero), simd.select_f32s(to_d, zero, grad));
                let (of_c, left) = (simd.select_f32s(to_c, left, zero), simd.select_f32s(to_c, zero, left));
                let (of_b, of_a) = (simd.select_f32s(to_b, left, zero), simd.select_f32s(to_b, zero, left));
                for (pixel, grad) in pixels.iter().zip([of_a, of_b, of_c, of_d]) {
                    let dx = &mut S::as_mut_simd_f32s(&mut dx[pixel.clone()]).0[i];
                    *dx = simd.add_f32s(*dx, grad);
                }
            }
            let vectors = grad.len() * S::F32_LANES;
            for (i, &grad) in grad_rest.iter().enumerate() {
                let mut place = pixels[0].start + vectors + i;
                for pixel in &pixels[1..] {
                    let later = pixel.start + vectors + i;
                    if beats(x[later], x[place]) {
                        place = later;
                    }
                }
                dx[place] += grad;
            }
        }
    }
}
