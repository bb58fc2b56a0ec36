//! The training loop alone: gradient accumulation, the learning rate, the averaged weights, a diverging training.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use kakusan_data::{DataConfig, DatasetName, ImageSet, OnBadImage, Validation};
use kakusan_models::{Model, ModelConfig, VarBuilder, Weights};
use kakusan_pipeline::{Error, Record, Registry, RunConfig, Step, Trainer, Training, read_metrics};
use kakusan_scheduler::{Levels, LinearMixScheduler, PixelRange, PredictionType, Process, Run, RunOptions, Scheduler};
use serde_json::{Map, Value};

const TEXT: &str = r#"
data = { name = "mnist", classes = [1, 8], sources = ["drawn"], drawn_per_class = 11 }
model = { _class_name = "BasicUNet" }
scheduler = { _class_name = "LinearMixScheduler" }
train = { epochs = 2, batch_size = 4 }
"#;

fn config(set: &[&str]) -> RunConfig {
    let set: Vec<String> = set.iter().map(|text| format!("train.{text}")).collect();
    RunConfig::parse(TEXT, "test", &set, &Registry::default()).unwrap()
}

fn images(config: &RunConfig) -> Arc<ImageSet> {
    kakusan_data::load(config.data.as_ref().unwrap()).unwrap().images
}

fn trainer(config: &RunConfig) -> Trainer {
    Trainer::new(config, images(config), &Device::Cpu).unwrap()
}

fn all_steps(trainer: &mut Trainer) -> Vec<Step> {
    std::iter::from_fn(|| trainer.step().unwrap()).collect()
}

fn numbers(weights: &Weights) -> Vec<f32> {
    weights.iter().flat_map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Halves every image and adds no noise. Without random numbers, batches of any size get the same inputs.
#[derive(Debug)]
struct Halves(LinearMixScheduler);

impl Scheduler for Halves {
    fn class_name(&self) -> &str {
        "Halves"
    }

    fn config(&self) -> Map<String, Value> {
        Map::new()
    }

    fn process(&self) -> Process {
        Process::new(Levels::one_of([0.5]), PredictionType::Sample, |level| (1.0 - level, 0.0))
            .on_pixels(PixelRange::ZeroToOne)
    }

    fn run_with(&self, options: &RunOptions) -> kakusan_scheduler::Result<Box<dyn Run>> {
        self.0.run_with(options)
    }
}

#[test]
fn batches_added_up_are_one_batch() {
    let with = |set: &[&str]| {
        let mut config = config(&[set, &["optimizer=sgd", "learning_rate=0.1"]].concat());
        config.scheduler = Arc::new(Halves(LinearMixScheduler::default()));
        let mut trainer = trainer(&config);
        let steps = all_steps(&mut trainer);
        (steps, numbers(trainer.weights()))
    };
    // 22 images: one step of 16 and one of the remaining 6, in batches of 4 with a last one of 2
    let (whole, whole_weights) = with(&["batch_size=16"]);
    let (parts, part_weights) = with(&["batch_size=4", "gradient_accumulation_steps=4"]);
    let about = |steps: &[Step]| -> Vec<(usize, usize, usize, bool)> {
        steps.iter().map(|s| (s.step, s.epoch, s.images, s.ends_epoch)).collect()
    };
    assert_eq!(about(&whole), [(1, 1, 16, false), (2, 1, 6, true), (3, 2, 16, false), (4, 2, 6, true)]);
    assert_eq!(about(&whole), about(&parts));
    for (a, b) in whole.iter().zip(&parts) {
        assert!((a.loss - b.loss).abs() < 1e-6 * a.loss && (a.grad_norm - b.grad_norm).abs() < 1e-5 * a.grad_norm);
    }
    assert!(distance(&whole_weights, &part_weights) < 1e-6);
}

#[test]
fn validation_is_the_loss_of_a_step_without_the_step() {
    let mut config = config(&["batch_size=22", "use_ema=true", "epochs=3"]);
    config.scheduler = Arc::new(Halves(LinearMixScheduler::default()));
    let (images, mut trainer) = (images(&config), trainer(&config));
    for _ in 0..3 {
        let validated = trainer.validate(&images).unwrap();
        assert_eq!(validated, trainer.validate(&images).unwrap());
        let step = trainer.step().unwrap().unwrap();
        assert!((validated.loss - step.loss).abs() < 1e-6 * step.loss, "{validated:?}, {step:?}");
    }
    let validated = trainer.validate(&images).unwrap();
    assert!(validated.ema_loss.unwrap() > validated.loss, "the average lags behind: {validated:?}");
}

#[test]
fn a_run_logs_the_loss_of_held_out_images_and_keeps_the_best_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, set: &[&str]| {
        let mut config = config(&[&["epochs=4", "use_ema=true", "keep_checkpoints=1", "keep_best=true"], set].concat());
        config.data.as_mut().unwrap().validation = Some(Validation::Share(0.25));
        let out = dir.path().join(name);
        Training::new(config, &out, &Registry::default()).run(&mut |_| Ok(())).unwrap();
        (read_metrics(&out), out)
    };
    let (records, out) = run("steady", &[]);
    assert_eq!(records.len(), 4 * 4, "16 images to train on, 6 held out");
    let losses: Vec<_> = records.iter().filter_map(Record::validated).collect();
    assert_eq!(losses.len(), 4, "one an epoch");
    assert!(losses.iter().all(|losses| losses.loss.is_finite() && losses.ema_loss.is_some()), "{losses:?}");
    assert!(out.join("checkpoints/checkpoint-16").is_dir());

    // a rate that spoils the weights after the first epoch, while the loss of the steps cannot tell epochs apart
    let spoilt = ["lr_scheduler=piecewise_constant", "lr_step_rules=\"1:4,100:8,0\""];
    let (records, out) = run("spoilt", &spoilt);
    let losses: Vec<_> = records.iter().filter_map(Record::validated).collect();
    let best = (0..4).min_by(|&a, &b| losses[a].of_sampling().total_cmp(&losses[b].of_sampling())).unwrap();
    assert!(best < 3, "{losses:?}");
    assert!(out.join(format!("checkpoints/checkpoint-{}", 4 * (best + 1))).is_dir(), "{losses:?}");
}

