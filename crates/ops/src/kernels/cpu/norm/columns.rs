//! The loops over pixels: rows of `width` numbers, a few vectors of columns at a time, whose sums stay in registers.

use pulp::{Simd, WithSimd};

use crate::kernels::cpu::silu::silu_vector;

/// Numbers that are read over and over while they lie in the nearest cache.
const CHUNK: usize = 1 << 13;

/// Rows that make about a chunk.
fn chunk_rows(width: usize) -> usize {
    (CHUNK / width).max(8)
}

/// `V` vectors of columns from `at` on, the last of which may be short.
#[derive(Clone, Copy)]
struct Columns<const V: usize> {
    at: usize,
    end: usize,
}

impl<const V: usize> Columns<V> {
    #[inline(always)]
    fn load<S: Simd>(self, simd: S, row: &[f32]) -> [S::f32s; V] {
        let row = &row[self.at..self.end];
        if let Some(whole) = S::as_simd_f32s(row).0.first_chunk() {
            return *whole; // a load of part of a vector takes longer
        }
        let mut vectors = [simd.splat_f32s(0.0); V];
        for v in 0..V {
            vectors[v] = simd.partial_load_f32s(&row[v * S::F32_LANES..]);
        }
        vectors
    }

    #[inline(always)]
    fn store<S: Simd>(self, simd: S, row: &mut [f32], vectors: [S::f32s; V]) {
        let row = &mut row[self.at..self.end];
        if let Some(whole) = S::as_mut_simd_f32s(row).0.first_chunk_mut() {
            *whole = vectors;
            return;
        }
        for v in 0..V {
            simd.partial_store_f32s(&mut row[v * S::F32_LANES..], vectors[v]);
        }
    }
}

/// The columns from `at` on that are computed together: two vectors, or one that may be short. Where they end.
#[inline(always)]
fn block_end<S: Simd>(at: usize, width: usize) -> usize {
    if width - at >= 2 * S::F32_LANES { at + 2 * S::F32_LANES } else { width.min(at + S::F32_LANES) }
}

/// Mean of each column, less its first number, and the sum of the squares of the distances from the mean. Chunks of
/// rows are combined by the method of Chan, Golub and LeVeque (1979).
///
/// Measured from the first number, a mean of 1000 costs the deviation no digits.
pub(super) struct Moments<'a> {
    pub(super) rows: &'a [f32],
    pub(super) width: usize,
    pub(super) mean: &'a mut [f32],
    pub(super) squares: &'a mut [f32],
}

impl WithSimd for Moments<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, width, mean, squares } = self;
        let (first, mut before) = (&rows[..width], 0);
        for rows in rows.chunks(chunk_rows(width) * width) {
            let mut at = 0;
            while at < width {
                let end = block_end::<S>(at, width);
                let (mean, squares) = (&mut *mean, &mut *squares);
                if end - at == 2 * S::F32_LANES {
                    let columns = Columns::<2> { at, end };
                    simd.vectorize(MomentsOf { columns, first, rows, width, before, mean, squares });
                } else {
                    let columns = Columns::<1> { at, end };
                    simd.vectorize(MomentsOf { columns, first, rows, width, before, mean, squares });
                }
                at = end;
            }
            before += rows.len() / width;
        }
    }
}

struct MomentsOf<'a, const V: usize> {
    columns: Columns<V>,
    first: &'a [f32],
    rows: &'a [f32],
    width: usize,
    /// Rows whose moments `mean` and `squares` already hold.
    before: usize,
    mean: &'a mut [f32],
    squares: &'a mut [f32],
}

