//! Max pooling.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::check::image_dims;
use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{arch, grain_of};
use crate::kernels::reference as compose;
use crate::network::{Data, Dims, Features, operation};
use crate::tape::owned;

/// The maximum of each 2x2 block: `[b, c, h, w] -> [b, c, h / 2, w / 2]`, as `torch.nn.functional.max_pool2d(x, 2)`.
///
/// A last odd row or column is dropped. The gradient goes to the maximum alone, to the first in reading order where
/// several are equal. NaN counts as the largest. (candle's own gradient is a quarter of the right one.)
///
/// # Errors
/// An input that is not `[b, c, h, w]` with `h` and `w` at least 2, or of an unsupported dtype.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::arange(0f32, 12.0, &Device::Cpu)?.reshape((1, 1, 3, 4))?;
/// assert_eq!(kakusan_ops::max_pool2d(&x)?.flatten_all()?.to_vec1::<f32>()?, [5.0, 7.0]);
/// # Ok(())
/// # }
/// ```
pub fn max_pool2d(x: &Tensor) -> Result<Tensor> {
    image_dims("max_pool2d", x)?;
    operation("max_pool2d", [x], &[], |[x]| x.max_pool2d())
}

impl Features {
    /// [`max_pool2d`](crate::max_pool2d) of these features.
    ///
    /// # Errors
    /// Height or width below 2.
    pub fn max_pool2d(&self) -> Result<Self> {
        let dims @ Dims { b, c, h, w } = self.sizes();
        if h < 2 || w < 2 {
            bail!("max_pool2d: images of {h}x{w} have no 2x2 block")
        }
        let x = match self.data() {
            Data::Other(x) => return Self::other(compose::max_pool2d(x)?),
            Data::Host(x) => x,
        };
        let halved = Dims { b, c, h: h / 2, w: w / 2 };
        let mut y = Buffer::new(halved.count())?;
        let images = y.par_chunks_mut(halved.pixels() * c).zip(x.floats.par_chunks(dims.pixels() * c));
        images.with_min_len(grain_of(dims.pixels() * c)).for_each(|(y, x)| {
            arch().dispatch(Pool { dims, x, y });
        });
        let id = x.id.map(|id| {
            let floats = x.floats.clone();
            x.tape.record(Box::new(move |grad, gradients| {
                gradients.add_with(id, |held| backward(dims, &floats, &grad, held))
            }))
        });
        Ok(Self::host(halved, y, &x.tape, id))
    }
}

/// The gradient of the input, and what it has gathered before.
fn backward(dims: Dims, x: &[f32], grad: &[f32], held: Option<Arc<Buffer>>) -> Result<Buffer> {
    let image = dims.pixels() * dims.c;
    let half = (dims.h / 2) * (dims.w / 2) * dims.c;
    let fresh = held.is_none();
    let mut dx = match held {
        Some(held) => owned(held)?,
        None => Buffer::new(dims.count())?,
    };
    let images = dx.par_chunks_mut(image).zip(x.par_chunks(image)).zip(grad.par_chunks(half));
    images.with_min_len(grain_of(image)).for_each(|((dx, x), grad)| {
        let _flush = FlushDenormals::new();
        if fresh {
            dx.fill(0.0);
        }
        arch().dispatch(Unpool { dims, x, grad, dx });
    });
    Ok(dx)
}

/// The four pixels of a block, as ranges of a whole image `[h, w, c]`, in reading order.
#[inline(always)]
fn block(Dims { c, w, .. }: Dims, y: usize, x: usize) -> [std::ops::Range<usize>; 4] {
    let at = |y: usize, x: usize| (y * w + x) * c..(y * w + x + 1) * c;
    [at(2 * y, 2 * x), at(2 * y, 2 * x + 1), at(2 * y + 1, 2 * x), at(2 * y + 1, 2 * x + 1)]
}

/// Pools one image.
struct Pool<'a> {
    dims: Dims,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { dims, x, y } = self;
        for (at, y) in y.chunks_exact_mut(dims.c).enumerate() {
            let [a, b, c, d] =
                block(dims, at / (dims.w / 2), at % (dims.w / 2)).map(|pixel| S::as_simd_f32s(&x[pixel]));
            let (vectors, rest) = S::as_mut_simd_f32s(y);
            for (i, y) in vectors.iter_mut().enumerate() {
                let (_, largest) = larger(simd, a.0[i], b.0[i]);
                let (_, largest) = larger(simd, largest, c.0[i]);
                *y = larger(simd, largest, d.0[i]).1;
            }
            for (i, y) in rest.iter_mut().enumerate() {
                *y = [b.1[i], c.1[i], d.1[i]].into_iter().fold(a.1[i], |y, x| if beats(x, y) { x } else { y });
            }
        }
    }
}

/// Where `later` takes the maximum from `sooner`, as [`beats`] has it, and the maximum.
#[inline(always)]
fn larger<S: Simd>(simd: S, sooner: S::f32s, later: S::f32s) -> (S::m32s, S::f32s) {
    let nan = simd.not_m32s(simd.equal_f32s(later, later));
    let taken = simd.or_m32s(simd.greater_than_f32s(later, sooner), nan);
    (taken, simd.select_f32s(taken, later, sooner))
}

/// Whether `later` takes the maximum from `sooner`: torch's rule, in which NaN always does.
fn beats(later: f32, sooner: f32) -> bool {
    later > sooner || later.is_nan()
}

/// Adds the gradients of one image's blocks to the places of their maxima.
struct Unpool<'a> {
    dims: Dims,
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
}

impl WithSimd for Unpool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { dims, x, grad, dx } = self;
        for (at, grad) in grad.chunks_exact(dims.c).enumerate() {
            let pixels = block(dims, at / (dims.w / 2), at % (dims.w / 2));
            let (grad, grad_rest) = S::as_simd_f32s(grad);
            let [a, b, c, d] =
                block(dims, at / (dims.w / 2), at % (dims.w / 2)).map(|pixel| S::as_simd_f32s(&x[pixel]));
            for (i, &grad) in grad.iter().enumerate() {
                let (to_b, largest) = larger(simd, a.0[i], b.0[i]);
                let (to_c, largest) = larger(simd, largest, c.0[i]);
                let (to_d, _) = larger(simd, largest, d.0[i]);
                let zero = simd.splat_f32s(0.0);
                // from the last to the first: what a later pixel takes is gone for the sooner ones
                let (of_d, left) = (simd.select_f32s(to_d, grad, zero), simd.select_f32s(to_d, zero, grad));
                let (of_c, left) = (simd.select_f32s(to_c, left, zero), simd.select_f32s(to_c, zero, left));
                let (of_b, of_a) = (simd.select_f32s(to_b, left, zero), simd.select_f32s(to_b, zero, left));
                for (pixel, grad) in pixels.iter().zip([of_a, of_b, of_c, of_d]) {
                    let dx = &mut S::as_mut_simd_f32s(&mut dx[pixel.clone()]).0[i];
                    *dx = simd.add_f32s(*dx, grad);
                }
            }
            let vectors = grad.len() * S::F32_LANES;
            for (i, &grad) in grad_rest.iter().enumerate() {
                let mut place = pixels[0].start + vectors + i;
                for pixel in &pixels[1..] {
                    let later = pixel.start + vectors + i;
                    if beats(x[later], x[place]) {
                        place = later;
                    }
                }
                dx[place] += grad;
            }
        }
    }
}
