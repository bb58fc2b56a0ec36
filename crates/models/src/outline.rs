//! A network looked at without its weights: names and sizes, for checks before anything is allocated, and for the facts
//! that a command prints.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};

use crate::Result;
use crate::builder::{Source, TensorSpec, VarBuilder, builder};

/// The names and sizes of the tensors that `build` asks for, in order.
pub(crate) fn outline<M>(build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<Vec<(String, usize)>> {
    let outline = Arc::new(Outline::default());
    build(builder(outline.clone(), DType::F32, &Device::Cpu))?;
    let mut tensors = outline.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *tensors))
}

#[derive(Default)]
struct Outline(Mutex<Vec<(String, usize)>>);

impl Source for Outline {
    /// One zero that stands for all of the tensor.
    fn tensor(&self, name: &str, shape: &Shape, _: TensorSpec, device: &Device) -> candle_core::Result<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), shape.elem_count()));
        Tensor::zeros((), DType::F32, device)?.broadcast_as(shape)
    }
}
