//! Convolutions, whose products are the library's: padding, the order of weights, and what follows.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::buffer::{Buffer, Read, Rows, transpose};
use super::card::{Address, Card, Pass, arguments, each};
use crate::op::conv_shape::ConvShape;

/// The weights `[co, ci, k, k]` as `[co, k, k, ci]`.
pub(crate) fn weights<C: Card>(s: &ConvShape, weight: &Tensor) -> Result<Buffer<C>> {
    let weight = Read::<C>::new(weight)?;
    let ordered = Buffer::new(&weight.card, weight.len)?;
    transpose(&weight.card, [s.co, s.ci, s.k * s.k], &weight, &ordered)?;
    Ok(ordered)
}

/// The convolution of images with zeros around them, without the rows and columns that a stride leaves over; `None`
/// where the library pads.
fn padded(s: &ConvShape) -> Option<ConvShape> {
    let size = |outputs: usize| (outputs - 1) * s.stride + s.k;
    let even = s.top == s.bottom && s.left == s.right;
    (!even).then_some(ConvShape { h: size(s.oh), w: size(s.ow), top: 0, left: 0, bottom: 0, right: 0, ..*s })
}

/// The images that the convolution `to` takes in place of those of `s`.
fn pad<C: Card>(s: &ConvShape, to: &ConvShape, x: &Buffer<C>) -> Result<Buffer<C>> {
    let y = Buffer::new(x.card(), to.b * to.h * to.w * to.ci)?;
    let sizes = arguments![x, &y, s.h, s.w, s.top, s.left, to.h, to.w, s.ci, y.len()];
    each(x.card(), "pad", y.len(), sizes)?;
    Ok(y)
}

/// The convolution, the bias, and SiLU, whose derivative is kept if `save`.
pub(crate) fn forward<C: Card>(
    s: &ConvShape,
    x: &Buffer<C>,
    weights: &Buffer<C>,
    bias: Option<&Tensor>,
    silu: bool,
    save: bool,
) -> Result<(Buffer<C>, Option<Buffer<C>>)> {
    let y = Buffer::new(x.card(), s.b * s.oh * s.ow * s.co)?;
    if s.b > 0 {
        let pass = |s: &ConvShape, x: &Buffer<C>| {
            x.card().convolve(Pass::Forward, s, x.address(), weights.address(), y.address())
        };
        match padded(s) {
            Some(to) => pass(&to, &pad(s, &to, x)?)?,
            None => pass(s, x)?,
        }
    }
    let slopes = if silu && save { Some(y.alike()?) } else { None };
    finish(&y, bias, silu, slopes.as_ref(), s.co)?;
    Ok((y, slopes))
}

/// `y` plus the bias, and SiLU of it, in place.
pub(crate) fn finish<C: Card>(
    y: &Buffer<C>,
    bias: Option<&Tensor>,
    silu: bool,
    slopes: Option<&Buffer<C>>,
    c: usize,
) -> Result<()> {
    let bias = bias.map(|bias| Read::on(y.card(), bias)).transpose()?;
    if bias.is_none() && !silu {
        return Ok(());
    }
    let bias = bias.as_ref().map_or(Address::NULL, Read::address);
    let slopes = slopes.map_or(Address::NULL, Buffer::address);
    each(y.card(), "finish", y.len(), arguments![y, bias, silu, slopes, c, y.len()])
}

/// The gradient before SiLU, and that of the bias.
pub(crate) fn bias_gradient<C: Card>(
    s: &ConvShape,
    grad: Arc<Buffer<C>>,
    derivative: Option<Buffer<C>>,
) -> Result<(Arc<Buffer<C>>, Buffer<C>)> {
    let grad = match derivative {
        Some(slopes) => {
            let arguments = arguments![&*grad, &slopes, &slopes, slopes.len()];
            each(slopes.card(), "multiply", slopes.len(), arguments)?;
            Arc::new(slopes)
        }
        None => grad,
    };
    let sums = Buffer::new(grad.card(), s.co)?;
    let rows = Rows { groups: 1, rows: s.b * s.oh * s.ow, width: s.co, stride: s.co };
    rows.sum(grad.card(), [grad.address(), Address::NULL], sums.address(), s.co)?;
    Ok((grad, sums))
}

/// The gradient of the weights, `[co, ci, k, k]`.
pub(crate) fn weight_gradient<C: Card>(s: &ConvShape, x: &Buffer<C>, grad: &Buffer<C>) -> Result<Buffer<C>> {
    let card = grad.card();
    let [ordered, gradient] = [(); 2].map(|()| Buffer::new(card, s.co * s.ci * s.k * s.k));
    let (ordered, gradient) = (ordered?, gradient?);
    if s.b == 0 {
        each(card, "fill", gradient.len(), arguments![&gradient, 0f32, gradient.len()])?;
        return Ok(gradient);
    }
    let pass =
        |s: &ConvShape, x: &Buffer<C>| card.convolve(Pass::Weights, s, x.address(), ordered.address(), grad.address());
    match padded(s) {
        Some(to) => pass(&to, &pad(s, &to, x)?)?,
        None => pass(s, x)?,
    }
    transpose(card, [s.co, s.k * s.k, s.ci], &ordered, &gradient)?;
    Ok(gradient)
}

/// The gradient of the images.
pub(crate) fn input_gradient<C: Card>(s: &ConvShape, grad: &Buffer<C>, weights: &Buffer<C>) -> Result<Buffer<C>> {
    let card = grad.card();
    let dx = Buffer::new(card, s.b * s.h * s.w * s.ci)?;
    if s.b == 0 {
        return Ok(dx);
    }
    let pass =
        |s: &ConvShape, dx: &Buffer<C>| card.convolve(Pass::Input, s, dx.address(), weights.address(), grad.address());
    match padded(s) {
        Some(of) => {
            let wide = Buffer::new(card, of.b * of.h * of.w * of.ci)?;
            pass(&of, &wide)?;
            let sizes = arguments![&wide, &dx, s.h, s.w, s.top, s.left, of.h, of.w, s.ci, dx.len()];
            each(card, "crop", dx.len(), sizes)?;
        }
        None => pass(s, &dx)?,
    }
    Ok(dx)
}
