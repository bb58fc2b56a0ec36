//! Shuffled batches, made on another thread ahead of need.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
};

use kakusan_rng::{Generator, dataloader_permutation};

use crate::ImageSet;

/// Batches that wait, ready, for the training to ask.
const AHEAD: usize = 2;

/// Hands out a set in shuffled batches, epoch after epoch, as torch's `DataLoader(shuffle=True)` does.
///
/// ```
/// use std::{num::NonZeroUsize, sync::Arc};
/// use kakusan_data::{Loader, draw_digits};
/// use kakusan_rng::Generator;
///
/// let images = Arc::new(draw_digits(&[1, 8, 4], 10, 0)?);
/// let loader = Loader::new(images, NonZeroUsize::new(16).unwrap());
/// let mut rng = Generator::new(0);
/// for batch in loader.epoch(&mut rng) {
///     assert_eq!(batch.images.len(), batch.labels.len() * 28 * 28);
/// }
/// # Ok::<(), kakusan_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    images: Arc<ImageSet>,
    batch_size: NonZeroUsize,
}

/// Some images and what they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Which images of the set these are, `[b]`.
    pub indices: Vec<usize>,
    /// Their pixels from 0 to 1, `[b, 1, h, w]`.
    pub images: Vec<f32>,
    /// Their classes, `[b]`.
    pub labels: Vec<u8>,
}

/// The batches of one epoch, in order.
#[derive(Debug)]
pub struct Batches {
    plan: Plan,
    /// The batch to hand out next.
    next: usize,
    worker: Option<Worker>,
}

/// Which images go into which batch: consecutive pieces of one permutation.
#[derive(Clone, Debug)]
struct Plan {
    images: Arc<ImageSet>,
    order: Arc<[usize]>,
    batch_size: usize,
}

/// The thread that makes batches ahead of need. It ends when its receiver is dropped.
#[derive(Debug)]
struct Worker {
    batches: Receiver<Batch>,
    thread: JoinHandle<()>,
}

impl Loader {
    /// Batches of `batch_size` images; the last of an epoch has what is left.
    pub fn new(images: Arc<ImageSet>, batch_size: NonZeroUsize) -> Self {
        Self { images, batch_size }
    }

    /// The number of batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.images.len().div_ceil(self.batch_size.get())
    }

    /// Shuffles the set anew. Takes from `rng` what torch's `DataLoader` takes from the global generator: two 64-bit draws.
    pub fn epoch(&self, rng: &mut Generator) -> Batches {
        let order = dataloader_permutation(rng, self.images.len()).into();
        let plan = Plan { images: self.images.clone(), order, batch_size: self.batch_size.get() };
        Batches { plan, next: 0, worker: None }
    }
}

impl Batches {
    /// Passes over `count` batches without making them: how a training resumes in the middle of an epoch.
    pub fn skip_batches(mut self, count: usize) -> Self {
        self.stop();
        self.next = self.next.saturating_add(count).min(self.plan.len());
        self
    }

    fn stop(&mut self) {
        if let Some(Worker { batches, thread }) = self.worker.take() {
            drop(batches);
            let _ = thread.join(); // a worker that panicked has nothing to tell: its batch is made again on demand
        }
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.next == self.plan.len() {
            return None;
        }
        if self.worker.is_none() {
            self.worker = Worker::start(self.plan.clone(), self.next);
        }
        // Without a worker (no thread to be had) the batch is made here.
        let ahead = self.worker.as_ref().and_then(|worker| worker.batches.recv().ok());
        let batch = ahead.unwrap_or_else(|| self.plan.batch(self.next));
        self.next += 1;
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.plan.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches {}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Plan {
    /// The number of batches.
    fn len(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    fn batch(&self, i: usize) -> Batch {
        let start = i * self.batch_size;
        let indices = self.order[start..self.order.len().min(start + self.batch_size)].to_vec();
        let labels = indices.iter().map(|&i| self.images.label(i)).collect();
        Batch { images: self.images.pixels_f32(&indices), labels, indices }
    }
}

impl Worker {
    fn start(plan: Plan, first: usize) -> Option<Self> {
        let (sender, batches) = sync_channel(AHEAD);
        let work = move || {
            for i in first..plan.len() {
                if sender.send(plan.batch(i)).is_err() {
                    break; // nobody waits any more
                }
            }
        };
        let thread = std::thread::Builder::new().name("kakusan-data".to_owned()).spawn(work).ok()?;
        Some(Self { batches, thread })
    }
}