#[test]
fn the_learning_rate_counts_optimiser_steps() {
    let set = ["lr_scheduler=linear", "lr_warmup_steps=2", "gradient_accumulation_steps=3", "max_steps=3", "epochs=9"];
    let mut trainer = trainer(&config(&set));
    assert_eq!((trainer.steps_per_epoch(), trainer.total_steps()), (2, 3));
    let rates: Vec<f64> = all_steps(&mut trainer).iter().map(|step| step.learning_rate).collect();
    assert_eq!(rates, [0.0, 0.5e-3, 1e-3]);
}

#[test]
fn clipping_bounds_the_step() {
    let moved = |set: &[&str]| {
        let mut trainer = trainer(&config(&[set, &["optimizer=sgd", "learning_rate=1.0", "max_steps=1"]].concat()));
        let before = numbers(trainer.weights());
        let step = all_steps(&mut trainer).remove(0);
        let squares = numbers(trainer.weights()).iter().zip(before).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        (squares.sqrt(), step.grad_norm)
    };
    let (free, norm) = moved(&[]);
    assert!((free - norm).abs() < 1e-4 * norm);
    let (clipped, same_norm) = moved(&["max_grad_norm=0.01"]);
    assert!((clipped - 0.01).abs() < 1e-5 && norm == same_norm && norm > 0.01, "{clipped} {norm}");
}

#[test]
fn the_average_lags_behind_and_changes_nothing_else() {
    let mut plain = trainer(&config(&[]));
    let mut averaged = trainer(&config(&["use_ema=true", "ema_update_after_step=2"]));
    let (without, with) = (all_steps(&mut plain), all_steps(&mut averaged));
    assert!(without.iter().all(|step| step.ema_decay.is_none()));
    let decays: Vec<f64> = with.iter().map(|step| step.ema_decay.unwrap()).collect();
    assert_eq!(decays[..3], [0.0; 3]);
    assert!((decays[3] - (1.0 - 2f64.powf(-0.75))).abs() < 1e-12);
    assert_eq!(numbers(plain.weights()), numbers(averaged.weights()));
    assert_eq!(numbers(plain.weights()), numbers(&plain.sampling_weights().unwrap()));
    let lag = distance(&numbers(averaged.weights()), &numbers(&averaged.sampling_weights().unwrap()));
    assert!(lag > 1e-5 && lag < 0.1, "{lag}");
}

