//! What the members of a group that sends messages have in common: where the messages of all others arrive.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;

use crate::{Error, Group, Result};

/// What another member sent, or what is known of it.
#[derive(Debug)]
pub(crate) enum Mail {
    Data(Vec<u8>),
    /// The group ends, for this reason.
    End(Error),
    /// Nothing more will come, for this reason.
    Lost(String),
}

/// The messages of all others, with their ranks, in the order of their arrival.
pub(crate) type Arrivals = Receiver<(usize, Mail)>;

/// The messages that have arrived, apart by their senders.
///
/// A member waits for the others in each operation, so that none of them is more than one operation ahead: few messages
/// lie here.
#[derive(Debug)]
pub(crate) struct Inbox {
    rank: usize,
    arrivals: Arrivals,
    from: Vec<VecDeque<Vec<u8>>>,
    lost: Vec<Option<String>>,
}

impl Inbox {
    pub(crate) fn new(rank: usize, size: usize, arrivals: Arrivals) -> Self {
        Self { rank, arrivals, from: vec![VecDeque::new(); size], lost: vec![None; size] }
    }

    /// Waits for the next message of each other member. `own` is the one from this member to itself.
    pub(crate) fn collect(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.from[self.rank].push_back(own.to_vec());
        loop {
            let missing: Vec<usize> = (0..self.from.len()).filter(|&rank| self.from[rank].is_empty()).collect();
            if missing.is_empty() {
                return Ok(self.from.iter_mut().map(|messages| messages.pop_front().unwrap_or_default()).collect());
            }
            let lost = missing.iter().find_map(|&rank| Some((rank, self.lost[rank].clone()?)));
            if let Some((rank, reason)) = lost {
                return Err(self.reason_given().unwrap_or(Error::Lost { rank, reason }));
            }
            match self.arrivals.recv() {
                Ok((_, Mail::End(error))) => return Err(error),
                Ok((rank, mail)) => self.put(rank, mail),
                Err(_) => {
                    let reason = "nothing is received any more".to_owned();
                    return Err(Error::Lost { rank: missing[0], reason });
                }
            }
        }
    }

    /// Waits until nothing more will come from any other member, or no longer than `wait` for one of them.
    pub(crate) fn drain(&mut self, wait: std::time::Duration) {
        while (0..self.lost.len()).any(|rank| rank != self.rank && self.lost[rank].is_none()) {
            match self.arrivals.recv_timeout(wait) {
                Ok((rank, mail)) => self.put(rank, mail),
                Err(_) => return,
            }
        }
    }

    fn put(&mut self, rank: usize, mail: Mail) {
        match mail {
            Mail::Data(message) => self.from[rank].push_back(message),
            Mail::Lost(reason) => self.lost[rank] = Some(reason),
            Mail::End(_) => {}
        }
    }

    /// Why a member ended, if another one, who knows it better, has said so already.
    fn reason_given(&self) -> Option<Error> {
        self.arrivals.try_iter().find_map(|(_, mail)| if let Mail::End(error) = mail { Some(error) } else { None })
    }
}

/// Refuses a number of messages other than that of the members.
pub(crate) fn check(group: &dyn Group, messages: &[&[u8]]) -> Result<()> {
    let (rank, count, size) = (group.rank(), messages.len(), group.size());
    if count == size {
        return Ok(());
    }
    Err(Error::Message { rank, reason: format!("{count} messages were given for {size} members") })
}
