//! Pooling of 2x2 blocks.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{Op, apply};
use crate::check::image_dims;
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::network::operation;
use crate::tape::Targets;

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
        apply(MaxPool2d(blocks("max_pool2d", self.sizes())?), [self])
    }

    /// The mean of each 2x2 block, as `torch.nn.functional.avg_pool2d(x, 2)`: a last odd row or column is dropped.
    ///
    /// # Errors
    /// Height or width below 2.
    pub fn avg_pool2d(&self) -> Result<Self> {
        apply(AvgPool2d(blocks("avg_pool2d", self.sizes())?), [self])
    }
}

/// The sizes, if there is a block in them.
fn blocks(op: &str, dims: Dims) -> Result<Dims> {
    let Dims { h, w, .. } = dims;
    if h < 2 || w < 2 {
        bail!("{op}: images of {h}x{w} have no 2x2 block")
    }
    Ok(dims)
}

/// Of features of these sizes.
struct MaxPool2d(Dims);

impl Op<1> for MaxPool2d {
    type Kept<B: Backend> = Arc<B::Buffer>;

    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn output(&self) -> Dims {
        Dims { h: self.0.h / 2, w: self.0.w / 2, ..self.0 }
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, Self::Kept<B>)> {
        Ok((Arc::new(B::max_pool2d(&x, self.0)?), x))
    }

    fn backward<B: Backend>(self, x: Self::Kept<B>, grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        to.add_with(0, |gathered| B::max_pool2d_backward(&x, &grad, self.0, gathered))
    }
}

/// Of features of these sizes.
struct AvgPool2d(Dims);

impl Op<1> for AvgPool2d {
    type Kept<B: Backend> = ();

    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn output(&self) -> Dims {
        Dims { h: self.0.h / 2, w: self.0.w / 2, ..self.0 }
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, ())> {
        Ok((Arc::new(B::avg_pool2d(&x, self.0)?), ()))
    }

    fn backward<B: Backend>(self, (): (), grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        to.add(0, B::avg_pool2d_backward(&grad, self.0)?)
    }
}
