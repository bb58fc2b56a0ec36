//! Two-dimensional convolution, alone and with SiLU.

mod direct;
mod fast;
mod micro;
mod pass;
mod plain;
pub(crate) mod transpose;
mod winograd;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail};

use crate::check::{elements, image_dims, on_host, same_dtype};
use crate::compose;
use crate::host::{numbers, with_numbers};

/// Convolution with stride 1 and zero padding, as `torch.nn.functional.conv2d(x, weight, bias, padding=padding)`.
///
/// `x` `[b, ci, h, w]`, `weight` `[co, ci, k, k]`, `bias` `[co]`; the result is `[b, co, h + 2 padding - k + 1, w + ..]`.
/// `padding` is below `k`. f32 or f64 on the CPU, what candle convolves elsewhere. On the CPU the result and all
/// gradients are the same, bit for bit, on any number of threads.
///
/// # Errors
/// Shapes that do not fit together, an unsupported or mixed dtype, a result too large for memory.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::ones((1, 2, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
/// let weight = Tensor::ones((1, 2, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
/// let y = kakusan_ops::conv2d(&x, &weight, None, 1)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [8.0, 12.0, 8.0, 12.0, 18.0, 12.0, 8.0, 12.0, 8.0]);
/// # Ok(())
/// # }
/// ```
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, padding: usize) -> Result<Tensor> {
    apply("conv2d", x, weight, bias, padding, false)
}

/// [`silu`](crate::silu) of [`conv2d`] in one pass over memory.
///
/// The derivative of SiLU is kept for the backward pass if an argument tracks gradients, and only then.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_silu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, padding: usize) -> Result<Tensor> {
    apply("conv2d_silu", x, weight, bias, padding, true)
}

fn apply(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    silu: bool,
) -> Result<Tensor> {
    let shape = ConvShape::new(op, x, weight, bias, padding)?;
    if !on_host(op, x)? {
        let y = compose::conv2d(x, weight, bias, padding)?;
        return if silu { compose::silu(&y) } else { Ok(y) };
    }
    let tracked = [Some(x), Some(weight), bias].into_iter().flatten().any(Tensor::track_op);
    let conv = Conv { op, shape, silu, keep: silu && tracked, derivative: OnceLock::new() };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, conv),
        None => x.apply_op2(&weight, conv),
    }
}

/// The sizes of a convolution, checked.
#[derive(Debug, Clone, Copy)]
struct ConvShape {
    b: usize,
    ci: usize,
    h: usize,
    w: usize,
    co: usize,
    k: usize,
    pad: usize,
    oh: usize,
    ow: usize,
}

impl ConvShape {
    fn new(op: &str, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, pad: usize) -> Result<Self> {
        let (b, ci, h, w) = image_dims(op, x)?;
        let (co, k) = match *weight.dims() {
            [co, c, k, l] if co > 0 && k > 0 && k == l && c == ci => (co, k),
            [_, c, _, _] if c != ci => {
                bail!("{op}: the images have {ci} channels, the weight {:?} is for {c}", weight.dims())
            }
            _ => bail!("{op}: expected a weight [out channels, {ci}, k, k], got {:?}", weight.dims()),
        };
        same_dtype(op, x, weight)?;
        if let Some(bias) = bias {
            same_dtype(op, x, bias)?;
            if bias.dims() != [co] {
                bail!("{op}: expected a bias [{co}], one for each output channel, got {:?}", bias.dims())
            }
        }
        if pad >= k {
            bail!("{op}: the padding is {pad}, it must be below the kernel's size, {k}")
        }
        if h + 2 * pad < k || w + 2 * pad < k {
            bail!("{op}: a kernel of {k}x{k} does not fit into images of {h}x{w} padded by {pad}")
        }
        let (oh, ow) = (h + 2 * pad + 1 - k, w + 2 * pad + 1 - k);
        elements(op, &[b, co, oh, ow])?;
        elements(op, &[b, ci, h, w])?;
        Ok(Self { b, ci, h, w, co, k, pad, oh, ow })
    }

