//! Several processes that train one model, with the bits of one.
//!
//! Each rank has the whole state: weights, optimiser, averages, random numbers. It computes a range of the parts of
//! each batch, and the gradients are added in the order of the parts' tree (`kakusan_ops::TreeSum`), for any division.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use kakusan_distributed::{Error as GroupError, Group};
use kakusan_ops::{PartialSum, Share, TreeSum, accumulate, tree_nodes};

use crate::{Error, Result};

/// Numbers of the gradient that are exchanged at once: a bound of memory and messages. It changes no result.
const BLOCK: usize = 1 << 23;

/// The members of a training, as one of them sees it.
#[derive(Debug)]
pub(crate) struct Ranks {
    group: Arc<dyn Group>,
    times: RankTimes,
    /// What this rank has not told the others yet.
    own: RankTime,
    /// When it began to compute, if it does.
    since: Option<Instant>,
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
        Self { group, times, own: RankTime::default(), since: None }
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

    /// The sum over the batch of what all ranks computed of it, the same on each: the loss, and the gradients of
    /// `vars`.
    pub(crate) fn sum(&mut self, batch: usize, nodes: Vec<PartialSum>, vars: &[Var]) -> Result<(f64, GradStore)> {
        self.pause();
        let begin = Instant::now();
        self.own.images += self.share().images(batch).len();
        let sum = Exchange::new(&*self.group, batch, &nodes, vars)?.sum()?;
        self.own.waited += begin.elapsed().as_secs_f64();
        self.begin();
        Ok(sum)
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

/// One sum over a batch.
///
/// The gradient of all weights is one long vector, of which each rank adds a slice: it receives that slice of each
/// node of the tree from the rank that computed it, and all ranks gather the sums. So each number travels as often as
/// with the all-reduce of a ring, and the order of the additions is that of the tree.
struct Exchange<'a> {
    group: &'a dyn Group,
    vars: &'a [Var],
    /// The nodes of the tree that each rank has, by rank.
    nodes: Vec<Vec<Range<usize>>>,
    losses: Vec<f64>,
    /// Which of `vars` have gradients here.
    reached: Vec<u8>,
    /// The gradients of each node of this rank.
    gradients: Vec<Vec<f32>>,
    length: usize,
}

impl<'a> Exchange<'a> {
    fn new(group: &'a dyn Group, batch: usize, own: &[PartialSum], vars: &'a [Var]) -> Result<Self> {
        let nodes = (0..group.size()).map(|rank| tree_nodes(Share::new(rank, group.size()).parts(batch))).collect();
        let losses = own.iter().map(|node| node.loss).collect();
        let is_reached = |var: &Var| own.iter().any(|node| node.gradients.get(var).is_some());
        let reached = vars.iter().map(|var| u8::from(is_reached(var))).collect();
        let length = vars.iter().map(|var| var.elem_count()).sum();
        let gradients = own.iter().map(|node| flat(&node.gradients, vars, length)).collect::<Result<_>>()?;
        Ok(Self { group, vars, nodes, losses, reached, gradients, length })
    }

    fn sum(mut self) -> Result<(f64, GradStore)> {
        let loss = self.loss()?;
        let mut sums = Vec::with_capacity(self.length);
        while sums.len() < self.length {
            self.block(&mut sums)?;
        }
        let (mut gradients, mut rest) = (GradStore::default(), &sums[..]);
        for (var, reached) in self.vars.iter().zip(&self.reached) {
            let (own, others) = rest.split_at(var.elem_count());
            rest = others;
            if *reached > 0 {
                gradients.insert(var, Tensor::from_slice(own, var.dims(), var.device())?);
            }
        }
        Ok((loss, gradients))
    }

    /// The loss of the whole batch. All learn which weights have gradients: a rank that computes nothing knows none.
    fn loss(&mut self) -> Result<f64> {
        let head = [bytemuck::cast_slice(&self.losses), &self.reached[..]].concat();
        let mut sum = TreeSum::new();
        for (rank, (message, nodes)) in self.group.all_gather(&head)?.iter().zip(&self.nodes).enumerate() {
            let Some((losses, reached)) = message.split_at_checked(nodes.len() * size_of::<f64>()) else {
                return Err(GroupError::Message { rank, reason: "it lacks losses".to_owned() }.into());
            };
            for (node, loss) in nodes.iter().zip(numbers_of::<f64>(losses, rank, nodes.len())?) {
                sum.add(node.clone(), loss, |a, b| Ok::<_, Error>(a + b))?;
            }
            for (own, other) in self.reached.iter_mut().zip(numbers_of::<u8>(reached, rank, self.vars.len())?) {
                *own |= other;
            }
        }
        Ok(sum.total(|a, b| Ok::<_, Error>(a + b))?.unwrap_or_default())
    }

    /// Adds the next block of the vector, and appends it to `sums`.
    fn block(&self, sums: &mut Vec<f32>) -> Result<()> {
        let (begin, size) = (sums.len(), self.group.size());
        let end = self.length.min(begin + BLOCK);
        let slice = |rank: usize| begin + (end - begin) * rank / size..begin + (end - begin) * (rank + 1) / size;
        let to = |rank| -> Vec<u8> {
            let slices = self.gradients.iter().map(|node| bytemuck::cast_slice::<f32, u8>(&node[slice(rank)]));
            slices.collect::<Vec<_>>().concat()
        };
        let messages: Vec<Vec<u8>> = (0..size).map(to).collect();
        let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let length = slice(self.group.rank()).len();
        let mut sum = TreeSum::new();
        for (rank, (message, nodes)) in self.group.all_to_all(&messages)?.iter().zip(&self.nodes).enumerate() {
            let numbers = numbers_of::<f32>(message, rank, nodes.len() * length)?;
            for (i, node) in nodes.iter().enumerate() {
                sum.add(node.clone(), numbers[i * length..(i + 1) * length].to_vec(), add)?;
            }
        }
        let sum = sum.total(add)?.unwrap_or_default();
        for (rank, message) in self.group.all_gather(bytemuck::cast_slice(&sum))?.iter().enumerate() {
            sums.extend(numbers_of::<f32>(message, rank, slice(rank).len())?);
        }
        Ok(())
    }
}

fn add(mut sum: Vec<f32>, more: Vec<f32>) -> Result<Vec<f32>> {
    accumulate(&more, &mut sum)?;
    Ok(sum)
}

/// The gradients of `vars` as one vector. Where there is none, it is -0: added to any number, that changes no bit.
fn flat(gradients: &GradStore, vars: &[Var], length: usize) -> Result<Vec<f32>> {
    let mut flat = Vec::with_capacity(length);
    for var in vars {
        match gradients.get(var) {
            Some(gradient) if gradient.dtype() == DType::F32 => flat.extend(gradient.flatten_all()?.to_vec1::<f32>()?),
            Some(gradient) => {
                let dtype = gradient.dtype().as_str();
                return Err(Error::Unfit(format!(
                    "several processes train in f32, and the model's weights are {dtype}"
                )));
            }
            None => flat.resize(flat.len() + var.elem_count(), -0.0),
        }
    }
    Ok(flat)
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
