//! A factor and a summand for every channel of every image.

use rayon::prelude::*;

use super::denormals::FlushDenormals;
use super::host::min_tasks_of;

/// `y = x * (1 + scale) + shift` at every pixel; images of `image` numbers, `vector` `[b, 2c]`.
pub(crate) fn forward(x: &[f32], vector: &[f32], [image, c]: [usize; 2], y: &mut [f32]) {
    let images = y.par_chunks_mut(image).zip(x.par_chunks(image)).zip(vector.par_chunks(2 * c));
    images.with_min_len(min_tasks_of(image)).for_each(|((y, x), vector)| {
        let _flush = FlushDenormals::new();
        let (scale, shift) = vector.split_at(c);
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = x[i] * (1.0 + scale[i]) + shift[i];
            }
        }
    });
}

/// The gradients of the features and of the vector.
pub(crate) fn backward(x: &[f32], vector: &[f32], [image, c]: [usize; 2], grad: &[f32], [dx, dv]: [&mut [f32]; 2]) {
    let inputs = x.par_chunks(image).zip(grad.par_chunks(image)).zip(vector.par_chunks(2 * c));
    let images = dx.par_chunks_mut(image).zip(dv.par_chunks_mut(2 * c)).zip(inputs);
    images.with_min_len(min_tasks_of(image)).for_each(|((dx, dv), ((x, grad), vector))| {
        let _flush = FlushDenormals::new();
        dv.fill(0.0);
        // sums of a stretch of pixels at a time, which keeps them exact
        let mut sums = vec![0.0; 2 * c];
        let stretch = 64 * c;
        for ((dx, x), grad) in dx.chunks_mut(stretch).zip(x.chunks(stretch)).zip(grad.chunks(stretch)) {
            sums.fill(0.0);
            let (of_scale, of_shift) = sums.split_at_mut(c);
            for ((dx, x), grad) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(grad.chunks_exact(c)) {
                for i in 0..c {
                    dx[i] = grad[i] * (1.0 + vector[i]);
                    of_scale[i] += grad[i] * x[i];
                    of_shift[i] += grad[i];
                }
            }
            dv.iter_mut().zip(&sums).for_each(|(dv, sum)| *dv += sum);
        }
    });
}
