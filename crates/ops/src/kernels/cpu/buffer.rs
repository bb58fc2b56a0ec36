//! Memory for features: taken from a store, given back when dropped, so that a training step or a sampling step finds
//! the buffers of the last one again. Fresh memory is ten times slower than warm memory.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use candle_core::{Result, bail};

/// Floats of a cache line, and of the widest vector.
pub(crate) const LINE: usize = 16;

/// Kernels may read this many floats behind what they use.
pub(crate) const SLACK: usize = 64;

/// The most that is kept for later, in floats: 1 GiB. Beyond it the least recently used buffers go back to the system.
const KEPT: usize = 1 << 28;

/// Shards of the store. A thread looks into its own first, so that threads seldom wait for each other.
const SHARDS: usize = 64;

/// Buffers that are not in use.
static STORE: Store = Store {
    shards: [const { Mutex::new(Shard { buffers: BTreeMap::new(), scratch: Vec::new() }) }; SHARDS],
    floats: AtomicUsize::new(0),
    clock: AtomicU64::new(0),
};

struct Store {
    shards: [Mutex<Shard>; SHARDS],
    /// In all buffers of all shards.
    floats: AtomicUsize,
    /// Counts the buffers that were given back.
    clock: AtomicU64,
}

/// What the threads of a shard gave back, the latest last.
struct Shard {
    /// By length.
    buffers: BTreeMap<usize, Vec<Free>>,
    scratch: Vec<Free>,
}

/// A buffer that is not in use, the thread that gave it back, and when.
struct Free {
    floats: Vec<f32>,
    thread: ThreadId,
    given: u64,
}

/// The calling thread, and its shard.
fn here() -> (ThreadId, usize) {
    let thread = thread::current().id();
    let mut hasher = DefaultHasher::new();
    thread.hash(&mut hasher);
    (thread, hasher.finish() as usize % SHARDS)
}

/// The last buffer that `thread` gave back, which its core's cache may hold; else the least recently
/// used one. Two threads that take each other's warm buffers lose a third of their speed.
fn take_from(free: &mut Vec<Free>, thread: ThreadId) -> Option<Vec<f32>> {
    let own = free.iter().rposition(|buffer| buffer.thread == thread);
    let i = own.or((!free.is_empty()).then_some(0))?;
    Some(free.remove(i).floats)
}

impl Store {
    fn shard(&self, i: usize) -> MutexGuard<'_, Shard> {
        self.shards[i].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `size` floats: from this thread's shard, else the least recently used one of all others.
    fn take(&self, size: usize) -> Option<Vec<f32>> {
        let (thread, own) = here();
        let take = |shard: usize| take_from(self.shard(shard).buffers.get_mut(&size)?, thread);
        let floats = take(own).or_else(|| {
            let given = |shard: usize| Some((self.shard(shard).buffers.get(&size)?.first()?.given, shard));
            let (_, oldest) = (0..SHARDS).filter_map(given).min()?;
            take(oldest)
        })?;
        self.floats.fetch_sub(floats.len(), Ordering::Relaxed);
        Some(floats)
    }

    /// Keeps `floats` for later, in the place of the least recently used ones where there is too much.
    fn give(&self, floats: Vec<f32>) {
        let size = floats.len();
        let mut kept = self.floats.fetch_add(size, Ordering::Relaxed) + size;
        let (thread, own) = here();
        let given = self.clock.fetch_add(1, Ordering::Relaxed);
        self.shard(own).buffers.entry(size).or_default().push(Free { floats, thread, given });
        while kept > KEPT {
            let Some(freed) = self.evict() else { return };
            kept = self.floats.fetch_sub(freed, Ordering::Relaxed) - freed;
        }
    }

    /// Frees the least recently used buffer; how many floats that was.
    fn evict(&self) -> Option<usize> {
        let oldest_of = |shard: usize| {
            let shard_of = self.shard(shard);
            let oldest = shard_of.buffers.iter().filter_map(|(&size, free)| Some((free.first()?.given, size)));
            oldest.min().map(|(given, size)| (given, size, shard))
        };
        let (_, size, shard) = (0..SHARDS).filter_map(oldest_of).min()?;
        let freed = self.shard(shard).buffers.get_mut(&size).filter(|free| !free.is_empty()).map(|free| free.remove(0));
        freed.map(|freed| freed.floats.len())
    }

