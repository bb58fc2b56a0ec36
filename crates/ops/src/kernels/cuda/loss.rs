//! Losses, on candle's tensors.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};

use super::buffer::{Buffer, Read, tensor};
use super::card::{Address, Card, PIECE, arguments, each, launch};
use crate::op::loss::Loss;

/// The loss as kernels know it, and its delta.
fn kind(loss: Loss) -> (i32, f64) {
    match loss {
        Loss::Squared => (0, 0.0),
        Loss::Absolute => (1, 0.0),
        Loss::Huber(delta) => (2, delta),
    }
}

/// The mean of a loss over all elements, a scalar that candle differentiates.
pub(crate) fn mean<C: Card>(loss: Loss, prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    let (prediction, target) = (prediction.contiguous()?, target.contiguous()?);
    let a = Read::<C>::new(&prediction)?;
    let b = Read::on(&a.card, &target)?;
    let (kind, delta) = kind(loss);
    let blocks = a.len.div_ceil(PIECE);
    let sums = Buffer::new(&a.card, 2 * blocks)?; // in f64
    launch(&a.card, "loss_sums", blocks, arguments![kind, delta, &a, &b, &sums, a.len])?;
    let value = a
        .card
        .storage(1, |to| launch(&a.card, "total", 1, arguments![&sums, blocks, a.len as f64, Address::NULL, to]))?;
    prediction.apply_op2(&target, Mean::<C> { loss, value: Mutex::new(Some(value)), card: a.card })
}

/// A mean that was computed, as candle sees it.
struct Mean<C> {
    loss: Loss,
    /// Until candle fetches it.
    value: Mutex<Option<Storage>>,
    card: C,
}

impl<C: Card> Mean<C> {
    fn fetch(&self) -> Result<Storage> {
        match self.value.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(value) => Ok(value),
            None => bail!("a loss was fetched before"),
        }
    }

    /// The gradient of `a`, of which the loss is a function in `a - b`; `sign` is -1 where it is that of `b - a`.
    fn gradient(&self, [a, b]: [&Tensor; 2], grad: &Tensor, sign: f32) -> Result<Option<Tensor>> {
        let (of, other) = if sign > 0.0 { (a, b) } else { (b, a) };
        if !of.track_op() {
            return Ok(None);
        }
        let [x, y, grad] = [Read::on(&self.card, a)?, Read::on(&self.card, b)?, Read::on(&self.card, grad)?];
        let (kind, delta) = kind(self.loss);
        let factor = sign / other.elem_count() as f32;
        let storage = self.card.storage(x.len, |to| {
            let arguments = arguments![kind, delta as f32, &x, &y, &grad, factor, to, x.len];
            each(&self.card, "loss_backward", x.len, arguments)
        })?;
        Ok(Some(tensor(storage, of.dims())))
    }
}

impl<C: Card> CustomOp2 for Mean<C> {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.fetch()? {
            Storage::Cpu(value) => Ok((value, Shape::from(()))),
            other => bail!("a loss of tensors on the CPU is on {:?}", other.device()),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.fetch()? {
            Storage::Cuda(value) => Ok((value, Shape::from(()))),
            other => bail!("a loss of tensors on a CUDA device is on {:?}", other.device()),
        }
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.gradient([a, b], grad, 1.0)?, self.gradient([a, b], grad, -1.0)?))
    }
}
