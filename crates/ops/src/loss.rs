//! The mean squared error.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::check::{on_host, same_dtype};
use crate::compose;
use crate::host::{PIECE, build, numbers, piece, with_numbers};

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
    if prediction.dims() != target.dims() {
        bail!("mse_loss: the prediction is {:?}, the target {:?}", prediction.dims(), target.dims())
    }
    same_dtype("mse_loss", prediction, target)?;
    if !on_host("mse_loss", prediction)? {
        return compose::mse_loss(prediction, target);
    }
    prediction.contiguous()?.apply_op2(&target.contiguous()?, MeanSquaredError)
}

struct MeanSquaredError;

fn mean<T: WithDType>(a: &[T], b: &[T]) -> Result<f64> {
    let ([], sums) = build(a.len(), PIECE, |i, []: [&mut [T]; 0]| {
        let square = |(a, b): (&T, &T)| (a.to_f64() - b.to_f64()).powi(2);
        piece(a, i, PIECE).iter().zip(piece(b, i, PIECE)).map(square).sum::<f64>()
    })?;
    Ok(sums.iter().sum::<f64>() / a.len() as f64)
}

/// `scale (a - b)`
fn difference<T: WithDType>(a: &[T], b: &[T], scale: f64) -> Result<Vec<T>> {
    let scale = T::from_f64(scale);
    let ([difference], _) = build(a.len(), PIECE, |i, [difference]| {
        let pairs = piece(a, i, PIECE).iter().zip(piece(b, i, PIECE));
        difference.iter_mut().zip(pairs).for_each(|(d, (&a, &b))| *d = (a - b) * scale);
    })?;
    Ok(difference)
}

impl CustomOp2 for MeanSquaredError {
    fn name(&self) -> &'static str {
        "mse_loss"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let loss = if let CpuStorage::F64(_) = a {
            CpuStorage::F64(vec![mean::<f64>(numbers(a, la)?, numbers(b, lb)?)?])
        } else {
            CpuStorage::F32(vec![mean::<f32>(numbers(a, la)?, numbers(b, lb)?)? as f32])
        };
        Ok((loss, Shape::from(())))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = 2.0 * grad.to_dtype(DType::F64)?.to_scalar::<f64>()? / a.elem_count() as f64;
        let gradient = |a: &Tensor, b: &Tensor| {
            if !a.track_op() {
                return Ok(None);
            }
            let gradient = if a.dtype() == DType::F64 {
                let d = with_numbers::<f64, _>(a, |a| with_numbers(b, |b| difference(a, b, scale)))?;
                Tensor::from_vec(d, a.shape(), a.device())
            } else {
                let d = with_numbers::<f32, _>(a, |a| with_numbers(b, |b| difference(a, b, scale)))?;
                Tensor::from_vec(d, a.shape(), a.device())
            };
            gradient.map(Some)
        };
        Ok((gradient(a, b)?, gradient(b, a)?))
    }
}
