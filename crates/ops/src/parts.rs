//! A batch in parts, each computed by one thread from beginning to end.
//!
//! Images do not know of each other in the networks of diffusion, so a part of the batch can go through the whole network
//! and back before the next one begins: its features stay in the thread's cache, nothing waits for the other threads
//! between two operations, and the features of one part a thread are all that is held.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Error, Tensor};

use crate::denormals::FlushDenormals;
use crate::host::alone;
use crate::{still, tape};

/// Images of a part at least, and parts of a large batch at most. They depend on the batch alone, so that the order of
/// every sum does not depend on the number of threads.
const LEAST: usize = 8;
const PARTS: usize = 16;

/// Images in each part of a batch.
fn part(batch: usize) -> usize {
    batch.div_ceil(PARTS).max(LEAST).min(batch.max(1))
}

/// Runs `work` on parts of `0..batch`, many at once on rayon's threads, and hands what it gives to `merge` in order.
fn in_parts<R, E>(
    batch: usize,
    work: impl Fn(Range<usize>) -> Result<R, E> + Sync,
    merge: impl FnMut(R) -> Result<(), E> + Send,
) -> Result<(), E>
where
    R: Send,
    E: Send,
{
    let part = part(batch);
    let count = batch.div_ceil(part);
    let threads = rayon::current_num_threads().min(count).max(1);
    let still = still::current().unwrap_or_default();
    let queue = Mutex::new(Queue { next: 0, waiting: BTreeMap::new(), merge, outcome: Ok(()) });
    let next = AtomicUsize::new(0);
    let worker = || {
        let _flush = FlushDenormals::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            let range = i * part..batch.min((i + 1) * part);
            // Where there are fewer parts than threads, the operations share the others among themselves.
            let result = still::with(Some(still.clone()), || {
                if count >= rayon::current_num_threads() { alone(|| work(range)) } else { work(range) }
            });
            let failed = result.is_err();
            queue.lock().unwrap_or_else(PoisonError::into_inner).give(i, result);
            if failed {
                next.store(count, Ordering::Relaxed); // nothing after it is wanted
            }
        }
    };
    if threads == 1 {
        worker();
    } else {
        rayon::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| worker());
            }
            worker();
        });
    }
    queue.into_inner().unwrap_or_else(PoisonError::into_inner).outcome
}

/// Merges results in the order of their numbers; those that come too soon wait.
struct Queue<R, E, M> {
    next: usize,
    waiting: BTreeMap<usize, Result<R, E>>,
    merge: M,
    outcome: Result<(), E>,
}

impl<R, E, M: FnMut(R) -> Result<(), E>> Queue<R, E, M> {
    fn give(&mut self, i: usize, result: Result<R, E>) {
        self.waiting.insert(i, result);
        while let Some(result) = self.waiting.remove(&self.next) {
            if self.outcome.is_ok() {
                self.outcome = result.and_then(&mut self.merge);
            }
            self.next += 1;
        }
    }
}

/// The sum of `loss(range)`, scalars, over the parts of a batch, and its gradients: [`backward`](crate::backward), part by
/// part.
///
/// For a mean over the batch `loss` weighs its part: the mean over `range` times `range.len() / batch`. A batch on
/// another device than the CPU is one part. No weight may change meanwhile.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor, Var};
/// use kakusan_ops::{gradients, mse_loss, network};
/// let weight = Var::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?;
/// let x = Tensor::ones((20, 1, 8, 8), DType::F32, &Device::Cpu)?;
/// let (loss, gradients) = gradients(20, &Device::Cpu, |range| {
///     let x = x.narrow(0, range.start, range.len())?;
///     let y = network([&x], |[x]| x.conv2d(&weight, None, 1))?;
///     mse_loss(&y, &x)? * (range.len() as f64 / 20.0)
/// })?;
/// assert!(loss > 0.0 && gradients.get(&weight).is_some());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The first that `loss` or going back gives.
pub fn gradients<E>(
    batch: usize,
    device: &Device,
    loss: impl Fn(Range<usize>) -> Result<Tensor, E> + Sync,
) -> Result<(f64, GradStore), E>
where
    E: From<Error> + Send,
{
    let value = |loss: &Tensor| loss.to_dtype(DType::F64)?.to_scalar::<f64>();
    if !device.is_cpu() {
        let loss = loss(0..batch)?;
        return Ok((value(&loss)?, tape::backward(&loss)?));
    }
    let mut total = 0.0;
    let mut sum = None;
    let work = |range| -> Result<_, E> {
        let loss = loss(range)?;
        Ok((value(&loss)?, tape::backward_parts(&loss)?))
    };
    in_parts(batch, work, |(value, gradients)| {
        total += value;
        sum = Some(match sum.take() {
            None => gradients,
            Some(sum) => tape::add_stores(sum, gradients)?,
        });
        Ok(())
    })?;
    let (candle, weights) = sum.unwrap_or_default();
    Ok((total, tape::into_store(candle, weights)?))
}

/// What `forward(range)` gives for the parts of a batch, put together along the first dimension.
///
/// A batch on another device than the CPU is one part. No weight may change meanwhile. Put
/// [`with_still_weights`](crate::with_still_weights) around calls with the same weights.
///
/// # Errors
/// The first that `forward` gives; parts that do not fit together.
pub fn predict<E>(
    batch: usize,
    device: &Device,
    forward: impl Fn(Range<usize>) -> Result<Tensor, E> + Sync,
) -> Result<Tensor, E>
where
    E: From<Error> + Send,
{
    if !device.is_cpu() || part(batch) >= batch {
        return forward(0..batch);
    }
    let mut parts = Vec::with_capacity(PARTS);
    in_parts(batch, forward, |part| {
        parts.push(part);
        Ok(())
    })?;
    Ok(Tensor::cat(&parts, 0)?)
}
