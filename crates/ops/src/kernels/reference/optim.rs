//! The optimisers' steps, composed of candle's operations.

use candle_core::{DType, Device, Result, Tensor};

use crate::optim::adam::Factors;
use crate::optim::sgd::SgdConfig;

/// One step of Adam: the parameter and its two moments after it.
pub(crate) fn adam([param, m, v]: [&Tensor; 3], grad: &Tensor, by: &Factors) -> Result<[Tensor; 3]> {
    let grad = grad.affine(by.grad_scale, 0.0)?;
    let m = m.add(&grad.sub(m)?.affine(1.0 - by.beta1, 0.0)?)?;
    let v = v.affine(by.beta2, 0.0)?.add(&grad.sqr()?.affine(1.0 - by.beta2, 0.0)?)?;
    let divisor = v.sqrt()?.affine(1.0 / by.correction, by.eps)?;
    let param = param.affine(by.keep, 0.0)?.sub(&m.div(&divisor)?.affine(by.step_size, 0.0)?)?;
    Ok([param, m, v])
}

/// One step of a parameter by gradient descent; the second result is the momentum after it.
pub(crate) fn sgd(
    param: &Tensor,
    grad: &Tensor,
    buffer: Option<&Tensor>,
    by: &SgdConfig,
    grad_scale: f64,
) -> Result<(Tensor, Tensor)> {
    let grad = grad.affine(grad_scale, 0.0)?.add(&param.affine(by.weight_decay, 0.0)?)?;
    let moved = match buffer {
        Some(buffer) => buffer.affine(by.momentum, 0.0)?.add(&grad)?,
        None => grad,
    };
    Ok((param.sub(&moved.affine(by.lr, 0.0)?)?, moved))
}

/// One step of the average of a parameter.
pub(crate) fn ema(shadow: &Tensor, param: &Tensor, rate: f64) -> Result<Tensor> {
    shadow.sub(&shadow.sub(param)?.affine(rate, 0.0)?)
}

/// The sum of the squares of all elements of all tensors; they come to the CPU together.
pub(crate) fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
    if tensors.is_empty() {
        return Ok(0.0);
    }
    let wide = if tensors.iter().any(|tensor| tensor.dtype() == DType::F64) { DType::F64 } else { DType::F32 };
    let squares = tensors.iter().map(|tensor| tensor.detach().to_dtype(wide)?.sqr()?.sum_all());
    let squares = Tensor::stack(&squares.collect::<Result<Vec<_>>>()?, 0)?;
    Ok(squares.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().sum())
}
