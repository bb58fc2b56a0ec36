use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kakusan_data::{BadImage, ImageSet, Loaded, SourceUsed};
use kakusan_hub::Hub;
use serde::{Deserialize, Serialize};

use crate::device::name;
use crate::files::read_text;
use crate::previews::Previews;
use crate::report::State;
use crate::run_folder::{CONFIG_FILE, Metrics, RunFolder};
use crate::story::Storyteller;
use crate::{
    DDPMPipeline, DeviceChoice, DeviceFallback, Error, Opened, Record, Registry, Result, RunConfig, Trainer, resume,
};

/// A training from a configuration to a finished run folder.
///
/// [`Trainer`] is the bare loop; this is the whole: it loads the data, keeps `metrics.jsonl` and checkpoints, draws the
/// tutorial's pictures, writes the report and saves the pipeline in diffusers' layout.
#[derive(Debug)]
pub struct Training<'a> {
    /// What is trained.
    pub config: RunConfig,
    /// The run's folder.
    pub out: PathBuf,
    /// What to do with a folder that exists already.
    pub existing: Existing,
    /// Where to compute.
    pub device: DeviceChoice,
    /// The schedulers that a saved pipeline may name.
    pub registry: &'a Registry,
    /// Where data is fetched from, if the configuration asks for it.
    pub hub: &'a Hub,
    /// How the command `kakusan` is called here, for what the report and the model card tell to type: `kakusan`, or
    /// `cargo xtask` in a clone of the project.
    pub program: &'a str,
    /// When this turns true the training saves a checkpoint and stops after the step under way.
    pub stop: &'a AtomicBool,
}

/// What a training does with a run folder that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It fails, and changes nothing.
    Refuse,
    /// It deletes the old run, once the new one has its data.
    Overwrite,
    /// It goes on from the newest whole checkpoint, with the run's own configuration.
    Resume {
        /// Whether images and settings may differ where there is a way to go on with them.
        allow_changes: bool,
        /// The step of the checkpoint to go on from, where it is not the newest; what is newer is put aside.
        checkpoint: Option<usize>,
    },
}

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done and everything is saved.
    Finished,
    /// It was asked to stop, and saved a checkpoint to go on from.
    Interrupted,
}

