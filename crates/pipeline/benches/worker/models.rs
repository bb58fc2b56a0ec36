//! The training step and the sampling of each configuration: `step 184.toml BasicUNet b128` is a step with 128 images,
//! `sample 184.toml BasicUNet b64 x40` draws 64 images in 40 steps; `forward ddpm-cifar10-32 UNet2DModel b4 x8` is eight forward
//! passes of the network of that name on the Hub, with random weights that stand still in the meantime, as in a sampling.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_data::{ImageSet, draw_digits};
use kakusan_models::{ModelConfig, Weights};
use kakusan_pipeline::{DDPMPipeline, RunConfig, Trainer};
use kakusan_rng::Generator;
use kakusan_scheduler::Registry;

use crate::{Item, Result, Work, number};

const SAMPLE_BATCHES: [usize; 2] = [64, 1];
/// As many as the tutorial has; of a larger network fewer, which take as long.
const SAMPLE_STEPS: [(&str, usize); 2] = [("BasicUNet", 40), ("UNet2DModel", 4)];
/// A network of the Hub: that of google/ddpm-cifar10-32, 35,746,307 parameters.
const CIFAR: &str = "ddpm-cifar10-32";
const CIFAR_CONFIG: &str = r#"{
    "_class_name": "UNet2DModel", "sample_size": 32, "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": null, "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "norm_eps": 1e-06
}"#;
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
        let steps = SAMPLE_STEPS.iter().find(|(known, _)| *known == class).map_or(1, |(_, steps)| *steps);
        items.extend(SAMPLE_BATCHES.map(|batch| Item {
            name: format!("sample {name} {class} b{batch} x{steps}"),
            flops: forward.map(|one| one * (batch * steps) as f64),
        }));
        seen.push((name, config));
    }
    items.extend([1, 8].map(|passes| Item { name: format!("forward {CIFAR} UNet2DModel b4 x{passes}"), flops: None }));
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
        ["forward", CIFAR, _, batch, passes] => {
            forward(ModelConfig::from_json(CIFAR_CONFIG, CIFAR)?, number(batch)?, number(passes)?)
        }
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

/// A network's forward passes on its own kind of images.
fn forward(config: ModelConfig, batch: usize, passes: usize) -> Result<Work> {
    let mut rng = Generator::new(0);
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config.build(vb))?;
    let model = weights.frozen(|vb| config.build(vb))?;
    let [channels, height, width] = config.sample_shape()?;
    let numbers = rng.randn(batch * channels * height * width);
    let x = Tensor::from_vec(numbers, (batch, channels, height, width), &Device::Cpu)?;
    let level = Tensor::full(500f32, batch, &Device::Cpu)?;
    let pass = move || {
        kakusan_ops::predict(batch, &Device::Cpu, |part| {
            let of = |tensor: &Tensor| tensor.narrow(0, part.start, part.len());
            model.forward(&of(&x)?, &of(&level)?, None)
        })
    };
    let all = move || (0..passes).try_for_each(|_| pass().map(drop));
    Ok(Box::new(move || Ok(kakusan_ops::with_still_weights(&all)?)))
}

fn sample(config: RunConfig, batch: usize, steps: usize) -> Result<Work> {
    let mut rng = Generator::new(0);
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config.model.build(vb))?;
    let pipeline = DDPMPipeline::new(config.model, weights, config.sampler)?;
    Ok(Box::new(move || Ok(pipeline.sample(batch, steps, &mut rng, |_| {}).map(drop)?)))
}
