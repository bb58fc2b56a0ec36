//! The averages of the weights: those that a training keeps, the snapshots of them in a run (`averages/`), and the
//! average of another width that is made of the snapshots after the training.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use kakusan_models::Weights;
use kakusan_ops::{Ema, PowerFunction, PowerFunctionFit};

use super::run_files::delete_file;
use super::trainer::UNET_EMA;
use super::training;
use crate::files::create_folders;
use crate::layout::RUN_CONFIG_FILE;
use crate::{DDPMPipeline, Error, Registry, Result, RunConfig, TrainConfig, Trainer};

/// The folder of a run with the snapshots of its averages.
pub(crate) const AVERAGES: &str = "averages";

/// The averages that `[train]` asks for, of the weights as they are. The first one samples.
pub(crate) fn begin(config: &TrainConfig, vars: &[Var]) -> Result<Vec<Ema>> {
    if config.use_ema {
        return Ok(vec![Ema::new(vars.to_vec(), config.ema())?]);
    }
    let widths = config.ema_sigma_rel.iter().flatten();
    widths.map(|&width| Ok(Ema::power_function(vars.to_vec(), PowerFunction::of_width(width)?)?)).collect()
}

/// The folder of average `i` in a checkpoint.
pub(crate) fn folder_name(i: usize) -> String {
    if i == 0 { UNET_EMA.to_owned() } else { format!("{UNET_EMA}_{i}") }
}

/// Whether a snapshot is due after step `step` of `total`: `train.ema_snapshots` times, the last at the end. It depends
/// on nothing else, so a resumed training has the same snapshots.
pub(crate) fn is_due(config: &TrainConfig, step: usize, total: usize) -> bool {
    let number = |step: usize| step as u128 * config.ema_snapshots.unwrap_or(8) as u128 / total.max(1) as u128;
    config.ema_sigma_rel.is_some() && step > 0 && number(step) > number(step - 1)
}

/// Writes a snapshot of each average of the run in `dir`, unless it is there.
pub(crate) fn write_snapshots(dir: &Path, config: &TrainConfig, trainer: &Trainer) -> Result<()> {
    let dir = dir.join(AVERAGES);
    for (i, &sigma_rel) in config.ema_sigma_rel.iter().flatten().enumerate() {
        let path = dir.join(Snapshot::file_name(sigma_rel, trainer.steps_done()));
        if path.is_file() {
            continue;
        }
        let weights = trainer.average(i)?;
        if let Some(name) = weights.not_finite()? {
            let what = format!("the average of the weight {name} is not finite");
            return Err(Error::Unsound { what, step: trainer.steps_done(), last_checkpoint: None });
        }
        create_folders(&dir)?;
        weights.save(&path)?;
    }
    Ok(())
}

/// Deletes the snapshots of the run in `dir` after step `step`: the training goes on from there.
pub(crate) fn delete_after(dir: &Path, step: usize) -> Result<()> {
    Snapshot::all(dir)?.iter().filter(|snapshot| snapshot.step > step).try_for_each(|later| delete_file(&later.path))
}

/// An average of the weights up to a step, as a file.
#[derive(Debug, Clone, PartialEq)]
struct Snapshot {
    step: usize,
    sigma_rel: f64,
    path: PathBuf,
}

impl Snapshot {
    fn file_name(sigma_rel: f64, step: usize) -> String {
        format!("sigma_rel-{sigma_rel}-step-{step}.safetensors")
    }

    /// Those of the run in `dir`, in the order of their steps.
    fn all(dir: &Path) -> Result<Vec<Self>> {
        let dir = dir.join(AVERAGES);
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.map_err(Error::io("read", &dir))?,
        };
        let mut all = vec![];
        for entry in entries {
            all.extend(Self::at(entry.map_err(Error::io("read", &dir))?.path()));
        }
        all.sort_by(|a, b| {
            (a.step, a.sigma_rel).partial_cmp(&(b.step, b.sigma_rel)).unwrap_or(std::cmp::Ordering::Equal)
        });
        Ok(all)
    }

    fn at(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_prefix("sigma_rel-")?.strip_suffix(".safetensors")?;
        let (sigma_rel, step) = name.split_once("-step-")?;
        Some(Self { step: step.parse().ok().filter(|step| *step > 0)?, sigma_rel: sigma_rel.parse().ok()?, path })
    }
}

