//! Averages of the weights of a chosen width: the snapshots of a run, and what is made of them after the training.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use kakusan_pipeline::{DDPMPipeline, DeviceChoice, Event, Existing, Outcome, Registry, RunConfig, Training};

const TEXT: &str = r#"
    data = { name = "mnist", classes = [1, 2], sources = ["drawn"], drawn_per_class = 10 }
    scheduler = { _class_name = "LinearMixScheduler" }
    [model]
    _class_name = "UNet2DModel"
    sample_size = 28
    in_channels = 1
    out_channels = 1
    layers_per_block = 1
    block_out_channels = [4, 4]
    down_block_types = ["DownBlock2D", "DownBlock2D"]
    up_block_types = ["UpBlock2D", "UpBlock2D"]
    norm_num_groups = 2
    attention_head_dim = 4
    [train]
    epochs = 10
    batch_size = 5
    learning_rate = 1e-2
"#;

/// Trains 40 steps in `dir`, or up to `stop` of them.
fn train(dir: &Path, set: &str, existing: Existing, stop_after: usize) -> Outcome {
    let registry = Registry::default();
    let set: Vec<String> = set.split(' ').map(|text| format!("train.{text}")).collect();
    let config = RunConfig::parse(TEXT, "test", &set, &registry).unwrap();
    let stop = AtomicBool::new(false);
    let training = Training::new(config, dir, &registry).existing(existing).device(DeviceChoice::Cpu).stop(&stop);
    let outcome = training.run(&mut |event| {
        if let Event::Step { record, .. } = event {
            stop.store(record.step == stop_after, Ordering::Relaxed);
        }
        Ok(())
    });
    outcome.unwrap()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir.join("averages")).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn weights(pipeline: &DDPMPipeline) -> Vec<f32> {
    let tensors = pipeline.weights().iter().map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    tensors.flatten().collect()
}

/// The norm of the difference, relative to that of `b`.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
    assert_eq!(a.len(), b.len());
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn an_average_of_another_width_is_made_after_the_training() {
    let dir = tempfile::tempdir().unwrap();
    let (run, other, registry) = (dir.path().join("run"), dir.path().join("other"), Registry::default());
    assert_eq!(train(&run, "ema_sigma_rel=[0.05,0.1]", Existing::Refuse, usize::MAX), Outcome::Finished);
    let names: Vec<String> = files(&run).into_keys().collect();
    let name = |width: f64, step: usize| format!("sigma_rel-{width}-step-{step}.safetensors");
    let mut expected: Vec<String> = [0.05, 0.1].iter().flat_map(|w| (1..=8).map(|i| name(*w, 5 * i))).collect();
    expected.sort();
    assert_eq!(names, expected);

    // the first width is that of the run's own pipeline
    let average = |width: f64| DDPMPipeline::from_averages(&run, width, &registry, &Device::Cpu).unwrap();
    let own = weights(&DDPMPipeline::from_pretrained(&run, &registry, &Device::Cpu).unwrap());
    let same = average(0.05);
    assert!((same.step, same.snapshots) == (40, 16) && same.error < 1e-6, "{}", same.error);
    assert!(distance(&weights(&same.pipeline), &own) < 1e-6);

    // others are those that a training keeps itself
    assert_eq!(train(&other, "ema_sigma_rel=[0.15]", Existing::Refuse, usize::MAX), Outcome::Finished);
    let kept = weights(&DDPMPipeline::from_pretrained(&other, &registry, &Device::Cpu).unwrap());
    let made = average(0.15);
    let off = distance(&weights(&made.pipeline), &kept);
    assert!(off < 2e-3 && off < 0.05 * distance(&own, &kept), "{off}, {}", distance(&own, &kept));

    // they are saved as any pipeline is
    let out = dir.path().join("average");
    made.pipeline.save_pretrained(&out).unwrap();
    let saved = DDPMPipeline::from_pretrained(&out, &registry, &Device::Cpu).unwrap();
    assert_eq!(weights(&saved), weights(&made.pipeline));
}

#[test]
fn a_resumed_run_has_the_same_snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let (straight, run) = (dir.path().join("straight"), dir.path().join("run"));
    let set = "ema_sigma_rel=[0.1] ema_snapshots=5 keep_checkpoints=20";
    train(&straight, set, Existing::Refuse, usize::MAX);
    assert_eq!(train(&run, set, Existing::Refuse, 21), Outcome::Interrupted);
    assert_eq!(files(&run).len(), 2);
    // those after the checkpoint are made again
    let resume = |checkpoint| Existing::Resume { allow_changes: false, checkpoint };
    assert_eq!(train(&run, set, resume(Some(12)), 13), Outcome::Interrupted);
    assert_eq!(files(&run).len(), 1);
    assert_eq!(train(&run, set, resume(None), usize::MAX), Outcome::Finished);
    assert!(files(&run) == files(&straight) && files(&run).len() == 5);
}

#[test]
fn runs_without_snapshots_and_other_widths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let average = |width: f64| DDPMPipeline::from_averages(dir.path(), width, &Registry::default(), &Device::Cpu);
    let error = |width: f64| average(width).err().unwrap().to_string();
    assert!(error(0.1).contains("only the folder of a run has averages"));
    train(dir.path(), "max_steps=1", Existing::Refuse, usize::MAX);
    assert!(error(0.1).contains("train with ema_sigma_rel = [0.05, 0.1]"));
    train(dir.path(), "max_steps=1 ema_sigma_rel=[0.1]", Existing::Overwrite, usize::MAX);
    assert_eq!(average(0.2).unwrap().snapshots, 1);
    assert!(error(0.5).contains("the width of an average is 0.5; it must be from 0.001 to 0.28"));
}
