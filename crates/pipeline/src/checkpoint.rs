//! What a training needs to go on as if it had never stopped, on disk whole or not at all.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use candle_core::{Device, Tensor};
use kakusan_rng::Generator;
use serde::{Deserialize, Serialize};

use crate::files::{read_text, write_whole};
use crate::{Error, Result};

const PROGRESS_FILE: &str = "progress.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";
/// The newest checkpoint, and one to fall back to.
const KEPT: usize = 2;

/// How far a training has come.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// Optimiser steps done.
    pub(crate) step: usize,
    /// Whole epochs done.
    pub(crate) epoch: usize,
    /// Batches done in the epoch that has begun.
    pub(crate) batch: usize,
    /// The generator as it was when that epoch began: it gives the epoch's order again.
    pub(crate) epoch_rng: Generator,
    /// The generator as it is now.
    pub(crate) rng: Generator,
}

#[derive(Serialize, Deserialize)]
struct ProgressFile {
    step: usize,
    epoch: usize,
    batch: usize,
    epoch_rng: String,
    rng: String,
}

/// Writes `checkpoint-<step>` under `parent`: under another name first, then, on the disk, under its own. `save` fills
/// the folder with the model.
pub(crate) fn write(
    parent: &Path,
    progress: &Progress,
    moments: &HashMap<String, Tensor>,
    save: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let dir = parent.join(format!("{PREFIX}{}", progress.step));
    if dir.is_dir() {
        return Ok(dir); // the epoch ended with this step, or the training was interrupted right after
    }
    let partial = parent.join(format!(".partial-{}", progress.step));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::io("delete", &partial))?;
    }
    fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
    save(&partial)?;
    let optimizer = safetensors::serialize(moments, None).map_err(|e| unusable(&partial, &e.to_string()))?;
    write_whole(&partial.join(OPTIMIZER_FILE), &optimizer)?;
    let file = ProgressFile {
        step: progress.step,
        epoch: progress.epoch,
        batch: progress.batch,
        epoch_rng: BASE64.encode(progress.epoch_rng.state()),
        rng: BASE64.encode(progress.rng.state()),
    };
    let json = serde_json::to_string_pretty(&file).map_err(|e| unusable(&partial, &e.to_string()))?;
    write_whole(&partial.join(PROGRESS_FILE), (json + "\n").as_bytes())?;
    fs::rename(&partial, &dir).map_err(Error::io("rename", &partial))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(Error::io("write", parent))?;
    for (_, old) in newest_first(parent)?.into_iter().skip(KEPT) {
        fs::remove_dir_all(&old).map_err(Error::io("delete", &old))?;
    }
    Ok(dir)
}

/// Reads how far a checkpoint's training had come, and the optimiser's tensors.
pub(crate) fn read(dir: &Path) -> Result<(Progress, HashMap<String, Tensor>)> {
    let path = dir.join(PROGRESS_FILE);
    let file: ProgressFile = serde_json::from_str(&read_text(&path)?)
        .map_err(|e| unusable(dir, &format!("{PROGRESS_FILE} is damaged: {e}")))?;
    let generator = |text: &str| -> Result<Generator> {
        let state = BASE64.decode(text).map_err(|e| unusable(dir, &format!("{PROGRESS_FILE}: {e}")))?;
        Generator::from_state(&state).map_err(|e| unusable(dir, &format!("{PROGRESS_FILE}: {e}")))
    };
    let progress = Progress {
        step: file.step,
        epoch: file.epoch,
        batch: file.batch,
        epoch_rng: generator(&file.epoch_rng)?,
        rng: generator(&file.rng)?,
    };
    let moments = candle_core::safetensors::load(dir.join(OPTIMIZER_FILE), &Device::Cpu)
        .map_err(|e| unusable(dir, &format!("{OPTIMIZER_FILE}: {e}")))?;
    Ok((progress, moments))
}

/// The whole checkpoints under `parent` with their steps, the newest first.
pub(crate) fn newest_first(parent: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = vec![];
    for entry in fs::read_dir(parent).map_err(Error::io("read", parent))? {
        let path = entry.map_err(Error::io("read", parent))?.path();
        let step = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

pub(crate) fn unusable(dir: &Path, reason: &str) -> Error {
    Error::Checkpoint { dir: dir.to_owned(), reason: reason.to_owned() }
}
