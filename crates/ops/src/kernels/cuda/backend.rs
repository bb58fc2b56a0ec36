//! Every kernel that operations and optimisers ask for.

use std::sync::Arc;

use candle_core::{Result, Storage, Tensor, Var};

use super::buffer::{Buffer, Read, Rows, transpose};
use super::card::{Address, Card, Product, arguments, each};
use super::{Cuda, attention, conv, loss, norm, optim};
use crate::features::Dims;
use crate::kernels::{Backend, Parameter};
use crate::op::activation::Activation;
use crate::op::attention::Attention;
use crate::op::conv_shape::ConvShape;
use crate::op::linear::Linear;
use crate::op::loss::Loss;
use crate::op::norm::GroupNorm;
use crate::optim::adam::Factors;
use crate::optim::sgd::SgdConfig;

/// The activations as kernels know them.
const SILU: i32 = 0;

fn kind(f: Activation) -> i32 {
    match f {
        Activation::Gelu => 1,
        Activation::Mish => 2,
        Activation::Relu => 3,
    }
}

fn activation<C: Card>(kind: i32, x: &Buffer<C>) -> Result<Buffer<C>> {
    let y = x.alike()?;
    each(x.card(), "activation", x.len(), arguments![kind, x, &y, x.len()])?;
    Ok(y)
}

fn activation_backward<C: Card>(kind: i32, x: &Buffer<C>, grad: &Buffer<C>) -> Result<Buffer<C>> {
    let dx = x.alike()?;
    each(x.card(), "activation_backward", x.len(), arguments![kind, x, grad, &dx, x.len()])?;
    Ok(dx)
}

/// A kernel on the rows, columns and channels of images `[b, h, w, c]`: a thread for each of `count` results.
fn resample<C: Card>(
    kernel: &'static str,
    x: &Buffer<C>,
    Dims { h, w, c, .. }: Dims,
    count: usize,
) -> Result<Buffer<C>> {
    let y = Buffer::new(x.card(), count)?;
    each(x.card(), kernel, count, arguments![x, &y, h, w, c, count])?;
    Ok(y)
}

/// From images of sizes `from` to those of sizes `to`.
fn fir<C: Card>(kernel: &'static str, x: &Buffer<C>, from: Dims, to: Dims, factor: f32) -> Result<Buffer<C>> {
    let y = Buffer::new(x.card(), to.count())?;
    each(x.card(), kernel, y.len(), arguments![x, &y, from.h, from.w, to.h, to.w, to.c, factor, y.len()])?;
    Ok(y)
}

fn halved(dims: Dims) -> Dims {
    Dims { h: dims.h / 2, w: dims.w / 2, ..dims }
}

fn doubled(dims: Dims) -> Dims {
    Dims { h: 2 * dims.h, w: 2 * dims.w, ..dims }
}

/// A product of matrices; of empty ones it is zeros.
fn multiply<C: Card>(
    card: &C,
    [m, n, k]: [usize; 3],
    transposed: [bool; 2],
    [a, b]: [Address; 2],
) -> Result<Buffer<C>> {
    let c = Buffer::new(card, m * n)?;
    match (m * n, k) {
        (0, _) => {}
        (count, 0) => each(card, "fill", count, arguments![&c, 0f32, count])?,
        _ => card.multiply(&Product { batch: 1, m, n, k, transposed, add: false }, a, b, c.address())?,
    }
    Ok(c)
}

impl<C: Card> Backend for Cuda<C> {
    type Buffer = Buffer<C>;
    type ConvWeights = Buffer<C>;
    type Saved = Buffer<C>;
    type State = Buffer<C>;

    /// `[b, c, h, w] -> [b, h, w, c]`
    fn from_tensor(x: &Tensor, dims: Dims) -> Result<Buffer<C>> {
        let x = Read::<C>::new(x)?;
        let y = Buffer::new(&x.card, dims.count())?;
        transpose(&x.card, [dims.b, dims.c, dims.pixels()], &x, &y)?;
        Ok(y)
    }

