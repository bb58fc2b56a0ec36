//! Products of matrices on one thread: the right one packed in panels of two vectors, the sums in registers.
//!
//! An element's products are added in the order of the reduction whatever the tiles, so that it is the same bits
//! wherever a task begins.

use pulp::{Arch, Simd, WithSimd};

use super::host::{arch, lanes};
use super::transpose::transpose;
use super::vectors::narrower;

/// The left matrix, `[m, k]`: element `(i, p)` is at `i * row + p * step`. One of the two is 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// How the right matrix `[k, n]` is packed: panels of `[k, 2 vectors]`, the last of one vector where that is enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panels {
    k: usize,
    n: usize,
    lanes: usize,
}

impl Panels {
    /// So few columns that half a vector holds them are computed with vectors of half the width, of which a machine
    /// computes twice as many.
    pub(crate) fn new(k: usize, n: usize) -> Self {
        let lanes = match narrower(n) {
            Some((_, lanes)) => lanes,
            None => lanes(),
        };
        Self { k, n, lanes }
    }

    /// The vectors of these panels.
    fn arch(&self) -> Arch {
        narrower(self.n).map_or_else(arch, |(arch, _)| arch)
    }

    /// Floats of all panels.
    pub(crate) fn len(&self) -> usize {
        self.k * self.n.next_multiple_of(self.lanes)
    }

    /// Columns of a panel, but for the last.
    pub(crate) fn width(&self) -> usize {
        2 * self.lanes
    }

    /// Packs all panels of a matrix whose element `(p, j)` is at `p * row + j`.
    pub(crate) fn pack(self, from: &[f32], row: usize, to: &mut [f32]) {
        self.arch().dispatch(Pack { panels: self, from, row, to });
    }

    /// Packs panels, from the `first` on, of a matrix whose element `(p, j)` is at `j * row + p`. Columns that fill up
    /// the last vector are left as they are: what is computed from them is not stored.
    pub(crate) fn pack_turned(self, first: usize, from: &[f32], row: usize, to: &mut [f32]) {
        let panels = to.chunks_mut(self.width() * self.k);
        let starts = (first * self.width()..self.n).step_by(self.width());
        for (start, to) in starts.zip(panels) {
            let columns = self.width().min(self.n - start);
            transpose(&from[start * row..], row, to, columns.next_multiple_of(self.lanes), columns, self.k);
        }
    }
}

struct Pack<'a> {
    panels: Panels,
    from: &'a [f32],
    row: usize,
    to: &'a mut [f32],
}

impl WithSimd for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { panels: Panels { k, n, .. }, from, row, to } = self;
        let (to, _) = S::as_mut_simd_f32s(to);
        for (i, to) in to.chunks_mut(2 * k).enumerate() {
            let start = i * 2 * S::F32_LANES;
            if start >= n {
                break;
            }
            let columns = n - start;
            for p in 0..k {
                let from = &from[p * row + start..];
                if columns >= 2 * S::F32_LANES {
                    let from = S::as_simd_f32s(&from[..2 * S::F32_LANES]).0;
                    to[2 * p..][..2].copy_from_slice(from);
                } else if columns > S::F32_LANES {
                    to[2 * p] = simd.partial_load_f32s(from);
                    to[2 * p + 1] = simd.partial_load_f32s(&from[S::F32_LANES..columns]);
                } else {
                    to[p] = simd.partial_load_f32s(&from[..columns]);
                }
            }
        }
    }
}

/// `c[i * c_row + j] = sum over p of left[i, p] * right[p, j]`, or that added to `c`, for `i` below `m`.
pub(crate) struct Product<'a> {
    pub(crate) left: Left<'a>,
    pub(crate) m: usize,
    /// Packed; `k` is not 0.
    pub(crate) right: &'a [f32],
    pub(crate) panels: Panels,
    pub(crate) c: &'a mut [f32],
    pub(crate) c_row: usize,
    pub(crate) add: bool,
}

impl Product<'_> {
    pub(crate) fn run(self) {
        self.panels.arch().dispatch(self);
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, m, right, panels: Panels { k, n, lanes }, c, c_row, add } = self;
        let most = if S::REGISTER_COUNT >= 32 || n <= lanes { 7 } else { 6 };
        let count = m.div_ceil(most);
        for (right, start) in right.chunks(2 * lanes * k).zip((0..n).step_by(2 * lanes)) {
            let columns = (n - start).min(2 * lanes);
            for i in 0..count {
                let (row, rows) = (i * m / count, (i + 1) * m / count - i * m / count);
                let left = Left { numbers: &left.numbers[row * left.row..], ..left };
                let c = &mut c[row * c_row + start..];
                Tile { left, k, right, c, c_row, columns, add }.run(simd, rows);
            }
        }
    }
}

/// A few rows of the left matrix and one panel of the right one.
struct Tile<'a> {
    left: Left<'a>,
    k: usize,
    right: &'a [f32],
    c: &'a mut [f32],
    c_row: usize,
    columns: usize,
    add: bool,
}