#[test]
fn a_training_that_diverges_names_step_and_images_and_keeps_the_weights() {
    let mut trainer = trainer(&config(&["optimizer=sgd", "learning_rate=1e30", "batch_size=20"]));
    trainer.step().unwrap();
    let before = numbers(trainer.weights());
    let error = trainer.step().unwrap_err();
    let Error::Diverged { step: 2, images, last_checkpoint: None, .. } = &error else { panic!("{error}") };
    assert_eq!(images.len(), 2);
    let message = error.to_string();
    for word in ["of step 2 is", "diverged", &format!("the images {}, {}", images[0], images[1]), "max_grad_norm"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(before, numbers(trainer.weights()));
    assert_eq!(trainer.steps_done(), 1);
}

#[test]
fn every_optimiser_and_loss_learns() -> Result<()> {
    for set in [
        vec!["optimizer=adamw", "weight_decay=0.1", "betas=[0.95,0.999]", "max_grad_norm=1.0", "lr_scheduler=cosine"],
        vec!["optimizer=sgd", "momentum=0.9", "learning_rate=0.05", "loss=l1"],
        vec!["loss=huber", "huber_delta=0.3"],
    ] {
        let mut trainer = trainer(&config(&[set.as_slice(), &["epochs=6"]].concat()));
        let steps = all_steps(&mut trainer);
        let mean = |steps: &[Step]| steps.iter().map(|step| step.loss).sum::<f32>() / steps.len() as f32;
        let (first, last) = (mean(&steps[..4]), mean(&steps[steps.len() - 6..]));
        assert!(last < first, "{set:?}: {first} {last}");
    }
    Ok(())
}

/// A checkpoint's files may come from anywhere; here their checksums are correct.
#[test]
fn a_checkpoint_that_claims_the_impossible_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = trainer(&config(&[]));
    trainer.step().unwrap();
    let checkpoint = trainer.save_checkpoint(dir.path(), 0.5).unwrap();
    trainer.load_checkpoint(&checkpoint).unwrap();
    let (progress, sums) = (checkpoint.join("progress.json"), checkpoint.join("SHA256SUMS"));
    let good = std::fs::read_to_string(&progress).unwrap();
    let without = std::fs::read_to_string(&sums).unwrap();
    let without: String =
        without.lines().filter(|line| !line.ends_with("progress.json")).map(|l| format!("{l}\n")).collect();
    std::fs::write(&sums, without).unwrap();
    for (from, to) in [
        ("\"epoch\": 0", format!("\"epoch\": {}", u64::MAX)),
        ("\"epoch\": 0", "\"epoch\": 1".to_owned()),
        ("\"batch\": 1", format!("\"batch\": {}", u64::MAX)),
        ("\"step\": 1", format!("\"step\": {}", u64::MAX)),
    ] {
        assert!(good.contains(from));
        std::fs::write(&progress, good.replace(from, &to)).unwrap();
        assert!(matches!(trainer.load_checkpoint(&checkpoint), Err(Error::Checkpoint { .. })), "{to}");
        assert_eq!(trainer.steps_done(), 1);
    }
}

/// A folder of grey pictures; of those in `bad`, only the header is readable.
fn pictures(count: usize, bad: &[usize]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..count {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, 28, 28);
        encoder.set_color(png::ColorType::Grayscale);
        let grey = (255.0 * i as f32 / count as f32).round() as u8;
        encoder.write_header().unwrap().write_image_data(&[grey; 28 * 28]).unwrap();
        if bad.contains(&i) {
            bytes.truncate(bytes.len() - 20);
        }
        std::fs::write(dir.path().join(format!("{i:02}.png")), bytes).unwrap();
    }
    dir
}

