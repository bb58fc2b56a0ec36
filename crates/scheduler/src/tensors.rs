//! What schedulers do with tensors.

use candle_core::{Device, Tensor};
use kakusan_rng::{Generator, Noise};

use crate::{Draw, Error, Result};

/// Standard normal noise.
pub(crate) fn randn(shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
    Ok(Tensor::from_vec(rng.randn_tensor(shape)?, shape, device)?)
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

/// `a x + b y`, with the `a` and `b` of each image's own level.
pub(crate) fn mix_by_level(
    x: &Tensor,
    y: &Tensor,
    levels: &Tensor,
    weights: impl Fn(f32) -> Result<(f32, f32)>,
) -> Result<Tensor> {
    check_same("the noise", y, x)?;
    let weights = levels_of(levels, x)?.into_iter().map(weights).collect::<Result<Vec<_>>>()?;
    let (a, b): (Vec<f32>, Vec<f32>) = weights.into_iter().unzip();
    Ok((x.broadcast_mul(&per_image(a, x)?)? + y.broadcast_mul(&per_image(b, x)?)?)?)
}

/// `a x`, with the `a` of each image's own level.
pub(crate) fn scale_by_level(x: &Tensor, levels: &Tensor, factor: impl Fn(f32) -> f32) -> Result<Tensor> {
    let factors = levels_of(levels, x)?.into_iter().map(factor).collect();
    Ok(x.broadcast_mul(&per_image(factors, x)?)?)
}

/// A number for each level: `[b] -> [b]`.
pub(crate) fn of_levels(levels: &Tensor, number: impl Fn(f32) -> f32) -> Result<Tensor> {
    let numbers = levels.to_vec1::<f32>()?.into_iter().map(number).collect();
    Ok(Tensor::from_vec(numbers, levels.dims(), levels.device())?)
}

/// Standard normal noise, then one of the levels of `table` for each image: the order of diffusers' training scripts.
pub(crate) fn draw_from(table: &[f32], clean: &Tensor, rng: &mut Generator) -> Result<Draw> {
    let batch = clean.dim(0)?;
    let noise = randn(clean.dims(), clean.device(), rng)?;
    let levels = rng.randint(batch, 0, table.len() as i64)?.into_iter().map(|i| table[i as usize]).collect();
    Ok(Draw { noise, levels: Tensor::from_vec(levels, batch, clean.device())? })
}

/// The levels of a batch of images, of which there has to be one for each.
pub(crate) fn levels_of(levels: &Tensor, images: &Tensor) -> Result<Vec<f32>> {
    let expected = vec![images.dim(0)?];
    if levels.dims() != expected {
        return Err(Error::Shape { what: "the levels", got: levels.dims().to_vec(), expected });
    }
    Ok(levels.to_vec1()?)
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