/// The pipeline of a run with an average of its weights that was chosen after the training:
/// [`DDPMPipeline::from_averages`].
#[non_exhaustive]
pub struct Averaged {
    /// The pipeline.
    pub pipeline: DDPMPipeline,
    /// The step at which the average ends: that of the last snapshot.
    pub step: usize,
    /// How many snapshots it is made of.
    pub snapshots: usize,
    /// How far it is from the wanted average: [`PowerFunctionFit::error`].
    pub error: f64,
}

impl DDPMPipeline {
    /// Loads the pipeline of the run in `dir` with the average of its weights of width `sigma_rel`: the nearest that
    /// the snapshots of a training with `train.ema_sigma_rel` give (Karras et al. 2024, section 3.2). Changes no file.
    ///
    /// # Errors
    /// When `dir` is not a run or has no snapshots, and when the width is out of its range ([`PowerFunction`]).
    pub fn from_averages(dir: &Path, sigma_rel: f64, registry: &Registry, device: &Device) -> Result<Averaged> {
        let file = dir.join(RUN_CONFIG_FILE);
        if !file.is_file() {
            let reason = format!("it has no {RUN_CONFIG_FILE}; only the folder of a run has averages");
            return Err(Error::NotARun { dir: dir.to_owned(), reason });
        }
        let config = RunConfig::load_recorded(&file, &[], registry)?;
        let snapshots = Snapshot::all(dir)?;
        let Some(step) = snapshots.last().map(|last| last.step) else {
            let reason = "it has no averages to make another of: train with ema_sigma_rel = [0.05, 0.1] in [train]";
            return Err(Error::Unfit(format!("{}: {reason}", dir.display())));
        };
        let known =
            snapshots.iter().map(|snapshot| Ok((snapshot.step as f64, PowerFunction::of_width(snapshot.sigma_rel)?)));
        let known = known.collect::<Result<Vec<_>>>()?;
        let fit = PowerFunction::of_width(sigma_rel)?.fit(step as f64, &known)?;
        let weights = mix(&config, &snapshots, &fit, device)?;
        let mut pipeline = config.pipeline(&weights, config.scheduler.clone())?;
        pipeline.set_labels(training::labels(dir)?);
        Ok(Averaged { pipeline, step, snapshots: snapshots.len(), error: fit.error })
    }
}

/// The weighted sum of the snapshots, one of which is in memory at a time. Large weights may cancel out, so the sum is
/// in f64. What is not trained is the same in all.
fn mix(config: &RunConfig, snapshots: &[Snapshot], fit: &PowerFunctionFit, device: &Device) -> Result<Weights> {
    let mut sums: Vec<Tensor> = vec![];
    let (mut last, model) = (None, config.trained_model());
    for (snapshot, &weight) in snapshots.iter().zip(&fit.weights) {
        let rename = |name: &str| model.tensor_name(name);
        let (mut weights, _) = Weights::load(&snapshot.path, device, rename, |vb| model.build(vb))?;
        config.train.freeze.iter().for_each(|part| weights.freeze(part));
        for (i, (_, var)) in weights.trained().enumerate() {
            let part = (var.as_tensor().to_device(&Device::Cpu)?.to_dtype(DType::F64)? * weight)?;
            match sums.get_mut(i) {
                Some(sum) => *sum = (&*sum + part)?,
                None => sums.push(part),
            }
        }
        last = Some(weights);
    }
    let weights = last.ok_or_else(|| Error::Unfit("there is no snapshot".into()))?;
    for ((_, var), sum) in weights.trained().zip(&sums) {
        var.set(&sum.to_dtype(DType::F32)?.to_device(device)?)?;
    }
    Ok(weights)
}
