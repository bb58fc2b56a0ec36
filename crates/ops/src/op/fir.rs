//! Resampling through a smoothing filter, as the networks of score-based models do it (Song et al. 2021, "NCSN++").
//!
//! The filter is `[1, 3, 3, 1]` along rows and columns, its sum 1 downwards and 2 in each direction upwards. Either
//! direction is, up to a factor, the gradient of the other: two kernels serve all four.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::check::{elements, image_dims};
use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::grain_of;
use crate::kernels::reference as compose;
use crate::network::{Data, Dims, Features, operation};

/// Half the size, `[b, c, h, w] -> [b, c, h / 2, w / 2]`, as diffusers' `FirDownsample2D(fir_kernel=(1, 3, 3, 1))`: each
/// result is a smooth mean of 4x4 pixels, zeros around the image; a last odd row or column counts at the edge alone.
///
/// # Errors
/// An input that is not `[b, c, h, w]` with `h` and `w` at least 2, or of an unsupported dtype.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// let x = Tensor::full(64f32, (1, 1, 6, 6), &Device::Cpu)?;
/// let y = kakusan_ops::fir_downsample2d(&x)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [49.0, 56.0, 49.0, 56.0, 64.0, 56.0, 49.0, 56.0, 49.0]);
/// # Ok(())
/// # }
/// ```
pub fn fir_downsample2d(x: &Tensor) -> Result<Tensor> {
    image_dims("fir_downsample2d", x)?;
    operation("fir_downsample2d", [x], &[], |[x]| x.fir_downsample2d())
}

/// Twice the size, `[b, c, h, w] -> [b, c, 2h, 2w]`, as diffusers' `FirUpsample2D(fir_kernel=(1, 3, 3, 1))`: every result
/// is three quarters of its own pixel and a quarter of the nearest neighbour, in both directions, zeros around the image.
///
/// # Errors
/// An input that is not `[b, c, h, w]`, of an unsupported dtype, or too large.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// let x = Tensor::new(&[[[[16f32, 32.0]]]], &Device::Cpu)?;
/// let y = kakusan_ops::fir_upsample2d(&x)?.narrow(2, 0, 1)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [9.0, 15.0, 21.0, 18.0]);
/// # Ok(())
/// # }
/// ```
pub fn fir_upsample2d(x: &Tensor) -> Result<Tensor> {
    image_dims("fir_upsample2d", x)?;
    operation("fir_upsample2d", [x], &[], |[x]| x.fir_upsample2d())
}

impl Features {
    /// [`fir_downsample2d`](crate::fir_downsample2d) of these features.
    ///
    /// # Errors
    /// Height or width below 2.
    pub fn fir_downsample2d(&self) -> Result<Self> {
        let dims @ Dims { h, w, .. } = self.sizes();
        if h < 2 || w < 2 {
            bail!("fir_downsample2d: images of {h}x{w} cannot be halved")
        }
        let x = match self.data() {
            Data::Other(x) => return Self::other(compose::fir_downsample2d(x)?),
            Data::Host(x) => x,
        };
        let halved = Dims { h: h / 2, w: w / 2, ..dims };
        let mut y = Buffer::new(halved.count())?;
        down(&x.floats, dims, &mut y, halved, 1.0 / 64.0);
        let id = x.id.map(|id| {
            x.tape.record(Box::new(move |grad, gradients| {
                let mut dx = Buffer::new(dims.count())?;
                up(&grad, halved, &mut dx, dims, 1.0 / 64.0);
                gradients.add(id, Arc::new(dx))
            }))
        });
        Ok(Self::host(halved, y, &x.tape, id))
    }

    /// [`fir_upsample2d`](crate::fir_upsample2d) of these features.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn fir_upsample2d(&self) -> Result<Self> {
        let dims @ Dims { b, c, h, w } = self.sizes();
        elements("fir_upsample2d", &[b, c, h, w, 4])?;
        let x = match self.data() {
            Data::Other(x) => return Self::other(compose::fir_upsample2d(x)?),
            Data::Host(x) => x,
        };
        let doubled = Dims { h: 2 * h, w: 2 * w, ..dims };
        let mut y = Buffer::new(doubled.count())?;
        up(&x.floats, dims, &mut y, doubled, 1.0 / 16.0);
        let id = x.id.map(|id| {
            x.tape.record(Box::new(move |grad, gradients| {
                let mut dx = Buffer::new(dims.count())?;
                down(&grad, doubled, &mut dx, dims, 1.0 / 16.0);
                gradients.add(id, Arc::new(dx))
            }))
        });
        Ok(Self::host(doubled, y, &x.tape, id))
    }
}

/// `y[i] = factor * (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2])` in both directions.
fn down(x: &[f32], dims: Dims, y: &mut [f32], halved: Dims, factor: f32) {
    let (c, row) = (dims.c, dims.w * dims.c);
    let rows = y.par_chunks_mut(halved.w * c).enumerate().with_min_len(grain_of(4 * row));
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

/// `y[2i] = factor * (3 x[i] + x[i - 1])` and `y[2i + 1] = factor * (3 x[i] + x[i + 1])` in both directions; `doubled` may
/// be one more than twice `dims`.
fn up(x: &[f32], dims: Dims, y: &mut [f32], doubled: Dims, factor: f32) {
    let (c, row) = (dims.c, dims.w * dims.c);
    let rows = y.par_chunks_mut(doubled.w * c).enumerate().with_min_len(grain_of(4 * row));
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
