//! Kernels for f32 on the CPU: the machine's widest vectors, rayon's threads, features channels last (`[b, h, w, c]`).

mod activation;
mod attention;
pub(crate) mod buffer;
mod conv;
pub(crate) mod denormals;
pub(crate) mod elementwise;
mod fir;
mod host;
mod linear;
mod loss;
mod matmul;
mod muon;
mod norm;
mod optim;
mod pool;
mod scale_shift;
mod scratch;
mod silu;
#[cfg(test)]
mod testing;
mod transpose;
mod upsample;
pub(crate) mod vectors;

use std::sync::Arc;

use candle_core::{CpuStorage, Device, Result, Storage, Tensor, Var};
use rayon::prelude::*;

use self::buffer::Buffer;
use self::conv::weights::Prepared;
use self::host::{PIECE, min_tasks_of, piece, with_numbers};
use self::silu::Finish;
use self::transpose::transpose;
use super::{Backend, Parameter};
use crate::features::Dims;
use crate::op::activation::Activation;
use crate::op::attention::Attention;
use crate::op::conv_shape::ConvShape;
use crate::op::linear::Linear;
use crate::op::loss::Loss;
use crate::op::norm::GroupNorm;
use crate::optim::adam::Factors;
use crate::optim::muon::MuonConfig;
use crate::optim::sgd::SgdConfig;

/// Our own kernels.
pub(crate) struct Cpu;

/// A buffer of `len` numbers that `fill` writes.
fn filled(len: usize, fill: impl FnOnce(&mut [f32])) -> Result<Buffer> {
    let mut y = Buffer::new(len)?;
    fill(&mut y);
    Ok(y)
}

/// The buffer itself if there is no other reference to it, else a copy.
fn owned(buffer: Arc<Buffer>) -> Result<Buffer> {
    Arc::try_unwrap(buffer).or_else(|shared| {
        let mut copy = Buffer::new(shared.len())?;
        copy.par_chunks_mut(PIECE).zip(shared.par_chunks(PIECE)).with_min_len(min_tasks_of(PIECE)).for_each(
            |(to, from)| {
                to.copy_from_slice(from);
            },
        );
        Ok(copy)
    })
}

/// Runs `read` on the numbers of a tensor that may be absent.
fn with_bias<R>(bias: Option<&Tensor>, read: impl FnOnce(Option<&[f32]>) -> Result<R>) -> Result<R> {
    match bias {
        Some(bias) => with_numbers(bias, |bias| read(Some(bias))),
        None => read(None),
    }
}

/// Runs `read` on the numbers of a weight and a bias.
fn with_both<R>([weight, bias]: [&Tensor; 2], read: impl FnOnce([&[f32]; 2]) -> Result<R>) -> Result<R> {
    with_numbers(weight, |weight| with_numbers(bias, |bias| read([weight, bias])))
}

impl Backend for Cpu {
    type Buffer = Buffer;
    type ConvWeights = Prepared;
    type Saved = Buffer;
    type State = Vec<f32>;

    /// `[b, c, h, w] -> [b, h, w, c]`
    fn from_tensor(x: &Tensor, dims: Dims) -> Result<Buffer> {
        let mut to = Buffer::new(dims.count())?;
        let (pixels, c) = (dims.pixels(), dims.c);
        with_numbers::<f32, _>(x, |from| {
            let images = to.par_chunks_mut((pixels * c).max(1)).zip(from.par_chunks((pixels * c).max(1)));
            images.with_min_len(min_tasks_of(pixels * c)).for_each(|(to, from)| match (c, pixels) {
                (1, _) | (_, 1) => to.copy_from_slice(from),
                _ => transpose(from, pixels, to, c, c, pixels),
            });
            Ok(())
        })?;
        Ok(to)
    }

    /// `[b, h, w, c] -> [b, c, h, w]`
    fn to_storage(x: &Buffer, dims: Dims) -> Result<Storage> {
        let (pixels, c) = (dims.pixels(), dims.c);
        let ([to], _) = host::build(dims.count(), pixels * c, |i, [to]| {
            let from = piece(x, i, pixels * c);
            match (c, pixels) {
                (1, _) | (_, 1) => to.copy_from_slice(from),
                _ => transpose(from, c, to, pixels, pixels, c),
            }
        })?;
        Ok(Storage::Cpu(CpuStorage::F32(to)))
    }

