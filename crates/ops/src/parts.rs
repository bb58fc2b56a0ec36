//! A batch in parts, each computed by one thread from beginning to end.
//!
//! These networks have no operation across images (no batch normalisation), so a part of the batch can run forward and
//! backward before the next one begins: its features stay in the thread's cache, nothing waits for the other threads
//! between two operations, and the features of one part per thread are all that is held.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Error, Tensor};

use crate::backward::{WeightGradients, add_stores, backward, backward_parts, into_store};
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::elementwise;
use crate::threads::on_part_threads;
use crate::tree::TreeSum;

/// Images of a part at least and at most, and the parts of a batch in between. They depend on the batch alone, so that
/// the order of every sum does not depend on the number of threads.
const LEAST: usize = 8;
const MOST: usize = 32;
const PARTS: usize = 16;

/// Images in each part of a batch.
fn part(batch: usize) -> usize {
    batch.div_ceil(PARTS).clamp(LEAST, MOST).min(batch.max(1))
}

/// The images of a batch's part `i`.
fn images(batch: usize, i: usize) -> Range<usize> {
    let part = part(batch);
    i * part..batch.min((i + 1) * part)
}

/// How many parts a batch is computed in: one for 8 images up to 128 images, 16 up to 512, one for 32 beyond.
pub fn part_count(batch: usize) -> usize {
    batch.div_ceil(part(batch).max(1))
}

/// What one of several processes computes of a batch: a range of its parts, as many as the others have, or one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    rank: usize,
    size: usize,
}

impl Share {
    /// That of process `rank` of `size`, counted from 0.
    pub fn new(rank: usize, size: usize) -> Self {
        Self { rank, size: size.max(1) }
    }

    /// The numbers of its parts. Empty if the batch has too few.
    pub fn parts(&self, batch: usize) -> Range<usize> {
        let count = part_count(batch);
        self.rank * count / self.size..(self.rank + 1).min(self.size) * count / self.size
    }

    /// The places of its images in the batch.
    pub fn images(&self, batch: usize) -> Range<usize> {
        let (parts, part) = (self.parts(batch), part(batch));
        batch.min(parts.start * part)..batch.min(parts.end * part)
    }
}

/// Runs `work` on these parts of `0..batch`, several at once, and passes the results to `merge` in order.
fn in_parts<R, E>(
    batch: usize,
    parts: Range<usize>,
    work: impl Fn(Range<usize>) -> Result<R, E> + Sync,
    merge: impl FnMut(R) -> Result<(), E> + Send,
) -> Result<(), E>
where
    R: Send,
    E: From<Error> + Send,
{
    let (count, threads) = (parts.len(), rayon::current_num_threads());
    let queue = Queue {
        state: Mutex::new(State { next: 0, waiting: BTreeMap::new(), merger: Some(Merger { merge, outcome: Ok(()) }) }),
    };
    let next = AtomicUsize::new(0);
    let worker = || {
        let _flush = FlushDenormals::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            let result = work(images(batch, parts.start + i));
            if result.is_err() {
                next.store(count, Ordering::Relaxed); // the parts after it are not needed
            }
            queue.give(i, result);
        }
    };
    if threads == 1 || count == 0 {
        worker();
    } else if count < threads {
        // The threads that have no part help with the operations of the others.
        rayon::scope(|scope| {
            for _ in 1..count {
                scope.spawn(|_| worker());
            }
            worker();
        });
    } else {
        on_part_threads(threads, &worker)?;
    }
    queue.outcome()
}

/// Merges results in the order of their numbers; those that come too soon wait.
struct Queue<R, E, M> {
    state: Mutex<State<R, E, M>>,
}

struct State<R, E, M> {
    next: usize,
    waiting: BTreeMap<usize, Result<R, E>>,
    /// `None` while a thread merges.
    merger: Option<Merger<E, M>>,
}

/// What merges, and the first error.
struct Merger<E, M> {
    merge: M,
    outcome: Result<(), E>,
}

impl<R, E, M: FnMut(R) -> Result<(), E>> Queue<R, E, M> {
    /// Leaves a result, and merges what is due unless another thread does so already, which then merges this one too.
    ///
    /// Nothing is locked while it merges: if merging waits for rayon, its thread may take up another worker of the same
    /// batch, which comes here in turn.
    fn give(&self, i: usize, result: Result<R, E>) {
        self.lock().waiting.insert(i, result);
        while let Some((result, mut merger)) = self.due() {
            if merger.outcome.is_ok() {
                merger.outcome = result.and_then(&mut merger.merge);
            }
            self.lock().merger = Some(merger);
        }
    }

