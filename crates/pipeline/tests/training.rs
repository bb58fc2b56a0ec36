//! Complete trainings without an observer, and on images that a program provides.

use std::sync::Arc;

use candle_core::Device;
use kakusan_data::{ImageSet, ReadImages};
use kakusan_pipeline::{DDPMPipeline, DeviceChoice, Error, Event, Existing, Outcome, Registry, RunConfig, Training};
use kakusan_rng::Generator;

/// A configuration for images or latents of 8 x 8 with `channels` channels; it has no `[data]`.
fn config(channels: usize) -> RunConfig {
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
    RunConfig::parse(&text, "test", &[], &Registry::default()).unwrap()
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
