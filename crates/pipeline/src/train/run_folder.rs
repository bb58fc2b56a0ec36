//! The folder of a training run: a pipeline in diffusers' layout, and the log and checkpoints of its training.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use kakusan_weights::disk;
use serde::{Deserialize, Serialize};

use super::averages::AVERAGES;
use super::run_files::{delete_file, is_leftover, rename};
use crate::files::{create_folders, delete_folder, write_whole};
use crate::layout::RUN_CONFIG_FILE;
use crate::{Error, Result, Step, Validated};

/// The log of a run, one line per step.
const METRICS_FILE: &str = "metrics.jsonl";
/// The folder with the run's checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// The folder of one training run.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// Checks that `dir` can become the folder of a new run. The only change it makes is to complete a killed
    /// `--overwrite`.
    pub(crate) fn check(dir: &Path, overwrite: bool) -> Result<()> {
        finish_overwrite(dir)?;
        let mut entries = match fs::read_dir(dir) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("read", dir)(e)),
        };
        // a run that was killed before it wrote its configuration contains nothing worth keeping
        let empty = entries.all(|name| is_leftover(&name));
        let is_run = is_run(dir);
        if empty || (overwrite && is_run) {
            return Ok(());
        }
        if overwrite {
            let reason = format!("it has no {RUN_CONFIG_FILE}, so --overwrite will not delete what is in it");
            return Err(Error::NotARun { dir: dir.to_owned(), reason });
        }
        let resumable = is_run && !dir.join(crate::layout::INDEX_FILE).is_file();
        Err(Error::RunExists { dir: dir.to_owned(), fresh: fresh_name(dir), resumable })
    }

    /// Creates the folder of a new run with its configuration. An overwritten run is renamed first and deleted when the
    /// new one exists: if the process is killed, one of the two is there.
    pub(crate) fn create(dir: &Path, overwrite: bool, config: &str) -> Result<Self> {
        Self::check(dir, overwrite)?;
        let mut lock = None;
        if overwrite && is_run(dir) {
            lock = Self::open(dir)?.lock()?; // meanwhile, no other process may train there or restore it
            rename(dir, &aside(dir)?)?;
        }
        // the configuration comes first: then a non-empty folder is always a run, even if the process is killed right
        // here
        create_folders(dir)?;
        write_whole(&dir.join(RUN_CONFIG_FILE), config.as_bytes())?;
        drop(lock);
        let folder = Self::open(dir)?;
        folder.sweep()?;
        Ok(folder)
    }

    /// Opens the folder of an existing run.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        finish_overwrite(dir)?;
        if !is_run(dir) {
            let reason = format!("it has no {RUN_CONFIG_FILE}; name the folder of an earlier training");
            return Err(Error::NotARun { dir: dir.to_owned(), reason });
        }
        let folder = Self { dir: dir.to_owned() };
        for dir in [folder.images(), folder.checkpoints()] {
            create_folders(&dir)?;
        }
        Ok(folder)
    }

    /// Locks the folder against other trainings as long as the result lives, if the file system supports locks.
    ///
    /// The operating system releases the lock when the process ends, however it ends.
    pub(crate) fn lock(&self) -> Result<Option<File>> {
        let Ok(folder) = File::open(self.checkpoints()) else { return Ok(None) };
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::RunInUse { dir: self.dir.clone() }),
            Err(TryLockError::Error(_)) => Ok(None),
            Ok(()) => Ok(Some(folder)),
        }
    }

    /// Deletes the partial files of a killed run.
    pub(crate) fn sweep(&self) -> Result<()> {
        let others = ["unet", "scheduler", AVERAGES].map(|name| self.dir.join(name));
        for dir in [self.dir.clone(), self.images(), self.logs()].into_iter().chain(others) {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if is_leftover(&entry.file_name().to_string_lossy()) {
                    delete_file(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.dir.join(CHECKPOINTS)
    }

    /// Writes a file of the folder atomically.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.dir.join(name);
        write_whole(&path, bytes)?;
        Ok(path)
    }

    /// The log of a new run.
    pub(crate) fn new_metrics(&self) -> Result<Metrics> {
        let path = self.dir.join(METRICS_FILE);
        write_whole(&path, b"")?;
        Metrics::open(path)
    }

    /// The log of a run that resumes after `steps` steps, truncated to them, and their records. Missing records are not
    /// an error: no checkpoint depends on them.
    pub(crate) fn resume_metrics(&self, steps: usize) -> Result<(Metrics, Vec<Record>)> {
        let path = self.dir.join(METRICS_FILE);
        let mut log = read_log(&path);
        log.retain(|(_, record)| record.step <= steps);
        // copies the lines: a number that is parsed and printed again may differ in the last digit
        let lines: String = log.iter().flat_map(|(line, _)| [line.as_str(), "\n"]).collect();
        write_whole(&path, lines.as_bytes())?;
        let records = log.into_iter().map(|(_, record)| record).collect();
        Ok((Metrics::open(path)?, records))
    }
}

/// One line of `metrics.jsonl`: an optimiser step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The step, from 1.
    pub step: usize,
    /// The epoch, from 1.
    pub epoch: usize,
    /// The mean loss of the step's images.
    pub loss: f32,
    /// The learning rate.
    pub lr: f64,
    /// The norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// The decay of the moving average of the weights in this step, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// The loss on the images of `data.validation`, before each checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f32>,
    /// The same of the moving average of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_validation_loss: Option<f32>,
    /// Seconds of training so far: only the steps, without checkpoints, pictures and interruptions.
    pub seconds: f64,
    /// Of these, the seconds in which this process exchanged gradients or waited for the other processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited: Option<f64>,
}

