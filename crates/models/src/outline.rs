//! A network looked at without its weights: names and sizes, for checks before anything is allocated, and for the facts
//! that a command prints.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::Result;

/// The names and sizes of the tensors that `build` asks for, in order.
pub(crate) fn outline<M>(build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<Vec<(String, usize)>> {
    let tensors = Arc::new(Mutex::new(vec![]));
    build(VarBuilder::from_backend(Box::new(Outline(tensors.clone())), DType::F32, Device::Cpu))?;
    let mut tensors = tensors.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *tensors))
}

struct Outline(Arc<Mutex<Vec<(String, usize)>>>);

impl SimpleBackend for Outline {
    /// One zero that stands for all of the tensor.
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), shape.elem_count()));
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
