//! The training step and the sampling of each configuration: `step 184.toml BasicUNet b128` is a step with 128 images,
//! `sample 184.toml BasicUNet b64 x40` draws 64 images in 40 steps. Of the tutorial's, where a step is shortest, `bare`
//! is no more than forward, backward and Adam on the same batch again and again, and `train` is `kakusan train` with
//! averaged weights and TensorBoard's log: what is between them is what a training costs beside its arithmetic.
//! `forward ddpm-cifar10-32 UNet2DModel b4 x8` is eight forward passes of a larger network, with random weights that
//! stand still in the meantime, as in a sampling, and `step ddpm-butterflies-64 UNet2DModel b4` a step of one. These
//! networks are in xtask/bench/networks.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};

use kakusan::candle::{Device, Tensor};
use kakusan::data::ImageSet;
use kakusan::models::{Dropout, ModelConfig, Weights};
use kakusan::ops::{Adam, AdamConfig, PreparedWeights};
use kakusan::pipeline::{
    DDPMPipeline, DeviceChoice, Event, OptimizerName, Registry, RunConfig, SampleOptions, Trainer, Training,
};
use kakusan::report::Report;
use kakusan::rng::Generator;
use kakusan::scheduler::to_json;

use crate::{Item, Options, Result, Work, number};

const SAMPLE_BATCHES: [usize; 2] = [64, 1];
/// The configuration whose training is also measured whole, and bare.
const TUTORIAL: &str = "184.toml";
/// As many as the tutorial has; of a larger network fewer, which take as long.
const SAMPLE_STEPS: [(&str, usize); 2] = [("BasicUNet", 40), ("UNet2DModel", 4)];
/// What is measured of the larger networks.
const LARGER: [&str; 5] = [
    "forward ddpm-cifar10-32 UNet2DModel b4 x1",
    "forward ddpm-cifar10-32 UNet2DModel b4 x8",
    "forward ddpm-cat-256 UNet2DModel b1 x1",
    "step ddpm-cat-256 UNet2DModel b1",
    "step ddpm-butterflies-64 UNet2DModel b4",
];
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
        if std::fs::read_to_string(configs.join(&name))?.contains("\nfrom = ") {
            notes.push(format!("{name} is left out: it needs a pretrained model, whose steps are as long."));
            continue;
        }
        let config = load(configs, &name, &[])?;
        if let Some((first, _)) = seen.iter().find(|(_, other)| same_work(other, &config)) {
            notes.push(format!("{name} is the same work as {first}: only its images differ."));
            continue;
        }
        let (forward, step) = flops(config.model.as_ref()).unzip();
        let (class, batch) = (config.model.class_name(), config.train.batch_size);
        let kinds: &[&str] = if name == TUTORIAL { &["bare", "step", "train"] } else { &["step"] };
        items.extend(kinds.iter().map(|kind| Item {
            name: format!("{kind} {name} {class} b{batch}"),
            flops: step.map(|one| one * batch as f64),
        }));
        let steps = SAMPLE_STEPS.iter().find(|(known, _)| *known == class).map_or(1, |(_, steps)| *steps);
        items.extend(SAMPLE_BATCHES.map(|batch| Item {
            name: format!("sample {name} {class} b{batch} x{steps}"),
            flops: forward.map(|one| one * (batch * steps) as f64),
        }));
        seen.push((name, config));
    }
    notes.push("A configuration that trains by Muon is measured with Adam, as PyTorch is.".to_owned());
    items.extend(LARGER.map(|name| Item { name: name.to_owned(), flops: None }));
    Ok((items, notes))
}

fn same_work(a: &RunConfig, b: &RunConfig) -> bool {
    let schedulers = [a, b].map(|config| to_json(config.scheduler.as_ref()));
    *a.model == *b.model && a.train.batch_size == b.train.batch_size && schedulers[0] == schedulers[1]
}

