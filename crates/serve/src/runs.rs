//! The runs of a folder, as they are on the disk: another process trains them.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use kakusan::pipeline::{Record, Registry, RunConfig, recorded_config};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::folders::{Folders, files, modified};
use crate::metrics::{Log, last_records};
use crate::models::folders_in;
use crate::refusal::Refusal;

/// A log that grew in this time belongs to a training, where the system does not tell who has locked the run.
const RECENT: Duration = Duration::from_secs(60);
/// The logs that are held.
const HELD: usize = 16;
/// The largest text file that is read, and the largest picture.
const MAX_TEXT: u64 = 1 << 20;
const MAX_PICTURE: u64 = 64 << 20;
/// The endings of pictures, and their types.
const PICTURES: [(&str, &str); 5] = [
    (".png", "image/png"),
    (".jpg", "image/jpeg"),
    (".jpeg", "image/jpeg"),
    (".webp", "image/webp"),
    (".gif", "image/gif"),
];

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunState {
    /// A process trains it.
    Training,
    /// Its pipeline is saved.
    Finished,
    /// No process trains it; it can be resumed from a checkpoint.
    Stopped,
    /// No process trains it, and it left no checkpoint.
    Failed,
}

/// A run in the list of runs.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct RunSummary {
    /// The name of its folder.
    pub(crate) name: String,
    /// What it is doing.
    pub(crate) state: RunState,
    /// The last step.
    pub(crate) step: usize,
    /// All steps; null where that is not known.
    pub(crate) total_steps: Option<usize>,
    /// The epoch of the last step, from 1.
    pub(crate) epoch: usize,
    /// All epochs.
    pub(crate) epochs: Option<usize>,
    /// The loss of the last step.
    pub(crate) loss: Option<f32>,
    /// The last loss on images that the training does not see.
    pub(crate) validation_loss: Option<f32>,
    /// The class of its network; null where its configuration cannot be read.
    pub(crate) class: Option<String>,
    /// When its log last grew, in seconds since 1970.
    pub(crate) modified: u64,
}

/// A run with all that is known of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RunDetails {
    #[serde(flatten)]
    pub(crate) summary: RunSummary,
    /// Its configuration.
    pub(crate) config_toml: String,
    /// What `kakusan eval` measured: its eval.json, or null.
    #[schema(value_type = Object, nullable)]
    pub(crate) figures: Option<Value>,
    /// The pictures of its folder `images`.
    pub(crate) pictures: Vec<String>,
}

/// A step of a training.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct RunRecord {
    /// The step, from 1.
    step: usize,
    /// The epoch, from 1.
    epoch: usize,
    /// The mean loss of the step's images.
    loss: f32,
    /// The learning rate.
    lr: f64,
    /// The norm of the gradients, before clipping.
    grad_norm: f64,
    /// The loss on images that the training does not see, where it was measured.
    validation_loss: Option<f32>,
    /// The same of the averaged weights.
    ema_validation_loss: Option<f32>,
    /// Seconds of training so far.
    seconds: f64,
}

/// Some steps of a training.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RunRecords {
    /// At most 2,000 of them, evenly.
    pub(crate) records: Vec<RunRecord>,
    /// The step to ask from next time.
    pub(crate) next: usize,
}

impl RunRecords {
    /// The records from a step on.
    pub(crate) fn new(records: Vec<Record>, from: usize) -> Self {
        let next = records.last().map_or(from, |last| last.step + 1);
        Self { records: records.into_iter().map(Into::into).collect(), next }
    }
}

impl From<Record> for RunRecord {
    fn from(record: Record) -> Self {
        let Record { step, epoch, loss, lr, grad_norm, validation_loss, ema_validation_loss, seconds, .. } = record;
        Self { step, epoch, loss, lr, grad_norm, validation_loss, ema_validation_loss, seconds }
    }
}

/// What is read once of a run, while its files `config.toml` and `data.json` stay the same.
#[derive(Debug, Clone)]
struct Known {
    /// When they were written.
    modified: [u64; 2],
    class: Option<String>,
    epochs: Option<usize>,
    max_steps: Option<usize>,
    /// As the number of images says; `None` where validation takes some of them.
    steps_per_epoch: Option<usize>,
}

/// The end of a log.
#[derive(Debug, Clone, Default)]
struct End {
    /// The size and time of the file.
    of: (u64, Option<SystemTime>),
    last: Option<Record>,
    validation_loss: Option<f32>,
}