    fn weight_gradient(gradient: &Buffer, dims: &[usize]) -> Result<Tensor> {
        Tensor::from_slice(gradient, dims, &Device::Cpu)
    }

    fn sum(a: Arc<Buffer>, b: Arc<Buffer>) -> Result<Arc<Buffer>> {
        let (a, b) = if Arc::strong_count(&a) == 1 { (a, b) } else { (b, a) };
        let mut sum = owned(a)?;
        elementwise::accumulate(&b, &mut sum);
        Ok(Arc::new(sum))
    }

    fn silu(x: &Buffer) -> Result<Buffer> {
        filled(x.len(), |y| elementwise::silu(x, y))
    }

    fn silu_backward(x: &Buffer, grad: &Buffer) -> Result<Buffer> {
        filled(x.len(), |dx| elementwise::silu_backward(x, grad, dx))
    }

    fn activation(f: Activation, x: &Buffer) -> Result<Buffer> {
        filled(x.len(), |y| activation::forward(f, x, y))
    }

    fn activation_backward(f: Activation, x: &Buffer, grad: Arc<Buffer>) -> Result<Buffer> {
        let mut grad = owned(grad)?;
        activation::backward(f, x, &mut grad);
        Ok(grad)
    }

    fn add(a: &Buffer, b: &Buffer) -> Result<Buffer> {
        filled(a.len(), |y| elementwise::add(a, b, y))
    }

    fn scale(x: &Buffer, factor: f64) -> Result<Buffer> {
        filled(x.len(), |y| elementwise::scale(x, factor as f32, y))
    }

    fn add_vector(x: &Buffer, vector: &Buffer, dims: Dims) -> Result<Buffer> {
        filled(x.len(), |y| elementwise::add_vector(x, vector, [dims.pixels(), dims.c], y))
    }

    fn sum_pixels(grad: &Buffer, dims: Dims) -> Result<Buffer> {
        filled(dims.b * dims.c, |sums| elementwise::sum_pixels(grad, [dims.pixels(), dims.c], sums))
    }

    fn scale_shift(x: &Buffer, vector: &Buffer, dims: Dims) -> Result<Buffer> {
        filled(x.len(), |y| scale_shift::forward(x, vector, [dims.pixels() * dims.c, dims.c], y))
    }

    fn scale_shift_backward(x: &Buffer, vector: &Buffer, grad: &Buffer, dims: Dims) -> Result<[Buffer; 2]> {
        let [mut dx, mut dvector] = [Buffer::new(x.len())?, Buffer::new(vector.len())?];
        scale_shift::backward(x, vector, [dims.pixels() * dims.c, dims.c], grad, [&mut dx, &mut dvector]);
        Ok([dx, dvector])
    }

    fn concat(a: &Buffer, b: &Buffer, dims: [Dims; 2]) -> Result<Buffer> {
        filled(a.len() + b.len(), |y| elementwise::concat([a, b], dims.map(|dims| dims.c), y))
    }

    fn split(grad: &Buffer, dims: [Dims; 2]) -> Result<[Buffer; 2]> {
        let [mut da, mut db] = [Buffer::new(dims[0].count())?, Buffer::new(dims[1].count())?];
        elementwise::split(grad, dims.map(|dims| dims.c), [&mut da, &mut db]);
        Ok([da, db])
    }

    /// `[b, c, h, w] -> [b, h, w, c]`
    fn mask(mask: &Tensor, _: &Buffer) -> Result<Tensor> {
        mask.permute((0, 2, 3, 1))?.contiguous()
    }

    fn dropout(x: &Buffer, mask: &Tensor, p: f64) -> Result<Buffer> {
        with_numbers::<u8, _>(mask, |mask| filled(x.len(), |y| elementwise::dropout(x, mask, p as f32, y)))
    }

    fn avg_pool2d(x: &Buffer, Dims { b, c, h, w }: Dims) -> Result<Buffer> {
        filled(b * (h / 2) * (w / 2) * c, |y| elementwise::avg_pool(x, [h, w, c], y))
    }

    fn avg_pool2d_backward(grad: &Buffer, dims: Dims) -> Result<Buffer> {
        filled(dims.count(), |dx| elementwise::avg_pool_backward(grad, [dims.h, dims.w, dims.c], dx))
    }

    fn max_pool2d(x: &Buffer, dims: Dims) -> Result<Buffer> {
        filled(dims.b * (dims.h / 2) * (dims.w / 2) * dims.c, |y| pool::max(dims, x, y))
    }

