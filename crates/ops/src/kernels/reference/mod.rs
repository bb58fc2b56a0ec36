//! The operations made of candle's own, for devices on which we have no kernels. They run on every device, and the tests
//! compare them with the kernels on the CPU.

use candle_core::{DType, Device, Result, Tensor};

use crate::optim::adam::Factors;
use crate::{Activation, ConvOptions, SgdConfig};

pub(crate) fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: ConvOptions) -> Result<Tensor> {
    let ConvOptions { stride, padding: [top, bottom, left, right] } = options;
    let (mut x, mut padding) = (x.clone(), top);
    if [bottom, left, right] != [top; 3] || stride > 1 {
        // candle pads all sides alike, and its gradient wants images of which a stride leaves nothing over
        padding = 0;
        x = x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?;
        for dim in [2, 3] {
            let kernel = weight.dim(dim)?;
            x = x.narrow(dim, 0, (x.dim(dim)? - kernel) / stride * stride + kernel)?;
        }
    }
    let y = x.contiguous()?.conv2d(&weight.contiguous()?, padding, stride, 1, 1)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?), // [co] -> [1, co, 1, 1]
        None => Ok(y),
    }
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
    x.mul(&mask.to_device(x.device())?.to_dtype(x.dtype())?.affine(kept, 0.0)?)
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
    let spread = x.contiguous()?.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?;
    spread.contiguous()?.reshape((b, c, 2 * h, 2 * w))
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

/// One step of Adam: the parameter and its two moments after it.
pub(crate) fn adam([param, m, v]: [&Tensor; 3], grad: &Tensor, by: &Factors) -> Result<[Tensor; 3]> {
    let grad = grad.affine(by.grad_scale, 0.0)?;
    let m = m.add(&grad.sub(m)?.affine(1.0 - by.beta1, 0.0)?)?;
    let v = v.affine(by.beta2, 0.0)?.add(&grad.sqr()?.affine(1.0 - by.beta2, 0.0)?)?;
    let divisor = v.sqrt()?.affine(1.0 / by.correction, by.eps)?;
    let param = param.affine(by.keep, 0.0)?.sub(&m.div(&divisor)?.affine(by.step_size, 0.0)?)?;
    Ok([param, m, v])
}

/// One step of a parameter by gradient descent; the second result is the momentum after it.
pub(crate) fn sgd(
    param: &Tensor,
    grad: &Tensor,
    buffer: Option<&Tensor>,
    by: &SgdConfig,
    grad_scale: f64,
) -> Result<(Tensor, Tensor)> {
    let grad = grad.affine(grad_scale, 0.0)?.add(&param.affine(by.weight_decay, 0.0)?)?;
    let moved = match buffer {
        Some(buffer) => buffer.affine(by.momentum, 0.0)?.add(&grad)?,
        None => grad,
    };
    Ok((param.sub(&moved.affine(by.lr, 0.0)?)?, moved))
}

/// One step of the average of a parameter.
pub(crate) fn ema(shadow: &Tensor, param: &Tensor, rate: f64) -> Result<Tensor> {
    shadow.sub(&shadow.sub(param)?.affine(rate, 0.0)?)
}

