use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kakusan_data::{ImageSet, Loaded, SourceUsed};
use kakusan_distributed::{Alone, Group, agree};
#[cfg(feature = "hub")]
use kakusan_hub::Hub;
use serde::{Deserialize, Serialize};

use super::observer::{EpochSummary, Event, RunView};
use super::ranks::{AllReduceMethod, leader_first, tell};
use super::run_folder::{CHECKPOINTS, Metrics, RunFolder};
use super::trainer::check_classes;
use super::{averages, checkpoint, resume};
use crate::files::read_text;
use crate::layout::RUN_CONFIG_FILE;
use crate::{DeviceChoice, Error, Labels, Opened, Origin, Record, Registry, Result, RunConfig, Step, Trainer};

/// A training from a configuration to a saved pipeline, in a run folder: it loads the images, writes `metrics.jsonl`
/// and checkpoints, and saves the pipeline in diffusers' layout. An observer can draw, log and report during the
/// training.
///
/// [`Trainer`] is only the loop.
///
/// ```
/// use kakusan_pipeline::{Event, Existing, Outcome, Registry, RunConfig, Training};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let runs = dir.path();
/// let text = r#"
///     data = { name = "mnist", classes = [1], sources = ["drawn"], drawn_per_class = 8 }
///     model = { _class_name = "BasicUNet" }
///     scheduler = { _class_name = "LinearMixScheduler" }
///     train = { epochs = 1, batch_size = 4 }
/// "#;
/// let registry = Registry::default();
/// let config = RunConfig::parse(text, "example", &[], &registry)?;
/// let training = Training::new(config, runs.join("ones"), &registry).existing(Existing::Overwrite);
/// let outcome = training.run(&mut |event| {
///     if let Event::Step { record, .. } = event {
///         println!("step {}: loss {:.4}", record.step, record.loss);
///     }
///     Ok(())
/// })?;
/// assert_eq!(outcome, Outcome::Finished);
/// assert!(runs.join("ones/model_index.json").is_file());
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
pub struct Training<'a> {
    config: RunConfig,
    out: PathBuf,
    registry: &'a Registry,
    existing: Existing,
    device: DeviceChoice,
    local_rank: usize,
    all_reduce: AllReduceMethod,
    images: Option<Loaded>,
    #[cfg(feature = "hub")]
    hub: Option<&'a Hub>,
    stop: Option<&'a AtomicBool>,
    group: Arc<dyn Group>,
}

impl fmt::Debug for Training<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, out, existing, device, .. } = self;
        let mut training = f.debug_struct("Training");
        training.field("config", config).field("out", out).field("existing", existing).field("device", device);
        training.finish_non_exhaustive()
    }
}

impl<'a> Training<'a> {
    /// A training of `config` in the run folder `out`, which must be new by default, on the first CUDA device if there
    /// is one. `registry` resolves the classes that the configuration of a resumed run names.
    pub fn new(config: RunConfig, out: impl Into<PathBuf>, registry: &'a Registry) -> Self {
        Self {
            config,
            out: out.into(),
            registry,
            existing: Existing::Refuse,
            device: DeviceChoice::Auto,
            local_rank: 0,
            all_reduce: AllReduceMethod::Auto,
            images: None,
            #[cfg(feature = "hub")]
            hub: None,
            stop: None,
            group: Arc::new(Alone),
        }
    }

    /// What to do if the run folder exists already: [`Existing::Refuse`] by default.
    pub fn existing(mut self, existing: Existing) -> Self {
        self.existing = existing;
        self
    }

    /// Where to compute: [`DeviceChoice::Auto`] by default.
    pub fn device(mut self, device: DeviceChoice) -> Self {
        self.device = device;
        self
    }

