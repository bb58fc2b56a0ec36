//! The operations, composed of candle's own.

use candle_core::{Result, Tensor};

use crate::op::activation::Activation;
use crate::op::conv_shape::ConvShape;

pub(crate) fn conv2d(s: &ConvShape, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let weight = weight.contiguous()?;
    let y = if s.stride == 1 && [s.bottom, s.left, s.right] == [s.top; 3] {
        x.contiguous()?.conv2d(&weight, s.top, 1, 1, 1)?
    } else {
        padded(s, x)?.conv2d(&weight, 0, s.stride, 1, 1)? // candle pads all sides alike
    };
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?), // [co] -> [1, co, 1, 1]
        None => Ok(y),
    }
}

/// Images with zeros around them, without the rows and columns that a stride leaves over.
fn padded(s: &ConvShape, x: &Tensor) -> Result<Tensor> {
    let x = x.pad_with_zeros(2, s.top, s.bottom)?.pad_with_zeros(3, s.left, s.right)?;
    x.narrow(2, 0, (s.oh - 1) * s.stride + s.k)?.narrow(3, 0, (s.ow - 1) * s.stride + s.k)?.contiguous()
}

/// A convolution of the images with the gradient as kernel, batch and channels in each other's place.
pub(crate) fn conv2d_weight_gradient(s: &ConvShape, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let x = padded(s, x)?.transpose(0, 1)?.contiguous()?; // [ci, b, h, w]
    let grad = grad.transpose(0, 1)?.contiguous()?; // [co, b, oh, ow]
    x.conv2d(&grad, 0, 1, s.stride, 1)?.transpose(0, 1)?.contiguous() // [co, ci, k, k]
}

/// The transposed convolution of the gradient.
pub(crate) fn conv2d_input_gradient(s: &ConvShape, grad: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let dx = grad.contiguous()?.conv_transpose2d(&weight.contiguous()?, 0, 0, s.stride, 1)?;
    let (_, _, h, w) = dx.dims4()?;
    let dx = dx.pad_with_zeros(2, 0, s.h + s.top + s.bottom - h)?.pad_with_zeros(3, 0, s.w + s.left + s.right - w)?;
    dx.narrow(2, s.top, s.h)?.narrow(3, s.left, s.w)?.contiguous()
}

pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

pub(crate) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::Mish => {
            let softplus = x.relu()?.add(&(x.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
            x.mul(&softplus.tanh()?)
        }
        Activation::Relu => x.relu(),
    }
}

pub(crate) fn group_norm(x: &Tensor, groups: usize, [weight, bias]: [&Tensor; 2], eps: f64) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let grouped = x.contiguous()?.reshape((b, groups, c / groups * h * w))?; // [b, c, h, w] -> [b, g, n]
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
    let variance = centred.sqr()?.mean_keepdim(2)?;
    let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((b, c, h, w))?;
    normal.broadcast_mul(&weight.reshape((1, c, 1, 1))?)?.broadcast_add(&bias.reshape((1, c, 1, 1))?)
}

pub(crate) fn attention([q, k, v]: [&Tensor; 3], heads: usize) -> Result<Tensor> {
    let (b, c, h, w) = q.dims4()?;
    let d = c / heads;
    // [b, heads * d, h, w] -> [b * heads, h * w, d]
    let tokens = |x: &Tensor| -> Result<Tensor> {
        x.contiguous()?.reshape((b * heads, d, x.elem_count() / (b * c)))?.transpose(1, 2)?.contiguous()
    };
    let scores = tokens(q)?.matmul(&tokens(k)?.transpose(1, 2)?.contiguous()?)?.affine(1.0 / (d as f64).sqrt(), 0.0)?;
    let shifted = scores.broadcast_sub(&scores.detach().max_keepdim(2)?)?.exp()?;
    let weights = shifted.broadcast_div(&shifted.sum_keepdim(2)?)?;
    let y = weights.matmul(&tokens(v)?)?; // [b * heads, h * w, d]
    y.transpose(1, 2)?.contiguous()?.reshape((b, c, h, w))
}

pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (b, i, h, w) = x.dims4()?;
    let o = weight.dim(0)?;
    // [b, i, h, w] -> [b * h * w, i] -> [b * h * w, o] -> [b, o, h, w]
    let rows = x.permute((0, 2, 3, 1))?.contiguous()?.reshape((b * h * w, i))?;
    let y = rows.matmul(&weight.t()?.contiguous()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    y.reshape((b, h, w, o))?.permute((0, 3, 1, 2))?.contiguous()
}

