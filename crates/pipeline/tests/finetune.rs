//! Fine-tuning: the losses are PyTorch's (`tests/golden/finetune.py`), what is frozen does not change, a run resumes
//! without its pretrained model, and a pretrained model that does not fit is refused with what to set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use kakusan_data::ImageSet;
use kakusan_models::{Change, Weights};
use kakusan_pipeline::{
    ConfigError, DDPMPipeline, DeviceChoice, Error, Event, Existing, Outcome, Registry, RunConfig, Trainer, Training,
    run_config,
};
use kakusan_rng::Generator;
use safetensors::SafeTensors;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/finetune").canonicalize().unwrap()
}

/// The configuration of a fine-tuning of the pipeline in the folder `from`.
fn config(from: &Path, set: &[&str]) -> Result<RunConfig, ConfigError> {
    let text =
        format!("model.from = {:?}\ntrain = {{ epochs = 2, batch_size = 4, seed = 3 }}\n", from.to_str().unwrap());
    let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
    RunConfig::parse(&text, "my.toml", &set, &Registry::default())
}

/// Images of `classes` classes, which take turns.
fn images(pixels: Vec<u8>, channels: usize, classes: u32) -> Arc<ImageSet> {
    let count = pixels.len() / (64 * channels);
    let labels = (0..count as u32).map(|i| i % classes).collect();
    let names = (0..classes).map(|class| format!("class {class}")).collect();
    Arc::new(ImageSet::new([channels, 8, 8], pixels, labels, names).unwrap())
}

fn some_images(classes: u32) -> Arc<ImageSet> {
    let pixels = Generator::new(1).rand(12 * 64);
    images(pixels.into_iter().map(|pixel| (pixel * 255.0) as u8).collect(), 1, classes)
}

fn numbers(weights: &Weights) -> BTreeMap<String, Vec<f32>> {
    let values = |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    weights.iter().map(|(name, var)| (name.to_owned(), values(var))).collect()
}

fn load(dir: &Path) -> DDPMPipeline {
    DDPMPipeline::from_pretrained(dir, &Registry::default(), &Device::Cpu).unwrap()
}

