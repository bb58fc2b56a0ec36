//! A network described without its weights, by one run of its constructor.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, bail};

use crate::Result;
use crate::builder::{TensorSource, TensorSpec, VarBuilder, builder};

/// The tensors of a network, in the order in which its constructor asks for them (torch's order, which initialisation
/// follows). It takes no memory for their values: a configuration is checked by it before anything is allocated.
///
/// ```
/// use candle_nn::Init;
/// use kakusan_models::{Outline, VarBuilder};
///
/// # fn main() -> kakusan_models::Result<()> {
/// let build = |vb: VarBuilder| {
///     Ok(vb.pp("table").get_with_hints((10, 1 << 40), "weight", Init::Const(0.0).into())?)
/// };
/// let outline = Outline::of(build)?;
/// assert_eq!(outline.tensors()[0].name, "table.weight");
/// assert_eq!(outline.parameter_count(), 10 << 40);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Outline {
    tensors: Vec<OutlinedTensor>,
}

/// The description of one tensor of a network.
#[derive(Debug, Clone)]
pub struct OutlinedTensor {
    /// Its name, with the names of the layers that it is in.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Its initialisation, and whether it is trained.
    pub spec: TensorSpec,
}

impl Outline {
    /// The tensors that `build`, a network's constructor, asks for. A tensor that it asks for twice is shared.
    ///
    /// # Errors
    /// Those of `build`, which checks the sizes of its layers; a shared tensor of two shapes.
    pub fn of<M>(build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<Self> {
        let tensors = Arc::new(Outliner::default());
        build(builder(tensors.clone(), DType::F32, &Device::Cpu))?;
        let mut tensors = tensors.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Self { tensors: std::mem::take(&mut tensors.in_order) })
    }

    /// The tensors, in order.
    pub fn tensors(&self) -> &[OutlinedTensor] {
        &self.tensors
    }

    /// The tensors of a part of the network: the tensor `part`, or all within `part`, such as `down_blocks` or
    /// `down_blocks.0`.
    pub fn part<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a OutlinedTensor> {
        self.tensors.iter().filter(move |tensor| is_part_of(&tensor.name, part))
    }

    /// The number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.tensors.iter().fold(0, |count, tensor| count.saturating_add(tensor.shape.elem_count()))
    }
}

/// Whether the tensor `name` is `part` or lies in it: `down_blocks.1.resnets…` lies in `down_blocks.1`, and
/// `down_blocks.10` does not.
pub(crate) fn is_part_of(name: &str, part: &str) -> bool {
    name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[derive(Default)]
struct Outliner(Mutex<Requested>);

#[derive(Default)]
struct Requested {
    in_order: Vec<OutlinedTensor>,
    shapes: HashMap<String, Shape>,
}

impl TensorSource for Outliner {
    /// One zero, broadcast to the shape.
    fn tensor(&self, name: &str, shape: &Shape, spec: TensorSpec, device: &Device) -> candle_core::Result<Tensor> {
        let mut tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match tensors.shapes.insert(name.to_owned(), shape.clone()) {
            None => tensors.in_order.push(OutlinedTensor { name: name.to_owned(), shape: shape.clone(), spec }),
            Some(known) if known == *shape => {}
            Some(known) => bail!("{name}: requested with the shapes {known:?} and {shape:?}"),
        }
        Tensor::zeros((), DType::F32, device)?.broadcast_as(shape)
    }
}
