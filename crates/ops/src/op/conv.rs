//! Two-dimensional convolution, alone and with SiLU.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::conv::run;
use crate::kernels::cpu::conv::weights::Prepared;
use crate::kernels::cpu::host::with_numbers;
use crate::kernels::reference as compose;
use crate::network::{Data, Dims, Features, Host, operation};
use crate::op::conv_shape::{ConvOptions, ConvShape};
use crate::still;
use crate::tape::{Gradients, NodeId, owned};

/// Convolution with zero padding, as `torch.nn.functional.conv2d(x, weight, bias, stride, padding)`.
///
/// `x` `[b, ci, h, w]`, `weight` `[co, ci, k, k]`, `bias` `[co]`; the result is `[b, co, oh, ow]` with
/// `oh = (h + top + bottom - k) / stride + 1`. `options` is a padding for all sides, below `k`, or [`ConvOptions`]. f32
/// or f64 on the CPU, what candle convolves elsewhere. On the CPU the result and all gradients are the same, bit for
/// bit, on any number of threads.
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
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: impl Into<ConvOptions>) -> Result<Tensor> {
    apply("conv2d", x, weight, bias, options.into(), false)
}

/// [`silu`](crate::silu) of [`conv2d`] in one pass over memory.
///
/// The derivative of SiLU is kept for the backward pass if an argument tracks gradients, and only then.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_silu(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: impl Into<ConvOptions>,
) -> Result<Tensor> {
    apply("conv2d_silu", x, weight, bias, options.into(), true)
}

fn apply(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: ConvOptions,
    silu: bool,
) -> Result<Tensor> {
    ConvShape::check(op, x, weight, bias, options)?;
    let weights: Vec<&Tensor> = [Some(weight), bias].into_iter().flatten().collect();
    operation(op, [x], &weights, |[x]| convolve(op, &x, weight, bias, options, silu))
}

impl Features {
    /// [`conv2d`](crate::conv2d) of these features.
    ///
    /// # Errors
    /// As [`conv2d`](crate::conv2d).
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, options: impl Into<ConvOptions>) -> Result<Self> {
        convolve("conv2d", self, weight, bias, options.into(), false)
    }

    /// [`conv2d_silu`](crate::conv2d_silu) of these features.
    ///
    /// # Errors
    /// As [`conv2d`](crate::conv2d).
    pub fn conv2d_silu(&self, weight: &Tensor, bias: Option<&Tensor>, options: impl Into<ConvOptions>) -> Result<Self> {
        convolve("conv2d_silu", self, weight, bias, options.into(), true)
    }
}

fn convolve(
    op: &'static str,
    x: &Features,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: ConvOptions,
    silu: bool,
) -> Result<Features> {
    let s = ConvShape::new(op, x.dims(), weight, bias, options)?;
    match x.data() {
        Data::Other(x) => {
            let y = compose::conv2d(x, weight, bias, options)?;
            Features::other(if silu { compose::silu(&y)? } else { y })
        }
        Data::Host(x) => {
            for weight in [Some(weight), bias].into_iter().flatten() {
                x.tape.check_weight(op, weight)?;
            }
            on_host(s, x, weight, bias, silu)
        }
    }
}

fn on_host(s: ConvShape, x: &Host, weight: &Tensor, bias: Option<&Tensor>, silu: bool) -> Result<Features> {
    let prepared = still::form(x.tape.still(), weight, ("conv2d forward", s.key()), || {
        with_numbers(weight, |w| Prepared::forward(&s, w))
    })?;
    let tracked = x.tape.tracks(x.id.is_some(), weight.track_op() || bias.is_some_and(Tensor::track_op));
    let mut y = Buffer::new(s.b * s.co * s.oh * s.ow)?;
    let mut derivative = if tracked && silu { Some(Buffer::new(y.len())?) } else { None };
    let mut run = |bias: Option<&[f32]>| {
        run::forward(&prepared, &x.floats, bias, silu, &mut y, derivative.as_deref_mut());
        Ok(())
    };
    match bias {
        Some(bias) => with_numbers(bias, |bias| run(Some(bias)))?,
        None => run(None)?,
    }
    let id = tracked.then(|| {
        let (images, id, weight, bias) = (x.floats.clone(), x.id, weight.clone(), bias.cloned());
        x.tape.record(Box::new(move |grad, gradients| {
            backward(&s, (images, id), &weight, bias.as_ref(), derivative, grad, gradients)
        }))
    });
    let dims = Dims { b: s.b, c: s.co, h: s.oh, w: s.ow };
    Ok(Features::host(dims, y, &x.tape, id))
}

/// The gradients of images, weight and bias, those that are needed.
fn backward(
    s: &ConvShape,
    (x, id): (Arc<Buffer>, Option<NodeId>),
    weight: &Tensor,
    bias: Option<&Tensor>,
    derivative: Option<Buffer>,
    grad: Arc<Buffer>,
    gradients: &mut Gradients,
) -> Result<()> {
    let bias = bias.filter(|bias| bias.track_op());
    let mut db = Buffer::zeros(s.co)?;
    let grad = match derivative {
        Some(derivative) => {
            let mut grad = owned(grad)?;
            run::scale_and_sum(s, &mut grad, &derivative, &mut db)?;
            Arc::new(grad)
        }
        None => {
            if bias.is_some() {
                run::sum_channels(s, &grad, &mut db)?;
            }
            grad
        }
    };
    if let Some(bias) = bias {
        gradients.add_weight(bias, db);
    }
    if weight.track_op() {
        gradients.add_weight(weight, run::weight_gradient(s, &x, &grad)?);
    }
    if let Some(id) = id {
        drop(x); // its memory may serve the gradient
        let still = gradients.still();
        let prepared = still::form(still.as_deref(), weight, ("conv2d back", s.key()), || {
            with_numbers(weight, |w| Prepared::back(s, w))
        })?;
        let mut dx = Buffer::new(s.b * s.ci * s.h * s.w)?;
        run::forward(&prepared, &grad, None, false, &mut dx, None);
        gradients.add(id, Arc::new(dx))?;
    }
    Ok(())
}
