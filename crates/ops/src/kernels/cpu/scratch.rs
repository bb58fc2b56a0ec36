//! Working memory that a thread gets back from one task to the next.

use super::buffer::{LINE, SLACK, give_scratch, take_scratch};

/// Lends buffers to `work`: each of the wanted length and [`SLACK`] more, with whatever was left there.
///
/// `work` may ask for scratch itself, and so may a task that its thread takes up while it waits for others.
pub(crate) fn with_scratch<const N: usize, R>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    let mut floats = take_scratch();
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
    give_scratch(floats);
    result
}