/// The arithmetic of one image's forward pass and of its share of a training step: the convolutions, which are nearly
/// all of it.
fn flops(config: &dyn ModelConfig) -> Option<(f64, f64)> {
    if config.class_name() != "BasicUNet" {
        return None;
    }
    let fields = config.to_map();
    let [size, first, last] = ["sample_size", "in_channels", "out_channels"].map(|key| fields.get(key)?.as_u64());
    let (area, first, last) = ((size? * size?) as f64, first?, last?);
    let layer = |ci: u64, co: u64, shrunk: f64| (2 * 25 * ci * co) as f64 * area / shrunk;
    let first = layer(first, 32, 1.0);
    let inner = layer(32, 64, 4.0) + 2.0 * layer(64, 64, 16.0) + layer(64, 32, 4.0);
    let forward = first + inner + layer(32, last, 1.0);
    Some((forward, 3.0 * forward - first)) // the images need no gradient
}

pub(crate) fn prepare(words: &[&str], options: &Options) -> Result<Work> {
    let Options { configs, device, choice, .. } = options;
    match words {
        ["step", name, _, _] => step(load(configs, name, &[])?, device),
        ["bare", name, _, batch] => bare(load(configs, name, &[])?, number(batch)?, device.clone()),
        ["train", name, _, batch] => train(configs, name, number(batch)?, *choice),
        ["forward", name, _, batch, passes] => {
            let config = load(configs, name, &[])?;
            forward(config.model.as_ref(), number(batch)?, number(passes)?, device.clone())
        }
        ["sample", name, _, batch, steps] => sample(load(configs, name, &[])?, number(batch)?, number(steps)?, device),
        _ => Err(format!("there is no work `{}`", words.join(" ")).into()),
    }
}

/// A configuration in configs, or a larger network's in xtask/bench/networks.
fn load(configs: &Path, name: &str, set: &[&str]) -> Result<RunConfig> {
    let set: Vec<String> = ["train.epochs=1000000"].iter().chain(set).map(|&set| set.to_owned()).collect();
    let file = match name.ends_with(".toml") {
        true => configs.join(name),
        false => configs.join("../xtask/bench/networks").join(name).with_extension("toml"),
    };
    let mut config = RunConfig::load(&file, &set, &Registry::default())?;
    if config.train.optimizer == OptimizerName::Muon {
        // as PyTorch does, whose own Muon takes no kernels of convolutions
        config.train.optimizer = OptimizerName::Adam;
        config.train.momentum = None;
    }
    Ok(config)
}

/// Optimiser steps as `kakusan train` does them, batches made ahead and all.
fn step(config: RunConfig, device: &Device) -> Result<Work> {
    let mut trainer = Trainer::new(&config, images(&config)?, device)?;
    Ok(Box::new(move || {
        trainer.step()?.ok_or("the training is over")?;
        Ok(())
    }))
}

/// Images of noise that fill whole batches: what is in them makes no difference to the time.
fn images(config: &RunConfig) -> Result<Arc<ImageSet>> {
    let shape = config.model.sample_shape()?;
    let count = BATCHES * config.train.batch_size;
    let numbers = Generator::new(0).rand(count * shape.iter().product::<usize>());
    let pixels = numbers.into_iter().map(|number| (number * 255.0) as u8).collect();
    Ok(Arc::new(ImageSet::new(shape, pixels, vec![0; count], vec!["noise".into()])?))
}

