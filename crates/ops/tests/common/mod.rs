//! Helpers that several tests use.
#![allow(dead_code)] // each test file uses only some of them

use candle_core::{DType, Device, Result, Tensor};
use kakusan_rng::Generator;

/// Limits the kernels to the vectors that `KAKUSAN_TEST_VECTORS` names (`cargo xtask ci vectors`), before the first
/// operation.
pub(crate) fn limit_vectors() {
    if let Ok(vectors) = std::env::var("KAKUSAN_TEST_VECTORS") {
        kakusan_ops::limit_vectors(vectors.parse().expect("vectors by their name")).expect("no operation so far");
    }
}

/// Normal noise from a seed, f64.
pub(crate) fn noise(seed: u64, dims: &[usize]) -> Result<Tensor> {
    limit_vectors();
    let numbers = Generator::new(seed).randn_f64(dims.iter().product());
    Tensor::from_vec(numbers, dims, &Device::Cpu)
}

/// Normal noise from a seed, f32.
pub(crate) fn f32s(seed: u64, dims: &[usize]) -> Result<Tensor> {
    noise(seed, dims)?.to_dtype(DType::F32)
}

/// The same numbers under strides that no kernel expects: narrowed out of a larger tensor, its axes swapped.
pub(crate) fn strided(x: &Tensor) -> Result<Tensor> {
    let last = x.rank() - 1;
    let turned = x.transpose(0, last)?.contiguous()?;
    let filler = turned.ones_like()?.affine(1e9, 0.0)?;
    let inside = Tensor::cat(&[&filler, &turned, &filler], 0)?;
    let view = inside.narrow(0, turned.dim(0)?, turned.dim(0)?)?.transpose(0, last)?;
    assert_eq!(view.dims(), x.dims());
    Ok(view)
}

pub(crate) fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The largest difference over the largest number of `expected`; infinite where one is NaN or of another shape.
pub(crate) fn error(got: &Tensor, expected: &Tensor) -> Result<f64> {
    if got.dims() != expected.dims() {
        return Ok(f64::INFINITY);
    }
    let (got, expected) = (numbers(got)?, numbers(expected)?);
    let scale = expected.iter().fold(0f64, |scale, x| scale.max(x.abs()));
    let difference = got.iter().zip(&expected).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
    let worst = difference.fold(0f64, |worst, d| if d > worst || d.is_nan() { d } else { worst });
    Ok(if worst == 0.0 {
        0.0
    } else if worst.is_nan() {
        f64::INFINITY
    } else {
        worst / scale
    })
}
