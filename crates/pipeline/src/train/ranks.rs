//! Several processes that train one model, with the bits of one.
//!
//! Each rank has the whole state: weights, optimiser, averages, random numbers. It computes a range of the parts of
//! each batch, and the gradients are added in the order of the parts' tree (`kakusan_ops::TreeSum`), for any division.
//! On cards, NCCL may add them in its own order.

mod exchange;
mod method;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use kakusan_distributed::{Error as GroupError, Group};
use kakusan_ops::{AllReduce, Share, gradients, gradients_of_share};

pub use self::method::AllReduceMethod;
use crate::{Error, Result};

/// The members of a training, as one of them sees it.
#[derive(Debug)]
pub(crate) struct Ranks {
    group: Arc<dyn Group>,
    sum: Sum,
    times: RankTimes,
    /// What this rank has not told the others yet.
    own: RankTime,
    /// When it began to compute, if it does.
    since: Option<Instant>,
}

/// How the gradients of a batch are added.
#[derive(Debug, Clone)]
pub(crate) enum Sum {
    /// In one process: by the tree on a CPU, at once on a card.
    Alone,
    /// In the order of the parts' tree, over all processes.
    Tree,
    /// As a library adds them, over all processes.
    Library(Arc<dyn AllReduce>),
}

/// How one rank has spent the steps of a training, since this process began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct RankTime {
    /// Seconds in which it read images and computed.
    pub computed: f64,
    /// Seconds in which it exchanged gradients or waited for another rank.
    pub waited: f64,
    /// How many images it computed.
    pub images: usize,
}

/// How the ranks of a training have spent its steps.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RankTimes {
    /// By rank.
    pub ranks: Vec<RankTime>,
}

impl RankTimes {
    /// The share of the time, from 0 to 1, in which ranks exchanged gradients or waited for others.
    pub fn waiting(&self) -> f64 {
        let waited: f64 = self.ranks.iter().map(|rank| rank.waited).sum();
        let computed: f64 = self.ranks.iter().map(|rank| rank.computed).sum();
        if waited > 0.0 { waited / (waited + computed) } else { 0.0 }
    }

    /// The slowest rank, and how many times longer than the median of the others it takes for an image, if it is that
    /// slow (1.5 times) that the others wait for it.
    pub fn slow(&self) -> Option<(usize, f64)> {
        const SLOW: f64 = 1.5;
        let busy = self.ranks.iter().enumerate().filter(|(_, rank)| rank.images > 0);
        let mut each: Vec<(f64, usize)> = busy.map(|(i, rank)| (rank.computed / rank.images as f64, i)).collect();
        each.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ((slowest, rank), others) = each.split_last()?;
        let (median, _) = *others.get(others.len() / 2)?;
        (slowest / median > SLOW).then(|| (*rank, slowest / median))
    }
}

impl Ranks {
    pub(crate) fn new(group: Arc<dyn Group>) -> Self {
        let times = RankTimes { ranks: vec![RankTime::default(); group.size()] };
        let sum = if group.size() == 1 { Sum::Alone } else { Sum::Tree };
        Self { group, sum, times, own: RankTime::default(), since: None }
    }

    pub(crate) fn set_sum(&mut self, sum: Sum) {
        self.sum = sum;
    }

    pub(crate) fn sum(&self) -> &Sum {
        &self.sum
    }

    pub(crate) fn group(&self) -> &Arc<dyn Group> {
        &self.group
    }

    pub(crate) fn times(&self) -> &RankTimes {
        &self.times
    }

    /// Those of this rank, in the steps that it has done.
    pub(crate) fn seconds_waited(&self) -> f64 {
        self.times.ranks[self.group.rank()].waited + self.own.waited
    }

    pub(crate) fn share(&self) -> Share {
        Share::new(self.group.rank(), self.group.size())
    }

    fn is_alone(&self) -> bool {
        self.group.size() == 1
    }

    /// Waits for the others before a step, and returns whether one of them wants to stop. All learn how the others have
    /// spent their time.
    pub(crate) fn meet(&mut self, stop: bool) -> Result<bool> {
        if self.is_alone() {
            return Ok(stop);
        }
        let RankTime { computed, waited, images } = std::mem::take(&mut self.own);
        let numbers = [f64::from(u8::from(stop)), computed, waited, images as f64];
        let all = self.group.all_gather(bytemuck::cast_slice(&numbers))?;
        let mut any = false;
        for (rank, (message, times)) in all.iter().zip(&mut self.times.ranks).enumerate() {
            let [stop, computed, waited, images] = numbers_of::<f64>(message, rank, 4)?[..] else { continue };
            any |= stop != 0.0;
            times.computed += computed;
            times.waited += waited;
            times.images += images as usize;
        }
        Ok(any)
    }

