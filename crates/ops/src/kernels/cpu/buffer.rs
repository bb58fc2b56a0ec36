//! Memory for features: taken from a store, given back when dropped, so that a training step or a sampling step finds the
//! buffers of the last one again. Fresh memory is ten times slower than warm memory.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use candle_core::{Result, bail};

/// Floats of a cache line, and of the widest vector.
pub(crate) const LINE: usize = 16;

/// Kernels may read this many floats behind what they use.
pub(crate) const SLACK: usize = 64;

/// The most that is kept for later, in floats: 1 GiB. What is freed beyond goes back to the system.
const KEPT: usize = 1 << 28;

/// Buffers that nobody uses, by their length, the last given back last.
static STORE: Mutex<Store> = Mutex::new(Store { free: BTreeMap::new(), floats: 0 });

struct Store {
    free: BTreeMap<usize, Vec<Free>>,
    floats: usize,
}

/// A buffer that nobody uses, and the thread of rayon's that gave it back.
struct Free {
    floats: Vec<f32>,
    thread: Option<usize>,
}

impl Store {
    /// A buffer of `size` floats: the last that this thread gave back, which its core's cache may hold; else the one that
    /// others have left alone for longest. Two threads that take each other's warm buffers lose a third of their speed.
    fn take(&mut self, size: usize) -> Option<Vec<f32>> {
        let free = self.free.get_mut(&size)?;
        let thread = rayon::current_thread_index();
        let own = free.iter().rposition(|buffer| buffer.thread == thread);
        let i = own.or((!free.is_empty()).then_some(0))?;
        let Free { floats, .. } = free.remove(i);
        self.floats -= floats.len();
        Some(floats)
    }

    /// Keeps `floats` for later, unless there is plenty.
    fn give(&mut self, floats: Vec<f32>) {
        if self.floats + floats.len() <= KEPT {
            self.floats += floats.len();
            self.free.entry(floats.len()).or_default().push(Free { floats, thread: rayon::current_thread_index() });
        }
    }
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
        let kept = STORE.lock().unwrap_or_else(PoisonError::into_inner).take(size);
        let floats = match kept {
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

/// The length that is allocated for `len` floats: one of eight in each doubling, so that buffers of about the same length
/// can stand in for each other.
fn size_class(len: usize) -> Option<usize> {
    let least = len.checked_add(SLACK + LINE)?;
    let step = (least.checked_next_power_of_two()? / 16).max(LINE);
    let size = least.checked_next_multiple_of(step)?;
    (size <= isize::MAX as usize / size_of::<f32>()).then_some(size)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let floats = std::mem::take(&mut self.floats);
        STORE.lock().unwrap_or_else(PoisonError::into_inner).give(floats);
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
