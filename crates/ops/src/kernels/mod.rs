//! What computes. The operations of `op` ask a [`Backend`] for kernels and do not know which one it is; a tensor's
//! dtype and device decide that, in [`BackendKind`] alone.

pub(crate) mod cpu;
#[cfg(any(all(test, target_os = "linux"), feature = "cuda"))]
mod cuda;
pub(crate) mod reference;

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Storage, Tensor, Var};

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
use cpu::Cpu;
use reference::Reference;

/// A device's memory and kernels.
///
/// Features are `[b, c, h, w]` by their sizes; in which order a buffer holds them is the backend's business. Weights
/// are candle's tensors. A kernel gets a gradient as an [`Arc`] where it may write the result into it.
pub(crate) trait Backend: Sized + 'static {
    /// Features, and gradients of features and weights.
    type Buffer: Send + Sync + 'static;
    /// The weights of a convolution in the layout that its kernels read.
    type ConvWeights: Send + Sync + 'static;
    /// What a kernel computes for its backward kernel alone.
    type Saved: Send + 'static;
    /// What an optimiser remembers of a parameter: a tensor of the parameter's shape.
    type State: Debug + Send + Sync + 'static;

    /// The features that a tensor `[b, c, h, w]` holds.
    fn from_tensor(x: &Tensor, dims: Dims) -> Result<Self::Buffer>;
    /// The contiguous numbers of a tensor `[b, c, h, w]` that holds these features.
    fn to_storage(x: &Self::Buffer, dims: Dims) -> Result<Storage>;
    /// A weight's gradient as a tensor of the weight's shape.
    fn weight_gradient(gradient: &Self::Buffer, dims: &[usize]) -> Result<Tensor>;
    /// `a + b` of gradients, in the memory of one of them if there is no other reference to it.
    fn sum(a: Arc<Self::Buffer>, b: Arc<Self::Buffer>) -> Result<Arc<Self::Buffer>>;

    /// `silu(x)`
    fn silu(x: &Self::Buffer) -> Result<Self::Buffer>;
    /// `grad * silu'(x)`
    fn silu_backward(x: &Self::Buffer, grad: &Self::Buffer) -> Result<Self::Buffer>;
    /// `f(x)`
    fn activation(f: Activation, x: &Self::Buffer) -> Result<Self::Buffer>;
    /// `grad * f'(x)`
    fn activation_backward(f: Activation, x: &Self::Buffer, grad: Arc<Self::Buffer>) -> Result<Self::Buffer>;

    /// `a + b`
    fn add(a: &Self::Buffer, b: &Self::Buffer) -> Result<Self::Buffer>;
    /// `x * factor`
    fn scale(x: &Self::Buffer, factor: f64) -> Result<Self::Buffer>;
    /// `x` plus `vector`, `[b, c, 1, 1]`, at every pixel.
    fn add_vector(x: &Self::Buffer, vector: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// The gradient of the vector in [`add_vector`](Self::add_vector): the sum over all pixels.
    fn sum_pixels(grad: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// `x * (1 + scale) + shift`, `vector` `[b, 2c, 1, 1]` holding scales and then shifts.
    fn scale_shift(x: &Self::Buffer, vector: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// The gradients of `x` and of the vector.
    fn scale_shift_backward(
        x: &Self::Buffer,
        vector: &Self::Buffer,
        grad: &Self::Buffer,
        dims: Dims,
    ) -> Result<[Self::Buffer; 2]>;
    /// The channels of `a`, then those of `b`.
    fn concat(a: &Self::Buffer, b: &Self::Buffer, dims: [Dims; 2]) -> Result<Self::Buffer>;
    /// The gradients of `a` and `b` in [`concat`](Self::concat).
    fn split(grad: &Self::Buffer, dims: [Dims; 2]) -> Result<[Self::Buffer; 2]>;
    /// A mask `[b, c, h, w]` of u8 for `x`: in the order of a buffer, on its device.
    fn mask(mask: &Tensor, x: &Self::Buffer) -> Result<Tensor>;
    /// `x * mask / (1 - p)`; a function of the gradient as of the features.
    fn dropout(x: &Self::Buffer, mask: &Tensor, p: f64) -> Result<Self::Buffer>;

    /// The mean of each 2x2 block.
    fn avg_pool2d(x: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// A quarter of the gradient for each pixel of a block, 0 for a last odd row or column.
    fn avg_pool2d_backward(grad: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// The maximum of each 2x2 block.
    fn max_pool2d(x: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// The gradient, at the maxima, added to what `x` has `gathered` elsewhere.
    fn max_pool2d_backward(
        x: &Self::Buffer,
        grad: &Self::Buffer,
        dims: Dims,
        gathered: Option<Arc<Self::Buffer>>,
    ) -> Result<Self::Buffer>;
    /// Every pixel twice in both directions, plus `skip`.
    fn upsample(x: &Self::Buffer, skip: Option<&Self::Buffer>, dims: Dims) -> Result<Self::Buffer>;
    /// The sum over each 2x2 block.
    fn upsample_backward(grad: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// Half the size through the filter `[1, 3, 3, 1]`.
    fn fir_downsample2d(x: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// Its gradient, of the sizes `dims` of `x`.
    fn fir_downsample2d_backward(grad: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// Twice the size through the filter `[1, 3, 3, 1]`.
    fn fir_upsample2d(x: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;
    /// Its gradient, of the sizes `dims` of `x`.
    fn fir_upsample2d_backward(grad: &Self::Buffer, dims: Dims) -> Result<Self::Buffer>;

    /// The weights for [`conv2d`](Self::conv2d).
    fn conv2d_weights(s: &ConvShape, weight: &Tensor) -> Result<Self::ConvWeights>;
    /// The weights for [`conv2d_input_gradient`](Self::conv2d_input_gradient).
    fn conv2d_backward_weights(s: &ConvShape, weight: &Tensor) -> Result<Self::ConvWeights>;
    /// The convolution, the bias, and SiLU where asked for; SiLU's derivative if it is to be `saved`.
    fn conv2d(
        s: &ConvShape,
        x: &Self::Buffer,
        weights: &Self::ConvWeights,
        bias: Option<&Tensor>,
        silu: bool,
        save: bool,
    ) -> Result<(Self::Buffer, Option<Self::Saved>)>;
    /// The gradient before SiLU.
    fn conv2d_bias_gradient(
        s: &ConvShape,
        grad: Arc<Self::Buffer>,
        derivative: Option<Self::Saved>,
    ) -> Result<(Arc<Self::Buffer>, Self::Buffer)>;
    /// The gradient of the weights, `[co, ci, k, k]`.
    fn conv2d_weight_gradient(s: &ConvShape, x: &Self::Buffer, grad: &Self::Buffer) -> Result<Self::Buffer>;
    /// The gradient of the images.
    fn conv2d_input_gradient(s: &ConvShape, grad: &Self::Buffer, weights: &Self::ConvWeights) -> Result<Self::Buffer>;

    /// Group normalisation, and SiLU where asked for.
    fn group_norm(s: &GroupNorm, x: &Self::Buffer, weights: [&Tensor; 2]) -> Result<(Self::Buffer, Self::Saved)>;
    /// The gradients of `x`, weight and bias.
    fn group_norm_backward(
        s: &GroupNorm,
        x: &Self::Buffer,
        saved: &Self::Saved,
        weights: [&Tensor; 2],
        grad: &Self::Buffer,
    ) -> Result<[Self::Buffer; 3]>;
    /// `softmax(q kᵀ scale) v`
    fn attention(s: &Attention, inputs: [&Self::Buffer; 3]) -> Result<(Self::Buffer, Self::Saved)>;
    /// The gradients of `q`, `k` and `v`.
    fn attention_backward(
        s: &Attention,
        inputs: [&Self::Buffer; 3],
        output: &Self::Buffer,
        saved: &Self::Saved,
        grad: &Self::Buffer,
    ) -> Result<[Self::Buffer; 3]>;
    /// `x weightᵀ + bias` at every pixel.
    fn linear(s: &Linear, x: &Self::Buffer, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self::Buffer>;
    /// The gradient of `x`.
    fn linear_input_gradient(s: &Linear, weight: &Tensor, grad: &Self::Buffer) -> Result<Self::Buffer>;
    /// The gradient of the weight, `[o, i]`.
    fn linear_weight_gradient(s: &Linear, x: &Self::Buffer, grad: &Self::Buffer) -> Result<Self::Buffer>;
    /// The gradient of the bias, `[o]`.
    fn linear_bias_gradient(s: &Linear, grad: &Self::Buffer) -> Result<Self::Buffer>;

    /// The mean of a loss over all elements, a scalar that candle differentiates.
    fn loss(loss: Loss, prediction: &Tensor, target: &Tensor) -> Result<Tensor>;

    /// A copy of a tensor.
    fn state(x: &Tensor) -> Result<Self::State>;
    /// The tensor again, of the parameter's shape.
    fn state_tensor(state: &Self::State, param: &Var) -> Result<Tensor>;
    /// One step of Adam; the states are the two moments.
    fn adam(params: Vec<Parameter<Self, 2>>, by: &Factors) -> Result<()>;
    /// One step of gradient descent; the state is the momentum, absent without one.
    fn sgd(params: Vec<(&Var, &Tensor, Option<&mut Self::State>)>, config: &SgdConfig, scale: f64) -> Result<()>;
    /// One step of Muon; the state is the mean gradient.
    fn muon(params: Vec<Parameter<Self, 1>>, config: &MuonConfig, scale: f64) -> Result<()> {
        for Parameter { var, grad, states: [momentum] } in params {
            let mean = Self::state_tensor(momentum, var)?;
            let [value, mean] = reference::optim::muon([&var.as_detached_tensor(), &mean], grad, config, scale)?;
            var.set(&value.detach())?;
            *momentum = Self::state(&mean.detach())?;
        }
        Ok(())
    }
    /// One step of an average: `state -= (state - parameter) * rate`.
    fn average(params: Vec<(&Var, &mut Self::State)>, rate: f64) -> Result<()>;
    /// The sum of the squares of all elements of contiguous tensors.
    fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64>;
}

/// A parameter, its gradient, and what the optimiser remembers of it.
pub(crate) struct Parameter<'a, B: Backend, const N: usize> {
    pub(crate) var: &'a Var,
    pub(crate) grad: &'a Tensor,
    pub(crate) states: [&'a mut B::State; N],
}

/// Which backend computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendKind {
    /// Our kernels.
    Cpu,
    /// Our kernels for a CUDA device.
    #[cfg(feature = "cuda")]
    Cuda,
    /// The same on the host, in tests.
    #[cfg(all(test, target_os = "linux"))]
    Host,
    /// candle's operations.
    Reference,
}

/// Work that any backend can do.
pub(crate) trait Work {
    type Output;

    fn on<B: Backend>(self) -> Self::Output;
}

impl BackendKind {
    /// Those that a tensor can select.
    pub(crate) const ALL: &[Self] = &[
        Self::Cpu,
        #[cfg(feature = "cuda")]
        Self::Cuda,
        Self::Reference,
    ];

    /// The backend for tensors like this one: our kernels for f32 on the CPU and on CUDA devices, the reference for the
    /// rest.
    pub(crate) fn of(tensor: &Tensor) -> Self {
        match tensor.device() {
            Device::Cpu if tensor.dtype() == DType::F32 => Self::Cpu,
            #[cfg(feature = "cuda")]
            Device::Cuda(_) if tensor.dtype() == DType::F32 => Self::Cuda,
            _ => Self::Reference,
        }
    }

    /// Does `work` on this backend.
    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            Self::Cpu => work.on::<Cpu>(),
            #[cfg(feature = "cuda")]
            Self::Cuda => work.on::<cuda::Cuda<cuda::device::Device>>(),
            #[cfg(all(test, target_os = "linux"))]
            Self::Host => work.on::<cuda::Cuda<cuda::host::HostCard>>(),
            Self::Reference => work.on::<Reference>(),
        }
    }
}

/// Gives the memory that is kept for the next features back to the system and to CUDA devices: after a training, say,
/// in a program that goes on. What is in use is not affected; the next step takes longer, because fresh memory is
/// slower than used memory.
pub fn trim_memory() {
    cpu::buffer::trim();
    #[cfg(feature = "cuda")]
    cuda::device::trim();
}
