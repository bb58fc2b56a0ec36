//! Two-dimensional convolution, alone and with SiLU.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::conv_shape::{ConvOptions, ConvShape};
use super::{Op, apply};
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::network::operation;
use crate::prepared::prepared;
use crate::tape::Targets;

/// Convolution with zero padding, as `torch.nn.functional.conv2d(x, weight, bias, stride, padding)`.
///
/// `x` `[b, ci, h, w]`, `weight` `[co, ci, k, k]`, `bias` `[co]`; the result is `[b, co, oh, ow]` with
/// `oh = (h + top + bottom - k) / stride + 1`. `options` is a padding for all sides, below `k`, or [`ConvOptions`]. f32
/// or f64 on the CPU, what candle convolves elsewhere. On the CPU the result and all gradients are the same, bit for
/// bit, on any number of threads.
///
/// # Errors
/// Shapes that do not fit together, an unsupported or mixed dtype, a result too large for memory.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::ones((1, 2, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
/// let weight = Tensor::ones((1, 2, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
/// let y = kakusan_ops::conv2d(&x, &weight, None, 1)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [8.0, 12.0, 8.0, 12.0, 18.0, 12.0, 8.0, 12.0, 8.0]);
/// # Ok(())
/// # }
/// ```
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: impl Into<ConvOptions>) -> Result<Tensor> {
    convolve("conv2d", x, weight, bias, options.into(), false)
}

/// [`silu`](crate::silu) of [`conv2d`] in one pass over memory.
///
/// The derivative of SiLU is kept for the backward pass if an argument tracks gradients, and only then.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_silu(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: impl Into<ConvOptions>,
) -> Result<Tensor> {
    convolve("conv2d_silu", x, weight, bias, options.into(), true)
}

fn convolve(
    name: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: ConvOptions,
    silu: bool,
) -> Result<Tensor> {
    ConvShape::check(name, x, weight, bias, options)?;
    let weights: Vec<&Tensor> = [Some(weight), bias].into_iter().flatten().collect();
    operation(name, [x], &weights, |[x]| apply(Conv2d::new(name, &x, weight, bias, options, silu)?, [&x]))
}

impl Features {
    /// [`conv2d`](crate::conv2d) of these features.
    ///
    /// # Errors
    /// As [`conv2d`](crate::conv2d).
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, options: impl Into<ConvOptions>) -> Result<Self> {
        apply(Conv2d::new("conv2d", self, weight, bias, options.into(), false)?, [self])
    }

    /// [`conv2d_silu`](crate::conv2d_silu) of these features.
    ///
    /// # Errors
    /// As [`conv2d`](crate::conv2d).
    pub fn conv2d_silu(&self, weight: &Tensor, bias: Option<&Tensor>, options: impl Into<ConvOptions>) -> Result<Self> {
        apply(Conv2d::new("conv2d_silu", self, weight, bias, options.into(), true)?, [self])
    }
}

struct Conv2d {
    name: &'static str,
    s: ConvShape,
    weight: Tensor,
    bias: Option<Tensor>,
    /// Whether SiLU follows.
    silu: bool,
}

impl Conv2d {
    fn new(
        name: &'static str,
        x: &Features,
        weight: &Tensor,
        bias: Option<&Tensor>,
        options: ConvOptions,
        silu: bool,
    ) -> Result<Self> {
        let s = ConvShape::new(name, x.dims(), weight, bias, options)?;
        Ok(Self { name, s, weight: weight.clone(), bias: bias.cloned(), silu })
    }
}

impl Op<1> for Conv2d {
    /// The images, and SiLU's derivative.
    type Kept<B: Backend> = (Arc<B::Buffer>, Option<B::Saved>);

    fn name(&self) -> &'static str {
        self.name
    }

    fn output(&self) -> Dims {
        let ConvShape { b, co, oh, ow, .. } = self.s;
        Dims { b, c: co, h: oh, w: ow }
    }

    fn weights(&self) -> Vec<&Tensor> {
        [Some(&self.weight), self.bias.as_ref()].into_iter().flatten().collect()
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], recorded: bool) -> Result<(Arc<B::Buffer>, Self::Kept<B>)> {
        let Self { s, weight, bias, silu, .. } = self;
        let weights = prepared(weight, ("conv2d", s.key()), || B::conv2d_weights(s, weight))?;
        let (y, derivative) = B::conv2d(s, &x, &weights, bias.as_ref(), *silu, recorded)?;
        Ok((Arc::new(y), (x, derivative)))
    }

    fn backward<B: Backend>(
        self,
        (x, derivative): Self::Kept<B>,
        grad: Arc<B::Buffer>,
        mut to: Targets<B, 1>,
    ) -> Result<()> {
        let Self { s, weight, bias, .. } = &self;
        let bias = bias.as_ref().filter(|bias| bias.track_op());
        let grad = if derivative.is_some() || bias.is_some() {
            let (grad, dbias) = B::conv2d_bias_gradient(s, grad, derivative)?;
            if let Some(bias) = bias {
                to.add_weight(bias, || Ok(dbias))?;
            }
            grad
        } else {
            grad
        };
        to.add_weight(weight, || B::conv2d_weight_gradient(s, &x, &grad))?;
        if to.wants(0) {
            drop(x); // its memory may serve the gradient
            let weights = prepared(weight, ("conv2d backward", s.key()), || B::conv2d_backward_weights(s, weight))?;
            to.add(0, B::conv2d_input_gradient(s, &grad, &weights)?)?;
        }
        Ok(())
    }
}
