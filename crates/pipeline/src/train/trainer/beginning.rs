//! The weights with which a training begins: random, or a pretrained model's; some of them frozen.

use std::path::Path;

use candle_core::{Device, Tensor};
use kakusan_data::ImageSet;
use kakusan_models::{Change, Model, ModelConfig, Weights};
use kakusan_rng::Generator;

use super::Trainer;
use crate::{Error, Result, RunConfig, TrainConfig};

/// The weights of a training before its first step, and the model that trains them.
pub(super) struct Beginning {
    pub(super) weights: Weights,
    pub(super) model: Box<dyn Model>,
    /// What is not the pretrained model's.
    pub(super) changes: Vec<Change>,
    /// The pretrained model with which the training began, where its weights are only in the run's checkpoints.
    pub(super) missing: Option<String>,
}

impl Beginning {
    /// Draws the weights, or those that a pretrained model does not have, from `rng`.
    pub(super) fn new(config: &RunConfig, images: &ImageSet, device: &Device, rng: &mut Generator) -> Result<Self> {
        let network = config.trained_model();
        let pretrained = match &config.origin {
            Some(origin) => origin.weights(network.as_ref(), device, rng)?,
            None => None,
        };
        let missing = config.origin.as_ref().filter(|_| pretrained.is_none()).map(|origin| origin.name().to_owned());
        let (weights, changes) = match pretrained {
            Some(pretrained) => pretrained,
            None => (Weights::initialise(device, rng, |vb| network.build(vb))?.0, vec![]),
        };
        if let (Some(table), Some(means)) = (network.class_table(), images.label_means()) {
            let untrained = |row: usize| config.origin.as_ref().is_none_or(|origin| origin.lacks(row as u32));
            resemble(&weights, table, means, untrained)?;
        }
        let (weights, model) = build(network.as_ref(), &config.train, weights)?;
        Ok(Self { weights, model, changes, missing })
    }
}

/// Loads the weights in a folder of a checkpoint, and builds the model that trains them.
pub(super) fn load(
    config: &dyn ModelConfig,
    train: &TrainConfig,
    folder: &Path,
    device: &Device,
) -> Result<(Weights, Box<dyn Model>)> {
    let rename = |name: &str| config.tensor_name(name);
    let path = folder.join(kakusan_weights::WEIGHTS_FILE);
    build(config, train, Weights::load(&path, device, rename, |vb| config.build(vb))?.0)
}

/// Builds the model that trains `weights`, except for `train.freeze`.
fn build(config: &dyn ModelConfig, train: &TrainConfig, mut weights: Weights) -> Result<(Weights, Box<dyn Model>)> {
    train.freeze.iter().for_each(|part| weights.freeze(part));
    let mut model = weights.build(|vb| config.build(vb))?;
    if train.gradient_checkpointing {
        model.enable_gradient_checkpointing()?;
    }
    Ok((weights, model))
}

/// Lets clusters with similar images begin with similar rows of the table of classes: random projections of their mean
/// images, less the mean of all, as large as the random rows that they replace. So what the network learns from one
/// cluster holds for those around it, and there can be many. Rows without images stay as they are, and so do those that
/// are not `untrained`.
fn resemble(weights: &Weights, table: &str, means: &[Vec<f32>], untrained: impl Fn(usize) -> bool) -> Result<()> {
    let Some((_, table)) = weights.iter().find(|(name, _)| *name == table) else { return Ok(()) };
    let (rows, width) = table.dims2()?;
    let pixels = means.iter().map(Vec::len).max().unwrap_or(0);
    let known: Vec<usize> =
        (0..rows.min(means.len())).filter(|&row| !means[row].is_empty() && untrained(row)).collect();
    let views: Vec<f32> = known.iter().flat_map(|&row| means[row].iter().copied()).collect();
    let views = Tensor::from_vec(views, (known.len(), pixels), &Device::Cpu)?;
    let views = views.broadcast_sub(&views.mean_keepdim(0)?)?;
    // the same projection in every run
    let projection = Tensor::from_vec(Generator::new(0).randn(pixels * width), (pixels, width), &Device::Cpu)?;
    let projected = views.matmul(&projection)?;
    let size = |of: &Tensor| -> Result<f64> { Ok(f64::from(of.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt())) };
    let mut values = table.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
    let scale = size(table.as_tensor())? / size(&projected)?;
    if !scale.is_finite() {
        return Ok(()); // one cluster, or equal ones
    }
    for (row, projected) in known.into_iter().zip((projected * scale)?.to_vec2::<f32>()?) {
        values[row] = projected;
    }
    table.set(&Tensor::new(values, weights.device())?)?;
    Ok(())
}

impl Trainer {
    /// What in the weights was not the pretrained model's when the training began: new rows of the table of classes,
    /// and tensors of ends that were changed. Empty without `[model] from`, and when the training was resumed.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Refuses to train random weights in place of those of a run's pretrained model.
    pub(super) fn check_begun(&self) -> Result<()> {
        let Some(name) = &self.missing else { return Ok(()) };
        Err(Error::Unfit(format!(
            "the run began with the weights of {name}, which it does not store: load one of its checkpoints first"
        )))
    }
}
