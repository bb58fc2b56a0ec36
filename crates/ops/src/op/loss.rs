//! Losses: the mean over all elements of a function of prediction - target.

use candle_core::{Result, Tensor, bail};

use crate::check::{same_dtype, supported};
use crate::kernels::{Backend, BackendKind, Work};

/// The mean of `(prediction - target)^2` over all elements, a scalar, as `torch.nn.functional.mse_loss`.
///
/// Both of the same shape. On the CPU the sum is taken in f64, in an order that the number of threads does not change.
/// The mean of nothing is NaN, as in torch.
///
/// # Errors
/// Different shapes or dtypes, an unsupported dtype.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let (a, b) = (Tensor::new(&[1f32, 2.0], &Device::Cpu)?, Tensor::new(&[1f32, 5.0], &Device::Cpu)?);
/// assert_eq!(kakusan_ops::mse_loss(&a, &b)?.to_scalar::<f32>()?, 4.5);
/// # Ok(())
/// # }
/// ```
pub fn mse_loss(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    mean("mse_loss", Loss::Squared, prediction, target)
}

/// The mean of `|prediction - target|` over all elements, a scalar, as `torch.nn.functional.l1_loss`.
///
/// The gradient is 0 where both are equal. Otherwise like [`mse_loss`].
///
/// # Errors
/// Different shapes or dtypes, an unsupported dtype.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let (a, b) = (Tensor::new(&[1f32, 2.0], &Device::Cpu)?, Tensor::new(&[1f32, 5.0], &Device::Cpu)?);
/// assert_eq!(kakusan_ops::l1_loss(&a, &b)?.to_scalar::<f32>()?, 1.5);
/// # Ok(())
/// # }
/// ```
pub fn l1_loss(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    mean("l1_loss", Loss::Absolute, prediction, target)
}

/// Half the square of `d = prediction - target` up to `|d| = delta`, and from there on a line, `delta * (|d| - delta /
/// 2)`: the mean over all elements, a scalar, as `torch.nn.functional.huber_loss`.
///
/// (`smooth_l1_loss` with `beta = delta` is this divided by `delta`.) Otherwise like [`mse_loss`].
///
/// # Errors
/// A `delta` that is not positive, different shapes or dtypes, an unsupported dtype.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let (a, b) = (Tensor::new(&[1f32, 2.0], &Device::Cpu)?, Tensor::new(&[2f32, 5.0], &Device::Cpu)?);
/// assert_eq!(kakusan_ops::huber_loss(&a, &b, 1.0)?.to_scalar::<f32>()?, 1.5); // of 0.5 and 2.5
/// # Ok(())
/// # }
/// ```
pub fn huber_loss(prediction: &Tensor, target: &Tensor, delta: f64) -> Result<Tensor> {
    // NaN too
    if delta.is_nan() || delta <= 0.0 {
        bail!("huber_loss: delta is {delta}; it must be positive")
    }
    mean("huber_loss", Loss::Huber(delta), prediction, target)
}

/// What is averaged, of prediction - target.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    Squared,
    Absolute,
    /// With its delta.
    Huber(f64),
}

fn mean(op: &str, loss: Loss, prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    if prediction.dims() != target.dims() {
        bail!("{op}: the prediction is {:?}, the target {:?}", prediction.dims(), target.dims())
    }
    same_dtype(op, prediction, target)?;
    supported(op, prediction)?;
    BackendKind::of(prediction).run(Mean { loss, prediction, target })
}

struct Mean<'a> {
    loss: Loss,
    prediction: &'a Tensor,
    target: &'a Tensor,
}

impl Work for Mean<'_> {
    type Output = Result<Tensor>;

    fn on<B: Backend>(self) -> Result<Tensor> {
        B::loss(self.loss, self.prediction, self.target)
    }
}