/// The runs of a folder.
#[derive(Debug)]
pub(crate) struct Runs {
    folders: Folders,
    registry: Registry,
    known: Mutex<HashMap<String, Known>>,
    ends: Mutex<HashMap<String, End>>,
    logs: Mutex<Vec<(String, Arc<Mutex<Log>>)>>,
}

impl Runs {
    pub(crate) fn new(root: PathBuf) -> Self {
        let folders = Folders::new(root, vec![]);
        let (known, ends, logs) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { folders, registry: Registry::default(), known, ends, logs }
    }

    /// All runs, the one whose log grew last first.
    pub(crate) fn all(&self) -> Vec<RunSummary> {
        let runs: Vec<_> = self.folders.all().into_iter().filter(|(_, dir)| is_run(dir)).collect();
        let names: HashSet<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name.as_str()));
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name.as_str()));
        let runs = runs.into_iter();
        let mut runs: Vec<RunSummary> = runs.map(|(name, dir)| self.summary(name, &dir)).collect();
        runs.sort_by_key(|run| std::cmp::Reverse(run.modified));
        runs
    }

    pub(crate) fn find(&self, name: &str) -> Result<PathBuf, Refusal> {
        self.folders.find(name).filter(|dir| is_run(dir)).ok_or_else(|| {
            let names: Vec<String> =
                self.folders.all().into_iter().filter(|(_, dir)| is_run(dir)).map(|(name, _)| name).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let name: String = name.chars().take(80).flat_map(char::escape_debug).collect();
            let hint = if names.is_empty() { String::new() } else { kakusan_config::did_you_mean(&name, &names) };
            Refusal::not_found(format!("there is no run `{name}`{hint}"))
        })
    }

    pub(crate) fn details(&self, name: &str) -> Result<RunDetails, Refusal> {
        let dir = self.find(name)?;
        let figures = text(&dir.join("eval.json")).and_then(|text| serde_json::from_str(&text).ok());
        Ok(RunDetails {
            summary: self.summary(name.to_owned(), &dir),
            config_toml: text(&dir.join("config.toml")).unwrap_or_default(),
            figures,
            pictures: pictures(&dir).into_iter().map(|(name, _)| name).collect(),
        })
    }

    pub(crate) fn summary(&self, name: String, dir: &Path) -> RunSummary {
        let log = dir.join("metrics.jsonl");
        let about = std::fs::metadata(&log).ok();
        let end = about.as_ref().map(|about| self.end(&name, &log, about)).unwrap_or_default();
        let known = self.known(&name, dir);
        let last = end.last.as_ref();
        let seen = self.held(&name).and_then(|log| {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.steps_per_epoch
        });
        let of_epochs =
            seen.or(known.steps_per_epoch).zip(known.epochs).map(|(steps, epochs)| steps.saturating_mul(epochs));
        RunSummary {
            state: state(dir, about.as_ref()),
            step: last.map_or(0, |record| record.step),
            total_steps: match (of_epochs, known.max_steps) {
                (Some(all), Some(most)) => Some(all.min(most)),
                (all, most) => all.or(most),
            },
            epoch: last.map_or(0, |record| record.epoch),
            epochs: known.epochs,
            loss: last.map(|record| record.loss),
            validation_loss: end.validation_loss,
            class: known.class,
            modified: about.as_ref().map_or(known.modified[0], modified),
            name,
        }
    }

    /// The end of a log; it is read when the file has changed.
    fn end(&self, name: &str, log: &Path, about: &Metadata) -> End {
        let of = (about.len(), about.modified().ok());
        let lock = || self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = lock().get(name).filter(|end| end.of == of) {
            return end.clone();
        }
        let records = last_records(log);
        let validation_loss = records.iter().rev().find_map(|record| record.validation_loss);
        let end = End { of, last: records.last().cloned(), validation_loss };
        lock().insert(name.to_owned(), end.clone());
        end
    }

    fn known(&self, name: &str, dir: &Path) -> Known {
        let changed = ["config.toml", "data.json"]
            .map(|file| std::fs::metadata(dir.join(file)).map_or(0, |about| modified(&about)));
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(name).filter(|known| known.modified == changed) {
            return known.clone();
        }
        let config = recorded_config(dir, &self.registry).ok();
        let known = Known {
            modified: changed,
            class: config.as_ref().map(|config| config.model.class_name().to_owned()),
            epochs: config.as_ref().map(|config| config.train.epochs),
            max_steps: config.as_ref().and_then(|config| config.train.max_steps),
            steps_per_epoch: config.as_ref().and_then(|config| steps_per_epoch(dir, config)),
        };
        lock().insert(name.to_owned(), known.clone());
        known
    }

    fn held(&self, name: &str) -> Option<Arc<Mutex<Log>>> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.iter().find(|(held, _)| held == name).map(|(_, log)| log.clone())
    }

    /// The records of a run from a step on, and the generation of its log.
    pub(crate) fn records(&self, name: &str, from: usize) -> Result<(Vec<Record>, usize), Refusal> {
        let dir = self.find(name)?;
        let log = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            let found = logs.iter().position(|(held, _)| held == name).map(|place| logs.remove(place));
            logs.truncate(HELD - 1);
            logs.insert(0, found.unwrap_or_else(|| (name.to_owned(), Arc::default())));
            logs[0].1.clone()
        };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.refresh(&dir.join("metrics.jsonl"));
        Ok((log.from(from), log.generation))
    }

    /// A picture of a run, and its type.
    pub(crate) fn picture(&self, name: &str, file: &str) -> Result<(Vec<u8>, &'static str), Refusal> {
        let dir = self.find(name)?;
        let Some((file, about)) = pictures(&dir).into_iter().find(|(own, _)| own == file) else {
            return Err(Refusal::not_found(format!(
                "the run `{name}` has no such picture: GET /api/runs/{name} lists them"
            )));
        };
        if about.len() > MAX_PICTURE {
            return Err(Refusal::not_found(format!("the picture has {} bytes, which is too large", about.len())));
        }
        let gone = |e: std::io::Error| Refusal::not_found(format!("the picture cannot be read: {e}"));
        let bytes = std::fs::read(dir.join("images").join(&file)).map_err(gone)?;
        Ok((bytes, kind(&file).unwrap_or("application/octet-stream")))
    }
}