impl<const V: usize> WithSimd for MomentsOf<'_, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { columns, first, rows, width, before, mean: means, squares: all_squares } = self;
        let count = (rows.len() / width) as f32;
        let first = columns.load(simd, first);
        let (mut mean, mut centre) = ([simd.splat_f32s(0.0); V], first);
        for row in rows.chunks_exact(width) {
            let x = columns.load(simd, row);
            for v in 0..V {
                mean[v] = simd.add_f32s(mean[v], simd.sub_f32s(x[v], first[v]));
            }
        }
        for v in 0..V {
            mean[v] = simd.div_f32s(mean[v], simd.splat_f32s(count));
            centre[v] = simd.add_f32s(first[v], mean[v]);
        }
        let mut squares = [simd.splat_f32s(0.0); V];
        for row in rows.chunks_exact(width) {
            let x = columns.load(simd, row);
            for v in 0..V {
                let distance = simd.sub_f32s(x[v], centre[v]);
                squares[v] = simd.mul_add_e_f32s(distance, distance, squares[v]);
            }
        }
        if before > 0 {
            let before = before as f32;
            let share = simd.splat_f32s(count / (before + count));
            let (mean_before, squares_before) = (columns.load(simd, means), columns.load(simd, all_squares));
            for v in 0..V {
                let moved = simd.sub_f32s(mean[v], mean_before[v]);
                mean[v] = simd.mul_add_e_f32s(moved, share, mean_before[v]);
                let between = simd.mul_f32s(simd.mul_f32s(moved, moved), simd.mul_f32s(simd.splat_f32s(before), share));
                squares[v] = simd.add_f32s(simd.add_f32s(squares_before[v], squares[v]), between);
            }
        }
        columns.store(simd, means, mean);
        columns.store(simd, all_squares, squares);
    }
}

/// `y = (x - centre) * scale + shift`, and SiLU of it where wanted.
pub(super) struct Apply<'a> {
    pub(super) x: &'a [f32],
    pub(super) width: usize,
    pub(super) centre: &'a [f32],
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) silu: bool,
    pub(super) y: &'a mut [f32],
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, width, centre, scale, shift, silu, y } = self;
        for (x, y) in x.chunks(width).zip(y.chunks_mut(width)) {
            let (centre, scale, shift) = (&centre[..x.len()], &scale[..x.len()], &shift[..x.len()]);
            let ((x, x_rest), (y, y_rest)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(y));
            let (centre, centre_rest) = S::as_simd_f32s(centre);
            let (scale, scale_rest) = S::as_simd_f32s(scale);
            let (shift, shift_rest) = S::as_simd_f32s(shift);
            for ((y, &x), ((&centre, &scale), &shift)) in y.iter_mut().zip(x).zip(centre.iter().zip(scale).zip(shift)) {
                let affine = simd.mul_add_e_f32s(simd.sub_f32s(x, centre), scale, shift);
                *y = if silu { silu_vector(simd, affine).0 } else { affine };
            }
            if !y_rest.is_empty() {
                let distance = simd.sub_f32s(simd.partial_load_f32s(x_rest), simd.partial_load_f32s(centre_rest));
                let (scale, shift) = (simd.partial_load_f32s(scale_rest), simd.partial_load_f32s(shift_rest));
                let affine = simd.mul_add_e_f32s(distance, scale, shift);
                simd.partial_store_f32s(y_rest, if silu { silu_vector(simd, affine).0 } else { affine });
            }
        }
    }
}

/// The gradient before SiLU, and its sums over rows: times `(x - centre) * rstd`, and plain.
pub(super) struct Slopes<'a> {
    pub(super) x: &'a [f32],
    pub(super) grad: &'a [f32],
    pub(super) width: usize,
    /// `centre`, `rstd`, `weight`, `bias` of each column.
    pub(super) rows: [&'a [f32]; 4],
    pub(super) silu: bool,
    pub(super) before: &'a mut [f32],
    pub(super) sums: [&'a mut [f32]; 2],
}

impl WithSimd for Slopes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, grad, width, rows, silu, before, sums: [by_x, plain] } = self;
        let chunk = chunk_rows(width) * width;
        for ((x, grad), before) in x.chunks(chunk).zip(grad.chunks(chunk)).zip(before.chunks_mut(chunk)) {
            let mut at = 0;
            while at < width {
                let end = block_end::<S>(at, width);
                let (before, sums) = (&mut *before, [&mut *by_x, &mut *plain]);
                let slopes = Slopes { x, grad, width, rows, silu, before, sums };
                if end - at == 2 * S::F32_LANES {
                    simd.vectorize(SlopesOf { columns: Columns::<2> { at, end }, slopes });
                } else {
                    simd.vectorize(SlopesOf { columns: Columns::<1> { at, end }, slopes });
                }
                at = end;
            }
        }
    }
}