    /// `[b, h, w, c] -> [b, c, h, w]`
    fn to_storage(x: &Buffer<C>, dims: Dims) -> Result<Storage> {
        x.card().storage(dims.count(), |to| transpose(x.card(), [dims.b, dims.pixels(), dims.c], x, to))
    }

    fn weight_gradient(gradient: &Buffer<C>, dims: &[usize]) -> Result<Tensor> {
        gradient.tensor(dims)
    }

    fn sum(a: Arc<Buffer<C>>, b: Arc<Buffer<C>>) -> Result<Arc<Buffer<C>>> {
        let (a, b) = if Arc::strong_count(&a) == 1 { (a, b) } else { (b, a) };
        let (card, len) = (b.card().clone(), b.len());
        let sum = match Arc::try_unwrap(a) {
            Ok(a) => {
                each(&card, "add", len, arguments![&a, &*b, &a, len])?;
                a
            }
            Err(a) => Self::add(&a, &b)?,
        };
        Ok(Arc::new(sum))
    }

    fn silu(x: &Buffer<C>) -> Result<Buffer<C>> {
        activation(SILU, x)
    }

    fn silu_backward(x: &Buffer<C>, grad: &Buffer<C>) -> Result<Buffer<C>> {
        activation_backward(SILU, x, grad)
    }

    fn activation(f: Activation, x: &Buffer<C>) -> Result<Buffer<C>> {
        activation(kind(f), x)
    }

    fn activation_backward(f: Activation, x: &Buffer<C>, grad: Arc<Buffer<C>>) -> Result<Buffer<C>> {
        activation_backward(kind(f), x, &grad)
    }

    fn add(a: &Buffer<C>, b: &Buffer<C>) -> Result<Buffer<C>> {
        let y = a.alike()?;
        each(a.card(), "add", a.len(), arguments![a, b, &y, a.len()])?;
        Ok(y)
    }

    fn scale(x: &Buffer<C>, factor: f64) -> Result<Buffer<C>> {
        let y = x.alike()?;
        each(x.card(), "scale", x.len(), arguments![x, factor as f32, &y, x.len()])?;
        Ok(y)
    }

    fn add_vector(x: &Buffer<C>, vector: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        let y = x.alike()?;
        each(x.card(), "add_vector", x.len(), arguments![x, vector, &y, dims.pixels() * dims.c, dims.c, x.len()])?;
        Ok(y)
    }

    fn sum_pixels(grad: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        let sums = Buffer::new(grad.card(), dims.b * dims.c)?;
        let rows = Rows { groups: dims.b, rows: dims.pixels(), width: dims.c, stride: dims.c };
        rows.sum(grad.card(), [grad.address(), Address::NULL], sums.address(), dims.c)?;
        Ok(sums)
    }

    fn scale_shift(x: &Buffer<C>, vector: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        let y = x.alike()?;
        each(x.card(), "scale_shift", x.len(), arguments![x, vector, &y, dims.pixels() * dims.c, dims.c, x.len()])?;
        Ok(y)
    }

    fn scale_shift_backward(x: &Buffer<C>, vector: &Buffer<C>, grad: &Buffer<C>, dims: Dims) -> Result<[Buffer<C>; 2]> {
        let (card, c) = (x.card(), dims.c);
        let [dx, dvector] = [x.alike()?, vector.alike()?];
        each(card, "scale_shift_backward", dx.len(), arguments![vector, grad, &dx, dims.pixels() * c, c, dx.len()])?;
        let rows = Rows { groups: dims.b, rows: dims.pixels(), width: c, stride: c };
        rows.sum(card, [grad.address(), x.address()], dvector.address(), 2 * c)?;
        rows.sum(card, [grad.address(), Address::NULL], dvector.address().plus(c), 2 * c)?;
        Ok([dx, dvector])
    }

    fn concat(a: &Buffer<C>, b: &Buffer<C>, [da, db]: [Dims; 2]) -> Result<Buffer<C>> {
        let y = Buffer::new(a.card(), a.len() + b.len())?;
        each(a.card(), "concat", y.len(), arguments![a, b, &y, da.c, db.c, y.len()])?;
        Ok(y)
    }

