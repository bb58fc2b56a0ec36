//! Resampling through the filter `[1, 3, 3, 1]`. Either direction is, up to a factor, the gradient of the other: two
//! kernels serve all four.

use rayon::prelude::*;

use super::denormals::FlushDenormals;
use super::host::min_tasks_of;
use crate::features::Dims;

/// `y[i] = factor * (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2])` in both directions.
pub(crate) fn down(x: &[f32], dims: Dims, y: &mut [f32], halved: Dims, factor: f32) {
    let (c, row) = (dims.c, dims.w * dims.c);
    let rows = y.par_chunks_mut(halved.w * c).enumerate().with_min_len(min_tasks_of(4 * row));
    rows.for_each_init(
        || vec![0.0; row],
        |sums, (at, y)| {
            let _flush = FlushDenormals::new();
            let (image, i) = (at / halved.h, at % halved.h);
            let image = &x[image * dims.h * row..][..dims.h * row];
            sums.fill(0.0);
            for (tap, weight) in [1.0, 3.0, 3.0, 1.0].into_iter().enumerate() {
                if let Some(from) = (2 * i + tap).checked_sub(1).filter(|&from| from < dims.h) {
                    let from = &image[from * row..][..row];
                    sums.iter_mut().zip(from).for_each(|(sum, x)| *sum += weight * x);
                }
            }
            for (j, y) in y.chunks_exact_mut(c).enumerate() {
                y.fill(0.0);
                for (tap, weight) in [1.0, 3.0, 3.0, 1.0].into_iter().enumerate() {
                    if let Some(from) = (2 * j + tap).checked_sub(1).filter(|&from| from < dims.w) {
                        y.iter_mut().zip(&sums[from * c..][..c]).for_each(|(y, x)| *y += weight * x);
                    }
                }
                y.iter_mut().for_each(|y| *y *= factor);
            }
        },
    );
}

/// `y[2i] = factor * (3 x[i] + x[i - 1])` and `y[2i + 1] = factor * (3 x[i] + x[i + 1])` in both directions; `doubled`
/// may be one more than twice `dims`.
pub(crate) fn up(x: &[f32], dims: Dims, y: &mut [f32], doubled: Dims, factor: f32) {
    let (c, row) = (dims.c, dims.w * dims.c);
    let rows = y.par_chunks_mut(doubled.w * c).enumerate().with_min_len(min_tasks_of(4 * row));
    rows.for_each_init(
        || vec![0.0; row],
        |sums, (at, y)| {
            let _flush = FlushDenormals::new();
            let (image, i) = (at / doubled.h, at % doubled.h);
            let image = &x[image * dims.h * row..][..dims.h * row];
            sums.fill(0.0);
            for (from, weight) in neighbours(i, dims.h) {
                let from = &image[from * row..][..row];
                sums.iter_mut().zip(from).for_each(|(sum, x)| *sum += weight * x);
            }
            for (j, y) in y.chunks_exact_mut(c).enumerate() {
                y.fill(0.0);
                for (from, weight) in neighbours(j, dims.w) {
                    y.iter_mut().zip(&sums[from * c..][..c]).for_each(|(y, x)| *y += weight * x);
                }
                y.iter_mut().for_each(|y| *y *= factor);
            }
        },
    );
}

/// What result `i` of [`up`] is made of: places below `len` and their weights.
fn neighbours(i: usize, len: usize) -> impl Iterator<Item = (usize, f32)> {
    let own = i / 2;
    let other = if i.is_multiple_of(2) { own.checked_sub(1) } else { Some(own + 1) };
    [Some((own, 3.0)), other.map(|other| (other, 1.0))].into_iter().flatten().filter(move |&(from, _)| from < len)
}