    /// The next result and what merges it, if both are there.
    fn due(&self) -> Option<(Result<R, E>, Merger<E, M>)> {
        let mut state = self.lock();
        let merger = state.merger.take()?;
        let State { next, waiting, .. } = &mut *state;
        let Some(result) = waiting.remove(next) else {
            state.merger = Some(merger);
            return None;
        };
        *next += 1;
        Some((result, merger))
    }

    fn lock(&self) -> MutexGuard<'_, State<R, E, M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first error in the order of the parts. A panic while merging has gone through the caller before this.
    fn outcome(self) -> Result<(), E> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).merger.map_or(Ok(()), |merger| merger.outcome)
    }
}

/// The sum of `loss(range)`, scalars, over the parts of a batch, and its gradients: [`backward`](crate::backward), part
/// by part, added in the order of a [tree](crate::TreeSum).
///
/// For a mean over the batch `loss` weighs its part: the mean over `range` times `range.len() / batch`. A batch on
/// another device than the CPU is one part. Hold [`PreparedWeights`](crate::PreparedWeights) meanwhile, or every part
/// prepares the weights for itself.
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
    if !device.is_cpu() {
        let loss = loss(0..batch)?;
        return Ok((value(&loss)?, backward(&loss)?));
    }
    let sum = tree_sum(batch, 0..part_count(batch), device, loss)?;
    let (total, (candle, weights)) = sum.total(add)?.unwrap_or_default();
    Ok((total, into_store(candle, weights)?))
}

/// The sum over some parts of a batch: what a process has to tell those that compute the others.
#[derive(Debug)]
pub struct PartialSum {
    /// The parts: a node of their [tree](crate::TreeSum).
    pub parts: Range<usize>,
    /// The sum of their losses.
    pub loss: f64,
    /// The sum of their gradients.
    pub gradients: GradStore,
}

/// As [`gradients`] on the CPU, but of one process's share of the batch. The sums of all processes, added in the order
/// of the [tree](crate::TreeSum) (gradients by [`accumulate`]), are bit for bit those of one process. Another device
/// than the CPU computes the parts one after the other.
///
/// # Errors
/// As [`gradients`].
pub fn gradients_of_share<E>(
    batch: usize,
    share: Share,
    device: &Device,
    loss: impl Fn(Range<usize>) -> Result<Tensor, E> + Sync,
) -> Result<Vec<PartialSum>, E>
where
    E: From<Error> + Send,
{
    let nodes = tree_sum(batch, share.parts(batch), device, loss)?.into_nodes();
    let partial = |(parts, (loss, (candle, weights)))| -> Result<_, E> {
        Ok(PartialSum { parts, loss, gradients: into_store(candle, weights)? })
    };
    nodes.into_iter().map(partial).collect()
}

/// `sum += x`, as the gradients of parts are added: numbers below 1.2e-38 count as zero on x86-64.
///
/// # Errors
/// When the lengths differ.
pub fn accumulate(x: &[f32], sum: &mut [f32]) -> candle_core::Result<()> {
    if x.len() != sum.len() {
        candle_core::bail!("accumulate: {} numbers cannot be added to {}", x.len(), sum.len());
    }
    elementwise::accumulate(x, sum);
    Ok(())
}

/// A loss, and the gradients of candle's tensors and of the weights.
type Gradients = (f64, (GradStore, WeightGradients));

fn value(loss: &Tensor) -> candle_core::Result<f64> {
    loss.to_dtype(DType::F64)?.to_scalar()
}

fn tree_sum<E: From<Error> + Send>(
    batch: usize,
    parts: Range<usize>,
    device: &Device,
    loss: impl Fn(Range<usize>) -> Result<Tensor, E> + Sync,
) -> Result<TreeSum<Gradients>, E> {
    let (mut sum, mut next) = (TreeSum::new(), parts.start);
    let work = |range| -> Result<Gradients, E> {
        let loss = loss(range)?;
        Ok((value(&loss)?, backward_parts(&loss)?))
    };
    let mut merge = |part| {
        next += 1;
        sum.add(next - 1..next, part, add::<E>)
    };
    match device.is_cpu() {
        true => in_parts(batch, parts, work, merge)?,
        false => parts.map(|i| images(batch, i)).try_for_each(|range| merge(work(range)?))?,
    }
    Ok(sum)
}

