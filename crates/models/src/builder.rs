//! How a network requests its tensors: candle's builder, with a [`TensorSpec`] for each tensor.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::{Backend, SimpleBackend, VarBuilderArgs};

/// candle's builder on a [`Store`]: a network is built from it, in candle's idiom. The layers of `candle_nn` take it by
/// way of [`candle_builder`].
pub type VarBuilder = VarBuilderArgs<'static, Store>;

/// How a network wants a tensor initialised and trained.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec {
    /// Its initial values.
    pub init: Init,
    /// Whether it is trained. One that is not (torch's `requires_grad=False`) is saved and loaded as the others, but no
    /// optimiser and no average touches it.
    pub trained: bool,
    /// How often torch's constructor draws it; the last time counts.
    pub draws: usize,
}

impl From<Init> for TensorSpec {
    /// A tensor that is trained and drawn once, as nearly all are.
    fn from(init: Init) -> Self {
        Self { init, trained: true, draws: 1 }
    }
}

impl Default for TensorSpec {
    fn default() -> Self {
        Init::default().into()
    }
}

/// Where a [`VarBuilder`] gets its tensors from: [`Weights`](crate::Weights), or a builder of candle's.
///
/// ```
/// use std::collections::HashMap;
///
/// use candle_core::{DType, Device, Tensor};
/// use kakusan_models::VarBuilder;
///
/// # fn main() -> candle_core::Result<()> {
/// let tensors = HashMap::from([("conv.bias".to_owned(), Tensor::zeros(3, DType::F64, &Device::Cpu)?)]);
/// let candles = candle_nn::VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
/// let vb = VarBuilder::new_with_args(candles.into(), DType::F64, &Device::Cpu);
/// assert_eq!(vb.pp("conv").get(3, "bias")?.dims(), [3]);
/// # Ok(())
/// # }
/// ```
pub struct Store(Arc<dyn TensorSource>);

/// Provides the tensor of a name and a shape.
pub(crate) trait TensorSource: Send + Sync {
    fn tensor(&self, name: &str, shape: &Shape, spec: TensorSpec, device: &Device) -> Result<Tensor>;
}

/// A builder on `source`.
pub(crate) fn builder(source: Arc<dyn TensorSource>, dtype: DType, device: &Device) -> VarBuilder {
    VarBuilder::new_with_args(Store(source), dtype, device)
}

impl Backend for Store {
    type Hints = TensorSpec;

    fn get(&self, shape: Shape, name: &str, spec: TensorSpec, _: DType, device: &Device) -> Result<Tensor> {
        self.0.tensor(name, &shape, spec, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name} was requested without its shape")
    }

    /// Every requested tensor exists; a missing one is an error that names it.
    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

impl From<candle_nn::VarBuilder<'static>> for Store {
    fn from(vb: candle_nn::VarBuilder<'static>) -> Self {
        Self(Arc::new(Candles(vb)))
    }
}

/// The same tensors by candle's own builder, which the layers of `candle_nn` take: a model may be made of those.
///
/// ```
/// use candle_core::Device;
/// use candle_nn::{Linear, Module, linear};
/// use kakusan_models::{VarBuilder, Weights, candle_builder};
/// use kakusan_rng::Generator;
///
/// # fn main() -> kakusan_models::Result<()> {
/// let build = |vb: VarBuilder| Ok(linear(3, 2, candle_builder(vb.pp("head")))?);
/// let (weights, layer) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), build)?;
/// assert_eq!(weights.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["head.weight", "head.bias"]);
/// # Ok(())
/// # }
/// ```
pub fn candle_builder(vb: VarBuilder) -> candle_nn::VarBuilder<'static> {
    let (dtype, device) = (vb.dtype(), vb.device().clone());
    candle_nn::VarBuilder::from_backend(Box::new(Ours(vb)), dtype, device)
}

struct Ours(VarBuilder);

impl SimpleBackend for Ours {
    fn get(&self, shape: Shape, name: &str, init: Init, _: DType, _: &Device) -> Result<Tensor> {
        self.0.get_with_hints(shape, name, init.into())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        self.0.get_unchecked(name)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_tensor(name)
    }
}

struct Candles(candle_nn::VarBuilder<'static>);

impl TensorSource for Candles {
    fn tensor(&self, name: &str, shape: &Shape, spec: TensorSpec, _: &Device) -> Result<Tensor> {
        self.0.get_with_hints(shape, name, spec.init)
    }
}