    fn max_pool2d_backward(x: &Buffer, grad: &Buffer, dims: Dims, gathered: Option<Arc<Buffer>>) -> Result<Buffer> {
        let fresh = gathered.is_none();
        let mut dx = match gathered {
            Some(gathered) => owned(gathered)?,
            None => Buffer::new(dims.count())?,
        };
        pool::max_backward(dims, x, grad, &mut dx, fresh);
        Ok(dx)
    }

    fn upsample(x: &Buffer, skip: Option<&Buffer>, dims: Dims) -> Result<Buffer> {
        filled(4 * x.len(), |y| upsample::forward(dims, x, skip.map(|skip| &**skip), y))
    }

    fn upsample_backward(grad: &Buffer, dims: Dims) -> Result<Buffer> {
        filled(dims.count(), |dx| upsample::backward(dims, grad, dx))
    }

    fn fir_downsample2d(x: &Buffer, dims: Dims) -> Result<Buffer> {
        let halved = Dims { h: dims.h / 2, w: dims.w / 2, ..dims };
        filled(halved.count(), |y| fir::down(x, dims, y, halved, 1.0 / 64.0))
    }

    fn fir_downsample2d_backward(grad: &Buffer, dims: Dims) -> Result<Buffer> {
        let halved = Dims { h: dims.h / 2, w: dims.w / 2, ..dims };
        filled(dims.count(), |dx| fir::up(grad, halved, dx, dims, 1.0 / 64.0))
    }

    fn fir_upsample2d(x: &Buffer, dims: Dims) -> Result<Buffer> {
        let doubled = Dims { h: 2 * dims.h, w: 2 * dims.w, ..dims };
        filled(doubled.count(), |y| fir::up(x, dims, y, doubled, 1.0 / 16.0))
    }

    fn fir_upsample2d_backward(grad: &Buffer, dims: Dims) -> Result<Buffer> {
        let doubled = Dims { h: 2 * dims.h, w: 2 * dims.w, ..dims };
        filled(dims.count(), |dx| fir::down(grad, doubled, dx, dims, 1.0 / 16.0))
    }

    fn conv2d_weights(s: &ConvShape, weight: &Tensor) -> Result<Prepared> {
        Prepared::forward(s, weight)
    }

    fn conv2d_backward_weights(s: &ConvShape, weight: &Tensor) -> Result<Prepared> {
        Prepared::backward(s, weight)
    }

    fn conv2d(
        s: &ConvShape,
        x: &Buffer,
        weights: &Prepared,
        bias: Option<&Tensor>,
        silu: bool,
        save: bool,
    ) -> Result<(Buffer, Option<Buffer>)> {
        let mut y = Buffer::new(s.b * s.co * s.oh * s.ow)?;
        let mut derivative = if save && silu { Some(Buffer::new(y.len())?) } else { None };
        with_bias(bias, |bias| {
            conv::run::forward(weights, x, Finish { bias, silu, y: &mut y, derivative: derivative.as_deref_mut() })
        })?;
        Ok((y, derivative))
    }

    fn conv2d_bias_gradient(
        s: &ConvShape,
        grad: Arc<Buffer>,
        derivative: Option<Buffer>,
    ) -> Result<(Arc<Buffer>, Buffer)> {
        let mut sums = Buffer::zeros(s.co)?;
        let grad = match derivative {
            Some(derivative) => {
                let mut grad = owned(grad)?;
                conv::run::scale_and_sum(s, &mut grad, &derivative, &mut sums)?;
                Arc::new(grad)
            }
            None => {
                conv::run::sum_channels(s, &grad, &mut sums)?;
                grad
            }
        };
        Ok((grad, sums))
    }

    fn conv2d_weight_gradient(s: &ConvShape, x: &Buffer, grad: &Buffer) -> Result<Buffer> {
        conv::run::weight_gradient(s, x, grad)
    }

    fn conv2d_input_gradient(s: &ConvShape, grad: &Buffer, weights: &Prepared) -> Result<Buffer> {
        let mut dx = Buffer::new(s.b * s.ci * s.h * s.w)?;
        conv::run::forward(weights, grad, Finish { bias: None, silu: false, y: &mut dx, derivative: None })?;
        Ok(dx)
    }