    /// Trains on these images instead of those of the configuration's `[data]`, which may be absent. `description`
    /// follows "images from" in reports, and is stored in the run's `data.json`.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use kakusan_data::ImageSet;
    /// use kakusan_pipeline::{Outcome, Registry, RunConfig, Training};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let runs = dir.path();
    /// // eight grey images of 28 x 28 pixels, half of them dark
    /// let pixels = [vec![30; 4 * 784], vec![200; 4 * 784]].concat();
    /// let names = vec!["dark".to_owned(), "light".to_owned()];
    /// let images = ImageSet::new([1, 28, 28], pixels, vec![0, 0, 0, 0, 1, 1, 1, 1], names)?;
    ///
    /// let text = r#"
    ///     model = { _class_name = "BasicUNet" }
    ///     scheduler = { _class_name = "LinearMixScheduler" }
    ///     train = { epochs = 1, batch_size = 4 }
    /// "#;
    /// let registry = Registry::default();
    /// let config = RunConfig::parse(text, "example", &[], &registry)?;
    /// let training = Training::new(config, runs.join("greys"), &registry).images(Arc::new(images), "my renderer");
    /// assert_eq!(training.run(&mut |_| Ok(()))?, Outcome::Finished);
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    pub fn images(mut self, images: Arc<ImageSet>, description: impl Into<String>) -> Self {
        self.images = Some(Loaded::given(images, description));
        self
    }

    /// The Hub from which data sets may be downloaded. Without it, images come only from folders or are drawn digits.
    #[cfg(feature = "hub")]
    pub fn hub(mut self, hub: &'a Hub) -> Self {
        self.hub = Some(hub);
        self
    }