/// What a training tells those who watch it, in this order.
#[derive(Debug)]
pub enum Event<'a> {
    /// No CUDA device can be opened, and the CPU takes its place.
    DeviceFallback(&'a DeviceFallback),
    /// The data is there.
    Data(&'a Loaded),
    /// The folder is there, and the model is built.
    Begin {
        /// The run's folder.
        dir: &'a Path,
        /// The model's class.
        model: &'a str,
        /// Its number of parameters.
        parameters: usize,
        /// The scheduler's class.
        scheduler: &'a str,
        /// The device's name.
        device: String,
        /// Optimiser steps done before, where a run goes on.
        steps_done: usize,
        /// Optimiser steps in all.
        total_steps: usize,
        /// Optimiser steps in an epoch.
        steps_per_epoch: usize,
        /// Epochs in all, the last one perhaps in part.
        epochs: usize,
    },
    /// The run goes on with other images or settings than it had, each in words: not to the same bytes as with its own.
    Changes(&'a [String]),
    /// A checkpoint that could not be used, and why; an older one is tried.
    CheckpointSkipped(&'a Error),
    /// The log of a run that goes on lacks steps that its checkpoint has: curves and averages go without them.
    LogIncomplete {
        /// The log.
        path: &'a Path,
        /// How many steps it lacks.
        missing: usize,
        /// Of how many.
        steps: usize,
    },
    /// An optimiser step is done.
    Step {
        /// The step's record, as in `metrics.jsonl`.
        record: &'a Record,
        /// Images in its batch.
        images: usize,
        /// Images that were left out of it because they cannot be decoded.
        skipped: &'a [BadImage],
    },
    /// An epoch is over.
    Epoch(&'a EpochSummary),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// Samples were drawn.
    Samples {
        /// After which epoch, or at the end.
        epoch: Option<usize>,
        /// Their picture.
        picture: &'a Path,
    },
    /// Another file of the run was written.
    Wrote(&'a Path),
    /// The training is done and everything is saved.
    Finished {
        /// The command that draws new images as the run did.
        draw_more: &'a str,
    },
    /// A picture could not be drawn, or shows what is no number; the training goes on.
    PictureTrouble {
        /// Its file under `images/`.
        picture: &'a str,
        /// What is wrong.
        reason: &'a str,
    },
}

/// One epoch in numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochSummary {
    /// Which epoch, from 1.
    pub epoch: usize,
    /// The mean of its steps' losses.
    pub mean_loss: f64,
    /// How long it took.
    pub seconds: f64,
    /// Images a second.
    pub images_per_second: f64,
}

/// Where the images of a run came from: `data.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DataRecord {
    source: SourceUsed,
    images: usize,
    class_counts: Vec<(String, usize)>,
    /// What the classes that the model learns are called, by label, until the pipeline's index says so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    class_names: BTreeMap<u32, String>,
}

impl DataRecord {
    /// How the images differ from those of `now`, in words.
    fn difference(&self, now: &Self) -> Option<String> {
        if (self.images, &self.class_counts) == (now.images, &now.class_counts) {
            return None;
        }
        let count = |counts: &[(String, usize)], class: &str| {
            counts.iter().find(|(name, _)| name == class).map_or(0, |(_, count)| *count)
        };
        let all: BTreeSet<&String> = self.class_counts.iter().chain(&now.class_counts).map(|(name, _)| name).collect();
        let differing = all.into_iter().filter_map(|class| {
            let [ours, theirs] = [now, self].map(|record| count(&record.class_counts, class));
            (ours != theirs).then(|| format!("{ours} of `{class}`, the run's {theirs}"))
        });
        let differing: Vec<String> = differing.take(5).collect();
        Some(format!("the set has {} images, the run's has {} ({})", now.images, self.images, differing.join("; ")))
    }

    /// Whether each class still has the number by which a model knows it.
    fn numbers_classes_as(&self, now: &Self) -> bool {
        let names = |record: &Self| record.class_counts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        names(now).starts_with(&names(self))
    }
}

const DATA_FILE: &str = "data.json";
/// The report is written again after an epoch, but not so often that it would take time from a training of short ones.
const BETWEEN_REPORTS: Duration = Duration::from_secs(5);

impl Training<'_> {
    /// Trains, telling `watch` what happens.
    ///
    /// # Errors
    /// When the folder is taken or cannot be written, the data cannot be had, the data does not fit the model, the loss
    /// diverges, or there is no checkpoint to go on from. What was saved before stays.
    pub fn run(mut self, watch: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let resume = matches!(self.existing, Existing::Resume { .. });
        let mut changes = vec![];
        match self.existing {
            Existing::Resume { allow_changes, .. } => {
                let folder = RunFolder::open(&self.out)?;
                changes = resume::check_same(&folder, &self.config, allow_changes, self.registry)?;
            }
            fresh => RunFolder::check(&self.out, fresh == Existing::Overwrite)?,
        }
        let config_toml = self.config.to_toml()?;
        let Opened { device, fallback } = self.device.open()?;
        if let Some(fallback) = &fallback {
            watch(Event::DeviceFallback(fallback));
        }
        let recorded = if resume { read_data_record(&self.out)? } else { None };
        if let Some(recorded) = &recorded {
            self.config.data.sources = vec![recorded.source.kind];
        }
        let loaded = kakusan_data::load(&self.config.data, self.hub)?;
        watch(Event::Data(&loaded));
        if let (Some(_), Some(reason)) = (self.config.model.num_classes(), &loaded.unlabelled) {
            let reason = format!("the model is to learn classes, but the images have none: {reason}");
            return Err(Error::Unfit(reason));
        }
        let class_names = match self.config.model.num_classes() {
            Some(_) => learnt_classes(&loaded.images),
            None => BTreeMap::new(),
        };
        let data = DataRecord {
            source: loaded.source.clone(),
            images: loaded.images.len(),
            class_counts: class_counts(&loaded.images),
            class_names,
        };
        if let Some(recorded) = &recorded
            && let Some(difference) = recorded.difference(&data)
        {
            let changeable = self.config.model.num_classes().is_none() || recorded.numbers_classes_as(&data);
            if !(changeable && matches!(self.existing, Existing::Resume { allow_changes: true, .. })) {
                return Err(Error::OtherConfig { dir: self.out, differences: vec![difference], changeable });
            }
            changes.push(difference);
        }
        if !changes.is_empty() {
            watch(Event::Changes(&changes));
        }
        let mut trainer = Trainer::new(&self.config, loaded.images.clone(), &device)?;

        let folder = if resume {
            RunFolder::open(&self.out)?
        } else {
            RunFolder::create(&self.out, self.existing == Existing::Overwrite, &config_toml)?
        };
        let _lock = folder.lock()?;
        let json = serde_json::to_string_pretty(&data).map_err(|e| Error::Unfit(e.to_string()))?;
        folder.write(DATA_FILE, (json + "\n").as_bytes())?;
        let (mut metrics, mut records) = match self.existing {
            Existing::Resume { allow_changes, checkpoint } => {
                resume::go_on(&folder, &mut trainer, checkpoint, allow_changes, watch)?
            }
            _ => (folder.new_metrics()?, vec![]),
        };
        if resume {
            folder.write(CONFIG_FILE, config_toml.as_bytes())?; // it may last longer now
        }
        watch(Event::Begin {
            dir: folder.dir(),
            model: self.config.model.class_name(),
            parameters: trainer.weights().parameter_count(),
            scheduler: self.config.scheduler.class_name(),
            device: name(&device),
            steps_done: trainer.steps_done(),
            total_steps: trainer.total_steps(),
            steps_per_epoch: trainer.steps_per_epoch(),
            epochs: trainer.total_epochs(),
        });
        let mut previews = Previews::begin(&self.config, &folder, loaded.images.clone(), &trainer, &records, watch)?;
        let mut story =
            Storyteller::new(&self.config, config_toml, &data.source, loaded.images, &folder, &device, self.program);
        story.show_data(watch)?;
        tell_so_far(&mut story, &trainer, &records, watch)?;

        let watched = Watched { previews: &mut previews, story: &mut story };
        let outcome = self.train(&mut trainer, &folder, &mut metrics, &mut records, watched, watch)?;
        let epochs = summarise(&records, trainer.steps_per_epoch(), trainer.images_per_epoch());
        story.show_training(&records, &epochs, watch)?;
        if outcome == Outcome::Finished {
            // what was learnt is safe before anything is made of it
            trainer.check_sound().map_err(|e| resume::with_last_checkpoint(e, &folder.checkpoints()))?;
            let (model, weights) = (self.config.model.clone(), trainer.sampling_weights()?);
            let mut pipeline = DDPMPipeline::new(model, weights, self.config.scheduler.clone())?;
            pipeline.set_class_names(data.class_names);
            pipeline.save_pretrained(folder.dir())?;
            watch(Event::Wrote(folder.dir()));
            pipeline.set_scheduler(self.config.sampler.clone())?;
            story.show_results(&pipeline, watch)?;
        }
        let state = if outcome == Outcome::Finished { State::Finished } else { State::Stopped };
        story.write_report(trainer.weights().parameter_count(), &epochs, state, watch)?;
        if outcome == Outcome::Finished {
            watch(Event::Finished { draw_more: &story.draw_more() });
        }
        Ok(outcome)
    }

    /// Trains until the steps are done or `stop` is set, with a checkpoint after each epoch and at the stop.
    fn train(
        &self,
        trainer: &mut Trainer,
        folder: &RunFolder,
        metrics: &mut Metrics,
        records: &mut Vec<Record>,
        Watched { previews, story }: Watched,
        watch: &mut dyn FnMut(Event),
    ) -> Result<Outcome> {
        let mut seconds = records.last().map_or(0.0, |record| record.seconds);
        let mut told = Instant::now();
        let mut saved_at = trainer.steps_done();
        let checkpoints = folder.checkpoints();
        let mut checkpoint =
            |trainer: &Trainer, metrics: &Metrics, records: &[Record], watch: &mut dyn FnMut(Event)| {
                if trainer.steps_done() > saved_at {
                    metrics.sync()?; // the log must not lag behind the checkpoint
                    let saved = trainer.save_checkpoint(&checkpoints, mean_of_last(records));
                    watch(Event::Checkpoint(&saved.map_err(|e| resume::with_last_checkpoint(e, &checkpoints))?));
                    saved_at = trainer.steps_done();
                }
                Ok::<_, Error>(())
            };
        while !self.stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let step = trainer.step().map_err(|e| resume::with_last_checkpoint(e, &checkpoints))?;
            seconds += begin.elapsed().as_secs_f64(); // of the steps alone: pictures and checkpoints take theirs
            let Some(step) = step else {
                checkpoint(trainer, metrics, records, watch)?;
                return Ok(Outcome::Finished);
            };
            let record = Record::new(&step, seconds);
            metrics.append(&record)?;
            previews.after_step(&record)?;
            watch(Event::Step { record: &record, images: step.images, skipped: &step.skipped });
            records.push(record);
            if step.ends_epoch {
                let (steps, images) = (trainer.steps_per_epoch(), trainer.images_per_epoch());
                let (earlier, epoch) = records.split_at(records.partition_point(|earlier| earlier.epoch < step.epoch));
                let since = earlier.last().map_or(0.0, |record| record.seconds);
                watch(Event::Epoch(&summarise_epoch(epoch, since, steps, images)));
            }
            let is_due = self.config.train.checkpoint_every.is_some_and(|every| step.step.is_multiple_of(every));
            if step.ends_epoch || is_due {
                checkpoint(trainer, metrics, records, watch)?;
            }
            if step.ends_epoch {
                previews.after_epoch(trainer, watch)?;
                if told.elapsed() > BETWEEN_REPORTS {
                    tell_so_far(story, trainer, records, watch)?;
                    told = Instant::now();
                }
            }
        }
        checkpoint(trainer, metrics, records, watch)?;
        Ok(Outcome::Interrupted)
    }
}

/// What can be looked at while a training goes on.
struct Watched<'s, 'a> {
    previews: &'s mut Previews<'a>,
    story: &'s mut Storyteller<'a>,
}

/// Writes the report of a training that goes on.
fn tell_so_far(
    story: &mut Storyteller,
    trainer: &Trainer,
    records: &[Record],
    watch: &mut dyn FnMut(Event),
) -> Result<()> {
    let epochs = summarise(records, trainer.steps_per_epoch(), trainer.images_per_epoch());
    if !records.is_empty() {
        story.show_training(records, &epochs, watch)?;
    }
    story.write_report(trainer.weights().parameter_count(), &epochs, State::Running, watch)
}

/// The configuration that a run folder keeps, and with which it goes on.
///
/// # Errors
/// When `dir` is not the folder of a run.
pub fn run_config(dir: &Path, overrides: &[String], registry: &Registry) -> Result<RunConfig> {
    RunFolder::open(dir)?;
    Ok(RunConfig::load(&dir.join(CONFIG_FILE), overrides, registry)?)
}

fn read_data_record(dir: &Path) -> Result<Option<DataRecord>> {
    let file = dir.join(DATA_FILE);
    if !file.is_file() {
        return Ok(None);
    }
    serde_json::from_str(&read_text(&file)?).map(Some).map_err(|e| {
        let reason = format!("its {DATA_FILE} is damaged: {e}");
        Error::NotARun { dir: dir.to_owned(), reason }
    })
}

/// What the classes are called that the model of the run in `dir` learns, by label; nothing where the run does not say.
pub(crate) fn class_names(dir: &Path) -> Result<BTreeMap<u32, String>> {
    Ok(read_data_record(dir)?.map(|record| record.class_names).unwrap_or_default())
}

/// The classes that the set holds images of, with their numbers.
pub(crate) fn class_counts(images: &ImageSet) -> Vec<(String, usize)> {
    let all = images.class_names().iter().cloned().zip(images.class_counts());
    all.filter(|(_, count)| *count > 0).collect()
}

/// The names of the classes that the set holds images of, by label.
fn learnt_classes(images: &ImageSet) -> BTreeMap<u32, String> {
    let all = (0..).zip(images.class_names().iter().cloned()).zip(images.class_counts());
    all.filter(|(_, count)| *count > 0).map(|(class, _)| class).collect()
}

/// The mean loss of the last steps, by which the best checkpoint is found: one step's own says little.
fn mean_of_last(records: &[Record]) -> f64 {
    const STEPS: usize = 100;
    let last = &records[records.len().saturating_sub(STEPS)..];
    last.iter().map(|record| f64::from(record.loss)).sum::<f64>() / last.len().max(1) as f64
}

/// The epochs that the records hold, the last one perhaps in part.
fn summarise(records: &[Record], steps_per_epoch: usize, images: usize) -> Vec<EpochSummary> {
    let mut since = 0.0;
    let epochs = records.chunk_by(|a, b| a.epoch == b.epoch).map(|epoch| {
        let summary = summarise_epoch(epoch, since, steps_per_epoch, images);
        since += summary.seconds;
        summary
    });
    epochs.collect()
}

/// One epoch, or the part of it that is done, that began `since` seconds into the training.
fn summarise_epoch(records: &[Record], since: f64, steps_per_epoch: usize, images: usize) -> EpochSummary {
    let (epoch, until) = records.last().map_or((0, since), |last| (last.epoch, last.seconds));
    let (steps, seconds) = (records.len() as f64, until - since);
    EpochSummary {
        epoch,
        mean_loss: records.iter().map(|record| f64::from(record.loss)).sum::<f64>() / steps,
        seconds,
        images_per_second: images as f64 * steps / steps_per_epoch as f64 / seconds,
    }
}
