//! Convolution in f32, directly.
//!
//! Images lie padded, channels last. There, for one row of the kernel, the window of a pixel is one contiguous run of
//! `k * channels` floats, and so is that of the weights: a tile of pixels times a panel of output channels is summed in
//! registers while both run by. The gradient of the weights is a sum of outer products over all pixels.

use pulp::Simd;

use super::micro::{Dot, Outer, Panel, Strides, tiles, widest};
use super::pass::{Pass, Way};
use super::weights::Weights;
use crate::op::conv_shape::ConvShape;

/// The results of a wide pass over padded images, `[n, pixels, o]`.
///
/// The rooms are for the weights, and for the sums of a row where the channels do not fill their last vector.
#[inline(always)]
pub(super) fn wide<S: Simd>(
    simd: S,
    pass: &Pass,
    count: usize,
    padded: &[f32],
    weights: Weights,
    [weights_room, room]: [&mut [f32]; 2],
    y: &mut [f32],
) {
    let &Pass { c, o, k, oh, ow, stride, .. } = pass;
    let (row, window, panel) = (pass.row(), pass.window(), 2 * S::F32_LANES);
    for first in (0..o).step_by(panel) {
        let width = panel.min((o - first).next_multiple_of(S::F32_LANES));
        let weights = weights.direct(pass, first, width, weights_room);
        let whole = first + width <= o;
        // A row that goes through the room has to be finished before the next one.
        let most = if whole { BLOCK / width } else { usize::MAX };
        for (line, rows, start, len) in blocks(k, window, most) {
            let weights = &weights[(line * window + start) * width..][..rows * len * width];
            for (image, pixel_row) in (0..count).flat_map(|image| (0..oh).map(move |y| (image, y))) {
                let x = &padded[image * pass.padded() + (pixel_row * stride + line) * row + start..];
                let y = &mut y[(image * oh + pixel_row) * ow * o + first..];
                let (sums, to_next): (&mut [f32], usize) = if whole { (&mut *y, o) } else { (&mut *room, width) };
                for (at, size) in tiles(ow, widest::<S>()) {
                    let sums = &mut sums[at * to_next..];
                    let (x, first) = (&x[at * stride * c..], line == 0 && start == 0);
                    Panel { x, row, step: stride * c, len, weights, sums, stride: to_next, first }.run(
                        simd,
                        size,
                        width / S::F32_LANES,
                    );
                }
                if !whole {
                    for (pixel, sums) in room.chunks_exact(width).take(ow).enumerate() {
                        y[pixel * o..][..o - first].copy_from_slice(&sums[..o - first]);
                    }
                }
            }
        }
    }
}

/// Floats of working memory that [`wide`] needs.
pub(super) fn room(pass: &Pass, lanes: usize) -> usize {
    if pass.o.is_multiple_of(lanes) { 0 } else { pass.ow * 2 * lanes }
}

/// The results of a narrow pass over padded images.
#[inline(always)]
pub(super) fn narrow<S: Simd>(simd: S, pass: &Pass, count: usize, padded: &[f32], weights: Weights, y: &mut [f32]) {
    let &Pass { c, o, oh, ow, stride, .. } = pass;
    let (row, window) = (pass.row(), pass.window());
    for (image, line) in (0..count).flat_map(|image| (0..oh).map(move |line| (image, line))) {
        for (start, size) in tiles(ow, widest::<S>()) {
            let x = &padded[image * pass.padded() + line * stride * row + start * stride * c..];
            for channel in 0..o {
                let weights = weights.direct(pass, channel, 1, &mut []);
                let sums = &mut y[((image * oh + line) * ow + start) * o + channel..];
                Dot { x, row, step: stride * c, len: window, weights, sums, stride: o }.run(simd, size);
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
}

impl WeightSums {
    pub(super) fn new(forward: &Pass, lanes: usize) -> Self {
        let narrow = forward.way == Way::Narrow;
        let (scalars, vectors) = if narrow { (forward.o, forward.window()) } else { (forward.window(), forward.o) };
        Self { narrow, k: forward.k, scalars, width: vectors.next_multiple_of(lanes) }
    }

    pub(super) fn len(&self) -> usize {
        self.k * self.scalars * self.width
    }

    pub(super) fn rows(&self) -> usize {
        self.k * self.scalars
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Where the sum for channel `c` of the images and `o` of the results is, at a place of the kernel.
    pub(super) fn place(&self, s: &ConvShape, (ky, kx): (usize, usize), c: usize, o: usize) -> usize {
        let window = kx * s.ci + c;
        let (scalar, vector) = if self.narrow { (o, window) } else { (window, o) };
        (ky * self.scalars + scalar) * self.width + vector
    }

    /// Adds the outer products of some padded images and their results' gradients to some rows of the sums, from row
    /// `first` on.
    #[inline(always)]
    pub(super) fn add<S: Simd>(
        &self,
        simd: S,
        pass: &Pass,
        count: usize,
        (x, grad): (&[f32], &[f32]),
        first: usize,
        sums: &mut [f32],
    ) {
        let &Pass { c, o, oh, ow, stride, .. } = pass;
        let x_strides = Strides { image: pass.padded(), row: stride * pass.row(), pixel: stride * c };
        let grad_strides = Strides { image: oh * ow * o, row: ow * o, pixel: o };
        let vectors = Outer::vectors(self.scalars);
        let rows = sums.len() / self.width;
        let mut at = first;
        while at < first + rows {
            // rows of the sums that are of one row of the kernel
            let (line, scalar) = (at / self.scalars, at % self.scalars);
            let len = (self.scalars - scalar).min(first + rows - at);
            let x = &x[line * pass.row()..];
            for (first_vector, count_vectors) in tiles(self.width / S::F32_LANES, vectors) {
                let vector = first_vector * S::F32_LANES;
                for (start, size) in tiles(len, widest::<S>()) {
                    let scalar = scalar + start;
                    let sums = &mut sums[(at - first + start) * self.width + vector..];
                    let pixels = [count, oh, ow];
                    let (a, a_strides, b, b_strides) = if self.narrow {
                        (grad, grad_strides, x, x_strides)
                    } else {
                        (x, x_strides, grad, grad_strides)
                    };
                    Outer {
                        a: &a[scalar..],
                        a_strides,
                        b: &b[vector..],
                        b_strides,
                        pixels,
                        sums,
                        stride: self.width,
                        first: false,
                    }
                    .run(simd, size, count_vectors);
                }
            }
            at += len;
        }
    }
}
