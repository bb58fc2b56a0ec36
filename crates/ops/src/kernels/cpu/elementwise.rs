//! Sums, factors and copies, on features that lie channels last: `[b, h, w, c]`, or `[b, n, c]` with `n = h * w`.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::denormals::FlushDenormals;
use super::host::{PIECE, arch, min_tasks, min_tasks_of, piece};
use super::silu::{Backward, Forward};

/// `y = silu(x)`, as `torch.nn.functional.silu`.
pub(crate) fn silu(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(PIECE).enumerate().with_min_len(min_tasks()).for_each(|(i, y)| {
        let _flush = FlushDenormals::new();
        y.copy_from_slice(piece(x, i, PIECE));
        arch().dispatch(Forward { x: y, derivative: None });
    });
}

/// The gradient of `silu`: `dx = grad * silu'(x)`.
pub(crate) fn silu_backward(x: &[f32], grad: &[f32], dx: &mut [f32]) {
    dx.par_chunks_mut(PIECE).enumerate().with_min_len(min_tasks()).for_each(|(i, dx)| {
        let _flush = FlushDenormals::new();
        dx.copy_from_slice(piece(x, i, PIECE));
        arch().dispatch(Backward { x: dx, grad: piece(grad, i, PIECE) });
    });
}

/// `y = a + b`
pub(crate) fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(PIECE).enumerate().with_min_len(min_tasks_of(PIECE)).for_each(|(i, y)| {
        let _flush = FlushDenormals::new();
        arch().dispatch(Add { a: piece(a, i, PIECE), b: piece(b, i, PIECE), y });
    });
}

/// `sum += x`
pub(crate) fn accumulate(x: &[f32], sum: &mut [f32]) {
    sum.par_chunks_mut(PIECE).enumerate().with_min_len(min_tasks_of(PIECE)).for_each(|(i, sum)| {
        let _flush = FlushDenormals::new();
        arch().dispatch(Accumulate { x: piece(x, i, PIECE), sum });
    });
}

/// `y = x * factor`
pub(crate) fn scale(x: &[f32], factor: f32, y: &mut [f32]) {
    y.par_chunks_mut(PIECE).enumerate().with_min_len(min_tasks_of(PIECE)).for_each(|(i, y)| {
        let _flush = FlushDenormals::new();
        arch().dispatch(Scale { x: piece(x, i, PIECE), factor, y });
    });
}

/// `x *= factor`, on this thread.
pub(crate) fn scale_in_place(x: &mut [f32], factor: f32) {
    let _flush = FlushDenormals::new();
    arch().dispatch(ScaleInPlace { x, factor });
}

/// Dropout under a mask of 0 and 1 that was drawn with `P(0) = p`: `y = x * (mask / (1 - p))`, as
/// `torch.nn.functional.dropout` in training. Its gradient is the same function of the result's gradient.
///
/// At `p = 1` everything is dropped, by zeros as in torch.
pub(crate) fn dropout(x: &[f32], mask: &[u8], p: f32, y: &mut [f32]) {
    // torch divides the mask in f32, by 1 - p of f64
    let kept = if p < 1.0 { 1.0 / (1.0 - f64::from(p)) as f32 } else { 0.0 };
    y.par_chunks_mut(PIECE).enumerate().with_min_len(min_tasks_of(PIECE)).for_each(|(i, y)| {
        let _flush = FlushDenormals::new();
        let masked = piece(x, i, PIECE).iter().zip(piece(mask, i, PIECE));
        y.iter_mut().zip(masked).for_each(|(y, (&x, &mask))| *y = x * (f32::from(mask) * kept));
    });
}

/// `y[b, n, c] = x[b, n, c] + vector[b, c]`: the embedding of the time step on every pixel.
pub(crate) fn add_vector(x: &[f32], vector: &[f32], [n, c]: [usize; 2], y: &mut [f32]) {
    let tasks = y.par_chunks_mut(n * c).zip(x.par_chunks(n * c)).zip(vector.par_chunks(c));
    tasks.with_min_len(min_tasks_of(n * c)).for_each(|((y, x), vector)| {
        let _flush = FlushDenormals::new();
        arch().dispatch(AddVector { x, vector, y });
    });
}

/// The gradient of the vector in [`add_vector`]: `sums[b, c] = sum over n of grad[b, n, c]`.
pub(crate) fn sum_pixels(grad: &[f32], [n, c]: [usize; 2], sums: &mut [f32]) {
    let tasks = sums.par_chunks_mut(c).zip(grad.par_chunks(n * c));
    tasks.with_min_len(min_tasks_of(n * c)).for_each(|(sums, grad)| {
        let _flush = FlushDenormals::new();
        sums.fill(0.0);
        arch().dispatch(AddColumns { rows: grad, width: c, sums });
    });
}