    fn split(grad: &Buffer<C>, [a, b]: [Dims; 2]) -> Result<[Buffer<C>; 2]> {
        let [da, db] = [Buffer::new(grad.card(), a.count())?, Buffer::new(grad.card(), b.count())?];
        each(grad.card(), "split", grad.len(), arguments![grad, &da, &db, a.c, b.c, grad.len()])?;
        Ok([da, db])
    }

    /// `[b, c, h, w] -> [b, h, w, c]`
    fn mask(mask: &Tensor, x: &Buffer<C>) -> Result<Tensor> {
        x.card().bring(&mask.permute((0, 2, 3, 1))?.contiguous()?)
    }

    fn dropout(x: &Buffer<C>, mask: &Tensor, p: f64) -> Result<Buffer<C>> {
        let mask = Read::on(x.card(), mask)?;
        // torch divides the mask in f32, by 1 - p of f64
        let kept = if p < 1.0 { 1.0 / (1.0 - p) as f32 } else { 0.0 };
        let y = x.alike()?;
        each(x.card(), "dropout", x.len(), arguments![x, &mask, kept, &y, x.len()])?;
        Ok(y)
    }

    fn avg_pool2d(x: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        resample("avg_pool", x, dims, halved(dims).count())
    }

    fn avg_pool2d_backward(grad: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        resample("avg_pool_backward", grad, dims, dims.count())
    }

    fn max_pool2d(x: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        resample("max_pool", x, dims, halved(dims).count())
    }

    fn max_pool2d_backward(
        x: &Buffer<C>,
        grad: &Buffer<C>,
        Dims { h, w, c, .. }: Dims,
        gathered: Option<Arc<Buffer<C>>>,
    ) -> Result<Buffer<C>> {
        let dx = match gathered {
            Some(gathered) => Buffer::owned(gathered)?,
            None => {
                let fresh = x.alike()?;
                let sizes = arguments![x, grad, Address::NULL, &fresh, h, w, c, x.len()];
                each(x.card(), "max_pool_backward", x.len(), sizes)?;
                return Ok(fresh);
            }
        };
        each(x.card(), "max_pool_backward", x.len(), arguments![x, grad, &dx, &dx, h, w, c, x.len()])?;
        Ok(dx)
    }

    fn upsample(x: &Buffer<C>, skip: Option<&Buffer<C>>, dims: Dims) -> Result<Buffer<C>> {
        let y = Buffer::new(x.card(), doubled(dims).count())?;
        let skip = skip.map_or(Address::NULL, Buffer::address);
        each(x.card(), "upsample", y.len(), arguments![x, skip, &y, dims.h, dims.w, dims.c, y.len()])?;
        Ok(y)
    }

    fn upsample_backward(grad: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        resample("upsample_backward", grad, dims, dims.count())
    }

    fn fir_downsample2d(x: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        fir("fir_down", x, dims, halved(dims), 1.0 / 64.0)
    }

    fn fir_downsample2d_backward(grad: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        fir("fir_up", grad, halved(dims), dims, 1.0 / 64.0)
    }

    fn fir_upsample2d(x: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        fir("fir_up", x, dims, doubled(dims), 1.0 / 16.0)
    }

    fn fir_upsample2d_backward(grad: &Buffer<C>, dims: Dims) -> Result<Buffer<C>> {
        fir("fir_down", grad, doubled(dims), dims, 1.0 / 16.0)
    }

    fn conv2d_weights(s: &ConvShape, weight: &Tensor) -> Result<Buffer<C>> {
        conv::weights(s, weight)
    }

    fn conv2d_backward_weights(s: &ConvShape, weight: &Tensor) -> Result<Buffer<C>> {
        conv::weights(s, weight)
    }

    fn conv2d(
        s: &ConvShape,
        x: &Buffer<C>,
        weights: &Buffer<C>,
        bias: Option<&Tensor>,
        silu: bool,
        save: bool,
    ) -> Result<(Buffer<C>, Option<Buffer<C>>)> {
        conv::forward(s, x, weights, bias, silu, save)
    }