#[test]
fn fine_tunings_have_pytorchs_losses() {
    let file = fs::read(golden().join("trained.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let f32s = |name: &str| -> Vec<f32> {
        file.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let adamw = ["train.optimizer=adamw"];
    // the course adds up the gradients of two batches, and we take their mean: for Adam the same with half of eps
    let course = ["train.gradient_accumulation_steps=2", "train.eps=5e-9"];
    let classes =
        ["model.num_class_embeds=4", "train.weight_decay=0.5", "train.freeze=[\"down_blocks\",\"time_embedding\"]"];
    let ends = [
        "model.in_channels=3",
        "model.out_channels=3",
        "train.optimizer=sgd",
        "train.momentum=0.9",
        "train.learning_rate=0.05",
    ];
    let mut errors = vec![];
    for (case, channels, count, set) in [
        ("course", 1, 2, [&adamw[..], &course].concat()),
        ("classes", 1, 4, [&adamw[..], &classes].concat()),
        ("ends", 3, 2, ends.to_vec()),
    ] {
        let config = config(&golden(), &set).unwrap();
        let pixels = file.tensor(&format!("{case}.images")).unwrap().data().to_vec();
        let mut trainer = Trainer::new(&config, images(pixels, channels, count), &Device::Cpu).unwrap();
        let ours: Vec<f32> = std::iter::from_fn(|| trainer.step().unwrap().map(|step| step.loss)).collect();
        // a loss for each batch; a step has one or two of them
        let theirs = f32s(&format!("{case}.losses"));
        let of_step = config.train.gradient_accumulation_steps;
        let theirs: Vec<f32> = theirs.chunks(of_step).map(|l| l.iter().sum::<f32>() / of_step as f32).collect();
        assert_eq!(ours.len(), theirs.len(), "{case}");
        for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert!((ours - theirs).abs() < 1e-5 * theirs, "{case}, step {step}: {ours}, PyTorch's {theirs}");
        }
        let weights = numbers(trainer.weights());
        for name in ["conv_in.weight", "class_embedding.weight", "mid_block.resnets.0.conv1.weight", "conv_out.bias"] {
            let theirs = f32s(&format!("{case}.{name}"));
            assert_eq!(weights[name].len(), theirs.len(), "{case}, {name}");
            let error = weights[name].iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            errors.push((case, name, error));
        }
    }
    assert!(errors.iter().all(|(_, _, error)| *error < 2e-5), "{errors:?}");
}

/// A copy of the golden pipeline that can be deleted.
fn copied(dir: &Path) -> PathBuf {
    let to = dir.join("pretrained");
    load(&golden()).save_pretrained(&to).unwrap();
    to
}

fn train(
    config: RunConfig,
    out: &Path,
    existing: Existing,
    classes: u32,
    stop_after: Option<usize>,
) -> Result<Outcome, Error> {
    let (registry, stop) = (Registry::default(), AtomicBool::new(stop_after == Some(0)));
    let training = Training::new(config, out, &registry).existing(existing).device(DeviceChoice::Cpu).stop(&stop);
    training.images(some_images(classes), "memory").run(&mut |event| {
        if let Event::Step { record, .. } = event {
            stop.store(Some(record.step) == stop_after, Ordering::Relaxed);
        }
        Ok(())
    })
}

const RESUME: Existing = Existing::Resume { allow_changes: false, checkpoint: None };

#[test]
fn a_run_resumes_to_the_same_bytes_without_its_pretrained_model() {
    let dir = tempfile::tempdir().unwrap();
    let (pretrained, registry) = (copied(dir.path()), Registry::default());
    let set = [
        "model.num_class_embeds=3",
        "train.freeze=[\"down_blocks\",\"mid_block.attentions\",\"conv_out.bias\"]",
        "train.optimizer=muon",
        "train.weight_decay=0.5",
        "train.learning_rate=0.01",
        "train.use_ema=true",
        "sample.steps=2",
    ];
    let (whole, run) = (dir.path().join("whole"), dir.path().join("run"));
    train(config(&pretrained, &set).unwrap(), &whole, Existing::Refuse, 3, None).unwrap();
    assert_eq!(
        train(config(&pretrained, &set).unwrap(), &run, Existing::Refuse, 3, Some(4)).unwrap(),
        Outcome::Interrupted
    );
    fs::remove_dir_all(&pretrained).unwrap();
    let stored = run_config(&run, &[], &registry).unwrap();
    assert_eq!(stored.origin.as_ref().unwrap().name(), pretrained.to_str().unwrap());
    assert_eq!(train(stored, &run, RESUME, 3, None).unwrap(), Outcome::Finished);
    for file in ["unet/diffusion_pytorch_model.safetensors", "unet/config.json", "scheduler/scheduler_config.json"] {
        assert!(fs::read(whole.join(file)).unwrap() == fs::read(run.join(file)).unwrap(), "{file}");
    }

    // frozen parts are the pretrained model's to the bit, in the weights and in their average; all others have changed
    let (before, pipeline) = (numbers(load(&golden()).weights()), load(&run));
    let last = DDPMPipeline::from_run(&run, None, &registry, &Device::Cpu).unwrap();
    assert!(last.averaged && numbers(last.pipeline.weights()) == numbers(pipeline.weights()));
    for (name, after) in numbers(pipeline.weights()) {
        let parts = ["down_blocks.", "mid_block.attentions.", "conv_out.bias"];
        let is_frozen = parts.iter().any(|part| name.starts_with(part));
        assert_eq!(after == before[&name], is_frozen, "{name}");
    }
    assert_eq!(pipeline.labels().names().len(), 3);
    assert_eq!(load(&golden()).scheduler().config(), pipeline.scheduler().config());

    // other frozen parts are another training
    let toml = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(toml.contains(&format!("from = {:?}", pretrained.to_str().unwrap())), "{toml}");
    let other = run_config(&run, &["train.freeze=[\"up_blocks\"]".to_owned()], &registry).unwrap();
    let refused = train(other, &run, Existing::Resume { allow_changes: true, checkpoint: None }, 3, None).unwrap_err();
    assert!(matches!(&refused, Error::OtherConfig { changeable: false, .. }), "{refused}");
}

#[test]
fn a_run_that_was_stopped_before_its_first_checkpoint_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let (pretrained, registry) = (copied(dir.path()), Registry::default());
    let (whole, run) = (dir.path().join("whole"), dir.path().join("run"));
    train(config(&pretrained, &[]).unwrap(), &whole, Existing::Refuse, 2, None).unwrap();
    train(config(&pretrained, &[]).unwrap(), &run, Existing::Refuse, 2, Some(0)).unwrap();
    let stored = || run_config(&run, &[], &registry).unwrap();

    // a trainer does not take random weights for the pretrained ones
    let mut trainer = Trainer::new(&stored(), some_images(2), &Device::Cpu).unwrap();
    let refused = trainer.step().unwrap_err().to_string();
    assert!(refused.contains("load one of its checkpoints first"), "{refused}");
    trainer.load_checkpoint(&whole.join("checkpoints/checkpoint-3")).unwrap();
    assert_eq!(trainer.step().unwrap().unwrap().step, 4);

    let aside = dir.path().join("aside");
    fs::rename(&pretrained, &aside).unwrap();
    let refused = train(stored(), &run, RESUME, 2, None).unwrap_err().to_string();
    assert!(refused.contains("needs its pretrained model again") && refused.contains("no such folder"), "{refused}");
    fs::rename(&aside, &pretrained).unwrap();
    assert_eq!(train(stored(), &run, RESUME, 2, None).unwrap(), Outcome::Finished);
    assert!(numbers(load(&run).weights()) == numbers(load(&whole).weights()));
}

