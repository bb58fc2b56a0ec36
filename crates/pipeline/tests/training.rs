//! Complete trainings without an observer, and on images that a program provides.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::{Device, Tensor};
use kakusan_data::{ImageSet, ReadImages};
use kakusan_models::{Model, ModelConfig, VarBuilder, Weights};
use kakusan_pipeline::{
    ConfigError, DDPMPipeline, DeviceChoice, Error, Event, Existing, Outcome, Registry, RunConfig, Trainer, Training,
};
use kakusan_rng::Generator;
use serde_json::{Map, Value};

/// A configuration for images or latents of 8 x 8 with `channels` channels; it has no `[data]`.
fn config(channels: usize) -> RunConfig {
    config_with(channels, &[]).unwrap()
}

fn config_with(channels: usize, set: &[&str]) -> Result<RunConfig, ConfigError> {
    let text = format!(
        r#"
        [model]
        _class_name = "UNet2DModel"
        sample_size = 8
        in_channels = {channels}
        out_channels = {channels}
        block_out_channels = [4, 4]
        down_block_types = ["DownBlock2D", "DownBlock2D"]
        up_block_types = ["UpBlock2D", "UpBlock2D"]
        layers_per_block = 1
        norm_num_groups = 2
        attention_head_dim = 4
        [scheduler]
        _class_name = "DDPMScheduler"
        [train]
        epochs = 2
        batch_size = 2
        "#
    );
    let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
    RunConfig::parse(&text, "test", &set, &Registry::default())
}