    /// Frees everything.
    fn trim(&self) {
        for i in 0..SHARDS {
            let Shard { buffers, scratch } =
                std::mem::replace(&mut *self.shard(i), Shard { buffers: BTreeMap::new(), scratch: Vec::new() });
            let floats = buffers.values().flatten().map(|free| free.floats.len()).sum();
            self.floats.fetch_sub(floats, Ordering::Relaxed);
            drop(scratch);
        }
    }
}

/// Gives back what is kept for the next features.
pub(crate) fn trim() {
    STORE.trim();
}

/// Working memory, of any length.
pub(super) fn take_scratch() -> Vec<f32> {
    let (thread, own) = here();
    take_from(&mut STORE.shard(own).scratch, thread).unwrap_or_default()
}

/// Gives working memory back.
pub(super) fn give_scratch(floats: Vec<f32>) {
    let (thread, own) = here();
    let given = STORE.clock.fetch_add(1, Ordering::Relaxed);
    STORE.shard(own).scratch.push(Free { floats, thread, given });
}

/// Floats that begin at a cache line; [`SLACK`] more may be read behind them.
#[derive(Debug)]
pub(crate) struct Buffer {
    floats: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` floats that hold whatever was left there.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let Some(size) = size_class(len) else { bail!("a buffer of {len} numbers is too large for this machine") };
        let floats = match STORE.take(size) {
            Some(floats) => floats,
            None => {
                let mut floats = Vec::new();
                if let Err(error) = floats.try_reserve_exact(size) {
                    bail!("no memory for {len} numbers: {error}")
                }
                floats.resize(size, 0.0);
                floats
            }
        };
        let start = floats.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Ok(Self { floats, start, len })
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Result<Self> {
        let mut buffer = Self::new(len)?;
        buffer.fill(0.0);
        Ok(buffer)
    }

    /// The floats, and the slack behind them.
    pub(crate) fn with_slack(&self) -> &[f32] {
        &self.floats[self.start..self.start + self.len + SLACK]
    }
}

/// The length that is allocated for `len` floats: one of eight in each doubling, so that buffers of about the same
/// length can replace each other.
fn size_class(len: usize) -> Option<usize> {
    let least = len.checked_add(SLACK + LINE)?;
    let step = (least.checked_next_power_of_two()? / 16).max(LINE);
    let size = least.checked_next_multiple_of(step)?;
    (size <= isize::MAX as usize / size_of::<f32>()).then_some(size)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        STORE.give(std::mem::take(&mut self.floats));
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.floats[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.floats[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests share the store: each takes other sizes.
    #[test]
    fn a_thread_gets_its_own_buffer_back_and_else_the_least_recently_used() -> Result<()> {
        let address = |buffer: &Buffer| buffer.as_ptr().addr();
        let (first, second) = (Buffer::new(777_001)?, Buffer::new(777_001)?);
        let [of_first, of_second] = [address(&first), address(&second)];
        drop(first);
        drop(second);
        assert_eq!(address(&Buffer::new(777_001)?), of_second, "the last that this thread gave back");
        let elsewhere = thread::scope(|scope| scope.spawn(|| Buffer::new(777_001).map(|b| address(&b))).join());
        assert_eq!(elsewhere.expect("no panic")?, of_first, "the one that was left alone for longest");
        Ok(())
    }

    #[test]
    fn little_room_is_made_by_the_least_recently_used() {
        let store = Store {
            shards: [const { Mutex::new(Shard { buffers: BTreeMap::new(), scratch: Vec::new() }) }; SHARDS],
            floats: AtomicUsize::new(0),
            clock: AtomicU64::new(0),
        };
        let large = KEPT / 2 - 1;
        // addresses only: nothing of this memory is touched
        let floats: Vec<Vec<f32>> = (0..3).map(|_| vec![0.0; large]).collect();
        let addresses: Vec<usize> = floats.iter().map(|floats| floats.as_ptr().addr()).collect();
        floats.into_iter().for_each(|floats| store.give(floats));
        assert_eq!(store.floats.load(Ordering::Relaxed), 2 * large);
        let left: Vec<_> = (0..3).filter_map(|_| store.take(large)).map(|floats| floats.as_ptr().addr()).collect();
        assert_eq!(left, [addresses[2], addresses[1]]);
        store.give(vec![0.0; 100]);
        store.trim();
        assert_eq!((store.floats.load(Ordering::Relaxed), store.take(100)), (0, None));
    }
}