#[test]
fn a_run_of_ours_is_fine_tuned_from_its_averaged_weights() {
    let dir = tempfile::tempdir().unwrap();
    let (run, registry) = (dir.path().join("run"), Registry::default());
    let first = config(&golden(), &["train.use_ema=true", "train.learning_rate=0.01"]).unwrap();
    train(first, &run, Existing::Refuse, 2, Some(4)).unwrap();
    let begun = |set: &[&str]| {
        let config = config(&run, set).unwrap();
        let trainer = Trainer::new(&config, some_images(2), &Device::Cpu).unwrap();
        assert!(trainer.changes().is_empty());
        (numbers(trainer.weights()), numbers(&trainer.sampling_weights().unwrap()))
    };
    // unfinished: the average of its newest checkpoint
    let unfinished = DDPMPipeline::from_run(&run, None, &registry, &Device::Cpu).unwrap();
    let average = numbers(unfinished.pipeline.weights());
    assert!(unfinished.averaged && begun(&[]) == (average.clone(), average.clone()));
    // finished: the pipeline that it saved
    train(run_config(&run, &[], &registry).unwrap(), &run, RESUME, 2, None).unwrap();
    let finished = numbers(load(&run).weights());
    assert!(finished != average && begun(&["train.use_ema=true"]) == (finished.clone(), finished));
}

#[test]
fn the_pixel_scale_is_the_pretrained_models_unless_another_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let (run, registry) = (dir.path().join("run"), Registry::default());
    let scales = ["train.pixel_scale=1.25", "scheduler.clip_sample_range=1.5"];
    train(config(&golden(), &scales).unwrap(), &run, Existing::Refuse, 2, Some(4)).unwrap();
    let scale = |set: &[&str]| config(&run, set).unwrap().train.pixel_scale;
    let unless = || (scale(&[]), scale(&["train.pixel_scale=1.5"]), scale(&["train.pixel_scale=1"]));
    assert_eq!(unless(), (Some(1.25), Some(1.5), Some(1.0)));
    train(run_config(&run, &[], &registry).unwrap(), &run, RESUME, 2, None).unwrap();
    assert_eq!(unless(), (Some(1.25), Some(1.5), Some(1.0)));
    assert_eq!(config(&golden(), &[]).unwrap().train.pixel_scale, None);
}