#[test]
fn a_training_saves_its_pipeline_without_an_observer() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::default());
    let (out, images) = (dir.path().join("run"), ImageSet::new([1, 8, 8], vec![9; 320], vec![0; 5], vec!["a".into()]));
    let images = Arc::new(images.unwrap());
    let training = || Training::new(config(1), &out, &registry).device(DeviceChoice::Cpu);
    let outcome = training().images(images.clone(), "memory").run(&mut |_| Ok(())).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    let pipeline = DDPMPipeline::from_pretrained(&out, &registry, &Device::Cpu).unwrap();
    assert_eq!(pipeline.sample(2, 2, &mut Generator::new(0)).unwrap().dims(), [2, 1, 8, 8]);
    assert!(std::fs::read_to_string(out.join("data.json")).unwrap().contains(r#""description": "memory""#));
    assert!(!out.join("report.html").exists() && !out.join("README.md").exists());

    // resuming works if the images are provided again, and fails without them
    let resume = || training().existing(Existing::Resume { allow_changes: false, checkpoint: None });
    assert_eq!(resume().images(images, "memory").run(&mut |_| Ok(())).unwrap(), Outcome::Finished);
    let refused = resume().run(&mut |_| Ok(())).unwrap_err();
    assert!(refused.is_usage() && refused.to_string().contains("no table [data]"), "{refused}");
}

#[test]
fn a_model_that_was_told_of_changed_images_is_saved_as_any_other() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::default());
    let pixels = Generator::new(1).rand(12 * 64).into_iter().map(|pixel| (pixel * 255.0) as u8).collect();
    let images = Arc::new(ImageSet::new([1, 8, 8], pixels, vec![0; 12], vec!["a".into()]).unwrap());
    let augment = [
        "data.name=folder",
        "data.augment=0.5",
        "train.use_ema=true",
        "train.checkpoint_every=4",
        "train.keep_checkpoints=5",
    ];
    let train = |name: &str, set: &[&str], existing: Existing, stop_after: usize| {
        let (out, stop) = (dir.path().join(name), AtomicBool::new(false));
        let config = config_with(1, set).unwrap();
        let training = Training::new(config, &out, &registry).device(DeviceChoice::Cpu).existing(existing).stop(&stop);
        let outcome = training.images(images.clone(), "memory").run(&mut |event| {
            if let Event::Step { record, .. } = event {
                stop.store(record.step == stop_after, Ordering::Relaxed);
            }
            Ok(())
        });
        (out, outcome.unwrap())
    };
    let (run, _) = train("run", &augment, Existing::Refuse, 0);
    let (plain, _) = train("plain", &augment[2..], Existing::Refuse, 0);
    let (part, outcome) = train("part", &augment, Existing::Refuse, 5); // in the middle of an epoch
    assert_eq!(outcome, Outcome::Interrupted);
    let unfinished = DDPMPipeline::from_run(&part, None, &registry, &Device::Cpu).unwrap();
    assert!(unfinished.averaged && unfinished.pipeline.warnings().is_empty());
    train("part", &augment, Existing::Resume { allow_changes: false, checkpoint: None }, 0);

    let weights = |run: &Path| std::fs::read(run.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert!(weights(&run) == weights(&part), "the resumed training has other weights");
    assert!(weights(&run) != weights(&plain), "the images were not changed");
    // as any UNet2DModel, but the checkpoint has what training needs
    let json = |run: &Path| std::fs::read_to_string(run.join("unet/config.json")).unwrap();
    assert_eq!((json(&run), weights(&run).len()), (json(&plain), weights(&plain).len()));
    assert!(DDPMPipeline::from_pretrained(&run, &registry, &Device::Cpu).unwrap().warnings().is_empty());
    let checkpoint = run.join("checkpoints/checkpoint-8");
    assert!(json(&checkpoint).contains("\"augment_dim\": 9") && weights(&checkpoint).len() > weights(&run).len());
    // each image is told of its own changes: the map has moved from where it began
    let embedding = |dir: &Path| {
        let (bytes, name) = (weights(dir), "augment_embedding.weight");
        safetensors::SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data().to_vec()
    };
    assert!(embedding(&checkpoint) != embedding(&run.join("checkpoints/checkpoint-4")));

    // a fine-tuning may begin to change its images, and stop
    let begin = |from: &Path, set: &[&str]| {
        let text = format!("model.from = {:?}\ntrain = {{ batch_size = 4 }}\n", from.to_str().unwrap());
        let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
        let config = RunConfig::parse(&text, "test", &set, &registry).unwrap();
        let trainer = Trainer::new(&config, images.clone(), &Device::Cpu).unwrap();
        trainer.changes().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let new = "augment_embedding.weight: new and random, [4, 9]; the pretrained model has none";
    assert_eq!(begin(&run, &augment[..2]), [new]);
    let (stopped, _) = train("stopped", &augment, Existing::Refuse, 5);
    assert!(begin(&stopped, &augment[..2]).is_empty());

    let refused = |channels: usize, set: &[&str]| config_with(channels, set).unwrap_err().to_string();
    assert!(refused(1, &["model.augment_dim=9"]).contains("`augment_dim` follows from data.augment"));
    assert!(refused(1, &["data.name=folder", "data.augment=1.5"]).contains("a probability above 0, up to 1"));
    let text = "model = { _class_name = 'BasicUNet' }\nscheduler = { _class_name = 'DDPMScheduler' }\n\
                data = { name = 'folder', augment = 0.1 }";
    let said = RunConfig::parse(text, "test", &[], &registry).unwrap_err().to_string();
    assert!(said.contains("which a BasicUNet cannot"), "{said}");
    let latents = ImageSet::from_f32([1, 8, 8], vec![0.0; 128], vec![0; 2], vec!["all".into()]).unwrap().as_latents();
    let said = Trainer::new(&config_with(1, &augment).unwrap(), Arc::new(latents), &Device::Cpu).err().unwrap();
    assert!(said.to_string().starts_with("data.augment has no effect on latents"), "{said}");
}

#[test]
fn latents_of_four_channels_are_trained_on_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::default();
    let values = Generator::new(0).randn(6 * 4 * 64);
    let latents = ImageSet::from_f32([4, 8, 8], values, vec![0; 6], vec!["all".into()]).unwrap().as_latents();
    let mut losses = vec![];
    let training = Training::new(config(4), dir.path().join("run"), &registry).device(DeviceChoice::Cpu);
    training
        .images(Arc::new(latents), "an autoencoder")
        .run(&mut |event| {
            if let Event::Step { record, .. } = event {
                losses.push(record.loss);
            }
            Ok(())
        })
        .unwrap();
    assert!(losses.len() == 6 && losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
}

/// A set in which only the first `good` images can be read.
struct Flaky {
    good: usize,
}

impl ReadImages for Flaky {
    fn len(&self) -> usize {
        4
    }

    fn shape(&self) -> [usize; 3] {
        [1, 8, 8]
    }

    fn read(&self, i: usize, out: &mut [f32]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        out.fill(0.5);
        if i < self.good { Ok(()) } else { Err("the disk is on fire".into()) }
    }

    fn name(&self, i: usize) -> String {
        format!("record {i}")
    }
}

#[test]
fn a_decoder_of_the_program_is_trained_on_and_its_errors_are_named() {
    let registry = Registry::default();
    for (good, expected) in [(4, None), (3, Some("record 3: the disk is on fire"))] {
        let dir = tempfile::tempdir().unwrap();
        let images = Arc::new(ImageSet::from_reader(Flaky { good }).unwrap());
        let training = Training::new(config(1), dir.path().join("run"), &registry).device(DeviceChoice::Cpu);
        let outcome = training.images(images, "a database").run(&mut |_| Ok(()));
        match expected {
            None => assert_eq!(outcome.unwrap(), Outcome::Finished),
            Some(message) => assert!(outcome.unwrap_err().to_string().starts_with(message)),
        }
    }
}

#[test]
fn an_error_of_the_observer_ends_the_training() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::default();
    let images = Arc::new(ImageSet::from_reader(Flaky { good: 4 }).unwrap());
    let training = Training::new(config(1), dir.path().join("run"), &registry).device(DeviceChoice::Cpu);
    let outcome = training.images(images, "a database").run(&mut |event| match event {
        Event::Step { .. } => Err(Error::Observer("enough".into())),
        _ => Ok(()),
    });
    assert_eq!(outcome.unwrap_err().to_string(), "enough");
}