    /// A step begins. What rank 0 saves and draws between two steps is no delay of a step.
    pub(crate) fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The step is done, or the ranks exchange gradients.
    pub(crate) fn pause(&mut self) {
        self.own.computed += self.since.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
    }

    /// The sum of `loss(range)`, scalars, over a batch, the same on all ranks, and the gradients of `vars`: what
    /// [`kakusan_ops::gradients`] gives to a process alone.
    pub(crate) fn gradients(
        &mut self,
        batch: usize,
        vars: &[Var],
        device: &Device,
        loss: impl Fn(Range<usize>) -> Result<Tensor> + Sync,
    ) -> Result<(f64, GradStore)> {
        let (share, group) = (self.share(), self.group.clone());
        let images = share.images(batch);
        match self.sum.clone() {
            Sum::Alone => gradients(batch, device, loss),
            Sum::Tree => {
                let own = gradients_of_share(batch, share, device, loss)?;
                self.exchange(images.len(), || exchange::by_tree(&*group, batch, &own, vars, device))
            }
            Sum::Library(library) => {
                let own = match images.len() {
                    0 => (0.0, GradStore::default()),
                    count => gradients(count, device, |part| loss(images.start + part.start..images.start + part.end))?,
                };
                self.exchange(images.len(), || exchange::by_library(&*group, &*library, own, vars, device))
            }
        }
    }

    /// Exchanges what was computed of so many images, and takes the time.
    fn exchange<T>(&mut self, images: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.pause();
        let begin = Instant::now();
        self.own.images += images;
        let result = work()?;
        self.own.waited += begin.elapsed().as_secs_f64();
        self.begin();
        Ok(result)
    }
}

/// The numbers in a message of rank `rank`, which must be `count`.
fn numbers_of<T: bytemuck::Pod>(message: &[u8], rank: usize, count: usize) -> Result<Vec<T>> {
    if message.len() != count * size_of::<T>() {
        let reason = format!("it has {} bytes instead of {}", message.len(), count * size_of::<T>());
        return Err(GroupError::Message { rank, reason }.into());
    }
    let mut numbers = vec![T::zeroed(); count];
    bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(message);
    Ok(numbers)
}

/// Runs `work` on rank 0 of a group before the others: what it writes, they find.
///
/// # Errors
/// That of `work`, and when another member failed or is lost.
pub fn leader_first<T>(group: &dyn Group, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match group.leads() {
        true => {
            let done = work()?;
            group.barrier()?;
            Ok(done)
        }
        false => {
            group.barrier()?;
            work()
        }
    }
}

/// Tells the other ranks why this one ends, unless they know.
pub(crate) fn tell(group: &dyn Group, error: &Error) {
    match error {
        Error::Group(GroupError::Lost { rank, reason }) => group.abort(*rank, reason),
        own => group.abort(group.rank(), &own.to_string()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ranks: &[(f64, f64, usize)]) -> RankTimes {
        let ranks = ranks.iter().map(|&(computed, waited, images)| RankTime { computed, waited, images });
        RankTimes { ranks: ranks.collect() }
    }

    #[test]
    fn a_slow_rank_is_one_that_needs_longer_for_an_image() {
        assert_eq!(times(&[(4.0, 1.0, 40), (5.0, 0.0, 40)]).slow(), None);
        assert_eq!(times(&[(4.0, 6.0, 40), (10.0, 0.0, 40), (5.0, 5.0, 40)]).slow(), Some((1, 2.0)));
        assert_eq!(times(&[(8.0, 0.0, 80), (4.0, 4.0, 40), (0.0, 8.0, 0)]).slow(), None); // twice as many images
        assert_eq!(times(&[(1.0, 0.0, 8)]).slow(), None);
        assert_eq!(times(&[(6.0, 2.0, 1), (2.0, 6.0, 1)]).waiting(), 0.5);
        assert_eq!(RankTimes::default().waiting(), 0.0);
    }
}