fn is_run(dir: &Path) -> bool {
    dir.join("config.toml").is_file()
}

/// The steps of an epoch, as the number of images says.
fn steps_per_epoch(dir: &Path, config: &RunConfig) -> Option<usize> {
    let data: Value = serde_json::from_str(&text(&dir.join("data.json"))?).ok()?;
    let images = data.get("images")?.as_u64()? as usize;
    if config.data.as_ref().is_some_and(|data| data.validation.is_some()) {
        return None;
    }
    let batches = images.div_ceil(config.train.batch_size.max(1));
    Some(batches.div_ceil(config.train.gradient_accumulation_steps.max(1)))
}

fn text(path: &Path) -> Option<String> {
    let size = std::fs::metadata(path).ok().filter(Metadata::is_file)?.len();
    (size <= MAX_TEXT).then(|| std::fs::read_to_string(path).ok()).flatten()
}

/// The type of a picture, by its ending.
fn kind(file: &str) -> Option<&'static str> {
    let name = file.to_ascii_lowercase();
    PICTURES.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| *kind)
}

/// The pictures of a run.
pub(crate) fn pictures(dir: &Path) -> Vec<(String, Metadata)> {
    files(&dir.join("images")).into_iter().filter(|(name, _)| kind(name).is_some()).collect()
}

fn state(dir: &Path, log: Option<&Metadata>) -> RunState {
    let saved = dir.join("model_index.json").is_file();
    match is_locked(&dir.join("checkpoints")) {
        Some(true) => return RunState::Training,
        None if !saved && log.is_some_and(is_recent) => return RunState::Training,
        _ => {}
    }
    match (saved, folders_in(&dir.join("checkpoints")).next()) {
        (true, _) => RunState::Finished,
        (false, Some(_)) => RunState::Stopped,
        (false, None) => RunState::Failed,
    }
}

fn is_recent(about: &Metadata) -> bool {
    about.modified().is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed < RECENT))
}

/// Whether a process has locked a folder, as a training does; `None` where the system does not tell. To try the lock
/// could disturb a training that is about to begin.
#[cfg(target_os = "linux")]
fn is_locked(folder: &Path) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let (about, locks) = (std::fs::metadata(folder).ok()?, std::fs::read_to_string("/proc/locks").ok()?);
    // 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
    let place = format!(":{}", about.ino());
    Some(locks.lines().any(|line| line.contains("FLOCK") && line.split_whitespace().any(|word| word.ends_with(&place))))
}

#[cfg(not(target_os = "linux"))]
fn is_locked(_folder: &Path) -> Option<bool> {
    None
}
