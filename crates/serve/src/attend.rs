//! Who waits for a draw: when the last client has gone, it is cancelled.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A program that neither listens nor asks may take this many times longer to come back than one that listened.
const PATIENCE: u32 = 6;

/// The listeners of a draw.
#[derive(Debug)]
pub(crate) struct Attendance(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    listeners: usize,
    /// Whether there has been one.
    listened: bool,
    last: Instant,
}

impl Attendance {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Seen { listeners: 0, listened: false, last: Instant::now() }))
    }

    /// Somebody begins to listen.
    pub(crate) fn come(&self) {
        self.change(|seen| {
            seen.listeners += 1;
            seen.listened = true;
        });
    }

    /// Somebody has stopped to listen.
    pub(crate) fn leave(&self) {
        self.change(|seen| seen.listeners = seen.listeners.saturating_sub(1));
    }

    /// Somebody has asked for the state.
    pub(crate) fn ask(&self) {
        self.change(|_| ());
    }

    /// Whether no client has listened or asked for as long as `leave_time`.
    pub(crate) fn is_left(&self, leave_time: Duration) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = if seen.listened { leave_time } else { leave_time * PATIENCE };
        seen.listeners == 0 && seen.last.elapsed() >= patience
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut seen);
        seen.last = Instant::now();
    }
}
