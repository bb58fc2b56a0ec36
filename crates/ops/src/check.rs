//! What every operation asks of its arguments, before anything is allocated.

use candle_core::{DType, Result, Tensor, bail};

/// Refuses dtypes that no backend computes with.
pub(crate) fn supported(op: &str, x: &Tensor) -> Result<()> {
    let dtype = x.dtype();
    if x.device().is_cpu() && dtype != DType::F32 && dtype != DType::F64 {
        bail!("{op}: {dtype:?} is not supported on the CPU; convert the tensor to f32 or f64")
    }
    if !dtype.is_float() {
        bail!("{op}: {dtype:?} is not a floating point type; convert the tensor to f32")
    }
    Ok(())
}

/// The four dimensions `[b, c, h, w]` of an image batch; channels, height and width are not 0.
pub(crate) fn image_dims(op: &str, x: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *x.dims() {
        [b, c, h, w] if c > 0 && h > 0 && w > 0 => Ok((b, c, h, w)),
        _ => bail!(
            "{op}: expected images [batch, channels, height, width], none of the last three 0, got {:?}",
            x.dims()
        ),
    }
}

/// The number of elements of a result, refused where it does not fit the address space.
pub(crate) fn elements(op: &str, dims: &[usize]) -> Result<usize> {
    let count = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    match count {
        Some(count) if count <= isize::MAX as usize / size_of::<f64>() => Ok(count),
        _ => bail!("{op}: a result of shape {dims:?} is too large for this machine"),
    }
}

/// Two arguments must agree in dtype.
pub(crate) fn same_dtype(op: &str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dtype() != b.dtype() {
        bail!("{op}: the arguments are of dtypes {:?} and {:?}; convert one of them", a.dtype(), b.dtype())
    }
    Ok(())
}