/// Forward, backward and Adam, and nothing else.
fn bare(config: RunConfig, batch: usize, device: Device) -> Result<Work> {
    let mut rng = Generator::new(0);
    let (weights, model) = Weights::initialise(&device, &mut rng, |vb| config.model.build(vb))?;
    let mut adam = Adam::new(weights.vars(), AdamConfig { lr: 1e-3, ..AdamConfig::default() })?;
    let [channels, height, width] = config.model.sample_shape()?;
    let numbers = rng.rand(batch * channels * height * width);
    let x = Tensor::from_vec(numbers, (batch, channels, height, width), &device)?;
    let level = Tensor::zeros(batch, kakusan::candle::DType::F32, &device)?;
    Ok(Box::new(move || {
        let prepared = PreparedWeights::new(weights.iter().map(|(_, var)| var.as_tensor()));
        let (_, gradients) = kakusan::ops::gradients(batch, &device, |part| {
            let of = |tensor: &Tensor| tensor.narrow(0, part.start, part.len());
            let dropout = Dropout { seed: 0, step: 0, first_image: part.start };
            let y = model.forward_train(&of(&x)?, &of(&level)?, None, None, dropout)?;
            let share = part.len() as f64 / batch as f64;
            Ok::<_, kakusan::models::Error>((kakusan::ops::mse_loss(&y, &of(&x)?)? * share)?)
        })?;
        drop(prepared);
        Ok(adam.step(&gradients)?)
    }))
}

/// The steps of a whole training with what people turn on, in a thread of its own that waits for each to be asked for.
fn train(configs: &Path, name: &str, batch: usize, device: DeviceChoice) -> Result<Work> {
    let each = format!("data.drawn_per_class={}", BATCHES * batch);
    let set = ["train.use_ema=true", "train.tensorboard=true", "data.classes=[8]", "data.sources=[\"drawn\"]", &each];
    let config = load(configs, name, &set)?;
    let dir = tempfile::tempdir()?;
    let (done, steps) = mpsc::sync_channel(0);
    std::thread::spawn(move || {
        let (registry, stop) = (Registry::default(), AtomicBool::new(false));
        let training = Training::new(config, dir.path().join("run"), &registry).device(device).stop(&stop);
        let mut report = Report::new("kakusan");
        let outcome = training.run(&mut |event| {
            if let Event::Step { .. } = event
                && done.send(Ok(())).is_err()
            {
                stop.store(true, std::sync::atomic::Ordering::Relaxed); // something else is measured now
            }
            report.observe(event, &mut |_| {})
        });
        let _ = done.send(outcome.map(drop).map_err(|e| e.to_string()));
    });
    Ok(Box::new(move || Ok(steps.recv()??)))
}

/// A network's forward passes on its own kind of images.
fn forward(config: &dyn ModelConfig, batch: usize, passes: usize, device: Device) -> Result<Work> {
    let mut rng = Generator::new(0);
    let (weights, _) = Weights::initialise(&device, &mut rng, |vb| config.build(vb))?;
    let model = weights.frozen(|vb| config.build(vb))?;
    let [channels, height, width] = config.sample_shape()?;
    let numbers = rng.randn(batch * channels * height * width);
    let x = Tensor::from_vec(numbers, (batch, channels, height, width), &device)?;
    let level = Tensor::full(500f32, batch, &device)?;
    let pass = move || {
        kakusan::ops::predict(batch, &device, |part| {
            let of = |tensor: &Tensor| tensor.narrow(0, part.start, part.len());
            model.forward(&of(&x)?, &of(&level)?, None)
        })
    };
    Ok(Box::new(move || {
        let _prepared = PreparedWeights::new(weights.iter().map(|(_, var)| var.as_tensor()));
        Ok((0..passes).try_for_each(|_| pass().map(drop))?)
    }))
}

fn sample(config: RunConfig, batch: usize, steps: usize, device: &Device) -> Result<Work> {
    let mut rng = Generator::new(0);
    let (weights, _) = Weights::initialise(device, &mut rng, |vb| config.model.build(vb))?;
    let pipeline = DDPMPipeline::new(config.model, weights, config.sample_scheduler)?;
    let labels = pipeline.model().config().num_classes().map(|_| vec![0; batch]);
    let options = SampleOptions::new(batch).steps(steps).class_labels(labels);
    Ok(Box::new(move || Ok(pipeline.sample_with(&options, &mut rng, |_| ControlFlow::Continue(())).map(drop)?)))
}
