//! Whole networks as one operation of candle's graph.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor, Var, bail,
};

use crate::backward::Outlet;
use crate::check::{image_dims, supported};
use crate::features::{Dims, Features, Node};
use crate::kernels::{Backend, BackendKind, Work};
use crate::tape::{NodeId, Tape};

/// Runs `build`, a network's forward pass, on `inputs` `[b, c, h, w]` and gives its output.
///
/// Inside, every operation is a method of [`Features`], e.g. [`Features::conv2d`]. What leads to the output is recorded
/// if an input or a weight tracks gradients, and only then; [`backward`](crate::backward) consumes the record.
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
    inputs.iter().try_for_each(|x| supported(op, x))?;
    let backend = inputs.first().map_or(BackendKind::Cpu, |x| BackendKind::of(x));
    operation_on(backend, op, inputs, weights, build)
}

/// The same on a backend.
pub(crate) fn operation_on<const N: usize>(
    backend: BackendKind,
    op: &'static str,
    inputs: [&Tensor; N],
    weights: &[&Tensor],
    build: impl FnOnce([Features; N]) -> Result<Features>,
) -> Result<Tensor> {
    backend.run(Network { backend, op, inputs, weights, build })
}

/// [`operation`] on a tensor of any shape, for an operation on single elements.
pub(crate) fn elementwise(
    op: &'static str,
    x: &Tensor,
    build: impl FnOnce(&Features) -> Result<Features>,
) -> Result<Tensor> {
    supported(op, x)?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    // one long row; candle reshapes a contiguous tensor without a copy, and carries gradients back through it
    let flat = x.contiguous()?.reshape((1, 1, 1, x.elem_count()))?;
    operation(op, [&flat], &[], |[x]| build(&x))?.reshape(x.shape())
}

struct Network<'a, F, const N: usize> {
    backend: BackendKind,
    op: &'static str,
    inputs: [&'a Tensor; N],
    weights: &'a [&'a Tensor],
    build: F,
}

impl<F, const N: usize> Work for Network<'_, F, N>
where
    F: FnOnce([Features; N]) -> Result<Features>,
{
    type Output = Result<Tensor>;

    fn on<B: Backend>(self) -> Result<Tensor> {
        let Self { backend, op, inputs, weights, build } = self;
        let tape = Arc::new(Tape::<B>::new(weights.iter().map(|weight| weight.id()).collect()));
        let mut arguments: Vec<Argument> = Vec::new();
        let mut features = Vec::with_capacity(N);
        for x in inputs {
            let (b, c, h, w) = image_dims(op, x)?;
            let dims = Dims { b, c, h, w };
            let id = x.track_op().then(|| tape.leaf());
            if let Some(id) = id {
                arguments.push(Argument { tensor: x.clone(), place: Place::Features(id, dims) });
            }
            features.push(Features::new(backend, dims, Arc::new(B::from_tensor(x, dims)?), &tape, id));
        }
        for &weight in weights {
            if weight.track_op() && !arguments.iter().any(|argument| argument.tensor.id() == weight.id()) {
                arguments.push(Argument { tensor: weight.clone(), place: Place::Weight });
            }
        }
        let Ok(features) = <[Features; N]>::try_from(features) else { bail!("{op}: an input was lost") };
        let output = build(features)?;
        let dims = output.sizes();
        let Some(Node { buffer, id, .. }) = output.on_tape(&tape) else {
            bail!("{op}: the output is of another network")
        };
        let storage = B::to_storage(buffer, dims)?;
        let Some(id) = *id else { return Ok(Tensor::from_storage(storage, dims.shape(), BackpropOp::none(), false)) };
        drop(output);
        record(op, dims, storage, tape, id, arguments)
    }
}

/// Puts a network that ran into candle's graph.
fn record<B: Backend>(
    op: &'static str,
    dims: Dims,
    storage: Storage,
    tape: Arc<Tape<B>>,
    output: NodeId,
    mut arguments: Vec<Argument>,
) -> Result<Tensor> {
    if arguments.is_empty() {
        // Only weights need gradients: candle walks to something that it takes for a variable.
        let anchor = Var::zeros((), storage.dtype(), &storage.device())?;
        arguments.push(Argument { tensor: anchor.as_tensor().clone(), place: Place::Anchor });
    }
    let tensors: Vec<Tensor> = arguments.iter().map(|argument| argument.tensor.clone()).collect();
    let (outlet, known_under) = Outlet::new();
    let recorded = Recorded { op, dims, storage: Mutex::new(Some(storage)), tape, output, arguments, outlet };
    // `CustomOp3` takes three arguments: the first is repeated for those that are missing
    let y = match tensors.as_slice() {
        [a] => a.apply_op3(a, a, recorded),
        [a, b] => a.apply_op3(b, a, recorded),
        [a, b, c] => a.apply_op3(b, c, recorded),
        more => bail!("{op}: {} inputs track gradients, at most 3 can", more.len()),
    }?;
    known_under(&y);
    Ok(y)
}

/// A network that ran, as candle sees it: one operation.
struct Recorded<B: Backend> {
    op: &'static str,
    dims: Dims,
    /// The output, until candle fetches it.
    storage: Mutex<Option<Storage>>,
    tape: Arc<Tape<B>>,
    output: NodeId,
    arguments: Vec<Argument>,
    outlet: Outlet,
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

impl<B: Backend> Recorded<B> {
    /// The output; candle asks once, for the device of the arguments.
    fn fetch(&self) -> Result<(Storage, Shape)> {
        match self.storage.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(storage) => Ok((storage, self.dims.shape())),
            None => bail!("{}: the output was fetched before", self.op),
        }
    }
}

impl<B: Backend> CustomOp3 for Recorded<B> {
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
        match self.fetch()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            (other, _) => bail!("{}: the arguments are on the CPU, the output on {:?}", self.op, other.device()),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        match self.fetch()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            (other, _) => bail!("{}: the arguments are on a CUDA device, the output on {:?}", self.op, other.device()),
        }
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        match self.fetch()? {
            (Storage::Metal(storage), shape) => Ok((storage, shape)),
            (other, _) => bail!("{}: the arguments are on a Metal device, the output on {:?}", self.op, other.device()),
        }
    }

    /// The gradients of the arguments; those of other weights go to the outlet.
    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = Arc::new(B::from_tensor(grad, self.dims)?);
        let Some(mut gradients) = self.tape.backward(self.output, grad)? else {
            bail!("{}: a second time through this network's backward pass; run its forward pass again", self.op)
        };
        let mut found = [None, None, None];
        for (found, Argument { tensor, place }) in found.iter_mut().zip(&self.arguments) {
            *found = match place {
                Place::Features(id, dims) => match gradients.take(*id) {
                    Some(grad) => {
                        let storage = B::to_storage(&grad, *dims)?;
                        Some(Tensor::from_storage(storage, tensor.shape(), BackpropOp::none(), false))
                    }
                    None => None,
                },
                Place::Weight => gradients.weights().take(tensor)?,
                Place::Anchor => None,
            };
        }
        self.outlet.leave(gradients.into_weights())?;
        let [a, b, c] = found;
        Ok((a, b, c))
    }
}
