//! The events of a training, for observers: progress on a terminal, a log, a report.

use std::fmt;
use std::path::Path;

use kakusan_data::{BadImage, ImageSet, Loaded, SourceUsed};

use crate::device::name;
use crate::{DDPMPipeline, DeviceFallback, Error, RankTimes, Record, Result, RunConfig, Trainer, Validated};

/// What happens in a [`Training`](crate::Training), in this order. The training waits for its observer: nothing changes
/// until the call returns.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// No CUDA device can be opened; the CPU is used instead.
    DeviceFallback(&'a DeviceFallback),
    /// The data set is loaded.
    Data(&'a Loaded),
    /// A resumed run has other images or settings than before, each described; its result will differ.
    Changes(&'a [String]),
    /// A checkpoint cannot be used, and why; an older one is tried.
    CheckpointSkipped(&'a Error),
    /// The log of a resumed run does not have all steps of its checkpoint: loss curves and averages omit the missing
    /// ones.
    LogIncomplete {
        /// The log.
        path: &'a Path,
        /// How many steps are missing.
        missing: usize,
        /// How many steps the log should have.
        steps: usize,
    },
    /// The run folder exists, the model is built, and the first step follows.
    Begin(&'a RunView<'a>),
    /// An optimiser step is done.
    Step {
        /// The step's record, as in `metrics.jsonl`.
        record: &'a Record,
        /// Images in its batch.
        images: usize,
        /// Images missing from the batch because they cannot be decoded.
        skipped: &'a [BadImage],
    },
    /// An epoch is over. Its checkpoint follows.
    Epoch(&'a EpochSummary),
    /// How several processes that train together have spent the steps so far, after an epoch.
    Ranks(&'a RankTimes),
    /// A checkpoint was written. [`RunView::is_at_epoch_end`] says whether it ends an epoch.
    Checkpoint {
        /// Its folder.
        dir: &'a Path,
        /// The run.
        run: &'a RunView<'a>,
    },
    /// All steps are done, and the pipeline is saved in the run folder.
    Saved {
        /// The run.
        run: &'a RunView<'a>,
        /// The trained pipeline, with the scheduler of `sample.scheduler`.
        pipeline: &'a DDPMPipeline,
    },
    /// The training was asked to stop, and has saved a checkpoint to resume from.
    Interrupted(&'a RunView<'a>),
}

/// A run as its observers see it.
pub struct RunView<'a> {
    /// The configuration.
    pub config: &'a RunConfig,
    /// The configuration as text: the run's `config.toml`.
    pub config_toml: &'a str,
    /// The run folder.
    pub dir: &'a Path,
    /// Where the images come from.
    pub source: &'a SourceUsed,
    /// The state of the training.
    pub trainer: &'a Trainer,
    /// The steps so far, as in `metrics.jsonl`.
    pub records: &'a [Record],
}

impl fmt::Debug for RunView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunView").field("dir", &self.dir).field("steps_done", &self.trainer.steps_done()).finish()
    }
}

impl RunView<'_> {
    /// The training images.
    pub fn images(&self) -> &ImageSet {
        self.trainer.images()
    }

    /// The epochs so far; the last one may be incomplete.
    pub fn epochs(&self) -> Vec<EpochSummary> {
        EpochSummary::of_all(self.records, self.trainer)
    }

    /// Whether the last step ended an epoch.
    pub fn is_at_epoch_end(&self) -> bool {
        let (step, epoch) = (self.trainer.steps_done(), self.trainer.epochs_done());
        self.records.last().is_some_and(|last| last.step == step && last.epoch == epoch)
    }

    /// The device in use, as the command line names it: `cpu`, `cuda:0`.
    pub fn device(&self) -> String {
        name(self.trainer.device())
    }

    /// A pipeline with the current weights (their average if one is kept) and the scheduler of `sample.scheduler`.
    /// Sampling from it consumes no random number of the training.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn pipeline(&self) -> Result<DDPMPipeline> {
        self.config.pipeline(&self.trainer.sampling_weights()?, self.config.sample_scheduler.clone())
    }
}

/// One epoch in numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochSummary {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The mean loss of its steps.
    pub mean_loss: f64,
    /// Its duration.
    pub seconds: f64,
    /// Images per second.
    pub images_per_second: f64,
    /// The loss on the images of `data.validation`, at the end.
    pub validated: Option<Validated>,
}

impl EpochSummary {
    /// The epochs in the records; the last one may be incomplete.
    fn of_all(records: &[Record], trainer: &Trainer) -> Vec<Self> {
        let mut since = 0.0;
        let epochs = records.chunk_by(|a, b| a.epoch == b.epoch).map(|epoch| {
            let summary = Self::of(epoch, since, trainer);
            since += summary.seconds;
            summary
        });
        epochs.collect()
    }

    /// The last epoch of the records.
    pub(crate) fn last(records: &[Record], trainer: &Trainer) -> Self {
        let epoch = records.last().map_or(0, |last| last.epoch);
        let (earlier, records) = records.split_at(records.partition_point(|earlier| earlier.epoch < epoch));
        Self::of(records, earlier.last().map_or(0.0, |record| record.seconds), trainer)
    }

    /// The epoch of `records`, which may be incomplete. It began `since` seconds into the training.
    fn of(records: &[Record], since: f64, trainer: &Trainer) -> Self {
        let (epoch, until) = records.last().map_or((0, since), |last| (last.epoch, last.seconds));
        let (steps, seconds) = (records.len() as f64, until - since);
        let images = trainer.images_per_epoch() as f64;
        Self {
            epoch,
            mean_loss: records.iter().map(|record| f64::from(record.loss)).sum::<f64>() / steps,
            seconds,
            images_per_second: images * steps / trainer.steps_per_epoch() as f64 / seconds,
            validated: records.last().and_then(Record::validated),
        }
    }
}
