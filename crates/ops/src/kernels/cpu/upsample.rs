//! Upsampling by nearest neighbour, channels last.

use rayon::prelude::*;

use super::denormals::FlushDenormals;
use super::host::min_tasks_of;
use crate::features::Dims;

/// `[b, h, w, c] -> [b, 2h, 2w, c]`: every pixel twice in both directions, plus `skip`.
pub(crate) fn forward(Dims { c, w, .. }: Dims, x: &[f32], skip: Option<&[f32]>, y: &mut [f32]) {
    let row = w * c;
    // two rows of the result come from one of the input
    let rows = y.par_chunks_mut(4 * row).zip(x.par_chunks(row)).enumerate().with_min_len(min_tasks_of(4 * row));
    rows.for_each(|(i, (y, x))| {
        let (top, bottom) = y.split_at_mut(2 * row);
        match skip {
            None => {
                for (y, x) in top.chunks_exact_mut(2 * c).zip(x.chunks_exact(c)) {
                    y[..c].copy_from_slice(x);
                    y[c..].copy_from_slice(x);
                }
                bottom.copy_from_slice(top);
            }
            Some(skip) => {
                let skip = &skip[i * 4 * row..][..4 * row];
                for (y, skip) in [top, bottom].into_iter().zip(skip.chunks_exact(2 * row)) {
                    for ((y, skip), x) in y.chunks_exact_mut(2 * c).zip(skip.chunks_exact(2 * c)).zip(x.chunks_exact(c))
                    {
                        for (y, skip) in y.chunks_exact_mut(c).zip(skip.chunks_exact(c)) {
                            y.iter_mut().zip(skip).zip(x).for_each(|((y, skip), x)| *y = x + skip);
                        }
                    }
                }
            }
        }
    });
}

/// The sum over each 2x2 block.
pub(crate) fn backward(dims: Dims, grad: &[f32], dx: &mut [f32]) {
    let (c, row) = (dims.c, dims.w * dims.c);
    dx.par_chunks_mut(row).zip(grad.par_chunks(4 * row)).with_min_len(min_tasks_of(4 * row)).for_each(|(dx, grad)| {
        let _flush = FlushDenormals::new();
        let (top, bottom) = grad.split_at(2 * row);
        let blocks = top.chunks_exact(2 * c).zip(bottom.chunks_exact(2 * c));
        for (dx, (top, bottom)) in dx.chunks_exact_mut(c).zip(blocks) {
            let (a, b) = top.split_at(c);
            let (c, d) = bottom.split_at(c);
            for (i, dx) in dx.iter_mut().enumerate() {
                *dx = (a[i] + b[i]) + (c[i] + d[i]);
            }
        }
    });
}
