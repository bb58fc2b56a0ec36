//! The optimisers' steps, composed of candle's operations.

use candle_core::{DType, Device, Result, Tensor};

use crate::linear;
use crate::optim::adam::Factors;
use crate::optim::muon::{MuonConfig, QUINTIC, step_size};
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

/// One step of Muon: the parameter and its mean gradient after it.
pub(crate) fn muon(
    [param, mean]: [&Tensor; 2],
    grad: &Tensor,
    config: &MuonConfig,
    grad_scale: f64,
) -> Result<[Tensor; 2]> {
    let grad = grad.affine(grad_scale, 0.0)?;
    let mean = mix(&grad, mean, config.momentum)?;
    let direction = orthogonal(&mix(&grad, &mean, config.momentum)?.flatten_from(1)?)?;
    let (rows, columns) = direction.dims2()?;
    let step = (direction * step_size(config, [rows, columns]))?;
    let value = ((param * (1.0 - config.lr * config.weight_decay))? - step.reshape(param.dims())?)?;
    Ok([value, mean])
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

/// `keep` of `mean`, and of `grad` the rest.
fn mix(grad: &Tensor, mean: &Tensor, keep: f64) -> Result<Tensor> {
    (mean * keep)? + (grad * (1.0 - keep))?
}

/// The nearest matrix to `matrix` whose singular values are all about 1 (0.7 to 1.2), by five steps of a
/// Newton-Schulz iteration `X ← (a I + b G + c G²) X`, where `G = X Xᵀ`.
///
/// The factors before `X` commute, so that they and `G` are computed alone, which are small, and `X` is multiplied
/// once.
pub(crate) fn orthogonal(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let dtype = if matrix.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let matrix_or_turned = if rows > columns { matrix.t()?.contiguous()? } else { matrix.clone() };
    let wide = matrix_or_turned.to_dtype(dtype)?;
    let norm = wide.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt();
    let x = (wide / norm.max(1e-7))?;
    let [a, b, c] = QUINTIC;
    let identity = (Tensor::eye(rows.min(columns), dtype, matrix.device())? * a)?;
    let mut gram = product(&x, &x)?;
    let mut factors = None;
    for _ in 0..5 {
        let factor = ((&identity + (&gram * b)?)? + (product(&gram, &gram)? * c)?)?;
        gram = product(&product(&factor, &gram)?, &factor)?;
        factors = Some(match factors {
            Some(before) => product(&factor, &before)?,
            None => factor,
        });
    }
    let turned = product(&x.t()?.contiguous()?, &factors.unwrap_or(identity))?;
    if rows > columns { turned } else { turned.t()?.contiguous()? }.to_dtype(matrix.dtype())
}

/// `a bᵀ`. Most of these matrices are symmetric, so that it is `a b`.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, columns) = a.dims2()?;
    linear(&a.reshape((rows, columns, 1, 1))?, b, None)?.flatten_from(1)
}