    fn image(&self) -> usize {
        self.ci * self.h * self.w
    }

    fn result(&self) -> usize {
        self.co * self.oh * self.ow
    }

    /// Images in each of the fixed parts of the batch whose weight gradients are summed one after the other. It
    /// depends on the batch alone, so the order of every sum does not depend on the number of threads.
    fn part(&self) -> usize {
        const PARTS: usize = 8;
        self.b.div_ceil(PARTS).max(1)
    }
}

/// Which gradients are asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    x: bool,
    weight: bool,
    bias: bool,
}

/// The gradients of images, weight and bias; empty where not wanted.
struct Gradients<T> {
    x: Vec<T>,
    weight: Vec<T>,
    bias: Vec<T>,
}

struct Conv {
    op: &'static str,
    shape: ConvShape,
    silu: bool,
    keep: bool,
    /// SiLU's derivative at every element of the result, from the forward to the backward pass.
    derivative: OnceLock<CpuStorage>,
}

impl Conv {
    fn forward(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let s = &self.shape;
        let (y, derivative) = if let CpuStorage::F64(_) = x {
            let bias = bias.map(|(bias, layout)| numbers(bias, layout)).transpose()?;
            let (y, derivative) =
                plain::forward(s, numbers(x, x_layout)?, numbers(weight, weight_layout)?, bias, self.silu, self.keep)?;
            (CpuStorage::F64(y), derivative.map(CpuStorage::F64))
        } else {
            let bias = bias.map(|(bias, layout)| numbers(bias, layout)).transpose()?;
            let (y, derivative) =
                fast::forward(s, numbers(x, x_layout)?, numbers(weight, weight_layout)?, bias, self.silu, self.keep)?;
            (CpuStorage::F32(y), derivative.map(CpuStorage::F32))
        };
        if let Some(derivative) = derivative {
            // A second run of the same operation would find the same numbers there.
            let _ = self.derivative.set(derivative);
        }
        Ok((y, Shape::from((s.b, s.co, s.oh, s.ow))))
    }

    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let s = &self.shape;
        let wanted = Wanted { x: x.track_op(), weight: weight.track_op(), bias: bias.is_some_and(Tensor::track_op) };
        let derivative = self.derivative.get();
        if self.silu && derivative.is_none() {
            bail!("{}: the derivative was not kept", self.op)
        }
        if x.dtype() == DType::F64 {
            let derivative = derivative.map(CpuStorage::as_slice::<f64>).transpose()?;
            let gradients = with_numbers(x, |x| {
                with_numbers(weight, |weight| {
                    with_numbers(grad, |grad| plain::backward(s, wanted, x, weight, grad, derivative))
                })
            })?;
            self.tensors(wanted, gradients)
        } else {
            let derivative = derivative.map(CpuStorage::as_slice::<f32>).transpose()?;
            let gradients = with_numbers(x, |x| {
                with_numbers(weight, |weight| {
                    with_numbers(grad, |grad| fast::backward(s, wanted, x, weight, grad, derivative))
                })
            })?;
            self.tensors(wanted, gradients)
        }
    }

    fn tensors<T: candle_core::WithDType>(&self, wanted: Wanted, g: Gradients<T>) -> Result<[Option<Tensor>; 3]> {
        let s = &self.shape;
        let x = wanted.x.then(|| Tensor::from_vec(g.x, (s.b, s.ci, s.h, s.w), &Device::Cpu));
        let weight = wanted.weight.then(|| Tensor::from_vec(g.weight, (s.co, s.ci, s.k, s.k), &Device::Cpu));
        let bias = wanted.bias.then(|| Tensor::from_vec(g.bias, s.co, &Device::Cpu));
        Ok([x.transpose()?, weight.transpose()?, bias.transpose()?])
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (w, lw), None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w, _] = self.backward(x, w, None, grad)?;
        Ok((x, w))
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (w, lw), Some((b, lb)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, w, b] = self.backward(x, w, Some(b), grad)?;
        Ok((x, w, b))
    }
}
