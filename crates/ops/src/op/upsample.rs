//! Upsampling by nearest neighbour, alone and with a skip connection.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{Op, apply};
use crate::check::{elements, image_dims, same_dtype};
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::network::operation;
use crate::tape::Targets;

/// Every pixel twice in both directions: `[b, c, h, w] -> [b, c, 2h, 2w]`, as
/// `torch.nn.functional.interpolate(x, scale_factor=2)`.
///
/// The gradient of a pixel is the sum over its block. (candle's own overwrites what the input had gathered elsewhere.)
///
/// # Errors
/// An input that is not `[b, c, h, w]`, of an unsupported dtype, or too large.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[[[[1f32, 2.0]]]], &Device::Cpu)?;
/// let y = kakusan_ops::upsample_nearest2d(&x)?.flatten_all()?;
/// assert_eq!(y.to_vec1::<f32>()?, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
/// # Ok(())
/// # }
/// ```
pub fn upsample_nearest2d(x: &Tensor) -> Result<Tensor> {
    check("upsample_nearest2d", x)?;
    operation("upsample_nearest2d", [x], &[], |[x]| x.upsample_nearest2d())
}

/// [`upsample_nearest2d`] of `x` plus `skip`, `[b, c, 2h, 2w]`: what the upward half of a U-Net does at every level.
///
/// One pass over memory instead of two, and in the backward pass one large gradient less to add up.
///
/// # Errors
/// As [`upsample_nearest2d`]; a `skip` of another shape or dtype.
pub fn upsample_add(x: &Tensor, skip: &Tensor) -> Result<Tensor> {
    let doubled = check("upsample_add", x)?;
    same_dtype("upsample_add", x, skip)?;
    check_skip(x.dims(), doubled, skip.dims())?;
    operation("upsample_add", [x, skip], &[], |[x, skip]| x.upsample_add(&skip))
}

/// The dimensions of the result.
fn check(op: &str, x: &Tensor) -> Result<[usize; 4]> {
    let (b, c, h, w) = image_dims(op, x)?;
    elements(op, &[b, c, h, w, 4])?;
    Ok([b, c, 2 * h, 2 * w])
}

fn check_skip(x: &[usize], doubled: [usize; 4], skip: &[usize]) -> Result<()> {
    if skip != doubled {
        bail!("upsample_add: images {x:?} double to {doubled:?}, the skip has {skip:?}")
    }
    Ok(())
}

impl Features {
    /// [`upsample_nearest2d`](crate::upsample_nearest2d) of these features.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn upsample_nearest2d(&self) -> Result<Self> {
        let op = Upsample::new("upsample_nearest2d", self.sizes())?;
        apply(op, [self])
    }

    /// [`upsample_add`](crate::upsample_add) of these features and `skip`.
    ///
    /// # Errors
    /// As [`upsample_add`](crate::upsample_add).
    pub fn upsample_add(&self, skip: &Self) -> Result<Self> {
        let [b, c, h, w] = self.dims();
        check_skip(&self.dims(), [b, c, 2 * h, 2 * w], &skip.dims())?;
        let op = Upsample::new("upsample_add", self.sizes())?;
        apply(op, [self, skip])
    }
}

/// Upsampling of features of these sizes; a second input is the skip connection.
struct Upsample {
    name: &'static str,
    dims: Dims,
}

impl Upsample {
    fn new(name: &'static str, dims: Dims) -> Result<Self> {
        let Dims { b, c, h, w } = dims;
        elements(name, &[b, c, h, w, 4])?;
        Ok(Self { name, dims })
    }
}

impl<const N: usize> Op<N> for Upsample {
    type Kept<B: Backend> = ();

    fn name(&self) -> &'static str {
        self.name
    }

    fn output(&self) -> Dims {
        Dims { h: 2 * self.dims.h, w: 2 * self.dims.w, ..self.dims }
    }

    fn forward<B: Backend>(&self, inputs: [Arc<B::Buffer>; N], _: bool) -> Result<(Arc<B::Buffer>, ())> {
        let y = B::upsample(&inputs[0], inputs.get(1).map(|skip| &**skip), self.dims)?;
        Ok((Arc::new(y), ()))
    }

    fn backward<B: Backend>(self, (): (), grad: Arc<B::Buffer>, mut to: Targets<B, N>) -> Result<()> {
        if to.wants(0) {
            to.add(0, B::upsample_backward(&grad, self.dims)?)?;
        }
        to.add(1, grad)
    }
}
