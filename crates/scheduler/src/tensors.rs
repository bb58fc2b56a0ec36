//! What schedulers do with tensors.

use candle_core::{Device, Tensor};
use kakusan_rng::Noise;

use crate::{Error, Result};

/// Standard normal noise.
pub(crate) fn randn(shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
    Ok(Tensor::from_vec(rng.randn_tensor(shape)?, shape, device)?)
}

/// Noise uniform on `[0, 1)`.
pub(crate) fn rand(shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
    Ok(Tensor::from_vec(rng.rand_tensor(shape)?, shape, device)?)
}

/// Standard normal noise for a tensor like this one.
pub(crate) fn noise_like(x: &Tensor, rng: &mut dyn Noise) -> Result<Tensor> {
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

/// A number for each image, to go with images like `x`: `[b] -> [b, 1, 1, 1]`.
pub(crate) fn per_image(numbers: Vec<f32>, x: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; x.rank()];
    if let Some(batch) = shape.first_mut() {
        *batch = numbers.len();
    }
    Ok(Tensor::from_vec(numbers, shape, x.device())?)
}

/// The model's output and, where it has `learned` to predict the variance in a second half of its channels, that half.
pub(crate) fn split_variance(learned: bool, output: &Tensor, sample: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
    if !learned {
        check_same("the model's output", output, sample)?;
        return Ok((output.clone(), None));
    }
    let channels = sample.dim(1)?;
    let mut expected = sample.dims().to_vec();
    expected[1] = 2 * channels;
    if output.dims() != expected {
        let got = output.dims().to_vec();
        return Err(Error::Shape { what: "the model's output, variance and all,", got, expected });
    }
    // [b, 2c, h, w] -> [b, c, h, w] twice
    Ok((output.narrow(1, 0, channels)?, Some(output.narrow(1, channels, channels)?)))
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
