//! Features on their way through a network, in the layout that the device likes best.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, Var, bail,
};
use rayon::prelude::*;

use crate::check::{image_dims, on_host};
use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::host::{apart, grain_of, with_numbers};
use crate::kernels::cpu::transpose::transpose;
use crate::still::{self, Still};
use crate::tape::{self, NodeId, Tape};

/// Features `[b, c, h, w]` inside a [`network`].
///
/// On the CPU in f32 they lie channels last, in memory that is used again as soon as nothing needs them any more; on
/// other devices and in f64 they are candle's tensors.
#[derive(Debug, Clone)]
pub struct Features {
    dims: Dims,
    data: Data,
}

/// The sizes of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dims {
    pub(crate) b: usize,
    pub(crate) c: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
}

impl Dims {
    pub(crate) fn count(self) -> usize {
        self.b * self.pixels() * self.c
    }

    pub(crate) fn pixels(self) -> usize {
        self.h * self.w
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Host(Host),
    Other(Tensor),
}

/// Features in our own memory, `[b, h, w, c]`.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) floats: Arc<Buffer>,
    pub(crate) tape: Arc<Tape>,
    /// Their place on the tape, where they need a gradient.
    pub(crate) id: Option<NodeId>,
}

impl Features {
    /// Batch, channels, height and width.
    pub fn dims(&self) -> [usize; 4] {
        let Dims { b, c, h, w } = self.dims;
        [b, c, h, w]
    }

    pub(crate) fn sizes(&self) -> Dims {
        self.dims
    }

    pub(crate) fn data(&self) -> &Data {
        &self.data
    }

    /// The result of an operation on tensors.
    pub(crate) fn other(tensor: Tensor) -> Result<Self> {
        let (b, c, h, w) = tensor.dims4()?;
        Ok(Self { dims: Dims { b, c, h, w }, data: Data::Other(tensor) })
    }

    /// The result of an operation on features in our memory; `id` is its place on the tape if it has one.
    pub(crate) fn host(dims: Dims, floats: impl Into<Arc<Buffer>>, tape: &Arc<Tape>, id: Option<NodeId>) -> Self {
        Self { dims, data: Data::Host(Host { floats: floats.into(), tape: tape.clone(), id }) }
    }
}

/// Runs `build`, a network's forward pass, on `inputs` `[b, c, h, w]` and gives its output.
///
/// Inside, every operation is a method of [`Features`], e.g. [`Features::conv2d`]. What leads to the output is recorded
/// if an input or a weight tracks gradients, and only then; [`backward`](crate::backward) goes back through it, once.
/// Weights of the network that are not among the inputs have to be leaves (variables, or plain tensors).
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor, Var};
/// use kakusan_ops::{backward, mse_loss, network};
/// let weight = Var::ones((4, 3, 3, 3), DType::F32, &Device::Cpu)?;
/// let x = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let y = network([&x], |[x]| x.conv2d_silu(&weight, None, 1)?.max_pool2d()?.upsample_nearest2d())?;
/// assert_eq!(y.dims(), [2, 4, 8, 8]);
/// let gradients = backward(&mse_loss(&y, &y.zeros_like()?)?)?;
/// assert_eq!(gradients.get(&weight).unwrap().dims(), [4, 3, 3, 3]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of `build`; inputs of different devices or dtypes, or more than three that track gradients.
pub fn network<const N: usize>(
    inputs: [&Tensor; N],
    build: impl FnOnce([Features; N]) -> Result<Features>,
) -> Result<Tensor> {
    operation("network", inputs, &[], build)
}

/// [`network`] under the name of its only operation, whose `weights` may be anything that candle computed.
pub(crate) fn operation<const N: usize>(
    op: &'static str,
    inputs: [&Tensor; N],
    weights: &[&Tensor],
    build: impl FnOnce([Features; N]) -> Result<Features>,
) -> Result<Tensor> {
    let still = still::current();
    apart(|| recorded(op, inputs, Tape::new(weights.iter().map(|weight| weight.id()).collect(), still), weights, build))
}

/// The same, on a `tape`.
fn recorded<const N: usize>(
    op: &'static str,
    inputs: [&Tensor; N],
    tape: Tape,
    weights: &[&Tensor],
    build: impl FnOnce([Features; N]) -> Result<Features>,
) -> Result<Tensor> {
    let mut host = true;
    for x in inputs {
        host &= on_host(op, x)? && x.dtype() == DType::F32;
    }
    let tape = Arc::new(tape);
    let mut arguments: Vec<Argument> = Vec::new();
    let mut features = Vec::with_capacity(N);
    for x in inputs {
        let (b, c, h, w) = image_dims(op, x)?;
        let dims = Dims { b, c, h, w };
        if !host {
            features.push(Features { dims, data: Data::Other(x.clone()) });
            continue;
        }
        let id = x.track_op().then(|| tape.leaf());
        if let Some(id) = id {
            arguments.push(Argument { tensor: x.clone(), place: Place::Features(id, dims) });
        }
        features.push(Features::host(dims, channels_last(x, dims)?, &tape, id));
    }
    for &weight in weights {
        if weight.track_op() && !arguments.iter().any(|argument| argument.tensor.id() == weight.id()) {
            arguments.push(Argument { tensor: weight.clone(), place: Place::Weight });
        }
    }
    let Ok(features) = <[Features; N]>::try_from(features) else { bail!("{op}: an input was lost") };
    let output = build(features)?;
    let (floats, id) = match output.data {
        Data::Other(tensor) if !host => return Ok(tensor),
        Data::Host(Host { floats, tape: of, id }) if Arc::ptr_eq(&of, &tape) => (floats, id),
        _ => bail!("{op}: the output is of another network"),
    };
    let Dims { b, c, h, w } = output.dims;
    let numbers = channels_first(&floats, output.dims)?;
    let Some(id) = id else { return Tensor::from_vec(numbers, (b, c, h, w), &Device::Cpu) };
    drop(floats);
    finish(Recorded { op, dims: output.dims, numbers: Mutex::new(numbers), tape, output: id, arguments })
}

