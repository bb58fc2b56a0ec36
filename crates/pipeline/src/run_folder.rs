//! The folder of a training run: a pipeline in diffusers' layout, and beside it how it came about.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{is_leftover, read_text, write_whole};
use crate::{Error, Result, Step};

/// The resolved configuration; a folder that has it is a run.
pub(crate) const CONFIG_FILE: &str = "config.toml";
pub(crate) const METRICS_FILE: &str = "metrics.jsonl";

/// The folder of one training run.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// Makes sure that `dir` may become the folder of a new run, and changes nothing.
    pub(crate) fn check(dir: &Path, overwrite: bool) -> Result<()> {
        let mut entries = match fs::read_dir(dir) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("read", dir)(e)),
        };
        // a run that was killed before it had its configuration has nothing worth keeping
        let empty = entries.all(|name| is_leftover(&name));
        let is_run = dir.join(CONFIG_FILE).is_file();
        if empty || (overwrite && is_run) {
            return Ok(());
        }
        if overwrite {
            let reason = format!("it has no {CONFIG_FILE}, so --overwrite will not delete what is in it");
            return Err(Error::NotARun { dir: dir.to_owned(), reason });
        }
        let resumable = is_run && !dir.join(crate::layout::INDEX_FILE).is_file();
        Err(Error::RunExists { dir: dir.to_owned(), fresh: fresh_name(dir), resumable })
    }

    /// Makes the folder of a new run and keeps its configuration there.
    pub(crate) fn create(dir: &Path, overwrite: bool, config: &str) -> Result<Self> {
        Self::check(dir, overwrite)?;
        if overwrite && dir.join(CONFIG_FILE).is_file() {
            Self::open(dir)?.lock()?; // for a moment: to see that nobody is at work there
        }
        if overwrite && dir.is_dir() {
            fs::remove_dir_all(dir).map_err(Error::io("delete", dir))?;
        }
        // the configuration comes first: a folder with anything in it is a run, also one that was killed right here
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        write_whole(&dir.join(CONFIG_FILE), config.as_bytes())?;
        Self::open(dir)
    }

    /// The folder of a run that exists.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        if !dir.join(CONFIG_FILE).is_file() {
            let reason = format!("it has no {CONFIG_FILE}; name the folder of an earlier training");
            return Err(Error::NotARun { dir: dir.to_owned(), reason });
        }
        let folder = Self { dir: dir.to_owned() };
        for dir in [folder.images(), folder.checkpoints()] {
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        }
        Ok(folder)
    }

    /// Keeps other processes from training here for as long as the result lives; where the file system knows no locks,
    /// nothing does.
    ///
    /// The lock is the system's, which takes it away from a process that ends, however it ends.
    pub(crate) fn lock(&self) -> Result<Option<File>> {
        let Ok(folder) = File::open(self.checkpoints()) else { return Ok(None) };
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::RunInUse { dir: self.dir.clone() }),
            Err(TryLockError::Error(_)) => Ok(None),
            Ok(()) => Ok(Some(folder)),
        }
    }

    /// Deletes what a run that was killed left of files half written.
    pub(crate) fn sweep(&self) -> Result<()> {
        for dir in [self.dir.clone(), self.images(), self.logs(), self.dir.join("unet"), self.dir.join("scheduler")] {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if is_leftover(&entry.file_name().to_string_lossy()) {
                    fs::remove_file(entry.path()).map_err(Error::io("delete", &entry.path()))?;
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
        self.dir.join("checkpoints")
    }

    /// Writes a file of the folder, whole or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.dir.join(name);
        write_whole(&path, bytes)?;
        Ok(path)
    }

    /// The text of a file of the folder, if the run came so far as to write it.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.dir.join(name);
        if path.exists() { read_text(&path).map(Some) } else { Ok(None) }
    }

    /// The log of a run that begins.
    pub(crate) fn new_metrics(&self) -> Result<Metrics> {
        let path = self.dir.join(METRICS_FILE);
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        Ok(Metrics { path, file })
    }

    /// The log of a run that goes on after `steps` steps, cut back to them, and their records.
    pub(crate) fn resume_metrics(&self, steps: usize) -> Result<(Metrics, Vec<Record>)> {
        let path = self.dir.join(METRICS_FILE);
        let text = read_text(&path)?;
        let lines: Vec<&str> = text.lines().take(steps).collect();
        let records: Vec<Record> = lines.iter().map_while(|line| serde_json::from_str(line).ok()).collect();
        let whole = records.iter().map(|record| record.step).eq(1..=steps);
        if !whole {
            let reason = format!(
                "{METRICS_FILE} does not hold the first {steps} steps, after which its newest checkpoint goes on; bring it \
                 back, or begin anew with --overwrite"
            );
            return Err(Error::NotARun { dir: self.dir.clone(), reason });
        }
        // the lines as they were: a number that is read and written again may end in another digit
        write_whole(&path, lines.iter().flat_map(|line| [line, "\n"]).collect::<String>().as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(Error::io("open", &path))?;
        Ok((Metrics { path, file }, records))
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
    /// The decay with which the average of the weights took the step, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Seconds of training up to here, interruptions not counted.
    pub seconds: f64,
}

impl Record {
    pub(crate) fn new(step: &Step, seconds: f64) -> Self {
        let Step { step, epoch, loss, learning_rate: lr, grad_norm, ema_decay, .. } = *step;
        Self { step, epoch, loss, lr, grad_norm, ema_decay, seconds }
    }

    fn line(&self) -> Result<String> {
        let json = serde_json::to_string(self).map_err(|e| Error::Unfit(format!("a metric has no JSON form: {e}")))?;
        Ok(json + "\n")
    }
}

/// `metrics.jsonl`, written a line a step.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    pub(crate) fn append(&mut self, record: &Record) -> Result<()> {
        self.file.write_all(record.line()?.as_bytes()).map_err(Error::io("write", &self.path))
    }

    /// Brings what was appended to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("write", &self.path))
    }
}

/// `runs/184-2` for `runs/184`: the first name of its kind that is free.
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
