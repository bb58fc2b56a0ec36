//! Distances between images in feature space: precision and recall, nearest neighbours.

use kakusan_pipeline::{Error, Result};
use rayon::prelude::*;

use crate::Features;
use crate::linalg::gram;

/// Rows whose distances to all others are held at a time.
const ROWS: usize = 128;

/// Precision and recall (Kynkäänniemi et al. 2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// The share of the samples that lie in the real images' manifold: how real they are.
    pub precision: f64,
    /// The share of the real images that lie in the samples' manifold: how much of the data the samples cover.
    pub recall: f64,
}

/// Precision and recall of `samples` against `real` images. A manifold is the union of balls around the images of a
/// set, each of which reaches to its image's `k`-th nearest neighbour in the set; the paper has `k = 3`.
///
/// # Errors
/// When a set has no more than `k` images, or the dimensions differ.
pub fn precision_recall(real: &Features, samples: &Features, k: usize) -> Result<PrecisionRecall> {
    let least = real.len().min(samples.len());
    if k == 0 || least <= k {
        return Err(Error::Unfit(format!("precision and recall need more than {k} images, and there are {least}")));
    }
    let share = |of: &Features, within: &Features| -> Result<f64> {
        let radii = radii(within, k)?;
        let inside = |_: usize, distances: &[f64]| distances.iter().zip(&radii).any(|(d, radius)| d <= radius);
        let inside = each_row(of, within, inside)?;
        Ok(inside.iter().filter(|inside| **inside).count() as f64 / of.len() as f64)
    };
    Ok(PrecisionRecall { precision: share(samples, real)?, recall: share(real, samples)? })
}

/// A neighbour in feature space.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its index.
    pub index: usize,
    /// The Euclidean distance.
    pub distance: f64,
}

/// For each of `queries`, its `k` nearest `points` (or all, if there are fewer), the nearest first.
///
/// # Errors
/// When the dimensions differ.
pub fn nearest(queries: &Features, points: &Features, k: usize) -> Result<Vec<Vec<Neighbour>>> {
    each_row(queries, points, |_, distances| smallest(distances, k))
}

/// The squared distance of each row to its `k`-th nearest other row.
fn radii(points: &Features, k: usize) -> Result<Vec<f64>> {
    each_row(points, points, |i, distances| {
        let mut others: Vec<f64> = distances.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, d)| *d).collect();
        *others.select_nth_unstable_by(k - 1, f64::total_cmp).1
    })
}

/// The `k` smallest distances, in order; of equal ones the first.
fn smallest(distances: &[f64], k: usize) -> Vec<Neighbour> {
    let mut order: Vec<usize> = (0..distances.len()).collect();
    let k = k.min(order.len());
    let compare = |&i: &usize, &j: &usize| distances[i].total_cmp(&distances[j]).then(i.cmp(&j));
    if k < order.len() {
        order.select_nth_unstable_by(k, compare);
    }
    order.truncate(k);
    order.sort_unstable_by(compare);
    order.into_iter().map(|index| Neighbour { index, distance: distances[index].sqrt() }).collect()
}

/// What `find` makes of the squared distances of each query to all points; it gets the query's index, too.
fn each_row<R: Send>(
    queries: &Features,
    points: &Features,
    find: impl Fn(usize, &[f64]) -> R + Sync,
) -> Result<Vec<R>> {
    let d = points.dim();
    if queries.dim() != d {
        return Err(Error::Unfit(format!("features of {} and of {d} numbers cannot be compared", queries.dim())));
    }
    let as_f64 = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let norms =
        |rows: &[f64]| rows.chunks_exact(d.max(1)).map(|row| row.iter().map(|x| x * x).sum()).collect::<Vec<f64>>();
    let points = as_f64(points.values());
    let squares = norms(&points);
    let mut found = Vec::with_capacity(queries.len());
    for (block, rows) in queries.values().chunks(ROWS * d.max(1)).enumerate() {
        let rows = as_f64(rows);
        let mut products = gram(&rows, &points, d);
        let of_row = |(i, (products, square)): (usize, (&mut [f64], f64))| {
            products.iter_mut().zip(&squares).for_each(|(p, other)| *p = (square + other - 2.0 * *p).max(0.0));
            find(block * ROWS + i, products)
        };
        let squares_of_rows = norms(&rows);
        found.par_extend(products.par_chunks_mut(squares.len().max(1)).zip(squares_of_rows).enumerate().map(of_row));
    }
    Ok(found)
}