    /// When this turns true, the training saves a checkpoint and stops after the current step.
    pub fn stop(mut self, stop: &'a AtomicBool) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Trains together with the other members of `group`, each of which runs the same training: the result is that of
    /// one process, byte for byte. Rank 0 alone writes and observes; a run that is resumed must be in a folder that all
    /// can read. The members compare their configurations, images and states, and refuse differences.
    ///
    /// If one fails, or is lost, all others end with [`Error::Group`], which says why.
    pub fn group(mut self, group: Arc<dyn Group>) -> Self {
        self.group = group;
        self
    }

    /// The number of this process among those on its machine: 0 by default. Each has a CUDA card of its own, that many
    /// after the [device](Self::device)'s.
    pub fn local_rank(mut self, local_rank: usize) -> Self {
        self.local_rank = local_rank;
        self
    }

    /// How the gradients of the group are added: [`AllReduceMethod::Auto`] by default.
    pub fn all_reduce(mut self, method: AllReduceMethod) -> Self {
        self.all_reduce = method;
        self
    }

    /// Runs the training. `observe` receives each [`Event`]; if it returns an error, the training ends.
    ///
    /// # Errors
    /// When the folder exists already or cannot be written, the pretrained model or the data does not fit, the
    /// loss diverges, or there is no checkpoint to resume from. Everything saved before the error is kept.
    pub fn run(self, observe: &mut dyn FnMut(&Event) -> Result<()>) -> Result<Outcome> {
        let group = self.group.clone();
        let outcome = match group.leads() {
            true => self.run_as_member(observe),
            false => self.run_as_member(&mut |_| Ok(())),
        };
        let outcome = outcome.and_then(|outcome| group.barrier().map(|()| outcome).map_err(Error::from));
        outcome.inspect_err(|error| tell(&*group, error))
    }

    fn run_as_member(mut self, observe: &mut dyn FnMut(&Event) -> Result<()>) -> Result<Outcome> {
        let group = self.group.clone();
        let resume = matches!(self.existing, Existing::Resume { .. });
        let mut changes = vec![];
        leader_first(&*group, || {
            match self.existing {
                Existing::Resume { allow_changes, .. } => {
                    let folder = RunFolder::open(&self.out)?;
                    changes = resume::check_same(&folder, &self.config, allow_changes, self.registry)?;
                }
                fresh if group.leads() => RunFolder::check(&self.out, fresh == Existing::Overwrite)?,
                _ => {}
            }
            self.open_pretrained(resume)
        })?;
        let config_toml = self.config.to_toml()?;
        let Opened { device, fallback } = self.device.open_for(self.local_rank)?;
        if let Some(fallback) = &fallback {
            observe(&Event::DeviceFallback(fallback))?;
        }
        let recorded = if resume { read_data_record(&self.out)? } else { None };
        let loaded = leader_first(&*group, || self.load(recorded.as_ref()))?;
        observe(&Event::Data(&loaded))?;
        if let (Some(_), Some(reason)) = (self.config.model.num_classes(), &loaded.unlabelled) {
            let remedy = "or let data.clusters divide them into groups of similar images";
            let reason = format!("the model needs classes, but the images have none: {reason}, {remedy}");
            return Err(Error::Unfit(reason));
        }
        let labels = match self.config.model.num_classes() {
            Some(_) => Labels::of_images(&loaded.images),
            None => Labels::default(),
        };
        let data = DataRecord {
            source: loaded.source.clone(),
            images: loaded.images.len(),
            class_counts: loaded.images.counts_by_class(),
            class_names: labels.names().clone(),
            label_counts: labels.counts().clone(),
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
            observe(&Event::Changes(&changes))?;
        }
        let all_reduce = self.all_reduce.resolve(!device.is_cpu(), group.size())?;
        if group.size() > 1 {
            agree(&*group, &follow::facts(&self.config, &data, &loaded, &device, all_reduce)?)?;
        }
        let sum = all_reduce.open(&device, &*group)?;
        let mut trainer = Trainer::new(&self.config, loaded.images, &device)?.with_group(group.clone()).with_sum(sum);
        if let Some(held_out) = &loaded.validation {
            check_classes(&self.config, held_out)?;
        }
        if !group.leads() {
            return self.follow(trainer);
        }

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
                resume::go_on(&folder, &mut trainer, checkpoint, allow_changes, observe)?
            }
            _ => (folder.new_metrics()?, vec![]),
        };
        if resume {
            folder.write(RUN_CONFIG_FILE, config_toml.as_bytes())?; // it may have more steps now
        }
        follow::lead_to(&*group, trainer.steps_done())?;
        trainer.check_same_state()?;
        let run = Run { config: &self.config, config_toml: &config_toml, folder: &folder, source: &data.source };
        observe(&Event::Begin(&run.view(&trainer, &records)))?;
        let outcome =
            self.train(&run, loaded.validation.as_deref(), &mut trainer, &mut metrics, &mut records, observe)?;
        if outcome == Outcome::Interrupted {
            observe(&Event::Interrupted(&run.view(&trainer, &records)))?;
            return Ok(outcome);
        }
        // observers come after the pipeline is saved: they cannot cost its weights
        trainer.check_sound().map_err(|e| resume::with_last_checkpoint(e, &folder.checkpoints()))?;
        let mut pipeline = self.config.pipeline(&trainer.sampling_weights()?, self.config.scheduler.clone())?;
        pipeline.set_labels(labels);
        pipeline.save_pretrained(folder.dir())?;
        pipeline.set_scheduler(self.config.sample_scheduler.clone())?;
        observe(&Event::Saved { run: &run.view(&trainer, &records), pipeline: &pipeline })?;
        Ok(outcome)
    }

    /// Opens the pretrained pipeline of a fine-tuning and checks that its weights fit. A run that has a checkpoint
    /// resumes without it.
    fn open_pretrained(&mut self, resume: bool) -> Result<()> {
        let Some(mut origin) = self.config.origin.take() else { return Ok(()) };
        let model = self.config.trained_model();
        let model = model.as_ref();
        if resume && !checkpoint::newest_first(&self.out.join(CHECKPOINTS))?.is_empty() {
            origin = origin.recorded();
        } else if !origin.is_open() {
            let opened = self.pretrained_dir(&origin).and_then(|dir| origin.open(&dir, model, self.registry));
            opened.map_err(|e| {
                let begun = "the run has no checkpoint yet and needs its pretrained model again";
                Error::Unfit(format!("{begun}: {e}"))
            })?;
        }
        origin.check(model)?;
        self.config.origin = Some(origin);
        Ok(())
    }

    /// The folder of the pretrained pipeline of a run, which may be in the cache of the Hub.
    fn pretrained_dir(&self, origin: &Origin) -> Result<PathBuf> {
        #[cfg(feature = "hub")]
        if let (Some((repo_id, commit)), Some(hub)) = (crate::hub_name(origin.name()), self.hub) {
            return crate::DDPMPipeline::download(repo_id, commit, None, hub);
        }
        Ok(PathBuf::from(origin.name()))
    }

    /// The images provided by the program, or those of `[data]`; for a resumed run, from its original source.
    fn load(&mut self, recorded: Option<&DataRecord>) -> Result<Loaded> {
        if let Some(images) = self.images.take() {
            return Ok(images);
        }
        let Some(data) = &mut self.config.data else {
            let reason = "the configuration has no table [data], and the program passed no images";
            return Err(Error::Unfit(reason.into()));
        };
        if let Some(kind) = recorded.and_then(|recorded| recorded.source.kind) {
            data.sources = vec![kind];
        }
        #[cfg(feature = "hub")]
        if let Some(hub) = self.hub {
            return Ok(kakusan_data::load_with_hub(data, hub)?);
        }
        Ok(kakusan_data::load(data)?)
    }

    /// Trains until all steps are done or `stop` is set, with a checkpoint after each epoch and at the stop.
    fn train(
        &self,
        run: &Run,
        held_out: Option<&ImageSet>,
        trainer: &mut Trainer,
        metrics: &mut Metrics,
        records: &mut Vec<Record>,
        observe: &mut dyn FnMut(&Event) -> Result<()>,
    ) -> Result<Outcome> {
        let mut seconds = records.last().map_or(0.0, |record| record.seconds);
        let waited_before = records.last().and_then(|record| record.waited).unwrap_or(0.0);
        let mut saved_at = trainer.steps_done();
        let checkpoints = run.folder.checkpoints();
        let mut checkpoint = |trainer: &Trainer,
                              metrics: &Metrics,
                              records: &[Record],
                              observe: &mut dyn FnMut(&Event) -> Result<()>| {
            if trainer.steps_done() == saved_at {
                return Ok(());
            }
            trainer.check_same_state()?;
            metrics.sync()?; // the log must not lag behind the checkpoint
            let of_step = records.last().filter(|record| record.step == trainer.steps_done());
            let loss = match (held_out, of_step.and_then(Record::validated)) {
                (None, _) => mean_of_last(records),
                (Some(_), Some(validated)) => f64::from(validated.of_sampling()),
                (Some(images), None) => f64::from(trainer.validate(images)?.of_sampling()),
            };
            let saved = trainer.save_checkpoint(&checkpoints, loss);
            let dir = saved.map_err(|e| resume::with_last_checkpoint(e, &checkpoints))?;
            saved_at = trainer.steps_done();
            observe(&Event::Checkpoint { dir: &dir, run: &run.view(trainer, records) })
        };
        while !trainer.meet(self.is_asked_to_stop())? {
            let begin = Instant::now();
            let step = trainer.step().map_err(|e| resume::with_last_checkpoint(e, &checkpoints))?;
            seconds += begin.elapsed().as_secs_f64(); // of the steps only, without observers and checkpoints
            let Some(step) = step else {
                averages::write_snapshots(run.folder.dir(), &self.config.train, trainer)?;
                checkpoint(trainer, metrics, records, observe)?;
                return Ok(Outcome::Finished);
            };
            let is_saved = self.is_saved(&step);
            let validates = held_out.filter(|_| is_saved);
            let validated = validates.map(|images| trainer.validate(images)).transpose()?;
            let waited = (trainer.ranks() > 1).then(|| waited_before + trainer.seconds_waited());
            let record = Record::new(&step, validated, seconds, waited);
            metrics.append(&record)?;
            observe(&Event::Step { record: &record, images: step.images, skipped: &step.skipped })?;
            records.push(record);
            if step.ends_epoch {
                observe(&Event::Epoch(&EpochSummary::last(records, trainer)))?;
                if trainer.ranks() > 1 {
                    observe(&Event::Ranks(trainer.rank_times()))?;
                }
            }
            // before the checkpoint: a training that resumes from it does not write them again
            if averages::is_due(&self.config.train, step.step, trainer.total_steps()) {
                averages::write_snapshots(run.folder.dir(), &self.config.train, trainer)
                    .map_err(|e| resume::with_last_checkpoint(e, &checkpoints))?;
            }
            if is_saved {
                checkpoint(trainer, metrics, records, observe)?;
            }
        }
        checkpoint(trainer, metrics, records, observe)?;
        Ok(Outcome::Interrupted)
    }

    fn is_asked_to_stop(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Whether a checkpoint follows the step.
    fn is_saved(&self, step: &Step) -> bool {
        step.ends_epoch || self.config.train.checkpoint_every.is_some_and(|every| step.step.is_multiple_of(every))
    }
}