#[test]
fn what_the_pretrained_model_lacks_is_new_and_the_rest_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let begin = |from: &Path, set: &[&str], channels: usize| {
        let set: Vec<&str> = set.iter().chain(&["model.sample_size=8"]).copied().collect();
        let config = config(from, &set).unwrap();
        let pixels = images(vec![7; 12 * 64 * channels], channels, 2);
        Trainer::new(&config, pixels, &Device::Cpu).unwrap()
    };
    let changed = |trainer: &Trainer| trainer.changes().iter().map(ToString::to_string).collect::<Vec<_>>();

    let without = dir.path().join("without");
    let trainer = begin(&golden(), &["model.num_class_embeds=null"], 1);
    assert_eq!(changed(&trainer), ["class_embedding.weight: not used; the network has no such tensor"]);
    let scheduler = kakusan_scheduler::DDPMScheduler::default();
    let config = Registry::default().models.from_map("UNet2DModel", &without_classes()).unwrap();
    let pipeline = DDPMPipeline::new(config, trainer.weights().clone(), Arc::new(scheduler)).unwrap();
    pipeline.save_pretrained(&without).unwrap();
    let trainer = begin(&without, &["model.num_class_embeds=2"], 1);
    let lacks = "class_embedding.weight: new and random, [2, 16]; the pretrained model has none";
    assert_eq!(changed(&trainer), [lacks]);

    let trainer = begin(&golden(), &["model.num_class_embeds=5", "model.in_channels=2", "model.out_channels=2"], 2);
    let expected = [
        "conv_in.weight: new and random, [4, 2, 3, 3] in place of [4, 1, 3, 3]",
        "class_embedding.weight: rows 2 to 4 are new, and random",
        "conv_out.weight: new and random, [2, 4, 3, 3] in place of [1, 4, 3, 3]",
        "conv_out.bias: new and random, [2] in place of [1]",
    ];
    assert_eq!(changed(&trainer), expected);
    let (ours, theirs) = (numbers(trainer.weights()), numbers(load(&golden()).weights()));
    for (name, values) in &ours {
        match trainer.changes().iter().find(|change| change.name() == name) {
            None => assert_eq!(*values, theirs[name], "{name}"),
            Some(Change::Rows { .. }) => assert!(values.starts_with(&theirs[name]) && values.len() == 5 * 16),
            Some(_) => assert!(!values.starts_with(&theirs[name][..1]), "{name}"),
        }
    }
}

/// The golden model's configuration without its classes.
fn without_classes() -> serde_json::Map<String, serde_json::Value> {
    let mut fields = load(&golden()).model_config().to_map();
    fields.insert("num_class_embeds".into(), serde_json::Value::Null);
    fields
}

