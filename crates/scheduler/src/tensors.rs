//! What schedulers do with tensors.

use candle_core::{Device, Tensor};
use kakusan_rng::Noise;

use crate::{Error, Result};

/// Standard normal noise.
pub(crate) fn randn(shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
    Ok(Tensor::from_vec(rng.randn_tensor(shape)?, shape, device)?)
}

/// Standard normal noise for a tensor like this one.
pub(crate) fn randn_like(x: &Tensor, rng: &mut dyn Noise) -> Result<Tensor> {
    randn(x.dims(), x.device(), rng)
}

/// `a x + b y`
pub(crate) fn mix(a: f32, x: &Tensor, b: f32, y: &Tensor) -> Result<Tensor> {
    Ok((scale(x, a)? + scale(y, b)?)?)
}

/// `a x`
pub(crate) fn scale(x: &Tensor, a: f32) -> Result<Tensor> {
    Ok(x.affine(a.into(), 0.0)?)
}

/// `sample / sqrt(σ² + 1)`: what a model is shown of `x₀ + σ ε`.
pub(crate) fn scale_by_sigma(sample: &Tensor, sigma: f32) -> Result<Tensor> {
    scale(sample, 1.0 / (sigma * sigma + 1.0).sqrt())
}

/// A number for each image, to go with images like `x`: `[b] -> [b, 1, 1, 1]`.
pub(crate) fn per_image(numbers: Vec<f32>, x: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; x.rank()];
    if let Some(batch) = shape.first_mut() {
        *batch = numbers.len();
    }
    Ok(Tensor::from_vec(numbers, shape, x.device())?)
}

/// The levels of a batch of images, of which there has to be one for each.
pub(crate) fn levels_of(levels: &Tensor, images: &Tensor) -> Result<Vec<f32>> {
    let expected = vec![images.dim(0)?];
    if levels.dims() != expected {
        return Err(Error::Shape { what: "the levels", got: levels.dims().to_vec(), expected });
    }
    Ok(levels.to_vec1()?)
}

pub(crate) fn check_same(what: &'static str, tensor: &Tensor, like: &Tensor) -> Result<()> {
    check_dims(what, tensor, like.dims())
}

pub(crate) fn check_dims(what: &'static str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() != expected {
        return Err(Error::Shape { what, got: tensor.dims().to_vec(), expected: expected.to_vec() });
    }
    Ok(())
}
