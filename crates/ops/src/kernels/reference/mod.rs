//! The reference: candle's operations, on any device and in any floating point type that candle computes with.
//!
//! Features are candle's tensors, channels first. A backward kernel is candle's own differentiation of the forward
//! kernel, but for the convolution's, which would compute both gradients twice. So it shares no formula with our
//! kernels, and the tests hold it against finite differences.

mod compose;
pub(crate) mod optim;

use std::array;
use std::sync::Arc;

use candle_core::{Result, Storage, Tensor, Var, bail};

use super::{Backend, Parameter};
use crate::features::Dims;
use crate::op::activation::Activation;
use crate::op::attention::Attention;
use crate::op::conv_shape::ConvShape;
use crate::op::linear::Linear;
use crate::op::loss::Loss;
use crate::op::norm::GroupNorm;
use crate::optim::adam::Factors;
use crate::optim::sgd::SgdConfig;

/// candle's operations.
pub(crate) struct Reference;

/// The gradients of the inputs of `f`, given that of its result.
fn differentiate<const N: usize>(
    inputs: [&Tensor; N],
    grad: &Tensor,
    f: impl FnOnce([&Tensor; N]) -> Result<Tensor>,
) -> Result<[Tensor; N]> {
    let vars = inputs.iter().map(|x| Var::from_tensor(&x.detach())).collect::<Result<Vec<_>>>()?;
    let y = f(array::from_fn(|i| vars[i].as_tensor()))?;
    let mut grads = y.mul(grad)?.sum_all()?.backward()?;
    let gradients = vars.iter().map(|var| match grads.remove(var) {
        Some(gradient) => Ok(gradient.detach()),
        None => var.zeros_like().map(|zeros| zeros.detach()),
    });
    match <[Tensor; N]>::try_from(gradients.collect::<Result<Vec<_>>>()?) {
        Ok(gradients) => Ok(gradients),
        Err(_) => bail!("a gradient was lost"),
    }
}

/// The same for a linear function of features of sizes `dims`: wherever it is taken, its gradient is one.
fn transpose(dims: Dims, grad: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let anywhere = Tensor::zeros(dims.shape(), grad.dtype(), grad.device())?;
    let [gradient] = differentiate([&anywhere], grad, |[x]| f(x))?;
    Ok(gradient)
}

fn group_norm(s: &GroupNorm, [x, weight, bias]: [&Tensor; 3]) -> Result<Tensor> {
    let y = compose::group_norm(x, s.groups, [weight, bias], s.eps)?;
    if s.silu { compose::silu(&y) } else { Ok(y) }
}

impl Backend for Reference {
    type Buffer = Tensor;
    type ConvWeights = Tensor;
    /// SiLU's derivative after a convolution; the other kernels compute what they need again.
    type Saved = Option<Tensor>;
    type State = Tensor;

    fn from_tensor(x: &Tensor, _: Dims) -> Result<Tensor> {
        Ok(x.detach())
    }

    fn to_storage(x: &Tensor, _: Dims) -> Result<Storage> {
        let x = x.force_contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        storage.try_clone(layout)
    }

    fn weight_gradient(gradient: &Tensor, dims: &[usize]) -> Result<Tensor> {
        gradient.reshape(dims)
    }

    fn sum(a: Arc<Tensor>, b: Arc<Tensor>) -> Result<Arc<Tensor>> {
        Ok(Arc::new(a.add(&b)?))
    }

    fn silu(x: &Tensor) -> Result<Tensor> {
        compose::silu(x)
    }

    fn silu_backward(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let [dx] = differentiate([x], grad, |[x]| compose::silu(x))?;
        Ok(dx)
    }

    fn activation(f: Activation, x: &Tensor) -> Result<Tensor> {
        compose::activate(x, f)
    }

    fn activation_backward(f: Activation, x: &Tensor, grad: Arc<Tensor>) -> Result<Tensor> {
        let [dx] = differentiate([x], &grad, |[x]| compose::activate(x, f))?;
        Ok(dx)
    }

    fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
        a.add(b)
    }

    fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
        x.affine(factor, 0.0)
    }

    fn add_vector(x: &Tensor, vector: &Tensor, _: Dims) -> Result<Tensor> {
        x.broadcast_add(vector)
    }

    fn sum_pixels(grad: &Tensor, _: Dims) -> Result<Tensor> {
        grad.sum_keepdim((2, 3))
    }

    fn scale_shift(x: &Tensor, vector: &Tensor, _: Dims) -> Result<Tensor> {
        compose::scale_shift(x, vector)
    }

    fn scale_shift_backward(x: &Tensor, vector: &Tensor, grad: &Tensor, _: Dims) -> Result<[Tensor; 2]> {
        differentiate([x, vector], grad, |[x, vector]| compose::scale_shift(x, vector))
    }

    fn concat(a: &Tensor, b: &Tensor, _: [Dims; 2]) -> Result<Tensor> {
        Tensor::cat(&[a, b], 1)
    }

    fn split(grad: &Tensor, [a, b]: [Dims; 2]) -> Result<[Tensor; 2]> {
        Ok([grad.narrow(1, 0, a.c)?, grad.narrow(1, a.c, b.c)?])
    }

    fn mask(mask: &Tensor, x: &Tensor) -> Result<Tensor> {
        mask.to_device(x.device())
    }

    fn dropout(x: &Tensor, mask: &Tensor, p: f64) -> Result<Tensor> {
        compose::dropout(x, mask, p)
    }

    fn avg_pool2d(x: &Tensor, _: Dims) -> Result<Tensor> {
        compose::avg_pool2d(x)
    }

    fn avg_pool2d_backward(grad: &Tensor, dims: Dims) -> Result<Tensor> {
        transpose(dims, grad, compose::avg_pool2d)
    }

    fn max_pool2d(x: &Tensor, _: Dims) -> Result<Tensor> {
        compose::max_pool2d(x)
    }

    fn max_pool2d_backward(x: &Tensor, grad: &Tensor, _: Dims, gathered: Option<Arc<Tensor>>) -> Result<Tensor> {
        let [dx] = differentiate([x], grad, |[x]| compose::max_pool2d(x))?;
        match gathered {
            Some(gathered) => gathered.add(&dx),
            None => Ok(dx),
        }
    }

    fn upsample(x: &Tensor, skip: Option<&Tensor>, _: Dims) -> Result<Tensor> {
        let y = compose::upsample_nearest2d(x)?;
        match skip {
            Some(skip) => y.add(skip),
            None => Ok(y),
        }
    }

    fn upsample_backward(grad: &Tensor, dims: Dims) -> Result<Tensor> {
        transpose(dims, grad, compose::upsample_nearest2d)
    }

    fn fir_downsample2d(x: &Tensor, _: Dims) -> Result<Tensor> {
        compose::fir_downsample2d(x)
    }

    fn fir_downsample2d_backward(grad: &Tensor, dims: Dims) -> Result<Tensor> {
        transpose(dims, grad, compose::fir_downsample2d)
    }

    fn fir_upsample2d(x: &Tensor, _: Dims) -> Result<Tensor> {
        compose::fir_upsample2d(x)
    }

    fn fir_upsample2d_backward(grad: &Tensor, dims: Dims) -> Result<Tensor> {
        transpose(dims, grad, compose::fir_upsample2d)
    }

    fn conv2d_weights(_: &ConvShape, weight: &Tensor) -> Result<Tensor> {
        Ok(weight.detach())
    }

    fn conv2d_backward_weights(_: &ConvShape, weight: &Tensor) -> Result<Tensor> {
        Ok(weight.detach())
    }

    fn conv2d(
        s: &ConvShape,
        x: &Tensor,
        weights: &Tensor,
        bias: Option<&Tensor>,
        silu: bool,
        save: bool,
    ) -> Result<(Tensor, Option<Self::Saved>)> {
        let bias = bias.map(Tensor::detach);
        let y = compose::conv2d(s, x, weights, bias.as_ref())?;
        if !silu {
            return Ok((y, None));
        }
        let derivative = if save { Some(Some(Self::silu_backward(&y, &y.ones_like()?)?)) } else { None };
        Ok((compose::silu(&y)?, derivative))
    }

    fn conv2d_bias_gradient(
        _: &ConvShape,
        grad: Arc<Tensor>,
        derivative: Option<Self::Saved>,
    ) -> Result<(Arc<Tensor>, Tensor)> {
        let grad = match derivative.flatten() {
            Some(derivative) => Arc::new(grad.mul(&derivative)?),
            None => grad,
        };
        let sums = grad.sum((0, 2, 3))?;
        Ok((grad, sums))
    }

    fn conv2d_weight_gradient(s: &ConvShape, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        compose::conv2d_weight_gradient(s, x, grad)
    }

    fn conv2d_input_gradient(s: &ConvShape, grad: &Tensor, weights: &Tensor) -> Result<Tensor> {
        compose::conv2d_input_gradient(s, grad, weights)
    }

    fn group_norm(s: &GroupNorm, x: &Tensor, [weight, bias]: [&Tensor; 2]) -> Result<(Tensor, Self::Saved)> {
        Ok((group_norm(s, [x, &weight.detach(), &bias.detach()])?, None))
    }

    fn group_norm_backward(
        s: &GroupNorm,
        x: &Tensor,
        _: &Self::Saved,
        [weight, bias]: [&Tensor; 2],
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        differentiate([x, weight, bias], grad, |inputs| group_norm(s, inputs))
    }

    fn attention(s: &Attention, inputs: [&Tensor; 3]) -> Result<(Tensor, Self::Saved)> {
        Ok((compose::attention(inputs, s.heads)?, None))
    }

    fn attention_backward(
        s: &Attention,
        inputs: [&Tensor; 3],
        _: &Tensor,
        _: &Self::Saved,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        differentiate(inputs, grad, |inputs| compose::attention(inputs, s.heads))
    }

    fn linear(_: &Linear, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        compose::linear(x, &weight.detach(), bias.map(Tensor::detach).as_ref())
    }

    fn linear_input_gradient(s: &Linear, weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let (b, _, h, w) = grad.dims4()?;
        transpose(Dims { b, c: s.i, h, w }, grad, |x| compose::linear(x, &weight.detach(), None))
    }

    fn linear_weight_gradient(s: &Linear, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let anywhere = Tensor::zeros((s.o, s.i), grad.dtype(), grad.device())?;
        let [gradient] = differentiate([&anywhere], grad, |[weight]| compose::linear(x, weight, None))?;
        Ok(gradient)
    }

    fn linear_bias_gradient(_: &Linear, grad: &Tensor) -> Result<Tensor> {
        grad.sum((0, 2, 3))
    }

    fn loss(loss: Loss, prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
        match loss {
            Loss::Squared => compose::mse_loss(prediction, target),
            Loss::Absolute => compose::l1_loss(prediction, target),
            Loss::Huber(delta) => compose::huber_loss(prediction, target, delta),
        }
    }

    fn state(x: &Tensor) -> Result<Tensor> {
        Ok(x.copy()?.detach())
    }

    fn state_tensor(state: &Tensor, _: &Var) -> Result<Tensor> {
        Ok(state.clone())
    }

    fn adam(params: Vec<Parameter<Self, 2>>, by: &Factors) -> Result<()> {
        for Parameter { var, grad, states: [m, v] } in params {
            let [param_after, m_after, v_after] = optim::adam([&var.as_detached_tensor(), m, v], grad, by)?;
            var.set(&param_after.detach())?;
            (*m, *v) = (m_after.detach(), v_after.detach());
        }
        Ok(())
    }

    fn sgd(params: Vec<(&Var, &Tensor, Option<&mut Tensor>)>, config: &SgdConfig, scale: f64) -> Result<()> {
        for (var, grad, momentum) in params {
            let (param_after, momentum_after) =
                optim::sgd(&var.as_detached_tensor(), grad, momentum.as_deref(), config, scale)?;
            var.set(&param_after.detach())?;
            if let Some(momentum) = momentum {
                *momentum = momentum_after.detach();
            }
        }
        Ok(())
    }

    fn average(params: Vec<(&Var, &mut Tensor)>, rate: f64) -> Result<()> {
        for (var, state) in params {
            *state = optim::ema(state, &var.as_detached_tensor(), rate)?;
        }
        Ok(())
    }

    fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
        optim::sum_of_squares(tensors)
    }
}