/// [`operation`] on a tensor of any shape, for what looks at every element by itself.
pub(crate) fn elementwise(
    op: &'static str,
    x: &Tensor,
    build: impl FnOnce(&Features) -> Result<Features>,
) -> Result<Tensor> {
    on_host(op, x)?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    // one long row; candle reshapes a contiguous tensor without a copy, and carries gradients back through it
    let flat = x.contiguous()?.reshape((1, 1, 1, x.elem_count()))?;
    operation(op, [&flat], &[], |[x]| build(&x))?.reshape(x.shape())
}

/// Puts a recorded network into candle's graph.
fn finish(mut recorded: Recorded) -> Result<Tensor> {
    if recorded.arguments.is_empty() {
        // Only weights need gradients: candle walks to something that it takes for a variable.
        let anchor = Var::zeros((), DType::F32, &Device::Cpu)?;
        recorded.arguments.push(Argument { tensor: anchor.as_tensor().clone(), place: Place::Anchor });
    }
    let tensors: Vec<Tensor> = recorded.arguments.iter().map(|argument| argument.tensor.clone()).collect();
    match tensors.as_slice() {
        [a] => a.apply_op1(recorded),
        [a, b] => a.apply_op2(b, recorded),
        [a, b, c] => a.apply_op3(b, c, recorded),
        more => bail!("{}: {} inputs track gradients, at most 3 can", recorded.op, more.len()),
    }
}

/// A network that ran, as candle sees it: one operation.
struct Recorded {
    op: &'static str,
    dims: Dims,
    /// The output, until candle fetches it.
    numbers: Mutex<Vec<f32>>,
    tape: Arc<Tape>,
    output: NodeId,
    arguments: Vec<Argument>,
}

struct Argument {
    tensor: Tensor,
    place: Place,
}

/// Where an argument's gradient is found.
enum Place {
    Features(NodeId, Dims),
    Weight,
    Anchor,
}

impl Recorded {
    fn forward(&self) -> Result<(CpuStorage, Shape)> {
        let Dims { b, c, h, w } = self.dims;
        let numbers = std::mem::take(&mut *self.numbers.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((CpuStorage::F32(numbers), Shape::from((b, c, h, w))))
    }

    /// The gradients of the arguments, in order; those of other weights are deposited for `output`.
    fn backward(&self, output: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let still = still::current();
        apart(|| self.go_back(output, grad, still))
    }

    fn go_back(&self, output: &Tensor, grad: &Tensor, still: Option<Arc<Still>>) -> Result<[Option<Tensor>; 3]> {
        let grad = channels_last(grad, self.dims)?.into();
        let Some(mut gradients) = self.tape.backward(self.output, grad, still)? else {
            bail!("{}: went back through this network a second time; compute its output anew", self.op)
        };
        let mut found = [None, None, None];
        for (found, Argument { tensor, place }) in found.iter_mut().zip(&self.arguments) {
            *found = match place {
                Place::Features(id, dims) => match gradients.take(*id) {
                    Some(grad) => Some(Tensor::from_vec(channels_first(&grad, *dims)?, tensor.shape(), &Device::Cpu)?),
                    None => None,
                },
                Place::Weight => match gradients.take_weight(tensor.id()) {
                    Some(grad) => Some(Tensor::from_slice(&grad, tensor.shape(), &Device::Cpu)?),
                    None => None,
                },
                Place::Anchor => None,
            };
        }
        tape::deposit(output, gradients)?;
        Ok(found)
    }
}

impl CustomOp1 for Recorded {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(&self, _: &Tensor, output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a, ..] = self.backward(output, grad)?;
        Ok(a)
    }
}

impl CustomOp2 for Recorded {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, output: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b, _] = self.backward(output, grad)?;
        Ok((a, b))
    }
}

impl CustomOp3 for Recorded {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.backward(output, grad)?;
        Ok((a, b, c))
    }
}

/// `[b, c, h, w] -> [b, h, w, c]`
fn channels_last(x: &Tensor, dims: Dims) -> Result<Buffer> {
    let mut to = Buffer::new(dims.count())?;
    let (pixels, c) = (dims.pixels(), dims.c);
    with_numbers::<f32, _>(x, |from| {
        let images = to.par_chunks_mut((pixels * c).max(1)).zip(from.par_chunks((pixels * c).max(1)));
        images.with_min_len(grain_of(pixels * c)).for_each(|(to, from)| match (c, pixels) {
            (1, _) | (_, 1) => to.copy_from_slice(from),
            _ => transpose(from, pixels, to, c, c, pixels),
        });
        Ok(())
    })?;
    Ok(to)
}

/// `[b, h, w, c] -> [b, c, h, w]`
fn channels_first(x: &[f32], dims: Dims) -> Result<Vec<f32>> {
    let (pixels, c) = (dims.pixels(), dims.c);
    let ([to], _) = crate::kernels::cpu::host::build(dims.count(), pixels * c, |i, [to]| {
        let from = crate::kernels::cpu::host::piece(x, i, pixels * c);
        match (c, pixels) {
            (1, _) | (_, 1) => to.copy_from_slice(from),
            _ => transpose(from, c, to, pixels, pixels, c),
        }
    })?;
    Ok(to)
}