/// `y[.., ca + cb] = a[.., ca], b[.., cb]`: the channels of two features side by side, as `torch.cat`.
pub(crate) fn concat([a, b]: [&[f32]; 2], [ca, cb]: [usize; 2], y: &mut [f32]) {
    let pixels = (PIECE / (ca + cb)).max(1);
    y.par_chunks_mut(pixels * (ca + cb)).enumerate().with_min_len(min_tasks_of(PIECE)).for_each(|(i, y)| {
        let (a, b) = (piece(a, i, pixels * ca), piece(b, i, pixels * cb));
        let pairs = a.chunks_exact(ca).zip(b.chunks_exact(cb));
        for (y, (a, b)) in y.chunks_exact_mut(ca + cb).zip(pairs) {
            let (left, right) = y.split_at_mut(ca);
            left.copy_from_slice(a);
            right.copy_from_slice(b);
        }
    });
}

/// The gradient of [`concat`]: the parts of `grad[.., ca + cb]`.
pub(crate) fn split(grad: &[f32], [ca, cb]: [usize; 2], [da, db]: [&mut [f32]; 2]) {
    let pixels = (PIECE / (ca + cb)).max(1);
    let parts = da.par_chunks_mut(pixels * ca).zip(db.par_chunks_mut(pixels * cb));
    parts.enumerate().with_min_len(min_tasks_of(PIECE)).for_each(|(i, (da, db))| {
        let pairs = da.chunks_exact_mut(ca).zip(db.chunks_exact_mut(cb));
        for ((da, db), grad) in pairs.zip(piece(grad, i, pixels * (ca + cb)).chunks_exact(ca + cb)) {
            let (left, right) = grad.split_at(ca);
            da.copy_from_slice(left);
            db.copy_from_slice(right);
        }
    });
}

/// The mean of each 2x2 block: `[b, h, w, c] -> [b, h / 2, w / 2, c]`, as `torch.nn.functional.avg_pool2d(x, 2)`; a
/// last odd row or column is dropped.
pub(crate) fn avg_pool(x: &[f32], [h, w, c]: [usize; 3], y: &mut [f32]) {
    let row = w / 2 * c;
    y.par_chunks_mut((h / 2 * row).max(1)).enumerate().with_min_len(min_tasks()).for_each(|(i, y)| {
        let _flush = FlushDenormals::new();
        let image = piece(x, i, h * w * c);
        for (y, x) in y.chunks_exact_mut(row).zip(image.chunks_exact(2 * w * c)) {
            let (top, bottom) = x.split_at(w * c);
            let blocks = top.chunks_exact(2 * c).zip(bottom.chunks_exact(2 * c));
            for (y, (top, bottom)) in y.chunks_exact_mut(c).zip(blocks) {
                let (corners, others) = (top.split_at(c), bottom.split_at(c));
                for (j, y) in y.iter_mut().enumerate() {
                    *y = ((corners.0[j] + corners.1[j]) + (others.0[j] + others.1[j])) * 0.25;
                }
            }
        }
    });
}

/// The gradient of [`avg_pool`]: a quarter for each pixel of a block, zero for what was dropped.
pub(crate) fn avg_pool_backward(grad: &[f32], [h, w, c]: [usize; 3], dx: &mut [f32]) {
    let row = w / 2 * c;
    dx.par_chunks_mut(h * w * c).enumerate().with_min_len(min_tasks()).for_each(|(i, dx)| {
        let _flush = FlushDenormals::new();
        let image = piece(grad, i, h / 2 * row);
        for (y, dx) in dx.chunks_exact_mut(w * c).enumerate() {
            if y / 2 == h / 2 {
                dx.fill(0.0);
                continue;
            }
            let (blocks, dropped) = dx.split_at_mut(2 * row);
            dropped.fill(0.0);
            for (dx, grad) in blocks.chunks_exact_mut(2 * c).zip(image[y / 2 * row..][..row].chunks_exact(c)) {
                let (left, right) = dx.split_at_mut(c);
                left.iter_mut().zip(grad).for_each(|(left, grad)| *left = grad * 0.25);
                right.copy_from_slice(left);
            }
        }
    });
}

struct Add<'a> {
    a: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        add_rows(simd, self.a, self.b, self.y);
    }
}

#[inline(always)]
fn add_rows<S: Simd>(simd: S, a: &[f32], b: &[f32], y: &mut [f32]) {
    let (a, a_rest) = S::as_simd_f32s(a);
    let (b, b_rest) = S::as_simd_f32s(b);
    let (y, y_rest) = S::as_mut_simd_f32s(y);
    for (y, (&a, &b)) in y.iter_mut().zip(a.iter().zip(b)) {
        *y = simd.add_f32s(a, b);
    }
    if !y_rest.is_empty() {
        let sum = simd.add_f32s(simd.partial_load_f32s(a_rest), simd.partial_load_f32s(b_rest));
        simd.partial_store_f32s(y_rest, sum);
    }
}

