//! The innermost loops: sums of products held in vector registers.
//!
//! Each kernel is a type, so that `Simd::vectorize` makes one function of it for every instruction set and every tile.
//! 14 sums stay in registers; 28 would spill.

use pulp::{Simd, WithSimd};

/// Pixels of the widest tile. With two vectors of channels it is 14 sums; machines with 16 registers take one less.
pub(super) const fn widest<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 7 } else { 6 }
}

/// Cuts `len` into the fewest tiles of at most `most`, of sizes as equal as can be: `(start, size)`.
pub(super) fn tiles(len: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = len.div_ceil(most);
    (0..count).map(move |i| (i * len / count, (i + 1) * len / count - i * len / count))
}

/// Adjacent pixels of a row, and a panel of one or two vectors of output channels:
/// `sums[pixel, channel] += sum over rows and j of x[row, pixel * step + j] * weights[row, j, channel]`.
#[derive(Debug)]
pub(super) struct Panel<'a> {
    /// Padded, channels last, from the first pixel's window on.
    pub(super) x: &'a [f32],
    /// Floats from one row to the next, and from one pixel to the next.
    pub(super) row: usize,
    pub(super) step: usize,
    /// Floats of the reduction in each row.
    pub(super) len: usize,
    /// `[rows, len, channels]`
    pub(super) weights: &'a [f32],
    /// `[pixels, stride]`
    pub(super) sums: &'a mut [f32],
    /// Floats from the sums of one pixel to those of the next.
    pub(super) stride: usize,
    /// Whether the sums begin here, whatever they held.
    pub(super) first: bool,
}

impl Panel<'_> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S, pixels: usize, vectors: usize) {
        match (pixels, vectors) {
            (1, 1) => simd.vectorize(PanelTile::<1, 1>(self)),
            (2, 1) => simd.vectorize(PanelTile::<2, 1>(self)),
            (3, 1) => simd.vectorize(PanelTile::<3, 1>(self)),
            (4, 1) => simd.vectorize(PanelTile::<4, 1>(self)),
            (5, 1) => simd.vectorize(PanelTile::<5, 1>(self)),
            (6, 1) => simd.vectorize(PanelTile::<6, 1>(self)),
            (7, 1) => simd.vectorize(PanelTile::<7, 1>(self)),
            (1, _) => simd.vectorize(PanelTile::<1, 2>(self)),
            (2, _) => simd.vectorize(PanelTile::<2, 2>(self)),
            (3, _) => simd.vectorize(PanelTile::<3, 2>(self)),
            (4, _) => simd.vectorize(PanelTile::<4, 2>(self)),
            (5, _) => simd.vectorize(PanelTile::<5, 2>(self)),
            (6, _) => simd.vectorize(PanelTile::<6, 2>(self)),
            _ => simd.vectorize(PanelTile::<7, 2>(self)),
        }
    }
}

struct PanelTile<'a, const P: usize, const V: usize>(Panel<'a>);

impl<const P: usize, const V: usize> WithSimd for PanelTile<'_, P, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panel { x, row, step, len, weights, sums: held, stride, first } = self.0;
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        if !first {
            for p in 0..P {
                let held = S::as_simd_f32s(&held[p * stride..][..V * S::F32_LANES]).0;
                sums[p].copy_from_slice(held);
            }
        }
        let (weights, _) = S::as_simd_f32s(weights).0.as_chunks::<V>();
        for (r, weights) in weights.chunks_exact(len).enumerate() {
            let x = &x[r * row..];
            let mut windows = [&x[..0]; P];
            for p in 0..P {
                windows[p] = &x[p * step..][..len];
            }
            for j in 0..len {
                let weights = weights[j];
                for p in 0..P {
                    let x = simd.splat_f32s(windows[p][j]);
                    for v in 0..V {
                        sums[p][v] = simd.mul_add_e_f32s(x, weights[v], sums[p][v]);
                    }
                }
            }
        }
        for p in 0..P {
            let held = S::as_mut_simd_f32s(&mut held[p * stride..][..V * S::F32_LANES]).0;
            held.copy_from_slice(&sums[p]);
        }
    }
}

/// Adjacent pixels of a row and one output channel, the vectors along the reduction:
/// `sums[pixel * stride] = sum over rows and j of x[row, pixel * step + j] * weights[row, j]`.
pub(super) struct Dot<'a> {
    pub(super) x: &'a [f32],
    pub(super) row: usize,
    pub(super) step: usize,
    pub(super) len: usize,
    /// `[rows, len]`
    pub(super) weights: &'a [f32],
    pub(super) sums: &'a mut [f32],
    pub(super) stride: usize,
}

impl Dot<'_> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S, pixels: usize) {
        match pixels {
            1 => simd.vectorize(DotTile::<1>(self)),
            2 => simd.vectorize(DotTile::<2>(self)),
            3 => simd.vectorize(DotTile::<3>(self)),
            4 => simd.vectorize(DotTile::<4>(self)),
            5 => simd.vectorize(DotTile::<5>(self)),
            6 => simd.vectorize(DotTile::<6>(self)),
            _ => simd.vectorize(DotTile::<7>(self)),
        }
    }
}

struct DotTile<'a, const P: usize>(Dot<'a>);