/// Predicts the image times a weight, as often as there is memory.
#[derive(Debug, Clone)]
struct Hungry(Arc<AtomicUsize>);

struct HungryModel(Hungry, Tensor);

impl ModelConfig for Hungry {
    fn class_name(&self) -> &str {
        "Hungry"
    }

    fn to_map(&self) -> Map<String, Value> {
        Map::new()
    }

    fn default_map(&self) -> Map<String, Value> {
        Map::new()
    }

    fn build(&self, vb: VarBuilder) -> kakusan_models::Result<Box<dyn Model>> {
        Ok(Box::new(HungryModel(self.clone(), vb.get(1, "weight")?)))
    }

    fn sample_shape(&self) -> kakusan_models::Result<[usize; 3]> {
        Ok([1, 8, 8])
    }
}

impl Model for HungryModel {
    fn config(&self) -> &dyn ModelConfig {
        &self.0
    }

    fn forward(&self, x: &Tensor, _: &Tensor, _: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
        let left = self.0.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_err() {
            let full = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#; // as candle passes it on
            return Err(candle_core::Error::Msg(full.into()).bt().into());
        }
        Ok(x.broadcast_mul(&self.1)?)
    }
}

#[test]
fn full_memory_says_what_to_reduce_and_costs_no_checkpoint() {
    let (dir, registry, memory) = (tempfile::tempdir().unwrap(), Registry::default(), Arc::new(AtomicUsize::new(4)));
    let images = ImageSet::new([1, 8, 8], vec![9; 320], vec![0; 5], vec!["a".into()]).unwrap();
    let mut config = config(1);
    config.model = Arc::new(Hungry(memory.clone()));
    let training = Training::new(config.clone(), dir.path().join("run"), &registry).device(DeviceChoice::Cpu);
    let error = training.images(Arc::new(images), "memory").run(&mut |_| Ok(())).unwrap_err();
    let Error::OutOfMemory { last_checkpoint: Some(checkpoint), .. } = &error else { panic!("{error}") };
    assert!(checkpoint.ends_with("checkpoint-3") && checkpoint.join("progress.json").is_file(), "{checkpoint:?}");
    let said = error.to_string();
    for part in ["step 4 with a batch of 2 images of 1 x 8 x 8", "smaller train.batch_size", "checkpoint-3, is intact"]
    {
        assert!(said.contains(part), "`{said}` lacks `{part}`");
    }
    assert!(said.lines().count() == 1 && !error.is_usage(), "{said}");

    memory.store(2, Ordering::Relaxed);
    let weights = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.model.build(vb)).unwrap().0;
    let pipeline = DDPMPipeline::new(config.model, weights, config.scheduler).unwrap();
    let said = pipeline.sample(3, 5, &mut Generator::new(0)).unwrap_err().to_string();
    assert!(said.contains("3 images of 1 x 8 x 8 at a time") && said.contains("--batch"), "{said}");
}
