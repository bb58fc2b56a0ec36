//! Shuffled batches, prepared in advance by other threads.

use std::{
    fmt,
    num::NonZeroUsize,
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
};

use kakusan_rng::{Generator, dataloader_permutation};

use crate::{Augmentation, BadImage, Error, ImageSet, image_set::Chance};

/// The default of [`Loader::prefetch`].
pub(crate) const PREFETCH: usize = 3;

/// Yields a set in shuffled batches, epoch by epoch, as torch's `DataLoader(shuffle=True)` does.
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
///     let batch = batch?;
///     assert_eq!(batch.images.len(), batch.labels.len() * 28 * 28);
/// }
/// # Ok::<(), kakusan_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    images: Arc<ImageSet>,
    batch_size: NonZeroUsize,
    prefetch: NonZeroUsize,
    threads: NonZeroUsize,
    share: Share,
    augment: Option<f64>,
}

/// Which images of a batch are read.
#[derive(Clone)]
struct Share(Arc<dyn Fn(usize) -> Range<usize> + Send + Sync>);

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Share")
    }
}

/// A batch of images and their classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The indices of the images in the set, `[b]`. Empty if all images of the batch are in [`skipped`](Self::skipped).
    pub indices: Vec<usize>,
    /// The pixels from 0 to 1, `[b, c, h, w]`; those of images that are not read ([`Loader::share`]) are 0.
    pub images: Vec<f32>,
    /// The channels, height and width of each image: `[c, h, w]`.
    pub shape: [usize; 3],
    /// The classes, `[b]`.
    pub labels: Vec<u32>,
    /// How the images were changed ([`Augmentation::labels`]), `[b, 9]`; `None` without [`Loader::augment`].
    pub augmentations: Option<Vec<f32>>,
    /// Images of this batch that could not be decoded. Only sets with `on_bad_image = "skip"` have any.
    pub skipped: Vec<BadImage>,
}

/// The batches of one epoch, in order.
#[derive(Debug)]
pub struct Batches {
    plan: Plan,
    prefetch: usize,
    threads: usize,
    /// The index of the batch to return next.
    next: usize,
    workers: Option<Workers>,
}

/// The assignment of images to batches, which are consecutive slices of one permutation, and each image's random
/// choices.
#[derive(Clone, Debug)]
struct Plan {
    images: Arc<ImageSet>,
    order: Arc<[usize]>,
    /// As long as `order`; empty if nothing is random.
    chances: Arc<[Chance]>,
    /// As long as `order`, if the images are to be changed.
    augmentations: Option<Arc<[Augmentation]>>,
    batch_size: usize,
    share: Share,
}

/// The threads that prepare batches in advance, in turn. They end when their receivers are dropped.
#[derive(Debug)]
struct Workers {
    first: usize,
    lanes: Vec<Lane>,
}

/// A thread and the batches that it prepared.
type Lane = (Receiver<Result<Batch, Error>>, JoinHandle<()>);

impl Loader {
    /// Batches of `batch_size` images; the last batch of an epoch may be smaller. By default one thread prepares the
    /// batches. If the images must be decoded, there is one thread per core, but no more than the prefetch.
    pub fn new(images: Arc<ImageSet>, batch_size: NonZeroUsize) -> Self {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = if images.is_held() { NonZeroUsize::MIN } else { cores };
        let prefetch = NonZeroUsize::new(PREFETCH).unwrap_or(NonZeroUsize::MIN);
        Self { images, batch_size, prefetch, threads, share: Share(Arc::new(|count| 0..count)), augment: None }
    }

    /// Changes each image, as [`Augmentation::draw`] draws it with this probability. By default, images stay as they
    /// are.
    pub fn augment(mut self, probability: impl Into<Option<f64>>) -> Self {
        self.augment = probability.into();
        self
    }

    /// Reads only the images at these places of a batch of so many images, for a process that computes a part of each
    /// batch. Order, classes and random choices stay those of the whole batch. A set with `on_bad_image = "skip"` is
    /// read whole: the places depend on which images can be decoded.
    pub fn share(mut self, places: impl Fn(usize) -> Range<usize> + Send + Sync + 'static) -> Self {
        if !self.images.may_skip() {
            self.share = Share(Arc::new(places));
        }
        self
    }

    /// The most batches that are ready or in preparation, which bounds the loader's memory. The default is 3.
    pub fn prefetch(mut self, batches: NonZeroUsize) -> Self {
        self.prefetch = batches;
        self
    }

    /// How many threads prepare batches; threads beyond the prefetch would be idle. The batches do not depend on this.
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// The set.
    pub fn images(&self) -> &ImageSet {
        &self.images
    }