/// What stays constant during the training of a run.
struct Run<'a> {
    config: &'a RunConfig,
    config_toml: &'a str,
    folder: &'a RunFolder,
    source: &'a SourceUsed,
}

impl Run<'_> {
    fn view<'v>(&'v self, trainer: &'v Trainer, records: &'v [Record]) -> RunView<'v> {
        let Self { config, config_toml, folder, source } = *self;
        RunView { config, config_toml, dir: folder.dir(), source, trainer, records }
    }
}

/// What a training does if the run folder exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Fails, and changes nothing.
    Refuse,
    /// Deletes the old run once the data of the new one is loaded.
    Overwrite,
    /// Resumes from the newest valid checkpoint, with the run's own configuration.
    Resume {
        /// Whether images and settings may differ if the training can continue with them.
        allow_changes: bool,
        /// The step of the checkpoint to resume from; the newest if `None`. Newer checkpoints are renamed.
        checkpoint: Option<usize>,
    },
}

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done and everything is saved.
    Finished,
    /// The training was asked to stop, and saved a checkpoint to resume from.
    Interrupted,
}

/// Where the images of a run come from: `data.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DataRecord {
    source: SourceUsed,
    images: usize,
    class_counts: Vec<(String, usize)>,
    /// The [`Labels`] of the model, until the pipeline's index has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    class_names: BTreeMap<u32, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    label_counts: BTreeMap<u32, u64>,
}

