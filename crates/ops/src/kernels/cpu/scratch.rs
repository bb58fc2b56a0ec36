//! Working memory that a thread keeps from one task to the next.

use std::cell::RefCell;

use crate::kernels::cpu::buffer::{LINE, SLACK};

/// Lends this thread's buffers to `work`: each of the wanted length and [`SLACK`] more, with whatever was left there.
///
/// `work` may ask for scratch itself, and so may a task that its thread takes up while it waits for others.
pub(crate) fn with_scratch<const N: usize, R>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out for the time of the work, so that nothing is borrowed while it runs; work inside work takes the next.
    let mut floats = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    let rooms = lens.map(|len| (len + SLACK).next_multiple_of(LINE));
    let total = rooms.iter().sum::<usize>() + LINE;
    if floats.len() < total {
        floats.resize(total, 0.0);
    }
    let start = floats.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let mut rest = &mut floats[start..];
    let result = work(rooms.map(|room| {
        let (piece, tail) = std::mem::take(&mut rest).split_at_mut(room);
        rest = tail;
        piece
    }));
    SCRATCH.with_borrow_mut(|free| free.push(floats));
    result
}
