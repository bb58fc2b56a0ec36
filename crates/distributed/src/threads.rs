use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use crate::mail::{Inbox, Mail, check};
use crate::{Error, Group, Result};

/// A member of a group of threads in one process: for tests, and for programs that train several models side by side.
///
/// See the [crate's README](crate) for an example.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    others: Vec<Sender<(usize, Mail)>>,
    inbox: Mutex<Inbox>,
    ended: AtomicBool,
}

impl Threads {
    /// The members of a group of `size`, by rank. Each goes to a thread of its own. One that is dropped is lost to the
    /// others.
    pub fn group(size: usize) -> Vec<Self> {
        let (others, inboxes): (Vec<_>, Vec<_>) = (0..size.max(1)).map(|_| channel()).unzip();
        let member = |(rank, arrivals)| Self {
            rank,
            others: others.clone(),
            inbox: Mutex::new(Inbox::new(rank, others.len(), arrivals)),
            ended: AtomicBool::new(false),
        };
        inboxes.into_iter().enumerate().map(member).collect()
    }

    fn send(&self, mail: impl Fn(usize) -> Mail) {
        for (rank, other) in self.others.iter().enumerate().filter(|(rank, _)| *rank != self.rank) {
            let _ = other.send((self.rank, mail(rank))); // one that is gone needs no message
        }
    }
}

impl Group for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.others.len()
    }

    fn all_to_all(&self, messages: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        check(self, messages)?;
        self.send(|rank| Mail::Data(messages[rank].to_vec()));
        let all = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).collect(messages[self.rank]);
        if let Err(Error::Failed { .. }) = all {
            self.ended.store(true, Ordering::Relaxed);
        }
        all
    }

    fn abort(&self, rank: usize, reason: &str) -> bool {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.send(|_| Mail::End(Error::Failed { rank, reason: reason.to_owned() }));
        }
        true
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.send(|_| Mail::Lost("its thread has ended".to_owned()));
    }
}