struct Accumulate<'a> {
    x: &'a [f32],
    sum: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (x, x_rest) = S::as_simd_f32s(self.x);
        let (sum, sum_rest) = S::as_mut_simd_f32s(self.sum);
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum = simd.add_f32s(*sum, x);
        }
        for (sum, &x) in sum_rest.iter_mut().zip(x_rest) {
            *sum += x;
        }
    }
}

struct Scale<'a> {
    x: &'a [f32],
    factor: f32,
    y: &'a mut [f32],
}

impl WithSimd for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let factor = simd.splat_f32s(self.factor);
        let (x, x_rest) = S::as_simd_f32s(self.x);
        let (y, y_rest) = S::as_mut_simd_f32s(self.y);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = simd.mul_f32s(x, factor);
        }
        for (y, &x) in y_rest.iter_mut().zip(x_rest) {
            *y = x * self.factor;
        }
    }
}

struct ScaleInPlace<'a> {
    x: &'a mut [f32],
    factor: f32,
}

impl WithSimd for ScaleInPlace<'_> {
    type Output = ();

    /// Plain code that the compiler turns into the vectors of `S`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.x {
            *x *= self.factor;
        }
    }
}

/// One image.
struct AddVector<'a> {
    x: &'a [f32],
    vector: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for AddVector<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let c = self.vector.len();
        for (x, y) in self.x.chunks_exact(c).zip(self.y.chunks_exact_mut(c)) {
            add_rows(simd, x, self.vector, y);
        }
    }
}

/// `sums[j] += sum over rows of rows[row, j]`, with the sums of 64 rows added at a time, which keeps them exact.
pub(crate) struct AddColumns<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) width: usize,
    pub(crate) sums: &'a mut [f32],
}

impl WithSimd for AddColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, width, sums } = self;
        for rows in rows.chunks(64 * width) {
            let mut at = 0;
            while at < width {
                let columns = match (width - at) / S::F32_LANES {
                    0 => width - at,
                    1..4 => S::F32_LANES,
                    _ => 4 * S::F32_LANES,
                };
                let sums = &mut sums[at..][..columns];
                if columns == 4 * S::F32_LANES {
                    simd.vectorize(ColumnTile::<4> { rows, width, at, sums });
                } else {
                    simd.vectorize(ColumnTile::<1> { rows, width, at, sums });
                }
                at += columns;
            }
        }
    }
}

/// `V` vectors of columns, or one that may be short.
struct ColumnTile<'a, const V: usize> {
    rows: &'a [f32],
    width: usize,
    at: usize,
    sums: &'a mut [f32],
}

