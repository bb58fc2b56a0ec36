//! SiLU, and the other activations of diffusers.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Op, apply};
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::network::elementwise;
use crate::tape::Targets;

/// SiLU, elementwise: `x / (1 + exp(-x))`, as `torch.nn.functional.silu`.
///
/// f32 and f64 on the CPU, whatever candle computes with elsewhere. Infinities and NaN come out as in torch:
/// `silu(inf) = inf`, `silu(-inf) = NaN`.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[0f32, 1.0, -100.0], &Device::Cpu)?;
/// assert_eq!(kakusan_ops::silu(&x)?.to_vec1::<f32>()?, [0.0, 0.731_058_6, 0.0]);
/// # Ok(())
/// # }
/// ```
pub fn silu(x: &Tensor) -> Result<Tensor> {
    elementwise("silu", x, |x| x.silu())
}

/// An activation of diffusers' `act_fn`, for [`Features::activate`].
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// use kakusan_ops::{Activation, network};
/// let x = Tensor::new(&[[[[-1f32, 2.0]]]], &Device::Cpu)?;
/// let y = network([&x], |[x]| x.activate(Activation::Relu))?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [0.0, 2.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * P(normal < x)` (Hendrycks and Gimpel 2016), as `torch.nn.GELU()`.
    Gelu,
    /// `x * tanh(ln(1 + exp(x)))` (Misra 2019), as `torch.nn.Mish()`.
    Mish,
    /// `max(x, 0)`, as `torch.nn.ReLU()`; its slope at 0 is 0.
    Relu,
}

impl Features {
    /// [`silu`](crate::silu) of these features.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn silu(&self) -> Result<Self> {
        apply(Silu(self.sizes()), [self])
    }

    /// An activation of these features.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn activate(&self, activation: Activation) -> Result<Self> {
        apply(Activate { activation, dims: self.sizes() }, [self])
    }
}

struct Silu(Dims);

impl Op<1> for Silu {
    type Kept<B: Backend> = Arc<B::Buffer>;

    fn name(&self) -> &'static str {
        "silu"
    }

    fn output(&self) -> Dims {
        self.0
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, Self::Kept<B>)> {
        Ok((Arc::new(B::silu(&x)?), x))
    }

    fn backward<B: Backend>(self, x: Self::Kept<B>, grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        to.add(0, B::silu_backward(&x, &grad)?)
    }
}

struct Activate {
    activation: Activation,
    dims: Dims,
}

impl Op<1> for Activate {
    type Kept<B: Backend> = Arc<B::Buffer>;

    fn name(&self) -> &'static str {
        "activate"
    }

    fn output(&self) -> Dims {
        self.dims
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, Self::Kept<B>)> {
        Ok((Arc::new(B::activation(self.activation, &x)?), x))
    }

    fn backward<B: Backend>(self, x: Self::Kept<B>, grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        to.add(0, B::activation_backward(self.activation, &x, grad)?)
    }
}
