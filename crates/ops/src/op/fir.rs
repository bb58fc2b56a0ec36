//! Resampling through a smoothing filter, as the networks of score-based models do it (Song et al. 2021, "NCSN++").
//!
//! The filter is `[1, 3, 3, 1]` along rows and columns; its sum is 1 for downsampling, and 2 in each direction for
//! upsampling.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{Op, apply};
use crate::check::{elements, image_dims};
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::network::operation;
use crate::tape::Targets;

/// Half the size, `[b, c, h, w] -> [b, c, h / 2, w / 2]`, as diffusers' `FirDownsample2D(fir_kernel=(1, 3, 3, 1))`:
/// each result is a smooth mean of 4x4 pixels, zeros around the image; a last odd row or column counts at the edge
/// alone.
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

/// Twice the size, `[b, c, h, w] -> [b, c, 2h, 2w]`, as diffusers' `FirUpsample2D(fir_kernel=(1, 3, 3, 1))`: every
/// result is three quarters of its own pixel and a quarter of the nearest neighbour, in both directions, zeros around
/// the image.
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
        apply(Downsample(dims), [self])
    }

    /// [`fir_upsample2d`](crate::fir_upsample2d) of these features.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn fir_upsample2d(&self) -> Result<Self> {
        let dims @ Dims { b, c, h, w } = self.sizes();
        elements("fir_upsample2d", &[b, c, h, w, 4])?;
        apply(Upsample(dims), [self])
    }
}

/// Of features of these sizes.
struct Downsample(Dims);

impl Op<1> for Downsample {
    type Kept<B: Backend> = ();

    fn name(&self) -> &'static str {
        "fir_downsample2d"
    }

    fn output(&self) -> Dims {
        Dims { h: self.0.h / 2, w: self.0.w / 2, ..self.0 }
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, ())> {
        Ok((Arc::new(B::fir_downsample2d(&x, self.0)?), ()))
    }

    fn backward<B: Backend>(self, (): (), grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        to.add(0, B::fir_downsample2d_backward(&grad, self.0)?)
    }
}

/// Of features of these sizes.
struct Upsample(Dims);

impl Op<1> for Upsample {
    type Kept<B: Backend> = ();

    fn name(&self) -> &'static str {
        "fir_upsample2d"
    }

    fn output(&self) -> Dims {
        Dims { h: 2 * self.0.h, w: 2 * self.0.w, ..self.0 }
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, ())> {
        Ok((Arc::new(B::fir_upsample2d(&x, self.0)?), ()))
    }

    fn backward<B: Backend>(self, (): (), grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        to.add(0, B::fir_upsample2d_backward(&grad, self.0)?)
    }
}