impl<const V: usize> WithSimd for ColumnTile<'_, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, width, at, sums: results } = self;
        let mut sums = [simd.splat_f32s(0.0); V];
        for row in rows.chunks_exact(width) {
            let row = &row[at..][..results.len()];
            if let Some(whole) = S::as_simd_f32s(row).0.first_chunk::<V>() {
                for v in 0..V {
                    sums[v] = simd.add_f32s(sums[v], whole[v]);
                }
                continue; // a load of part of a vector takes longer
            }
            for v in 0..V {
                sums[v] = simd.add_f32s(sums[v], simd.partial_load_f32s(&row[v * S::F32_LANES..]));
            }
        }
        for v in 0..V {
            let result = &mut results[v * S::F32_LANES..];
            simd.partial_store_f32s(result, simd.add_f32s(simd.partial_load_f32s(result), sums[v]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{CHANNELS, error, noise, on_threads};

    fn sizes() -> impl Iterator<Item = [usize; 4]> {
        CHANNELS.into_iter().zip(0..).map(|(c, i)| [1 + i % 3, 1 + (2 * i) % 9, 1 + (i + i / 3) % 9, c])
    }

    #[test]
    fn vectors_are_added_to_pixels() {
        for [b, h, w, c] in sizes() {
            let n = h * w;
            let (x, vector) = (noise(1, b * n * c), noise(2, b * c));
            let results = on_threads(|| {
                let (mut y, mut sums) = (vec![f32::NAN; x.len()], vec![f32::NAN; vector.len()]);
                add_vector(&x, &vector, [n, c], &mut y);
                sum_pixels(&x, [n, c], &mut sums);
                [y, sums]
            });
            let mut sums = vec![0.0; b * c];
            for (i, &x) in x.iter().enumerate() {
                let at = i / (n * c) * c + i % c;
                assert_eq!(results[0][i], x + vector[at]);
                sums[at] += f64::from(x);
            }
            let error = error(&results[1], &sums);
            assert!(error < 1e-6, "{b}x{h}x{w}x{c}: {error:.1e}");
        }
    }

    #[test]
    fn many_pixels_are_summed_exactly() {
        let x: Vec<f32> = noise(1, 40_000 * 3).iter().map(|x| x + 10.0).collect();
        let mut sums = [0.0; 3];
        sum_pixels(&x, [40_000, 3], &mut sums);
        let mut expected = [0.0; 3];
        x.iter().enumerate().for_each(|(i, &x)| expected[i % 3] += f64::from(x));
        assert!(error(&sums, &expected) < 1e-6);
    }

    #[test]
    fn numbers_are_added_and_scaled_one_by_one() {
        for len in [1, 15, 16, 17, 1000, PIECE, 2 * PIECE + 5] {
            let (a, b) = (noise(1, len), noise(2, len));
            let [sum, scaled, grown, active, slope] = on_threads(|| {
                let mut results = [const { Vec::new() }; 5].map(|_: Vec<f32>| vec![f32::NAN; len]);
                let [sum, scaled, grown, active, slope] = &mut results;
                add(&a, &b, sum);
                scale(&a, -1.7, scaled);
                grown.copy_from_slice(&b);
                accumulate(&a, grown);
                silu(&a, active);
                silu_backward(&a, &b, slope);
                results
            });
            for i in 0..len {
                assert_eq!([sum[i], grown[i], scaled[i]], [a[i] + b[i], b[i] + a[i], a[i] * -1.7]);
                let (value, derivative) = crate::kernels::cpu::testing::silu_f64(f64::from(a[i]));
                assert!((f64::from(active[i]) - value).abs() < 3e-7 * (1.0 + value.abs()));
                assert!((f64::from(slope[i]) - f64::from(b[i]) * derivative).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_is_dropped_is_zero_and_the_rest_grows() {
        let x = noise(1, 1000);
        let mask: Vec<u8> = noise(2, 1000).iter().map(|&x| u8::from(x > -0.7)).collect();
        for p in [0.0, 0.1, 0.25, 0.9, 1.0] {
            let mut y = vec![f32::NAN; 1000];
            dropout(&x, &mask, p, &mut y);
            for ((y, x), &mask) in y.iter().zip(&x).zip(&mask) {
                let expected = if mask == 0 || p == 1.0 { 0.0 } else { f64::from(*x) / (1.0 - f64::from(p)) };
                assert!((f64::from(*y) - expected).abs() <= 2e-7 * expected.abs());
            }
        }
        let mut y = [0.0; 2];
        dropout(&[f32::NAN, f32::INFINITY], &[0, 0], 0.5, &mut y);
        assert!(y.iter().all(|y| y.is_nan()), "torch multiplies by zero");
    }

    #[test]
    fn channels_are_put_side_by_side_and_parted() {
        for [b, h, w, ca] in sizes() {
            for cb in [1, 5, 16, 33] {
                let pixels = b * h * w;
                let (a, b) = (noise(1, pixels * ca), noise(2, pixels * cb));
                let mut y = vec![f32::NAN; pixels * (ca + cb)];
                concat([&a, &b], [ca, cb], &mut y);
                for (i, &y) in y.iter().enumerate() {
                    let (pixel, channel) = (i / (ca + cb), i % (ca + cb));
                    let expected = if channel < ca { a[pixel * ca + channel] } else { b[pixel * cb + channel - ca] };
                    assert_eq!(y, expected);
                }
                let (mut da, mut db) = (vec![f32::NAN; a.len()], vec![f32::NAN; b.len()]);
                split(&y, [ca, cb], [&mut da, &mut db]);
                assert!(da == a && db == b);
            }
        }
    }

    #[test]
    fn blocks_are_averaged() {
        for [b, h, w, c] in sizes() {
            let [half_h, half_w] = [h / 2, w / 2];
            let x = noise(1, b * h * w * c);
            let grad = noise(2, b * half_h * half_w * c);
            let [y, dx] = on_threads(|| {
                let (mut y, mut dx) = (vec![f32::NAN; grad.len()], vec![f32::NAN; x.len()]);
                avg_pool(&x, [h, w, c], &mut y);
                avg_pool_backward(&grad, [h, w, c], &mut dx);
                [y, dx]
            });
            let (mut mean, mut slope) = (vec![0.0; grad.len()], vec![0.0; x.len()]);
            for (i, &x) in x.iter().enumerate() {
                let [image, row, column, channel] = [i / (h * w * c), i / (w * c) % h / 2, i / c % w / 2, i % c];
                if row < half_h && column < half_w {
                    let at = ((image * half_h + row) * half_w + column) * c + channel;
                    mean[at] += f64::from(x) / 4.0;
                    slope[i] = f64::from(grad[at]) / 4.0;
                }
            }
            assert!(error(&y, &mean) < 3e-7 && error(&dx, &slope) == 0.0, "{b}x{h}x{w}x{c}");
        }
    }
}