impl Tile<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, rows: usize) {
        match (rows, self.columns.div_ceil(S::F32_LANES)) {
            (1, 1) => simd.vectorize(SizedTile::<1, 1>(self)),
            (2, 1) => simd.vectorize(SizedTile::<2, 1>(self)),
            (3, 1) => simd.vectorize(SizedTile::<3, 1>(self)),
            (4, 1) => simd.vectorize(SizedTile::<4, 1>(self)),
            (5, 1) => simd.vectorize(SizedTile::<5, 1>(self)),
            (6, 1) => simd.vectorize(SizedTile::<6, 1>(self)),
            (7, 1) => simd.vectorize(SizedTile::<7, 1>(self)),
            (1, _) => simd.vectorize(SizedTile::<1, 2>(self)),
            (2, _) => simd.vectorize(SizedTile::<2, 2>(self)),
            (3, _) => simd.vectorize(SizedTile::<3, 2>(self)),
            (4, _) => simd.vectorize(SizedTile::<4, 2>(self)),
            (5, _) => simd.vectorize(SizedTile::<5, 2>(self)),
            (6, _) => simd.vectorize(SizedTile::<6, 2>(self)),
            _ => simd.vectorize(SizedTile::<7, 2>(self)),
        }
    }
}

struct SizedTile<'a, const P: usize, const V: usize>(Tile<'a>);

impl<const P: usize, const V: usize> WithSimd for SizedTile<'_, P, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tile { left, k, right, c, c_row, columns, add } = self.0;
        let right = &S::as_simd_f32s(right).0.as_chunks::<V>().0[..k];
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        if left.step == 1 {
            let mut rows = [&left.numbers[..0]; P];
            for (p, row) in rows.iter_mut().enumerate() {
                *row = &left.numbers[p * left.row..][..k];
            }
            for j in 0..k {
                let right = right[j];
                for p in 0..P {
                    let left = simd.splat_f32s(rows[p][j]);
                    for v in 0..V {
                        sums[p][v] = simd.mul_add_e_f32s(left, right[v], sums[p][v]);
                    }
                }
            }
        } else {
            for (j, &right) in right.iter().enumerate() {
                let column = &left.numbers[j * left.step..][..P];
                for p in 0..P {
                    let left = simd.splat_f32s(column[p]);
                    for v in 0..V {
                        sums[p][v] = simd.mul_add_e_f32s(left, right[v], sums[p][v]);
                    }
                }
            }
        }
        for (p, sums) in sums.iter().enumerate() {
            let (whole, rest) = S::as_mut_simd_f32s(&mut c[p * c_row..][..columns]);
            for (c, &sum) in whole.iter_mut().zip(sums) {
                *c = if add { simd.add_f32s(*c, sum) } else { sum };
            }
            if !rest.is_empty() {
                let before = if add { simd.partial_load_f32s(rest) } else { simd.splat_f32s(0.0) };
                simd.partial_store_f32s(rest, simd.add_f32s(before, sums[V - 1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{error, noise};

    #[test]
    fn products_of_all_sizes_and_layouts() {
        for (m, k, n) in
            [(1, 1, 1), (7, 3, 16), (8, 17, 17), (13, 5, 31), (14, 64, 33), (3, 9, 48), (29, 130, 64), (20, 8, 130)]
        {
            let (a, b) = (noise(1, m * k), noise(2, k * n));
            let flipped = |x: &[f32], rows: usize, columns: usize| {
                (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect::<Vec<_>>()
            };
            let (a_turned, b_turned) = (flipped(&a, m, k), flipped(&b, k, n));
            let at =
                |i: usize, j: usize| (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum::<f64>();
            let expected: Vec<f64> = (0..m * n).map(|i| at(i / n, i % n)).collect();
            let panels = Panels::new(k, n);
            for (turned_left, turned_right, add) in
                [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
            {
                let mut right = vec![f32::NAN; panels.len()];
                if turned_right {
                    panels.pack_turned(0, &b_turned, k, &mut right);
                } else {
                    panels.pack(&b, n, &mut right);
                }
                let left = if turned_left {
                    Left { numbers: &a_turned, row: 1, step: m }
                } else {
                    Left { numbers: &a, row: k, step: 1 }
                };
                let (c_row, start) = (n + 3, if add { 1.0 } else { f32::NAN });
                let mut c = vec![start; m * c_row];
                Product { left, m, right: &right, panels, c: &mut c, c_row, add }.run();
                let (got, beside): (Vec<_>, Vec<_>) = c.chunks(c_row).map(|row| row.split_at(n)).unzip();
                let got: Vec<f32> = got.concat().iter().map(|x| if add { x - 1.0 } else { *x }).collect();
                let error = error(&got, &expected);
                assert!(error < 2e-6, "{m}x{k}x{n}: {error:.1e}");
                assert!(beside.concat().iter().all(|x| x.to_bits() == start.to_bits()), "{m}x{k}x{n}: outside of it");
            }
        }
    }
}