pub(crate) fn avg_pool2d(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let even = x.narrow(2, 0, h / 2 * 2)?.narrow(3, 0, w / 2 * 2)?;
    // [b, c, h, w] -> [b, c, h / 2, 2, w / 2, 2] -> [b, c, h / 2, w / 2]
    even.contiguous()?.reshape((b, c, h / 2, 2, w / 2, 2))?.mean(5)?.mean(3)
}

pub(crate) fn dropout(x: &Tensor, mask: &Tensor, p: f64) -> Result<Tensor> {
    let kept = if p < 1.0 { 1.0 / (1.0 - p) } else { 0.0 };
    x.mul(&mask.to_dtype(x.dtype())?.affine(kept, 0.0)?)
}

pub(crate) fn max_pool2d(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    // [b, c, h, w] -> [b, c, h / 2, 2, w / 2, 2]
    let even = x.narrow(2, 0, h / 2 * 2)?.narrow(3, 0, w / 2 * 2)?;
    let blocks = even.contiguous()?.reshape((b, c, h / 2, 2, w / 2, 2))?;
    let corner =
        |y: usize, x: usize| blocks.narrow(3, y, 1)?.narrow(5, x, 1)?.contiguous()?.reshape((b, c, h / 2, w / 2));
    let mut largest = corner(0, 0)?;
    for later in [corner(0, 1)?, corner(1, 0)?, corner(1, 1)?] {
        // the first of equals stays; NaN, which does not equal itself, always wins
        let beats = later.gt(&largest)?.maximum(&later.ne(&later)?)?;
        largest = beats.where_cond(&later, &largest)?;
    }
    Ok(largest)
}

pub(crate) fn upsample_nearest2d(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    // [b, c, h, w] -> [b, c, h, 1, w, 1] -> [b, c, h, 2, w, 2] -> [b, c, 2h, 2w]
    let repeated = x.contiguous()?.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?;
    repeated.contiguous()?.reshape((b, c, 2 * h, 2 * w))
}

pub(crate) fn fir_downsample2d(x: &Tensor) -> Result<Tensor> {
    let halve = |x: &Tensor, dim: usize| -> Result<Tensor> {
        let len = x.dim(dim)? / 2;
        // zeros around, then pairs: place 2i is the even one of pair i
        let padded = x.pad_with_zeros(dim, 1, 1)?.narrow(dim, 0, 2 * (len + 1))?.contiguous()?;
        let mut dims = padded.dims().to_vec();
        dims.splice(dim..=dim, [len + 1, 2]);
        let pairs = padded.reshape(dims)?;
        let tap = |odd: usize, from: usize| pairs.narrow(dim + 1, odd, 1)?.squeeze(dim + 1)?.narrow(dim, from, len);
        let inner = tap(1, 0)?.add(&tap(0, 1)?)?.affine(3.0, 0.0)?;
        tap(0, 0)?.add(&tap(1, 1)?)?.add(&inner)?.affine(0.125, 0.0)
    };
    halve(&halve(x, 2)?, 3)
}

pub(crate) fn fir_upsample2d(x: &Tensor) -> Result<Tensor> {
    let double = |x: &Tensor, dim: usize| -> Result<Tensor> {
        let len = x.dim(dim)?;
        let previous = x.pad_with_zeros(dim, 1, 0)?.narrow(dim, 0, len)?;
        let next = x.pad_with_zeros(dim, 0, 1)?.narrow(dim, 1, len)?;
        let own = x.affine(0.75, 0.0)?;
        let pair = [own.add(&previous.affine(0.25, 0.0)?)?, own.add(&next.affine(0.25, 0.0)?)?];
        let mut dims = x.dims().to_vec();
        dims[dim] = 2 * len;
        Tensor::stack(&pair, dim + 1)?.reshape(dims) // [.., h, 2, ..] -> [.., 2h, ..]
    };
    double(&double(x, 2)?, 3)
}

pub(crate) fn scale_shift(x: &Tensor, vector: &Tensor) -> Result<Tensor> {
    let c = x.dim(1)?;
    let (scale, shift) = (vector.narrow(1, 0, c)?, vector.narrow(1, c, c)?);
    x.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(&shift)
}

pub(crate) fn mse_loss(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    prediction.sub(target)?.sqr()?.mean_all()
}

// The slopes of the next two are held fixed: what is left to differentiate is linear, and its gradient is the slope.

pub(crate) fn l1_loss(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    let difference = prediction.sub(target)?;
    let slope = difference.detach().sign()?;
    difference.mul(&slope)?.mean_all()
}

pub(crate) fn huber_loss(prediction: &Tensor, target: &Tensor, delta: f64) -> Result<Tensor> {
    let difference = prediction.sub(target)?;
    let slope = difference.detach().clamp(-delta, delta)?;
    difference.sub(&slope.affine(0.5, 0.0)?)?.mul(&slope)?.mean_all()
}