impl<const P: usize> WithSimd for DotTile<'_, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Dot { x, row, step, len, weights, sums: results, stride } = self.0;
        let mut sums = [simd.splat_f32s(0.0); P];
        for (r, weights) in weights.chunks_exact(len).enumerate() {
            let x = &x[r * row..];
            let mut windows = [S::as_simd_f32s(&x[..0]); P];
            for p in 0..P {
                windows[p] = S::as_simd_f32s(&x[p * step..][..len]);
            }
            let (weights, weights_rest) = S::as_simd_f32s(weights);
            for (j, &weights) in weights.iter().enumerate() {
                for p in 0..P {
                    sums[p] = simd.mul_add_e_f32s(windows[p].0[j], weights, sums[p]);
                }
            }
            if !weights_rest.is_empty() {
                let weights = simd.partial_load_f32s(weights_rest);
                for p in 0..P {
                    sums[p] = simd.mul_add_e_f32s(simd.partial_load_f32s(windows[p].1), weights, sums[p]);
                }
            }
        }
        for (p, sum) in sums.into_iter().enumerate() {
            results[p * stride] = simd.reduce_sum_f32s(sum);
        }
    }
}

/// Where a kernel finds pixel `(image, y, x)`: at `image * image + y * row + x * pixel`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strides {
    pub(super) image: usize,
    pub(super) row: usize,
    pub(super) pixel: usize,
}

/// A sum of outer products over all pixels of some images:
/// `sums[i * stride + j] += sum over pixels of a[pixel, i] * b[pixel, j]`, `i` a few scalars, `j` a few vectors.
pub(super) struct Outer<'a> {
    pub(super) a: &'a [f32],
    pub(super) a_strides: Strides,
    pub(super) b: &'a [f32],
    pub(super) b_strides: Strides,
    /// Images, rows, columns.
    pub(super) pixels: [usize; 3],
    pub(super) sums: &'a mut [f32],
    pub(super) stride: usize,
    /// Whether the sums begin here, whatever they held.
    pub(super) first: bool,
}

impl Outer<'_> {
    /// The most vectors for a number of scalars.
    pub(super) fn vectors(scalars: usize) -> usize {
        if scalars <= 2 { 5 } else { 2 }
    }

    #[inline(always)]
    pub(super) fn run<S: Simd>(self, simd: S, scalars: usize, vectors: usize) {
        match (scalars, vectors) {
            (1, 1) => simd.vectorize(OuterTile::<1, 1>(self)),
            (2, 1) => simd.vectorize(OuterTile::<2, 1>(self)),
            (3, 1) => simd.vectorize(OuterTile::<3, 1>(self)),
            (4, 1) => simd.vectorize(OuterTile::<4, 1>(self)),
            (5, 1) => simd.vectorize(OuterTile::<5, 1>(self)),
            (6, 1) => simd.vectorize(OuterTile::<6, 1>(self)),
            (7, 1) => simd.vectorize(OuterTile::<7, 1>(self)),
            (1, 2) => simd.vectorize(OuterTile::<1, 2>(self)),
            (2, 2) => simd.vectorize(OuterTile::<2, 2>(self)),
            (3, 2) => simd.vectorize(OuterTile::<3, 2>(self)),
            (4, 2) => simd.vectorize(OuterTile::<4, 2>(self)),
            (5, 2) => simd.vectorize(OuterTile::<5, 2>(self)),
            (6, 2) => simd.vectorize(OuterTile::<6, 2>(self)),
            (7, 2) => simd.vectorize(OuterTile::<7, 2>(self)),
            (1, 3) => simd.vectorize(OuterTile::<1, 3>(self)),
            (1, 4) => simd.vectorize(OuterTile::<1, 4>(self)),
            (1, _) => simd.vectorize(OuterTile::<1, 5>(self)),
            (_, 3) => simd.vectorize(OuterTile::<2, 3>(self)),
            (_, 4) => simd.vectorize(OuterTile::<2, 4>(self)),
            _ => simd.vectorize(OuterTile::<2, 5>(self)),
        }
    }
}

struct OuterTile<'a, const P: usize, const V: usize>(Outer<'a>);

impl<const P: usize, const V: usize> WithSimd for OuterTile<'_, P, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Outer { a, a_strides, b, b_strides, pixels: [images, rows, columns], sums: results, stride, first } =
            self.0;
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        for image in 0..images {
            for row in 0..rows {
                let a = &a[image * a_strides.image + row * a_strides.row..];
                let b = &b[image * b_strides.image + row * b_strides.row..];
                for column in 0..columns {
                    let a = &a[column * a_strides.pixel..][..P];
                    let b = S::as_simd_f32s(&b[column * b_strides.pixel..][..V * S::F32_LANES]).0;
                    for p in 0..P {
                        let a = simd.splat_f32s(a[p]);
                        for v in 0..V {
                            sums[p][v] = simd.mul_add_e_f32s(a, b[v], sums[p][v]);
                        }
                    }
                }
            }
        }
        for (p, sums) in sums.iter().enumerate() {
            let results = S::as_mut_simd_f32s(&mut results[p * stride..][..V * S::F32_LANES]).0;
            for (result, &sum) in results.iter_mut().zip(sums) {
                *result = if first { sum } else { simd.add_f32s(*result, sum) };
            }
        }
    }
}
