//! The state of a training on disk, written atomically: a resumed training gives the same bytes as an uninterrupted
//! one.
//!
//! A checkpoint is a folder with the weights in diffusers' layout, the optimiser's tensors, the progress of the
//! training, and the SHA-256 of each of these files in the format of `sha256sum -c`. It is written under a temporary
//! name, synced to disk with all its folders, and then renamed. A checkpoint to delete is renamed first. So every
//! `checkpoint-<step>` is complete, whenever the machine stops.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use candle_core::{Device, Tensor};
use kakusan_rng::Generator;
use serde::{Deserialize, Serialize};

use super::checksums;
use super::run_files::rename;
use crate::files::{create_folders, delete_folder, read_text, write_whole};
use crate::{Error, Result};

const PROGRESS_FILE: &str = "progress.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";
/// The name prefixes of a checkpoint while it is written and while it is deleted.
const PARTIAL: &str = ".partial-";
const OLD: &str = ".old-";

/// How far a training has come.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// Optimiser steps done.
    pub(crate) step: usize,
    /// Completed epochs.
    pub(crate) epoch: usize,
    /// Batches done in the current epoch.
    pub(crate) batch: usize,
    /// Optimiser steps done when the current epoch began.
    pub(crate) epoch_began: usize,
    /// How images are grouped into steps.
    pub(crate) batching: Batching,
    /// The state of the generator at the beginning of the current epoch: it reproduces the order of the images.
    pub(crate) epoch_rng: Generator,
    /// The current state of the generator.
    pub(crate) rng: Generator,
}

/// How images are grouped into steps. If this changes, a position within an epoch has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batching {
    pub(crate) images: usize,
    pub(crate) batch_size: usize,
    pub(crate) gradient_accumulation_steps: usize,
}

impl Batching {
    pub(crate) fn batches_per_epoch(&self) -> usize {
        self.images.div_ceil(self.batch_size.max(1))
    }

    pub(crate) fn steps_per_epoch(&self) -> usize {
        self.steps(self.batches_per_epoch())
    }

    /// The number of optimiser steps that `batches` batches make.
    pub(crate) fn steps(&self, batches: usize) -> usize {
        batches.div_ceil(self.gradient_accumulation_steps.max(1))
    }
}

#[derive(Serialize, Deserialize)]
struct ProgressFile {
    step: usize,
    epoch: usize,
    batch: usize,
    /// `None` in checkpoints from before the number of steps could change: there it follows from the other fields.
    epoch_began: Option<usize>,
    #[serde(flatten)]
    batching: Option<Batching>,
    /// The loss that selects the best checkpoint.
    mean_loss: f64,
    epoch_rng: String,
    rng: String,
}

/// Which checkpoints are kept when a new one is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// How many of the newest.
    pub(crate) newest: usize,
    /// Also keep the one with the lowest mean loss.
    pub(crate) best: bool,
}

/// Writes `checkpoint-<step>` under `parent` and deletes the checkpoints that need not be kept. `save` writes the model
/// into the folder.
pub(crate) fn write(
    parent: &Path,
    progress: &Progress,
    mean_loss: f64,
    optimizer: &HashMap<String, Tensor>,
    keep: Keep,
    save: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let partial = parent.join(format!("{PARTIAL}{}", progress.step));
    delete_folder(&partial)?;
    let filled = create_folders(&partial)
        .and_then(|()| save(&partial))
        .and_then(|()| fill(&partial, progress, mean_loss, optimizer))
        .and_then(|()| checksums::seal(&partial));
    if let Err(e) = filled {
        let _ = delete_folder(&partial); // the disk may be full: make room
        return Err(e);
    }
    let dir = parent.join(format!("{PREFIX}{}", progress.step));
    put_away(&dir)?;
    rename(&partial, &dir)?;
    prune(parent, keep)?;
    Ok(dir)
}

/// Deletes the checkpoints that need not be kept.
pub(crate) fn prune(parent: &Path, keep: Keep) -> Result<()> {
    let all = newest_first(parent)?;
    let best = match keep.best {
        true => all.iter().filter_map(|(_, dir)| Some((mean_loss_of(dir)?, dir))).min_by(|a, b| a.0.total_cmp(&b.0)),
        false => None,
    };
    for (_, old) in all.iter().skip(keep.newest.max(1)) {
        if best.is_none_or(|(_, best)| best != old) {
            put_away(old)?;
        }
    }
    Ok(())
}