#[test]
fn what_does_not_fit_is_named_with_what_to_set() {
    let refused = |set: &[&str]| {
        let config = config(&golden(), set).unwrap();
        let images = some_images(config.model.num_classes().unwrap() as u32);
        let error = Trainer::new(&config, images, &Device::Cpu).err().unwrap();
        assert!(error.is_usage());
        (error.to_string(), error)
    };
    let (said, error) = refused(&["model.block_out_channels=[4, 16]", "model.dropout=0.5"]);
    let Error::Model(kakusan_models::Error::Misfit { misfits, keys, path }) = error else { panic!("{said}") };
    assert!(path.ends_with("unet/diffusion_pytorch_model.safetensors"));
    let conv = misfits.iter().find(|misfit| misfit.name == "down_blocks.1.resnets.0.conv1.weight").unwrap();
    assert_eq!((conv.found.as_deref(), &conv.expected[..]), (Some(&[8, 4, 3, 3][..]), &[16, 4, 3, 3][..]));
    assert_eq!(keys, [("block_out_channels".to_owned(), serde_json::json!([4, 8]))]);
    for expected in [
        "down_blocks.1.resnets.0.conv1.weight: its shape is [8, 4, 3, 3], expected [16, 4, 3, 3]",
        "block_out_channels = [4,8]",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    let (said, _) = refused(&["model.num_class_embeds=1"]);
    assert!(said.contains("class_embedding.weight: its shape is [2, 16], expected [1, 16]"), "{said}");
    assert!(said.ends_with("set in [model], as the pretrained model has it: num_class_embeds = 2"), "{said}");

    let error = |from: &Path, set: &[&str]| config(from, set).unwrap_err().to_string();
    let golden = golden();
    for (said, expected) in [
        (
            error(Path::new("/no/such"), &[]),
            "my.toml:1:7: `from`: /no/such holds no saved pipeline: there is no such folder",
        ),
        (error(Path::new("no/such"), &[]), "my.toml:1:7: `from`: there is no folder no/such"),
        (error(&golden.join("unet"), &[]), "it holds one component of a pipeline; name the folder"),
        (error(&golden, &["model.from=5"]), "--set model.from: `from`: it is 5, expected the folder of a pretrained"),
        (error(&golden, &["model._class_name=BasicUNet"]), "the pretrained model is a UNet2DModel: remove it"),
        (error(&golden, &["model.num_clases=3"]), "there is no key `num_clases` in [model]"),
        (
            error(&golden, &["train.freeze=[\"down_block\"]"]),
            "`freeze`: a UNet2DModel has no part `down_block` here, only parts of conv_in, time_embedding, \
             class_embedding, down_blocks, mid_block, up_blocks, conv_norm_out, conv_out; did you mean `down_blocks`?",
        ),
        (error(&golden, &["train.freeze=[\"down_blocks.1.resnets.00\"]"]), "did you mean `down_blocks.1.resnets.0`?"),
        (
            error(
                &golden,
                &[
                    "train.freeze=[\"conv_in\",\"time_embedding\",\"class_embedding\",\"down_blocks\",\"mid_block\",\"up_blocks\",\"conv_norm_out\",\"conv_out\"]",
                ],
            ),
            "`freeze` leaves nothing to train",
        ),
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn the_scheduler_is_the_pretrained_models_unless_another_is_given() {
    let warnings = |set: &[&str]| {
        let config = config(&golden(), set).unwrap();
        let warnings: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
        (config.scheduler.config(), config.scheduler.class_name().to_owned(), warnings)
    };
    let (own, class_name, told) = warnings(&[]);
    assert_eq!(
        (class_name.as_str(), &own["beta_schedule"], told.len()),
        ("DDPMScheduler", &"squaredcos_cap_v2".into(), 0)
    );
    let (some, _, told) = warnings(&["scheduler.clip_sample_range=1.5"]);
    assert_eq!((&some["beta_schedule"], &some["clip_sample_range"]), (&"squaredcos_cap_v2".into(), &1.5.into()));
    assert!(told.is_empty());
    let (_, _, told) = warnings(&["scheduler.prediction_type=v_prediction"]);
    assert!(told.len() == 1 && told[0].contains("prediction_type epsilon. This training is"), "{told:?}");
    let (other, class_name, told) = warnings(&["scheduler._class_name=LinearMixScheduler"]);
    assert!(class_name == "LinearMixScheduler" && !other.contains_key("beta_schedule") && told.len() == 1, "{told:?}");

    // a run's own configuration begins another training with the same pretrained model
    let toml = config(&golden(), &["model.num_class_embeds=null"]).unwrap().to_toml().unwrap();
    let again = RunConfig::parse(&toml, "config.toml", &[], &Registry::default()).unwrap();
    assert_eq!((again.to_toml().unwrap(), again.model.num_classes()), (toml, None));
}