    fn group_norm(s: &GroupNorm, x: &Buffer, weights: [&Tensor; 2]) -> Result<(Buffer, Buffer)> {
        let [mut y, mut stats] = [Buffer::new(x.len())?, Buffer::new(2 * s.b * s.groups)?];
        let (mean, rstd) = stats.split_at_mut(s.b * s.groups);
        with_both(weights, |weights| {
            norm::forward(*s, x, weights, &mut y, [mean, rstd]);
            Ok(())
        })?;
        Ok((y, stats))
    }

    fn group_norm_backward(
        s: &GroupNorm,
        x: &Buffer,
        stats: &Buffer,
        weights: [&Tensor; 2],
        grad: &Buffer,
    ) -> Result<[Buffer; 3]> {
        let [mut dx, mut dweight, mut dbias] = [Buffer::new(x.len())?, Buffer::new(s.c)?, Buffer::new(s.c)?];
        let (mean, rstd) = stats.split_at(s.b * s.groups);
        with_both(weights, |weights| {
            norm::backward(*s, x, [mean, rstd], weights, grad, &mut dx, [&mut dweight, &mut dbias]);
            Ok(())
        })?;
        Ok([dx, dweight, dbias])
    }

    /// Saves the logarithm of each row's sum of exponentials.
    fn attention(s: &Attention, [q, k, v]: [&Buffer; 3]) -> Result<(Buffer, Buffer)> {
        let [mut out, mut log_sums] = [Buffer::new(q.len())?, Buffer::new(s.b * s.n * s.heads)?];
        attention::forward(*s, [q, k, v], &mut out, &mut log_sums);
        Ok((out, log_sums))
    }

    fn attention_backward(
        s: &Attention,
        [q, k, v]: [&Buffer; 3],
        out: &Buffer,
        log_sums: &Buffer,
        grad: &Buffer,
    ) -> Result<[Buffer; 3]> {
        let [mut dq, mut dk, mut dv] = [Buffer::new(q.len())?, Buffer::new(k.len())?, Buffer::new(v.len())?];
        attention::backward(*s, [q, k, v], [out, log_sums], grad, [&mut dq, &mut dk, &mut dv]);
        Ok([dq, dk, dv])
    }

    fn linear(s: &Linear, x: &Buffer, weight: &Tensor, bias: Option<&Tensor>) -> Result<Buffer> {
        with_numbers(weight, |weight| {
            with_bias(bias, |bias| filled(s.m * s.o, |y| linear::forward(*s, x, weight, bias, y)))
        })
    }

    fn linear_input_gradient(s: &Linear, weight: &Tensor, grad: &Buffer) -> Result<Buffer> {
        with_numbers(weight, |weight| filled(s.m * s.i, |dx| linear::input_gradient(*s, weight, grad, dx)))
    }

    fn linear_weight_gradient(s: &Linear, x: &Buffer, grad: &Buffer) -> Result<Buffer> {
        filled(s.o * s.i, |dw| linear::weight_gradient(*s, x, grad, dw))
    }

    fn linear_bias_gradient(s: &Linear, grad: &Buffer) -> Result<Buffer> {
        filled(s.o, |db| linear::bias_gradient(*s, grad, db))
    }

    fn loss(loss: Loss, prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
        prediction.contiguous()?.apply_op2(&target.contiguous()?, loss::Mean(loss))
    }

    fn state(x: &Tensor) -> Result<Vec<f32>> {
        with_numbers(x, |numbers| Ok(numbers.to_vec()))
    }

    fn state_tensor(state: &Vec<f32>, param: &Var) -> Result<Tensor> {
        Tensor::from_slice(state, param.shape(), &Device::Cpu)
    }

    fn adam(params: Vec<Parameter<Self, 2>>, by: &Factors) -> Result<()> {
        optim::adam(params, by)
    }

    fn sgd(params: Vec<(&Var, &Tensor, Option<&mut Vec<f32>>)>, config: &SgdConfig, scale: f64) -> Result<()> {
        optim::sgd(params, config, scale)
    }

    fn muon(params: Vec<Parameter<Self, 1>>, config: &MuonConfig, scale: f64) -> Result<()> {
        muon::muon(params, config, scale)
    }

    fn average(params: Vec<(&Var, &mut Vec<f32>)>, rate: f64) -> Result<()> {
        optim::average(params, rate as f32)
    }

    fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
        optim::sum_of_squares(tensors)
    }
}