    fn conv2d_bias_gradient(
        s: &ConvShape,
        grad: Arc<Buffer<C>>,
        derivative: Option<Buffer<C>>,
    ) -> Result<(Arc<Buffer<C>>, Buffer<C>)> {
        conv::bias_gradient(s, grad, derivative)
    }

    fn conv2d_weight_gradient(s: &ConvShape, x: &Buffer<C>, grad: &Buffer<C>) -> Result<Buffer<C>> {
        conv::weight_gradient(s, x, grad)
    }

    fn conv2d_input_gradient(s: &ConvShape, grad: &Buffer<C>, weights: &Buffer<C>) -> Result<Buffer<C>> {
        conv::input_gradient(s, grad, weights)
    }

    fn group_norm(s: &GroupNorm, x: &Buffer<C>, weights: [&Tensor; 2]) -> Result<(Buffer<C>, Buffer<C>)> {
        norm::forward(s, x, weights)
    }

    fn group_norm_backward(
        s: &GroupNorm,
        x: &Buffer<C>,
        stats: &Buffer<C>,
        weights: [&Tensor; 2],
        grad: &Buffer<C>,
    ) -> Result<[Buffer<C>; 3]> {
        norm::backward(s, x, stats, weights, grad)
    }

    fn attention(s: &Attention, inputs: [&Buffer<C>; 3]) -> Result<(Buffer<C>, Buffer<C>)> {
        attention::forward(s, inputs)
    }

    fn attention_backward(
        s: &Attention,
        inputs: [&Buffer<C>; 3],
        _: &Buffer<C>,
        log_sums: &Buffer<C>,
        grad: &Buffer<C>,
    ) -> Result<[Buffer<C>; 3]> {
        attention::backward(s, inputs, log_sums, grad)
    }

    fn linear(s: &Linear, x: &Buffer<C>, weight: &Tensor, bias: Option<&Tensor>) -> Result<Buffer<C>> {
        let weight = Read::on(x.card(), weight)?;
        let y = multiply(x.card(), [s.m, s.o, s.i], [false, true], [x.address(), weight.address()])?;
        conv::finish(&y, bias, false, None, s.o)?;
        Ok(y)
    }

    fn linear_input_gradient(s: &Linear, weight: &Tensor, grad: &Buffer<C>) -> Result<Buffer<C>> {
        let weight = Read::on(grad.card(), weight)?;
        multiply(grad.card(), [s.m, s.i, s.o], [false; 2], [grad.address(), weight.address()])
    }

    fn linear_weight_gradient(s: &Linear, x: &Buffer<C>, grad: &Buffer<C>) -> Result<Buffer<C>> {
        multiply(grad.card(), [s.o, s.i, s.m], [true, false], [grad.address(), x.address()])
    }

    fn linear_bias_gradient(s: &Linear, grad: &Buffer<C>) -> Result<Buffer<C>> {
        let sums = Buffer::new(grad.card(), s.o)?;
        let rows = Rows { groups: 1, rows: s.m, width: s.o, stride: s.o };
        rows.sum(grad.card(), [grad.address(), Address::NULL], sums.address(), s.o)?;
        Ok(sums)
    }

    fn loss(loss: Loss, prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
        loss::mean::<C>(loss, prediction, target)
    }

    fn state(x: &Tensor) -> Result<Buffer<C>> {
        Buffer::of(x)
    }

    fn state_tensor(state: &Buffer<C>, param: &Var) -> Result<Tensor> {
        state.tensor(param.dims())
    }

    fn adam(params: Vec<Parameter<Self, 2>>, by: &Factors) -> Result<()> {
        optim::adam(params, by)
    }

    fn sgd(params: Vec<(&Var, &Tensor, Option<&mut Buffer<C>>)>, config: &SgdConfig, scale: f64) -> Result<()> {
        optim::sgd(params, config, scale)
    }

    fn average(params: Vec<(&Var, &mut Buffer<C>)>, rate: f64) -> Result<()> {
        optim::average(params, rate)
    }

    fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
        optim::sum_of_squares::<C>(tensors)
    }
}
