//! The products of all rows of one matrix with all rows of another.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows of either matrix whose products are computed together, in registers.
const TILE: usize = 4;
/// Columns that are multiplied at a time: the rows of a tile stay in the first-level cache.
const COLUMNS: usize = 512;
/// Rows of the result that are one task.
const TASK: usize = 32;

/// `a bᵀ`: the scalar product of each row of `a` `[n, k]` with each row of `b` `[m, k]`, `[n, m]`.
pub(crate) fn gram(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    if k == 0 {
        return vec![];
    }
    let (n, m) = (a.len() / k, b.len() / k);
    let mut products = vec![0.0; n * m];
    if m == 0 {
        return products;
    }
    let arch = Arch::new();
    products.par_chunks_mut(TASK * m).zip(a.par_chunks(TASK * k)).for_each(|(products, a)| {
        for start in (0..k).step_by(COLUMNS) {
            let columns = start..k.min(start + COLUMNS);
            for (products, a) in products.chunks_mut(TILE * m).zip(a.chunks(TILE * k)) {
                arch.dispatch(Rows { products, a, b, k, columns: columns.clone() });
            }
        }
    });
    products
}

/// Adds the products of up to [`TILE`] rows of `a` with all rows of `b`, over some of the columns.
struct Rows<'a> {
    products: &'a mut [f64],
    a: &'a [f64],
    b: &'a [f64],
    k: usize,
    columns: std::ops::Range<usize>,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { products, a, b, k, columns } = self;
        let m = b.len() / k;
        let (rows, mut j) = (a.len() / k, 0);
        // a row that is missing in the last tile is computed as the one before it, and its products are dropped
        let a: [&[f64]; TILE] = std::array::from_fn(|i| part(a, i.min(rows - 1), k, &columns));
        while j < m {
            let b: [&[f64]; TILE] = std::array::from_fn(|i| part(b, (j + i).min(m - 1), k, &columns));
            let sums = tile(simd, a, b);
            for (i, sums) in sums.iter().enumerate().take(rows) {
                for (product, sum) in products[i * m + j..].iter_mut().zip(sums).take(TILE.min(m - j)) {
                    *product += sum;
                }
            }
            j += TILE;
        }
    }
}

#[inline(always)]
fn part<'a>(rows: &'a [f64], i: usize, k: usize, columns: &std::ops::Range<usize>) -> &'a [f64] {
    &rows[i * k + columns.start..i * k + columns.end]
}

/// The products of the rows of two tiles.
#[inline(always)]
fn tile<S: Simd>(simd: S, a: [&[f64]; TILE], b: [&[f64]; TILE]) -> [[f64; TILE]; TILE] {
    let [a0, a1, a2, a3] = a.map(|row| S::as_simd_f64s(row));
    let [b0, b1, b2, b3] = b.map(|row| S::as_simd_f64s(row));
    let mut sums = [[simd.splat_f64s(0.0); TILE]; TILE];
    let heads = a0.0.iter().zip(a1.0).zip(a2.0.iter().zip(a3.0));
    let others = b0.0.iter().zip(b1.0).zip(b2.0.iter().zip(b3.0));
    for (((&a0, &a1), (&a2, &a3)), ((&b0, &b1), (&b2, &b3))) in heads.zip(others) {
        let b = [b0, b1, b2, b3];
        for (sums, a) in sums.iter_mut().zip([a0, a1, a2, a3]) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = simd.mul_add_f64s(a, b, *sum);
            }
        }
    }
    let tails = ([a0.1, a1.1, a2.1, a3.1], [b0.1, b1.1, b2.1, b3.1]);
    let mut products = sums.map(|sums| sums.map(|sum| simd.reduce_sum_f64s(sum)));
    for (products, a) in products.iter_mut().zip(tails.0) {
        for (product, b) in products.iter_mut().zip(tails.1) {
            *product += a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        }
    }
    products
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_every_size() {
        for (n, m, k) in [(1, 1, 1), (3, 5, 7), (4, 4, 8), (33, 70, 530), (65, 2, 1100), (2, 0, 3)] {
            let value = |i: usize| ((i * 7919) % 101) as f64 - 50.0; // whole numbers: every order gives the same sum
            let a: Vec<f64> = (0..n * k).map(value).collect();
            let b: Vec<f64> = (0..m * k).map(|i| value(i + 13)).collect();
            let products = gram(&a, &b, k);
            assert_eq!(products.len(), n * m);
            for (i, product) in products.into_iter().enumerate() {
                let (i, j) = (i / m, i % m);
                let expected: f64 = (0..k).map(|c| a[i * k + c] * b[j * k + c]).sum();
                assert_eq!(product, expected, "{i} {j} of {n} x {m}, {k}");
            }
        }
    }
}
