//! Linear layers.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{Op, apply};
use crate::check::{elements, image_dims, same_dtype};
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::network::operation;
use crate::tape::Targets;

/// A linear layer on the channels of every pixel, `weight x + bias`, as `torch.nn.functional.linear` on the last
/// dimension of tokens.
///
/// `x` `[b, i, h, w]` (vectors are images of one pixel), `weight` `[o, i]`, `bias` `[o]`; the result is `[b, o, h, w]`.
///
/// # Errors
/// Shapes or dtypes that do not fit together.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[[[[1f32]], [[2.0]]]], &Device::Cpu)?;
/// let weight = Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?;
/// assert_eq!(kakusan_ops::linear(&x, &weight, None)?.flatten_all()?.to_vec1::<f32>()?, [11.0]);
/// # Ok(())
/// # }
/// ```
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    image_dims("linear", x)?;
    same_dtype("linear", x, weight)?;
    let weights: Vec<&Tensor> = [Some(weight), bias].into_iter().flatten().collect();
    operation("linear", [x], &weights, |[x]| x.linear(weight, bias))
}

impl Features {
    /// [`linear`](crate::linear) of these features.
    ///
    /// # Errors
    /// As [`linear`](crate::linear).
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        apply(Multiply::new(self.sizes(), weight, bias)?, [self])
    }
}

/// Rows `[m, i]` to rows `[m, o]`; `i` and `o` are not 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    pub(crate) m: usize,
    pub(crate) i: usize,
    pub(crate) o: usize,
}

struct Multiply {
    /// Of the result.
    dims: Dims,
    s: Linear,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Multiply {
    fn new(dims: Dims, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (i, o) = match *weight.dims() {
            [o, i] if o > 0 && i == dims.c => (i, o),
            _ => bail!("linear: expected a weight [out channels, {}], got {:?}", dims.c, weight.dims()),
        };
        if let Some(bias) = bias {
            same_dtype("linear", weight, bias)?;
            if bias.dims() != [o] {
                bail!("linear: expected a bias [{o}], one for each output channel, got {:?}", bias.dims())
            }
        }
        elements("linear", &[dims.b, o, dims.h, dims.w])?;
        let s = Linear { m: dims.b * dims.pixels(), i, o };
        Ok(Self { dims: Dims { c: o, ..dims }, s, weight: weight.clone(), bias: bias.cloned() })
    }
}

impl Op<1> for Multiply {
    type Kept<B: Backend> = Arc<B::Buffer>;

    fn name(&self) -> &'static str {
        "linear"
    }

    fn output(&self) -> Dims {
        self.dims
    }

    fn weights(&self) -> Vec<&Tensor> {
        [Some(&self.weight), self.bias.as_ref()].into_iter().flatten().collect()
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, Self::Kept<B>)> {
        Ok((Arc::new(B::linear(&self.s, &x, &self.weight, self.bias.as_ref())?), x))
    }

    fn backward<B: Backend>(self, x: Self::Kept<B>, grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        let Self { s, weight, bias, .. } = &self;
        if let Some(bias) = bias {
            to.add_weight(bias, || B::linear_bias_gradient(s, &grad))?;
        }
        to.add_weight(weight, || B::linear_weight_gradient(s, &x, &grad))?;
        if to.wants(0) {
            to.add(0, B::linear_input_gradient(s, weight, &grad)?)?;
        }
        Ok(())
    }
}
