//! The training step and the sampling of each configuration: `step 184.toml BasicUNet b128` is a step with 128 images,
//! `sample 184.toml BasicUNet b64 x40` draws 64 images in 40 steps.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use kakusan_data::{ImageSet, draw_digits};
use kakusan_models::{ModelConfig, Weights};
use kakusan_pipeline::{DDPMPipeline, RunConfig, Trainer};
use kakusan_rng::Generator;
use kakusan_scheduler::Registry;

use crate::{Item, Result, Work, number};

const SAMPLE_BATCHES: [usize; 2] = [64, 1];
const SAMPLE_STEPS: usize = 40;
/// Batches in an epoch of digits drawn for the purpose.
const BATCHES: usize = 16;

/// The work of each configuration in the folder, and what to say of those that would repeat another's.
pub(crate) fn items(configs: &Path) -> Result<(Vec<Item>, Vec<String>)> {
    let mut names = vec![];
    for entry in std::fs::read_dir(configs)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".toml") {
            names.push(name);
        }
    }
    names.sort();
    let (mut items, mut notes) = (vec![], vec![]);
    let mut seen: Vec<(String, RunConfig)> = vec![];
    for name in names {
        let config = load(configs, &name)?;
        if let Some((first, _)) = seen.iter().find(|(_, other)| same_work(other, &config)) {
            notes.push(format!("{name} is the same work as {first}: only its images differ."));
            continue;
        }
        let (forward, step) = flops(&config.model).unzip();
        let (class, batch) = (config.model.class_name(), config.train.batch_size);
        items.push(Item { name: format!("step {name} {class} b{batch}"), flops: step.map(|one| one * batch as f64) });
        items.extend(SAMPLE_BATCHES.map(|batch| Item {
            name: format!("sample {name} {class} b{batch} x{SAMPLE_STEPS}"),
            flops: forward.map(|one| one * (batch * SAMPLE_STEPS) as f64),
        }));
        seen.push((name, config));
    }
    Ok((items, notes))
}

fn same_work(a: &RunConfig, b: &RunConfig) -> bool {
    let schedulers = [a, b].map(|config| (config.scheduler.class_name().to_owned(), config.scheduler.config()));
    a.model == b.model && a.train.batch_size == b.train.batch_size && schedulers[0] == schedulers[1]
}

/// The arithmetic of one image's forward pass and of its share of a training step: the convolutions, which are nearly
/// all of it.
fn flops(config: &ModelConfig) -> Option<(f64, f64)> {
    match config {
        ModelConfig::BasicUNet(config) => {
            let area = (config.sample_size * config.sample_size) as f64;
            let layer = |ci: usize, co: usize, shrunk: f64| (2 * 25 * ci * co) as f64 * area / shrunk;
            let first = layer(config.in_channels, 32, 1.0);
            let inner = layer(32, 64, 4.0) + 2.0 * layer(64, 64, 16.0) + layer(64, 32, 4.0);
            let forward = first + inner + layer(32, config.out_channels, 1.0);
            Some((forward, 3.0 * forward - first)) // nobody asks for the images' gradient
        }
        _ => None,
    }
}

pub(crate) fn prepare(words: &[&str], configs: &Path) -> Result<Work> {
    match words {
        ["step", name, _, _] => step(load(configs, name)?),
        ["sample", name, _, batch, steps] => sample(load(configs, name)?, number(batch)?, number(steps)?),
        _ => Err(format!("there is no work `{}`", words.join(" ")).into()),
    }
}

fn load(configs: &Path, name: &str) -> Result<RunConfig> {
    let endless = ["train.epochs=1000000".to_owned()];
    Ok(RunConfig::load(&configs.join(name), &endless, &Registry::default())?)
}

/// Optimiser steps as `kakusan train` does them, batches made ahead and all.
fn step(config: RunConfig) -> Result<Work> {
    let mut trainer = Trainer::new(&config, digits(config.train.batch_size)?, &Device::Cpu)?;
    Ok(Box::new(move || {
        trainer.step()?.ok_or("the training is over")?;
        Ok(())
    }))
}

/// Digits of one class, so that they fill whole batches.
fn digits(batch: usize) -> Result<Arc<ImageSet>> {
    Ok(Arc::new(draw_digits(&[8], BATCHES * batch, 0)?))
}

fn sample(config: RunConfig, batch: usize, steps: usize) -> Result<Work> {
    let mut rng = Generator::new(0);
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config.model.build(vb))?;
    let pipeline = DDPMPipeline::new(config.model, weights, config.scheduler)?;
    Ok(Box::new(move || Ok(pipeline.sample(batch, steps, &mut rng, |_| {}).map(drop)?)))
}
