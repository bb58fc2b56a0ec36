use std::path::{Path, PathBuf};

use candle_core::Device;
use kakusan_models::Weights;
use kakusan_weights::Checkpoint;

use super::run_folder::CHECKPOINTS;
use super::trainer::{UNET, UNET_EMA};
use super::{checkpoint, checksums, training};
use crate::layout::{INDEX_FILE, RUN_CONFIG_FILE};
use crate::{DDPMPipeline, Error, Registry, Result, RunConfig, Warning};

/// The pipeline of a run at one of its checkpoints.
#[non_exhaustive]
pub struct Checkpointed {
    /// The pipeline; it samples as the finished run would.
    pub pipeline: DDPMPipeline,
    /// The checkpoint's folder.
    pub dir: PathBuf,
    /// Whether its weights are the averaged ones.
    pub averaged: bool,
    /// Newer checkpoints that cannot be used, and why.
    pub skipped: Vec<Error>,
}

impl DDPMPipeline {
    /// Whether `dir` is the folder of a run that has saved no pipeline yet.
    pub fn is_unfinished(dir: &Path) -> bool {
        dir.join(RUN_CONFIG_FILE).is_file() && !dir.join(INDEX_FILE).is_file()
    }

    /// Loads the pipeline of the run in `dir` from its checkpoint of step `step`, or from the newest valid one. Uses
    /// the averaged weights if there are any. Changes no file.
    ///
    /// # Errors
    /// When `dir` is not a run, or has no such checkpoint.
    pub fn from_run(dir: &Path, step: Option<usize>, registry: &Registry, device: &Device) -> Result<Checkpointed> {
        let file = dir.join(RUN_CONFIG_FILE);
        if !file.is_file() {
            let reason = format!("it has no {RUN_CONFIG_FILE}; only the folder of a run has checkpoints");
            return Err(Error::NotARun { dir: dir.to_owned(), reason });
        }
        let config = RunConfig::load_recorded(&file, &[], registry)?;
        let parent = dir.join(CHECKPOINTS);
        let found = match step {
            Some(step) => vec![checkpoint::find(&parent, step)?],
            None => checkpoint::newest_first(&parent)?.into_iter().map(|(_, dir)| dir).collect(),
        };
        let labels = training::labels(dir)?;
        let mut skipped = vec![];
        for dir in found {
            match load(&config, &dir, device) {
                Ok((mut pipeline, averaged)) => {
                    pipeline.set_labels(labels);
                    return Ok(Checkpointed { pipeline, dir, averaged, skipped });
                }
                Err(e) => skipped.push(e),
            }
        }
        Err(skipped.into_iter().next().unwrap_or_else(|| no_checkpoint(dir)))
    }
}

/// The folder with the weights, or their average if there is one, of the newest valid checkpoint of the run in `dir`.
pub(crate) fn newest_weights(dir: &Path) -> Result<PathBuf> {
    let mut first = None;
    for (_, checkpoint) in checkpoint::newest_first(&dir.join(CHECKPOINTS))? {
        match weights_of(&checkpoint) {
            Ok((weights, _)) => return Ok(weights),
            Err(e) => first = first.or(Some(e)),
        }
    }
    Err(first.unwrap_or_else(|| no_checkpoint(dir)))
}

/// The folder with the weights of a checkpoint, and whether they are the averaged ones.
fn weights_of(checkpoint: &Path) -> Result<(PathBuf, bool)> {
    checksums::verify(checkpoint).map_err(|reason| checkpoint::unusable(checkpoint, &reason))?;
    let average = checkpoint.join(UNET_EMA);
    Ok(if average.is_dir() { (average, true) } else { (checkpoint.join(UNET), false) })
}

fn no_checkpoint(dir: &Path) -> Error {
    Error::NotAPipeline { dir: dir.to_owned(), reason: "its training has not saved a checkpoint yet".into() }
}

fn load(config: &RunConfig, dir: &Path, device: &Device) -> Result<(DDPMPipeline, bool)> {
    let (dir, averaged) = weights_of(dir)?;
    let checkpoint = Checkpoint::find(&dir, None)?;
    let model = config.trained_model();
    let rename = |name: &str| model.tensor_name(name);
    let path = checkpoint.path().to_owned();
    let (weights, names) = Weights::from_checkpoint(&checkpoint, &model.outline()?, device, rename)?;
    let mut pipeline = config.pipeline(&weights, config.scheduler.clone())?;
    if !names.is_empty() {
        pipeline.warn(Warning::Model(kakusan_models::Warning::UnexpectedTensors { path, names }));
    }
    Ok((pipeline, averaged))
}