impl DataRecord {
    fn labels(&self) -> Labels {
        Labels::new(self.class_names.clone()).with_counts(self.label_counts.clone())
    }

    /// A description of how the images differ from those of `now`.
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

    /// Whether each class still has the label that the model was trained with.
    fn numbers_classes_as(&self, now: &Self) -> bool {
        let names = |record: &Self| record.class_counts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        names(now).starts_with(&names(self))
    }
}

const DATA_FILE: &str = "data.json";
/// Reads the configuration that a run folder stores and a resumed run uses. The pretrained model of a fine-tuning need
/// not exist any more: the weights are in the checkpoints.
///
/// # Errors
/// When `dir` is not the folder of a run.
pub fn run_config(dir: &Path, overrides: &[String], registry: &Registry) -> Result<RunConfig> {
    RunFolder::open(dir)?;
    Ok(RunConfig::load_recorded(&dir.join(RUN_CONFIG_FILE), overrides, registry)?)
}

/// Reads the configuration that a run folder stores, as [`run_config`] does, for a program that only looks: it neither
/// completes a killed `--overwrite` nor creates folders.
///
/// # Errors
/// When `dir` is not the folder of a run.
pub fn recorded_config(dir: &Path, registry: &Registry) -> Result<RunConfig> {
    Ok(RunConfig::load_recorded(&dir.join(RUN_CONFIG_FILE), &[], registry)?)
}

/// Where the images of the run in `dir` come from; `None` if the folder does not say.
///
/// # Errors
/// When its record cannot be read or is damaged.
pub fn run_source(dir: &Path) -> Result<Option<SourceUsed>> {
    Ok(read_data_record(dir)?.map(|record| record.source))
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

/// The classes that the model of the run in `dir` is trained on; none if the run does not store them.
pub(crate) fn labels(dir: &Path) -> Result<Labels> {
    Ok(read_data_record(dir)?.map(|record| record.labels()).unwrap_or_default())
}

/// The mean loss of the last steps, by which the best checkpoint is selected: the loss of one step is too noisy.
fn mean_of_last(records: &[Record]) -> f64 {
    const STEPS: usize = 100;
    let last = &records[records.len().saturating_sub(STEPS)..];
    last.iter().map(|record| f64::from(record.loss)).sum::<f64>() / last.len().max(1) as f64
}

mod follow;