/// Bad images alone in their batches, in whole groups of batches, and at the beginning and end of an epoch.
#[test]
fn batches_of_bad_images_are_passed_over_and_resumed_past() {
    let dir = pictures(9, &[1, 2, 4, 5, 6, 8]);
    for (batch_size, accumulate) in [(1, 1), (2, 1), (1, 3)] {
        let set = [
            "epochs=2".to_owned(),
            "use_ema=true".to_owned(),
            format!("batch_size={batch_size}"),
            format!("gradient_accumulation_steps={accumulate}"),
        ];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let with_threads = |threads| {
            let mut config = config(&set);
            config.data = Some(DataConfig {
                dir: Some(dir.path().to_owned()),
                cache_mb: Some(0),
                on_bad_image: OnBadImage::Skip,
                num_workers: Some(threads),
                ..DataConfig::new(DatasetName::Folder)
            });
            trainer(&config)
        };
        let mut whole = with_threads(1);
        let steps = all_steps(&mut whole);
        for epoch in 1..=2 {
            let of_epoch: Vec<&Step> = steps.iter().filter(|step| step.epoch == epoch).collect();
            assert_eq!(of_epoch.iter().map(|step| step.images).sum::<usize>(), 3, "batches of {batch_size}");
            assert_eq!(of_epoch.iter().map(|step| step.skipped.len()).sum::<usize>(), 6);
            let ends: Vec<bool> = of_epoch.iter().map(|step| step.ends_epoch).collect();
            assert!(matches!(ends.split_last(), Some((true, rest)) if !rest.contains(&true)), "{ends:?}");
        }
        assert!(steps.iter().all(|step| step.images > 0 && step.loss.is_finite()));
        if batch_size * accumulate == 1 {
            assert_eq!(steps.len(), 6);
        }

        for stop in (1..steps.len()).step_by(2) {
            let mut first = with_threads(3);
            let before: Vec<Step> = (0..stop).map(|_| first.step().unwrap().unwrap()).collect();
            let checkpoints = tempfile::tempdir().unwrap();
            let at = first.save_checkpoint(checkpoints.path(), 0.0).unwrap();
            let mut resumed = with_threads(2);
            resumed.load_checkpoint(&at).unwrap();
            let after = all_steps(&mut resumed);
            let numbers_of = |steps: &[Step]| -> Vec<(usize, usize, f32, bool)> {
                steps.iter().map(|step| (step.step, step.epoch, step.loss, step.ends_epoch)).collect()
            };
            assert_eq!(numbers_of(&[before, after].concat()), numbers_of(&steps));
            assert!(numbers(resumed.weights()) == numbers(whole.weights()));
            assert!(numbers(&resumed.sampling_weights().unwrap()) == numbers(&whole.sampling_weights().unwrap()));
        }
    }
}

/// The pictures become unreadable after the training has begun.
#[test]
fn an_epoch_without_an_image_left_is_an_error() {
    let dir = pictures(2, &[]);
    let mut config = config(&["epochs=3", "batch_size=1"]);
    let data = DataConfig {
        dir: Some(dir.path().to_owned()),
        cache_mb: Some(0),
        on_bad_image: OnBadImage::Skip,
        ..DataConfig::new(DatasetName::Folder)
    };
    config.data = Some(data.clone());
    let mut trainer = trainer(&config);
    assert!(trainer.step().unwrap().is_some());
    assert!(trainer.step().unwrap().unwrap().ends_epoch);
    for name in ["00.png", "01.png"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let message = trainer.step().unwrap_err().to_string();
    for part in ["no image is left in epoch 2: 2 cannot be decoded, the first of them ", ".png: cannot be read"] {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
    let refused = kakusan_data::load(&data).unwrap_err().to_string();
    assert!(refused.contains("holds no picture"), "{refused}");
}

/// Predicts the image times two weights, and cuts the gradient of the first.
#[derive(Debug)]
struct Cut;

struct CutModel(Tensor, Tensor);

impl ModelConfig for Cut {
    fn class_name(&self) -> &str {
        "Cut"
    }

    fn to_map(&self) -> Map<String, Value> {
        Map::new()
    }

    fn default_map(&self) -> Map<String, Value> {
        Map::new()
    }

    fn build(&self, vb: VarBuilder) -> kakusan_models::Result<Box<dyn Model>> {
        Ok(Box::new(CutModel(vb.get(1, "before")?, vb.get(1, "after")?)))
    }

    fn sample_shape(&self) -> kakusan_models::Result<[usize; 3]> {
        Ok([1, 28, 28])
    }
}

impl Model for CutModel {
    fn config(&self) -> &dyn ModelConfig {
        &Cut
    }

    fn forward(&self, x: &Tensor, _: &Tensor, _: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
        Ok(x.broadcast_mul(&self.0)?.detach().broadcast_mul(&self.1)?)
    }
}

#[test]
fn a_weight_without_a_gradient_is_named() {
    let mut config = config(&[]);
    config.model = Arc::new(Cut);
    let error = trainer(&config).step().unwrap_err().to_string();
    assert!(error.starts_with("before of Cut gets no gradient (1 of 2 tensors do not)"), "{error}");
}