fn fill(dir: &Path, progress: &Progress, mean_loss: f64, optimizer: &HashMap<String, Tensor>) -> Result<()> {
    let optimizer = safetensors::serialize(optimizer, None).map_err(|e| unusable(dir, &e.to_string()))?;
    write_whole(&dir.join(OPTIMIZER_FILE), &optimizer)?;
    let file = ProgressFile {
        step: progress.step,
        epoch: progress.epoch,
        batch: progress.batch,
        epoch_began: Some(progress.epoch_began),
        batching: Some(progress.batching),
        mean_loss,
        epoch_rng: BASE64.encode(progress.epoch_rng.state()),
        rng: BASE64.encode(progress.rng.state()),
    };
    let json = serde_json::to_string_pretty(&file).map_err(|e| unusable(dir, &e.to_string()))?;
    write_whole(&dir.join(PROGRESS_FILE), (json + "\n").as_bytes())
}

/// Verifies a checkpoint's checksums and reads its progress and the optimiser's tensors. Old checkpoints do not store
/// their batching; for these, `batching` of the training is used.
pub(crate) fn read(dir: &Path, batching: Batching) -> Result<(Progress, HashMap<String, Tensor>)> {
    checksums::verify(dir).map_err(|reason| unusable(dir, &reason))?;
    let file = read_progress(dir)?;
    let generator = |text: &str| -> Result<Generator> {
        let state = BASE64.decode(text).map_err(|e| unusable(dir, &format!("{PROGRESS_FILE}: {e}")))?;
        Generator::from_state(&state).map_err(|e| unusable(dir, &format!("{PROGRESS_FILE}: {e}")))
    };
    let batching = file.batching.unwrap_or(batching);
    let progress = Progress {
        step: file.step,
        epoch: file.epoch,
        batch: file.batch,
        epoch_began: file.epoch_began.unwrap_or(file.epoch.saturating_mul(batching.steps_per_epoch())),
        batching,
        epoch_rng: generator(&file.epoch_rng)?,
        rng: generator(&file.rng)?,
    };
    let optimizer = candle_core::safetensors::load(dir.join(OPTIMIZER_FILE), &Device::Cpu)
        .map_err(|e| unusable(dir, &format!("{OPTIMIZER_FILE}: {}", Error::from(e))))?; // without backtrace
    Ok((progress, optimizer))
}

fn read_progress(dir: &Path) -> Result<ProgressFile> {
    let text = read_text(&dir.join(PROGRESS_FILE))?;
    serde_json::from_str(&text).map_err(|e| unusable(dir, &format!("{PROGRESS_FILE} is damaged: {e}")))
}

fn mean_loss_of(dir: &Path) -> Option<f64> {
    read_progress(dir).ok().map(|file| file.mean_loss)
}

/// The checkpoints under `parent` with their steps, the newest first.
pub(crate) fn newest_first(parent: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = vec![];
    for path in entries(parent)? {
        let step = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The checkpoint of step `step` under `parent`.
pub(crate) fn find(parent: &Path, step: usize) -> Result<PathBuf> {
    let all = newest_first(parent)?;
    let steps: Vec<String> = all.iter().rev().map(|(step, _)| step.to_string()).collect();
    match all.into_iter().find(|(own, _)| *own == step) {
        Some((_, dir)) => Ok(dir),
        None if steps.is_empty() => Err(Error::Unfit(format!("there is no checkpoint in {}", parent.display()))),
        None => {
            let (parent, steps) = (parent.display(), steps.join(", "));
            Err(Error::Unfit(format!(
                "there is no checkpoint of step {step} in {parent}; there are checkpoints of the steps {steps}"
            )))
        }
    }
}

/// Deletes partially written and partially deleted checkpoints of a killed run.
pub(crate) fn sweep(parent: &Path) -> Result<()> {
    for path in entries(parent)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(PARTIAL) || name.starts_with(OLD) {
            delete_folder(&path)?;
        }
    }
    Ok(())
}

/// Renames a checkpoint that is not resumed from, so that retention ignores it and it is no longer the newest; it is
/// kept for inspection. Its new name begins with `why`, for example `damaged`.
pub(crate) fn set_aside(dir: &Path, why: &str) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.with_file_name(format!("{why}-{name}"));
    delete_folder(&aside)?;
    rename(dir, &aside)
}

/// Renames a checkpoint, then deletes it.
fn put_away(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let old = dir.with_file_name(format!("{OLD}{name}"));
    delete_folder(&old)?;
    rename(dir, &old)?;
    delete_folder(&old)
}

fn entries(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(parent) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]), // a run that has just begun
        entries => entries.map_err(Error::io("read", parent))?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("read", parent))).collect()
}

pub(crate) fn unusable(dir: &Path, reason: &str) -> Error {
    Error::Checkpoint { dir: dir.to_owned(), reason: reason.to_owned() }
}