fn add<E: From<Error>>((loss, gradients): Gradients, (more_loss, more): Gradients) -> Result<Gradients, E> {
    Ok((loss + more_loss, add_stores(gradients, more)?))
}

/// What `forward(range)` gives for the parts of a batch, put together along the first dimension.
///
/// A batch on another device than the CPU is one part. Hold [`PreparedWeights`](crate::PreparedWeights) around calls
/// with the same weights.
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
    if !device.is_cpu() || (part(batch) >= batch && rayon::current_num_threads() == 1) {
        return forward(0..batch);
    }
    if part(batch) >= batch {
        // on a worker, or each operation that threads share would wake one and wait for it
        return rayon::scope(|_| forward(0..batch));
    }
    let mut parts = Vec::with_capacity(part_count(batch));
    in_parts(batch, 0..part_count(batch), forward, |part| {
        parts.push(part);
        Ok(())
    })?;
    Ok(Tensor::cat(&parts, 0)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::*;

    /// A pool with all threads but one busy until the second value is dropped: the free one runs all jobs.
    fn one_free_thread(threads: usize) -> (Arc<rayon::ThreadPool>, Vec<Sender<()>>) {
        let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool"));
        let (sender, received) = channel();
        let busy = (1..threads).map(|_| {
            let (busy, free) = channel();
            let sender = sender.clone();
            pool.spawn(move || {
                sender.send(()).expect("a listener");
                let _ = free.recv();
            });
            received.recv().expect("a busy thread");
            busy
        });
        let busy = busy.collect();
        (pool, busy)
    }

    /// Runs all jobs that are ready, as a thread does while it waits for others.
    fn wait() {
        while rayon::yield_now() == Some(rayon::Yield::Executed) {}
    }

    #[test]
    fn a_thread_that_waits_while_it_merges_may_take_up_a_worker_of_the_same_batch() {
        let (pool, _busy) = one_free_thread(6);
        let (sender, received) = channel();
        std::thread::spawn(move || {
            let mut merged = vec![];
            let merge = |part: Range<usize>| {
                merged.push(part.start);
                wait();
                Ok::<_, Error>(())
            };
            let done = pool.install(|| in_parts(40, 0..5, Ok::<_, Error>, merge)); // fewer parts than threads
            sender.send((done.is_ok(), merged)).expect("a listener");
        });
        let (done, merged) = received.recv_timeout(Duration::from_secs(60)).expect("the worker waits for ever");
        assert!(done);
        assert_eq!(merged, [0, 8, 16, 24, 32]);
    }

    #[test]
    fn shares_are_balanced_and_cover_the_batch() {
        for batch in (0..300).chain([700, 1001]) {
            for size in 1..20 {
                let shares: Vec<Share> = (0..size).map(|rank| Share::new(rank, size)).collect();
                let parts: Vec<usize> = shares.iter().map(|share| share.parts(batch).len()).collect();
                assert_eq!(parts.iter().sum::<usize>(), part_count(batch));
                assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1, "{batch} of {size}");
                let images: Vec<usize> = shares.iter().flat_map(|share| share.images(batch)).collect();
                assert_eq!(images, (0..batch).collect::<Vec<_>>());
            }
        }
        assert_eq!([0, 1, 64, 128, 500, 1000].map(part_count), [0, 1, 8, 16, 16, 32]);
    }

    #[test]
    fn a_part_has_a_thread_to_itself_where_there_is_one_for_each() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
        let threads_in = |batch: usize| {
            let seen = Mutex::new(vec![]);
            let work = |_| {
                seen.lock().expect("no panic").push(rayon::current_num_threads());
                Ok::<_, Error>(())
            };
            in_parts(batch, 0..part_count(batch), work, Ok).expect("no error");
            seen.into_inner().expect("no panic")
        };
        pool.install(|| {
            assert_eq!(threads_in(24), [1; 3], "a part for each thread");
            assert_eq!(threads_in(16), [3; 2], "three threads share two parts");
            let nested = Mutex::new(vec![]);
            let work = |_| {
                nested.lock().expect("no panic").push(threads_in(16));
                Ok::<_, Error>(())
            };
            in_parts(24, 0..3, work, Ok).expect("no error");
            assert_eq!(
                nested.into_inner().expect("no panic"),
                [[1; 2]; 3],
                "a batch within a part stays on its thread"
            );
        });
    }
}