/// The sum of the squares of all elements of all tensors; they come to the CPU together.
pub(crate) fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
    if tensors.is_empty() {
        return Ok(0.0);
    }
    let wide = if tensors.iter().any(|tensor| tensor.dtype() == DType::F64) { DType::F64 } else { DType::F32 };
    let squares = tensors.iter().map(|tensor| tensor.detach().to_dtype(wide)?.sqr()?.sum_all());
    let squares = Tensor::stack(&squares.collect::<Result<Vec<_>>>()?, 0)?;
    Ok(squares.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use candle_core::backprop::GradStore;
    use kakusan_rng::Generator;

    type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

    fn noise(seed: u64, dims: &[usize]) -> Result<Tensor> {
        Tensor::from_vec(Generator::new(seed).randn_f64(dims.iter().product()), dims, &Device::Cpu)
    }

    /// The value of `op` and the gradients of its arguments.
    fn run(op: Op, args: &[Tensor]) -> Result<Vec<Vec<f64>>> {
        let vars = args.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
        let y = op(&vars.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>())?;
        let grads = y.mul(&noise(9, y.dims())?.to_dtype(y.dtype())?)?.sum_all()?.backward()?;
        let gradients = vars.iter().map(|var| grads.get(var).expect("a gradient").clone());
        [y].into_iter().chain(gradients).map(|x| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()).collect()
    }

    fn same(composed: Op, kernel: Op, args: &[Tensor]) -> Result<()> {
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            let args = args.iter().map(|x| x.to_dtype(dtype)).collect::<Result<Vec<_>>>()?;
            for (composed, kernel) in run(composed, &args)?.iter().zip(run(kernel, &args)?) {
                assert_eq!(composed.len(), kernel.len());
                let close = |(a, b): (&f64, f64)| {
                    *a == b || (a - b).abs() <= tolerance * (1.0 + b.abs()) || a.is_nan() && b.is_nan()
                };
                assert!(composed.iter().zip(kernel).all(close), "{dtype:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_composed_operations_agree_with_the_kernels() -> Result<()> {
        for (h, w) in [(2, 2), (6, 4), (5, 7)] {
            let x = noise(1, &[2, 3, h, w])?;
            let (y, large) = (noise(2, &[2, 3, h, w])?, noise(3, &[2, 3, 2 * h, 2 * w])?);
            let (weight, bias) = (noise(4, &[5, 3, 3, 3])?, noise(5, &[5])?);
            same(&|a| silu(&a[0]), &|a| crate::silu(&a[0]), std::slice::from_ref(&x))?;
            same(&|a| max_pool2d(&a[0]), &|a| crate::max_pool2d(&a[0]), &[x.round()?])?;
            same(&|a| upsample_nearest2d(&a[0]), &|a| crate::upsample_nearest2d(&a[0]), std::slice::from_ref(&x))?;
            let skipped = |a: &[Tensor]| upsample_nearest2d(&a[0])?.add(&a[1]);
            same(&skipped, &|a| crate::upsample_add(&a[0], &a[1]), &[x.clone(), large])?;
            same(&|a| mse_loss(&a[0], &a[1]), &|a| crate::mse_loss(&a[0], &a[1]), &[x.clone(), y.clone()])?;
            same(&|a| l1_loss(&a[0], &a[1]), &|a| crate::l1_loss(&a[0], &a[1]), &[x.round()?, y.round()?])?;
            for delta in [0.5, 1.5] {
                let composed = |a: &[Tensor]| huber_loss(&a[0], &a[1], delta);
                same(&composed, &|a| crate::huber_loss(&a[0], &a[1], delta), &[x.clone(), y.clone()])?;
            }
            for padding in 0..=if h == 2 { 0 } else { 2 } {
                let padding = padding + usize::from(h == 2);
                let kernel = |a: &[Tensor]| crate::conv2d(&a[0], &a[1], Some(&a[2]), padding);
                let composed = |a: &[Tensor]| conv2d(&a[0], &a[1], Some(&a[2]), padding.into());
                same(&composed, &kernel, &[x.clone(), weight.clone(), bias.clone()])?;
            }
        }
        Ok(())
    }

    #[test]
    fn nan_is_pooled_alike() -> Result<()> {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let x = Tensor::new(&[[[[1.0, nan, nan, 2.0, -inf, -inf], [3.0, 4.0, 5.0, nan, -inf, -inf]]]], &Device::Cpu)?;
        same(&|a| max_pool2d(&a[0]), &|a| crate::max_pool2d(&a[0]), &[x])
    }

    #[test]
    fn adam_steps_alike() -> Result<()> {
        let f32s = |seed| noise(seed, &[7, 5])?.to_dtype(DType::F32);
        let param = Var::from_tensor(&f32s(1)?)?;
        let config = crate::AdamConfig { lr: 3e-3, weight_decay: 0.1, ..Default::default() };
        let mut adam = crate::Adam::new(vec![param.clone()], config)?;
        let [mut p, mut m, mut v] = [f32s(1)?, f32s(1)?.zeros_like()?, f32s(1)?.zeros_like()?];
        for step in 1..=5 {
            let mut grads = GradStore::default();
            grads.insert(&param, f32s(10 + step)?);
            let norm = adam.step_clipped(&grads, 5.0)?;
            let composed = sum_of_squares(&[&f32s(10 + step)?])?.sqrt();
            assert!((norm - composed).abs() < 1e-6 * norm, "step {step}: {norm}, {composed}");
            let factors = Factors::new(&config, step, crate::clip_factor(norm, 5.0)?);
            [p, m, v] = super::adam([&p, &m, &v], &f32s(10 + step)?, &factors)?;
            let difference = p.sub(&param)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference < 5e-7, "step {step}: {difference}");
        }
        Ok(())
    }

    /// f64 goes the way of other devices, and the kernels of f32 stay near it.
    #[test]
    fn optimisers_step_alike_in_f64() -> Result<()> {
        let run = |dtype| -> Result<Vec<Vec<f64>>> {
            let seeds = [1u64, 2, 3];
            let sized = |seed: u64| noise(seed, &[5 * seed as usize])?.to_dtype(dtype);
            let params = seeds.iter().map(|&seed| Var::from_tensor(&sized(seed)?)).collect::<Result<Vec<_>>>()?;
            let config = crate::AdamConfig { weight_decay: 0.05, ..Default::default() };
            let mut adam = crate::Adam::new(params.clone(), config)?;
            let mut ema = crate::Ema::new(params.clone(), crate::EmaConfig::default())?;
            let mut norms = vec![];
            for step in 0..10 {
                let mut grads = GradStore::default();
                for (param, seed) in params.iter().zip(seeds) {
                    grads.insert(param, noise(100 * (1 + step) + seed, param.dims())?.to_dtype(dtype)?);
                }
                norms.push(adam.step_clipped(&grads, 4.0)?);
                ema.step()?;
            }
            let state = adam.state()?.moments.into_iter().flat_map(|(m, v)| [m, v]);
            let all = params.iter().map(|p| p.as_tensor().clone()).chain(ema.shadow()?).chain(state);
            let numbers = all.map(|x| x.to_dtype(DType::F64)?.to_vec1());
            [Ok(norms)].into_iter().chain(numbers).collect()
        };
        let (reference, kernels) = (run(DType::F64)?, run(DType::F32)?);
        for (a, b) in reference.iter().flatten().zip(kernels.iter().flatten()) {
            assert!((a - b).abs() <= 1e-6 * (1.0 + a.abs()), "{a} and {b}");
        }
        Ok(())
    }
}
