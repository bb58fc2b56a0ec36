//! All draws: those that wait, in order, those that are drawn, and those that are finished and kept for a while.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::draw::{Draw, Stage};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::settings::Limits;

/// What clients are told when the server stops.
pub(crate) const STOPPING: &str = "the server is stopping: try again when it is back";

/// How long a batch waits for more requests while others wait already.
const GATHER: Duration = Duration::from_millis(10);

/// The draws of a server.
#[derive(Debug)]
pub(crate) struct Draws {
    inner: Mutex<Inner>,
    /// Wakes the thread that draws.
    wake: Condvar,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Arc<Draw>>,
    /// By number, in the order of their arrival.
    all: BTreeMap<u64, Arc<Draw>>,
    numbers: HashMap<String, u64>,
    next: u64,
    closed: bool,
}

impl Draws {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { inner: Mutex::default(), wake: Condvar::new(), limits }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a plan wait, if there is room.
    pub(crate) fn admit(&self, plan: Plan, client: IpAddr) -> Result<Arc<Draw>, Refusal> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Refusal::busy(STOPPING));
        }
        let own = inner.all.values().filter(|draw| draw.client == client && !draw.stage().is_over()).count();
        if own >= self.limits.max_per_client {
            return Err(Refusal::too_many(format!(
                "{own} requests of yours wait or are drawn, as many as are allowed: wait for one of them"
            )));
        }
        let position = inner.waiting.len();
        if position >= self.limits.max_queue {
            return Err(Refusal::busy(format!(
                "{position} requests wait, as many as there is room for: try again later"
            )));
        }
        let number = inner.next;
        let draw = Arc::new(Draw::new(identifier(number), plan, client, position));
        inner.next += 1;
        inner.numbers.insert(draw.id.clone(), number);
        inner.all.insert(number, draw.clone());
        inner.waiting.push_back(draw.clone());
        self.wake.notify_one();
        Ok(draw)
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Draw>, Refusal> {
        let inner = self.lock();
        let draw = inner.numbers.get(id).and_then(|number| inner.all.get(number)).cloned();
        draw.ok_or_else(|| {
            Refusal::not_found("there is no such draw: it was dropped to make room, or the server was started again")
        })
    }

    /// The next draws, which agree in their settings; waits for one. `None` when the server stops.
    pub(crate) fn next(&self) -> Option<Vec<Arc<Draw>>> {
        let mut inner = self.lock();
        if !inner.waiting.is_empty() {
            // a batch has just ended: clients that were answered may ask again, and share the next one
            let gathered = self.wake.wait_timeout_while(inner, GATHER, |inner| !inner.closed);
            inner = gathered.unwrap_or_else(PoisonError::into_inner).0;
        }
        let first = loop {
            if inner.closed {
                return None;
            }
            match inner.waiting.pop_front() {
                Some(first) => break first,
                None => inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner),
            }
        };
        let (mut images, mut bytes) = (first.plan.count, first.plan.bytes());
        let mut batch = vec![first];
        if let Some(together) = batch[0].plan.together() {
            for draw in std::mem::take(&mut inner.waiting) {
                let plan = &draw.plan;
                let fits = images + plan.count <= self.limits.max_images
                    && bytes + plan.bytes() <= self.limits.kept_bytes / 4
                    && plan.together().as_ref() == Some(&together);
                if fits {
                    (images, bytes) = (images + plan.count, bytes + plan.bytes());
                    batch.push(draw);
                } else {
                    inner.waiting.push_back(draw);
                }
            }
        }
        batch.iter().for_each(|draw| draw.begin());
        inner.number_waiting();
        Some(batch)
    }

    /// Ends a draw that has not ended, and drops old ones.
    pub(crate) fn end(&self, draw: &Draw, stage: Stage, error: Option<String>) {
        let mut inner = self.lock();
        draw.end(stage, error);
        inner.waiting.retain(|waiting| !waiting.stage().is_over());
        inner.number_waiting();
        inner.drop_old(&self.limits);
    }

    /// Cancels a draw; one that has ended is forgotten.
    pub(crate) fn cancel(&self, draw: &Draw, why: &str) {
        if !draw.stage().is_over() {
            return self.end(draw, Stage::Cancelled, Some(why.to_owned()));
        }
        let mut inner = self.lock();
        if let Some(number) = inner.numbers.remove(&draw.id) {
            inner.all.remove(&number);
        }
    }

    /// Cancels those whose clients have gone.
    pub(crate) fn reap(&self) {
        let left: Vec<Arc<Draw>> = {
            let inner = self.lock();
            let left = |draw: &&Arc<Draw>| !draw.stage().is_over() && draw.attendance.is_left(self.limits.leave_time);
            inner.all.values().filter(left).cloned().collect()
        };
        left.iter().for_each(|draw| self.cancel(draw, "no client waited for it any more"));
    }

    /// Refuses new draws, and ends all others.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.waiting.clear();
        for draw in inner.all.values() {
            draw.end(Stage::Failed, Some(STOPPING.to_owned()));
        }
        self.wake.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

impl Inner {
    fn number_waiting(&self) {
        self.waiting.iter().enumerate().for_each(|(position, draw)| draw.wait_at(position));
    }

    /// Drops the oldest that have ended until the rest is within the limits.
    fn drop_old(&mut self, limits: &Limits) {
        let ended: Vec<(u64, usize)> = self
            .all
            .iter()
            .filter(|(_, draw)| draw.stage().is_over())
            .map(|(number, draw)| (*number, draw.bytes()))
            .collect();
        let (mut count, mut bytes) = (ended.len(), ended.iter().map(|(_, bytes)| bytes).sum::<usize>());
        for (number, own) in ended {
            if count <= limits.kept_draws && bytes <= limits.kept_bytes {
                break;
            }
            (count, bytes) = (count - 1, bytes - own);
            if let Some(draw) = self.all.remove(&number) {
                self.numbers.remove(&draw.id);
            }
        }
    }
}

/// An identifier that other clients cannot guess: the standard library's hash of the number, under a key that it draws
/// from the system for each call.
fn identifier(number: u64) -> String {
    let part = || {
        let mut hash = RandomState::new().build_hasher();
        hash.write_u64(number);
        hash.finish()
    };
    format!("{number:x}-{:016x}{:016x}", part(), part())
}
