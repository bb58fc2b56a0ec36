//! A trainer as one of several processes that train one model.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use kakusan_distributed::{Group, agree};
use kakusan_ops::AllReduce;
use sha2::{Digest, Sha256};

use super::Trainer;
use crate::Result;
use crate::train::ranks::{RankTimes, Ranks, Sum};

impl Trainer {
    /// Trains together with the other members of `group`: each computes some parts of every batch, and reads only their
    /// images. All must have the same configuration, images and state, and call [`step`](Self::step) as often. Each
    /// then has, after every step, bit for bit the weights that one process would have.
    ///
    /// A batch has [`part_count`](kakusan_ops::part_count) parts, one for 8 images of a small batch; further members
    /// have nothing to do.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use candle_core::Device;
    /// use kakusan_data::draw_digits;
    /// use kakusan_distributed::Threads;
    /// use kakusan_pipeline::{Registry, Result, RunConfig, Trainer};
    ///
    /// let train = |member: Threads| -> Result<f32> {
    ///     let text = r#"
    ///         model = { _class_name = "BasicUNet" }
    ///         scheduler = { _class_name = "LinearMixScheduler" }
    ///         train = { epochs = 1, batch_size = 16 }
    ///     "#;
    ///     let config = RunConfig::parse(text, "example", &[], &Registry::default())?;
    ///     let images = draw_digits(&[1], 16, 0)?;
    ///     let mut trainer = Trainer::new(&config, images.into(), &Device::Cpu)?.with_group(Arc::new(member));
    ///     Ok(trainer.step()?.map_or(0.0, |step| step.loss))
    /// };
    /// let losses: Vec<f32> = std::thread::scope(|scope| {
    ///     let threads: Vec<_> =
    ///         Threads::group(2).into_iter().map(|member| scope.spawn(move || train(member).unwrap())).collect();
    ///     threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    /// });
    /// assert_eq!(losses[0], losses[1]);
    /// ```
    pub fn with_group(mut self, group: Arc<dyn Group>) -> Self {
        self.ranks = Ranks::new(group);
        let share = self.ranks.share();
        self.loader = self.loader.share(move |count| share.images(count));
        self
    }

    /// Adds the gradients of the processes by this library instead of the tree: all processes have the same weights,
    /// but their last bits may depend on the number of processes.
    pub fn with_all_reduce(self, library: Arc<dyn AllReduce>) -> Self {
        self.with_sum(Sum::Library(library))
    }

    pub(crate) fn with_sum(mut self, sum: Sum) -> Self {
        self.ranks.set_sum(sum);
        self
    }

    /// The library that adds the gradients of the processes, if one does.
    pub fn all_reduce(&self) -> Option<&dyn AllReduce> {
        match self.ranks.sum() {
            Sum::Library(library) => Some(&**library),
            _ => None,
        }
    }

    /// How many processes train together.
    pub fn ranks(&self) -> usize {
        self.ranks.group().size()
    }

    /// How the processes have spent the steps so far, as they told each other before the last one.
    pub fn rank_times(&self) -> &RankTimes {
        self.ranks.times()
    }

    /// Seconds in which this process exchanged gradients or waited for the others, in the steps that it has done.
    pub fn seconds_waited(&self) -> f64 {
        self.ranks.seconds_waited()
    }

    /// Waits until all processes are ready for the next step, and returns whether one of them asks to `stop`: all stop
    /// after the same step. A process alone is ready.
    ///
    /// # Errors
    /// When another process failed or is lost.
    pub fn meet(&mut self, stop: bool) -> Result<bool> {
        self.ranks.meet(stop)
    }

    /// Compares the states of all processes: weights, averages, optimiser, random numbers. They can differ only if a
    /// processor or memory is faulty, or computes otherwise than the others'.
    ///
    /// # Errors
    /// When they differ, and when another process failed or is lost.
    pub(crate) fn check_same_state(&self) -> Result<()> {
        if self.ranks() == 1 {
            return Ok(());
        }
        let what = format!("the state after step {}", self.progress.step);
        Ok(agree(&**self.ranks.group(), &[(what, self.digest()?)].into())?)
    }

    /// The SHA-256 of everything on which the next steps depend.
    fn digest(&self) -> Result<String> {
        let mut digest = Sha256::new();
        let progress = &self.progress;
        digest.update(format!("{} {} {} {}", progress.step, progress.epoch, progress.batch, progress.epoch_began));
        digest.update(progress.rng.state());
        digest.update(progress.epoch_rng.state());
        for (_, var) in self.weights.iter() {
            update(&mut digest, var)?;
        }
        for i in 0..self.averages.len() {
            self.average(i)?.trained().try_for_each(|(_, var)| update(&mut digest, var))?;
        }
        let state = self.optimizer.state(&self.weights)?;
        let mut state: Vec<_> = state.iter().collect();
        state.sort_by_key(|(name, _)| *name);
        state.into_iter().try_for_each(|(_, tensor)| update(&mut digest, tensor))?;
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn update(digest: &mut Sha256, tensor: &Tensor) -> Result<()> {
    let flat = tensor.flatten_all()?;
    match flat.dtype() {
        DType::F32 => digest.update(bytemuck::cast_slice(&flat.to_vec1::<f32>()?)),
        _ => digest.update(bytemuck::cast_slice(&flat.to_dtype(DType::F64)?.to_vec1::<f64>()?)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use kakusan_data::draw_digits;

    use super::*;
    use crate::{Registry, RunConfig};

    /// As a card alone adds with `--all-reduce tree`.
    #[test]
    fn one_process_adds_by_the_exchange_to_the_same_bits() {
        let text = r#"
            model = { _class_name = "BasicUNet" }
            scheduler = { _class_name = "LinearMixScheduler" }
            train = { epochs = 1, batch_size = 20 }
        "#;
        let config = RunConfig::parse(text, "test", &[], &Registry::default()).unwrap();
        let images = Arc::new(draw_digits(&[1], 40, 0).unwrap());
        let state = |sum: Sum| {
            let mut trainer = Trainer::new(&config, images.clone(), &Device::Cpu).unwrap().with_sum(sum);
            while trainer.step().unwrap().is_some() {}
            trainer.digest().unwrap()
        };
        assert_eq!(state(Sum::Alone), state(Sum::Tree));
    }
}