impl Record {
    pub(crate) fn new(step: &Step, validated: Option<Validated>, seconds: f64, waited: Option<f64>) -> Self {
        let Step { step, epoch, loss, learning_rate: lr, grad_norm, ema_decay, .. } = *step;
        let validation_loss = validated.map(|validated| validated.loss);
        let ema_validation_loss = validated.and_then(|validated| validated.ema_loss);
        Self { step, epoch, loss, lr, grad_norm, ema_decay, validation_loss, ema_validation_loss, seconds, waited }
    }

    /// The loss on the images that the training does not see, if this step measured it.
    pub fn validated(&self) -> Option<Validated> {
        let loss = self.validation_loss?;
        Some(Validated { loss, ema_loss: self.ema_validation_loss })
    }

    fn line(&self) -> Result<String> {
        let json = serde_json::to_string(self).map_err(|e| Error::Unfit(format!("a metric has no JSON form: {e}")))?;
        Ok(json + "\n")
    }
}

/// The steps in the log of the run in `dir`, in order. Invalid lines are ignored: a training in progress may be writing
/// its last line.
pub fn read_metrics(dir: &Path) -> Vec<Record> {
    read_log(&dir.join(METRICS_FILE)).into_iter().map(|(_, record)| record).collect()
}

/// The valid lines of a log with their records, in the order of their steps. Other lines are ignored: a training in
/// progress may be writing its last one.
fn read_log(path: &Path) -> Vec<(String, Record)> {
    let bytes = fs::read(path).unwrap_or_default();
    let record = |line: &[u8]| -> Option<(usize, (String, Record))> {
        let line = std::str::from_utf8(line).ok()?;
        let record: Record = serde_json::from_str(line).ok()?;
        (record.step > 0).then(|| (record.step, (line.to_owned(), record)))
    };
    let lines: BTreeMap<usize, _> = bytes.split(|&byte| byte == b'\n').filter_map(record).collect();
    lines.into_values().collect()
}

/// `metrics.jsonl`, written one line per step.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::options().append(true).open(&path).map_err(Error::io("open", &path))?;
        Ok(Self { path, file })
    }

    pub(crate) fn append(&mut self, record: &Record) -> Result<()> {
        disk::append(&mut self.file, &self.path, record.line()?.as_bytes()).map_err(Error::io("write", &self.path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the appended lines to disk.
    pub(crate) fn sync(&self) -> Result<()> {
        disk::sync_file(&self.file, &self.path).map_err(Error::io("write", &self.path))
    }
}

fn is_run(dir: &Path) -> bool {
    dir.join(RUN_CONFIG_FILE).is_file()
}

/// The temporary name of a run that is being overwritten.
fn aside(dir: &Path) -> Result<PathBuf> {
    let unnamed =
        || Error::Unfit(format!("--overwrite needs the name of a run's folder, and {} has no name", dir.display()));
    let name = dir.file_name().ok_or_else(unnamed)?;
    Ok(dir.with_file_name(format!(".{}.overwritten", name.to_string_lossy())))
}

/// Completes a killed `--overwrite`: if the new run exists, deletes the old one; otherwise restores it.
fn finish_overwrite(dir: &Path) -> Result<()> {
    let Ok(old) = aside(dir) else { return Ok(()) };
    if !old.is_dir() {
        return Ok(());
    }
    let _lock = RunFolder { dir: old.clone() }.lock()?; // held by a process that is overwriting
    if is_run(&old) && !is_run(dir) {
        let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
        if entries.all(|entry| is_leftover(&entry.file_name().to_string_lossy())) {
            delete_folder(dir)?;
            rename(&old, dir)?;
        }
        return Ok(());
    }
    delete_file(&old.join(RUN_CONFIG_FILE))?; // a half-deleted folder must not count as a run
    delete_folder(&old)
}

/// `runs/184-2` for `runs/184`: the first free name of this form.
fn fresh_name(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let mut number = 2;
    loop {
        let fresh = dir.with_file_name(format!("{name}-{number}"));
        if !fresh.exists() {
            return fresh;
        }
        number += 1;
    }
}
