//! Losses: the mean over all elements of a function of prediction - target.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::check::{on_host, same_dtype};
use crate::kernels::cpu::host::{PIECE, build, numbers, piece, with_numbers};
use crate::kernels::reference as compose;

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
    if !fits("mse_loss", prediction, target)? {
        return compose::mse_loss(prediction, target);
    }
    prediction.contiguous()?.apply_op2(&target.contiguous()?, Loss::Squared)
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
    if !fits("l1_loss", prediction, target)? {
        return compose::l1_loss(prediction, target);
    }
    prediction.contiguous()?.apply_op2(&target.contiguous()?, Loss::Absolute)
}

/// Half the square of `d = prediction - target` up to `|d| = delta`, and from there on a line, `delta * (|d| - delta / 2)`:
/// the mean over all elements, a scalar, as `torch.nn.functional.huber_loss`.
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
    if !fits("huber_loss", prediction, target)? {
        return compose::huber_loss(prediction, target, delta);
    }
    prediction.contiguous()?.apply_op2(&target.contiguous()?, Loss::Huber(delta))
}

/// Checks the arguments, and says whether our kernels take them.
fn fits(op: &str, prediction: &Tensor, target: &Tensor) -> Result<bool> {
    if prediction.dims() != target.dims() {
        bail!("{op}: the prediction is {:?}, the target {:?}", prediction.dims(), target.dims())
    }
    same_dtype(op, prediction, target)?;
    on_host(op, prediction)
}

/// What is averaged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    Squared,
    Absolute,
    /// With its delta.
    Huber(f64),
}

impl Loss {
    /// The mean over all pairs, summed in f64 in a fixed order.
    pub(crate) fn mean<T: WithDType>(self, a: &[T], b: &[T]) -> Result<f64> {
        match self {
            Self::Squared => mean(a, b, |d| d * d),
            Self::Absolute => mean(a, b, f64::abs),
            Self::Huber(delta) => mean(a, b, |d| {
                let inside = d.clamp(-delta, delta);
                inside * (d - 0.5 * inside)
            }),
        }
    }

    /// `scale` times the gradient of the sum over all pairs, for `a`.
    pub(crate) fn gradient<T: WithDType>(self, a: &[T], b: &[T], scale: f64) -> Result<Vec<T>> {
        let (zero, delta) = (T::zero(), self.delta());
        let (delta, negative) = (T::from_f64(delta), T::from_f64(-delta));
        match self {
            Self::Squared => slopes(a, b, 2.0 * scale, |d| d),
            Self::Absolute => slopes(a, b, scale, |d| {
                let sign = if d > zero { delta } else { zero };
                if d < zero { negative } else { sign }
            }),
            Self::Huber(_) => slopes(a, b, scale, |d| {
                let d = if d > delta { delta } else { d };
                if d < negative { negative } else { d }
            }),
        }
    }

    /// The largest slope.
    fn delta(self) -> f64 {
        match self {
            Self::Huber(delta) => delta,
            Self::Squared | Self::Absolute => 1.0,
        }
    }
}

fn mean<T: WithDType>(a: &[T], b: &[T], of: impl Fn(f64) -> f64 + Sync) -> Result<f64> {
    let ([], sums) = build(a.len(), PIECE, |i, []: [&mut [T]; 0]| {
        let value = |(a, b): (&T, &T)| of(a.to_f64() - b.to_f64());
        piece(a, i, PIECE).iter().zip(piece(b, i, PIECE)).map(value).sum::<f64>()
    })?;
    Ok(sums.iter().sum::<f64>() / a.len() as f64)
}

/// `scale slope(a - b)`
fn slopes<T: WithDType>(a: &[T], b: &[T], scale: f64, slope: impl Fn(T) -> T + Sync) -> Result<Vec<T>> {
    let scale = T::from_f64(scale);
    let ([slopes], _) = build(a.len(), PIECE, |i, [slopes]| {
        let pairs = piece(a, i, PIECE).iter().zip(piece(b, i, PIECE));
        slopes.iter_mut().zip(pairs).for_each(|(d, (&a, &b))| *d = slope(a - b) * scale);
    })?;
    Ok(slopes)
}

impl CustomOp2 for Loss {
    fn name(&self) -> &'static str {
        match self {
            Self::Squared => "mse_loss",
            Self::Absolute => "l1_loss",
            Self::Huber(_) => "huber_loss",
        }
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let loss = if let CpuStorage::F64(_) = a {
            CpuStorage::F64(vec![self.mean::<f64>(numbers(a, la)?, numbers(b, lb)?)?])
        } else {
            CpuStorage::F32(vec![self.mean::<f32>(numbers(a, la)?, numbers(b, lb)?)? as f32])
        };
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = grad.to_dtype(DType::F64)?.to_scalar::<f64>()? / a.elem_count() as f64;
        let gradient = |a: &Tensor, b: &Tensor| {
            if !a.track_op() {
                return Ok(None);
            }
            let gradient = if a.dtype() == DType::F64 {
                let d = with_numbers::<f64, _>(a, |a| with_numbers(b, |b| self.gradient(a, b, scale)))?;
                Tensor::from_vec(d, a.shape(), a.device())
            } else {
                let d = with_numbers::<f32, _>(a, |a| with_numbers(b, |b| self.gradient(a, b, scale)))?;
                Tensor::from_vec(d, a.shape(), a.device())
            };
            gradient.map(Some)
        };
        Ok((gradient(a, b)?, gradient(b, a)?))
    }
}