struct SlopesOf<'a, const V: usize> {
    columns: Columns<V>,
    slopes: Slopes<'a>,
}

impl<const V: usize> WithSimd for SlopesOf<'_, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { columns, slopes: Slopes { x, grad, width, rows, silu, before, sums } } = self;
        let [centre, rstd, weight, bias] = rows;
        let (centre, rstd) = (columns.load(simd, centre), columns.load(simd, rstd));
        let (weight, bias) = (columns.load(simd, weight), columns.load(simd, bias));
        let (mut by_x, mut plain) = ([simd.splat_f32s(0.0); V], [simd.splat_f32s(0.0); V]);
        let inputs = x.chunks_exact(width).zip(grad.chunks_exact(width));
        for ((x, grad), before) in inputs.zip(before.chunks_exact_mut(width)) {
            let (x, mut slope) = (columns.load(simd, x), columns.load(simd, grad));
            for v in 0..V {
                let normal = simd.mul_f32s(simd.sub_f32s(x[v], centre[v]), rstd[v]);
                if silu {
                    let affine = simd.mul_add_e_f32s(normal, weight[v], bias[v]);
                    slope[v] = simd.mul_f32s(slope[v], silu_vector(simd, affine).1);
                }
                by_x[v] = simd.mul_add_e_f32s(slope[v], normal, by_x[v]);
                plain[v] = simd.add_f32s(plain[v], slope[v]);
            }
            columns.store(simd, before, slope);
        }
        for (sums, of_chunk) in sums.into_iter().zip([by_x, plain]) {
            let mut total = columns.load(simd, sums);
            for v in 0..V {
                total[v] = simd.add_f32s(total[v], of_chunk[v]);
            }
            columns.store(simd, sums, total);
        }
    }
}

/// `dx = dx * factor + (x - centre) * slope + offset`
pub(super) struct Finish<'a> {
    pub(super) x: &'a [f32],
    pub(super) width: usize,
    /// `centre`, `factor`, `slope`, `offset` of each column.
    pub(super) rows: [&'a [f32]; 4],
    pub(super) dx: &'a mut [f32],
}

impl WithSimd for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, width, rows: [centre, factor, slope, offset], dx } = self;
        for (x, dx) in x.chunks(width).zip(dx.chunks_mut(width)) {
            let len = x.len();
            let ((x, x_rest), (dx, dx_rest)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(dx));
            let (centre, centre_rest) = S::as_simd_f32s(&centre[..len]);
            let (factor, factor_rest) = S::as_simd_f32s(&factor[..len]);
            let (slope, slope_rest) = S::as_simd_f32s(&slope[..len]);
            let (offset, offset_rest) = S::as_simd_f32s(&offset[..len]);
            let rows = centre.iter().zip(factor).zip(slope.iter().zip(offset));
            for ((dx, &x), ((&centre, &factor), (&slope, &offset))) in dx.iter_mut().zip(x).zip(rows) {
                let along_x = simd.mul_add_e_f32s(simd.sub_f32s(x, centre), slope, offset);
                *dx = simd.mul_add_e_f32s(*dx, factor, along_x);
            }
            if !dx_rest.is_empty() {
                let distance = simd.sub_f32s(simd.partial_load_f32s(x_rest), simd.partial_load_f32s(centre_rest));
                let (slope, offset) = (simd.partial_load_f32s(slope_rest), simd.partial_load_f32s(offset_rest));
                let along_x = simd.mul_add_e_f32s(distance, slope, offset);
                let (before, factor) = (simd.partial_load_f32s(dx_rest), simd.partial_load_f32s(factor_rest));
                simd.partial_store_f32s(dx_rest, simd.mul_add_e_f32s(before, factor, along_x));
            }
        }
    }
}