    /// The number of batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.images.len().div_ceil(self.batch_size.get())
    }

    /// Shuffles the set. Draws from `rng` what torch's `DataLoader` draws from the global generator: two 64-bit
    /// numbers. A set with random crops or flips draws more for each image, in the epoch's order: two 32-bit numbers
    /// for top and left of the crop (each modulo the number of possible positions, as `torch.randint`), then one for
    /// the flip (`torch.rand(1) < 0.5`). [`augment`](Self::augment) draws its numbers after these, image by image.
    pub fn epoch(&self, rng: &mut Generator) -> Batches {
        let order: Arc<[usize]> = dataloader_permutation(rng, self.images.len()).into();
        let augment = self.images.augment();
        let mut chance = || Chance {
            corner: augment.random_crop.then(|| (rng.next_u32(), rng.next_u32())),
            flip: augment.random_flip && rng.rand(1).iter().any(|&x| x < 0.5),
        };
        let chances = match augment.random_crop || augment.random_flip {
            true => order.iter().map(|_| chance()).collect(),
            false => Arc::default(),
        };
        let augmentations = self.augment.map(|p| order.iter().map(|_| Augmentation::draw(p, rng)).collect());
        let (images, batch_size, share) = (self.images.clone(), self.batch_size.get(), self.share.clone());
        let plan = Plan { images, order, chances, augmentations, batch_size, share };
        Batches { plan, prefetch: self.prefetch.get(), threads: self.threads.get(), next: 0, workers: None }
    }
}

impl Batches {
    /// Skips `count` batches without preparing them, to resume a training in the middle of an epoch.
    pub fn skip_batches(mut self, count: usize) -> Self {
        self.stop();
        self.next = self.next.saturating_add(count).min(self.plan.len());
        self
    }

    fn stop(&mut self) {
        if let Some(Workers { lanes, .. }) = self.workers.take() {
            let (receivers, threads): (Vec<_>, Vec<_>) = lanes.into_iter().unzip();
            drop(receivers);
            for thread in threads {
                let _ = thread.join(); // a worker's panic can be ignored: its batch is prepared again on demand
            }
        }
    }
}

impl Iterator for Batches {
    /// A batch, or [`Error::BadImage`].
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.plan.len() {
            return None;
        }
        let workers =
            self.workers.get_or_insert_with(|| Workers::start(&self.plan, self.next, self.prefetch, self.threads));
        // If no thread could be started, the batch is prepared here.
        let batch = workers.batch(self.next).unwrap_or_else(|| self.plan.batch(self.next));
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
    /// The number of remaining batches.
    fn len(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    fn batch(&self, i: usize) -> Result<Batch, Error> {
        let start = i * self.batch_size;
        let places = start..self.order.len().min(start + self.batch_size);
        let (shape, share) = (self.images.shape(), (self.share.0)(places.len()));
        let size = shape.iter().product::<usize>();
        let mut images = Vec::with_capacity(places.len() * size);
        let (mut indices, mut labels, mut skipped) = (Vec::with_capacity(places.len()), Vec::new(), Vec::new());
        let mut changes = vec![];
        for place in places {
            let (index, chance) = (self.order[place], self.chances.get(place).copied().unwrap_or_default());
            let augmentation = self.augmentations.as_ref().map(|all| all[place]);
            if !share.contains(&(place - start)) {
                images.resize(images.len() + size, 0.0);
            } else if let Some(bad) = self.images.append_unless_bad(index, chance, &mut images)? {
                skipped.push(bad);
                continue;
            } else if let Some(augmentation) = augmentation {
                let begin = images.len() - size;
                augmentation.apply(&mut images[begin..], shape);
            }
            changes.extend(augmentation.iter().flat_map(Augmentation::labels));
            indices.push(index);
            labels.push(self.images.label(index));
        }
        let augmentations = self.augmentations.is_some().then_some(changes);
        Ok(Batch { indices, images, shape, labels, augmentations, skipped })
    }
}

impl Workers {
    /// Lane `k` prepares the batches `first + k`, `first + k + lanes`, ... Each lane has a share of `prefetch`: the
    /// batches in its channel, and the one in preparation.
    fn start(plan: &Plan, first: usize, prefetch: usize, threads: usize) -> Self {
        let count = threads.min(prefetch).min(plan.len() - first).max(1);
        let mut lanes = Vec::with_capacity(count);
        for k in 0..count {
            let (sender, receiver) = sync_channel(share(prefetch, count, k) - 1);
            let plan = plan.clone();
            let work = move || {
                for i in (first + k..plan.len()).step_by(count) {
                    if sender.send(plan.batch(i)).is_err() {
                        break; // the receiver was dropped
                    }
                }
            };
            match std::thread::Builder::new().name("kakusan-data".to_owned()).spawn(work) {
                Ok(thread) => lanes.push((receiver, thread)),
                Err(_) => break,
            }
        }
        // Use all lanes or none: the batches of a missing lane would never arrive.
        if lanes.len() < count {
            lanes.clear();
        }
        Self { first, lanes }
    }

    fn batch(&self, i: usize) -> Option<Result<Batch, Error>> {
        let lane = (i - self.first).checked_rem(self.lanes.len())?;
        self.lanes[lane].0.recv().ok()
    }
}

/// How many of `prefetch` batches belong to lane `k`. `lanes` is at most `prefetch`.
fn share(prefetch: usize, lanes: usize, k: usize) -> usize {
    (prefetch + lanes - 1 - k) / lanes
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn the_lanes_share_the_prefetch() {
        for prefetch in 1..20 {
            for lanes in 1..=prefetch {
                let shares: Vec<usize> = (0..lanes).map(|k| share(prefetch, lanes, k)).collect();
                assert_eq!(shares.iter().sum::<usize>(), prefetch);
                assert!(shares.iter().all(|&share| share >= 1));
            }
        }
    }
}
