//! Every configuration that the check accepts trains to its end: with every scheduler, few timesteps, every model.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Device;
use kakusan_pipeline::{
    DDPMPipeline, DeviceChoice, Error, Existing, Outcome, Registry, RunConfig, SampleOptions, Training,
};
use kakusan_report::{Notice, Report};
use kakusan_rng::Generator;

const TEXT: &str = r#"
data = { name = "mnist", classes = [1, 8], sources = ["drawn"], drawn_per_class = 3 }
train = { epochs = 1, batch_size = 2, max_steps = 2, learning_rate = 1e-4 }
"#;
const UNET: &str = r#"
[model]
_class_name = "UNet2DModel"
sample_size = 28
in_channels = 1
out_channels = 1
block_out_channels = [4, 4]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 2
attention_head_dim = 4
"#;
const PICTURES: [&str; 6] =
    ["corrupted.png", "loss.png", "predictions.png", "mean.png", "trajectory.png", "samples.png"];

fn config(model: &str, class_name: &str, set: &[String]) -> Result<RunConfig, String> {
    let text = format!("{TEXT}{model}\n[scheduler]\n_class_name = \"{class_name}\"\n");
    RunConfig::parse(&text, class_name, set, &Registry::default()).map_err(|e| e.to_string())
}

/// Runs a training and returns the problems that its report mentioned.
fn train(config: RunConfig, out: &Path, existing: Existing) -> Result<Vec<String>, Error> {
    let registry = Registry::default();
    let training = Training::new(config, out, &registry).existing(existing).device(DeviceChoice::Cpu);
    let (mut report, mut troubles) = (Report::new("kakusan"), vec![]);
    let outcome = training.run(&mut |event| {
        report.observe(event, &mut |notice| {
            if let Notice::PictureTrouble { picture, reason } = notice {
                troubles.push(format!("{picture}: {reason}"));
            }
        })
    })?;
    assert_eq!(outcome, Outcome::Finished);
    Ok(troubles)
}

/// Trains two steps, saves and samples; with `resume`, the second step is in a resumed training. Returns the problems
/// with pictures and samples.
fn to_the_end(config: &RunConfig, name: &str, resume: bool) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join(name);
    let train = |config: RunConfig, existing| train(config, &out, existing).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut troubles = vec![];
    let mut existing = Existing::Refuse;
    if resume {
        let mut first = config.clone();
        first.train.max_steps = Some(1);
        troubles.extend(train(first, existing));
        existing = Existing::Resume { allow_changes: false, checkpoint: None };
    }
    troubles.extend(train(config.clone(), existing));
    for picture in PICTURES {
        assert!(out.join("images").join(picture).is_file(), "{name} has no {picture}");
    }
    let mut pipeline = DDPMPipeline::from_pretrained(&out, &Registry::default(), &Device::Cpu).unwrap();
    pipeline.set_scheduler(config.sample_scheduler.clone()).unwrap();
    let labels = config.model.num_classes().map(|_| vec![1]);
    let options = SampleOptions::new(1).steps(config.sample.steps).class_labels(labels);
    let images = pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(())).unwrap();
    let bad = images.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().filter(|v| !v.is_finite()).count();
    if bad > 0 {
        troubles.push(format!("{bad} values of the sample"));
    }
    troubles
}

fn steps(steps: usize, more: &[String]) -> Vec<String> {
    let own =
        [format!("sample.steps={steps}"), format!("sample.trajectory_steps={steps}"), "sample.batch_size=2".into()];
    own.iter().chain(more).cloned().collect()
}

#[test]
fn every_scheduler_comes_to_its_end_with_its_defaults() {
    let class_names = Registry::default().schedulers.class_names();
    assert_eq!(class_names.len(), 31);
    for class_name in class_names {
        let config = match (config(UNET, &class_name, &steps(5, &[])), class_name.as_str()) {
            (Err(said), "RePaintScheduler") => {
                assert!(said.contains("paints into an image") && said.contains("with a mask"), "{said}");
                let set = steps(5, &["sample.scheduler=DDPMScheduler".into()]); // it is trained like DDPM
                config(UNET, &class_name, &set)
            }
            (config, _) => config,
        };
        let config = config.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(to_the_end(&config, &class_name, true), [""; 0], "{class_name}");
    }
}

/// Trains each scheduler that can sample with `t` timesteps, in up to `t` steps. Returns the names of those that
/// cannot.
fn with_few_timesteps(t: usize) -> Vec<String> {
    let mut cannot = vec![];
    for class_name in Registry::default().schedulers.class_names() {
        let mut set = vec![format!("scheduler.num_train_timesteps={t}")];
        if ["LCMScheduler", "TCDScheduler"].contains(&class_name.as_str()) {
            set.push(format!("scheduler.original_inference_steps={t}"));
        }
        if class_name == "RePaintScheduler" {
            set.push("sample.scheduler=DDPMScheduler".into());
        }
        match (1..=t.min(5)).rev().find_map(|n| config(UNET, &class_name, &steps(n, &set)).ok()) {
            Some(config) => assert_eq!(to_the_end(&config, &class_name, false), [""; 0], "{class_name} of {t}"),
            None => cannot.push(class_name),
        }
    }
    cannot
}

/// The schedulers without timesteps.
const WITHOUT: [&str; 2] = ["KarrasVeScheduler", "LinearMixScheduler"];

#[test]
fn one_timestep_is_enough_where_the_class_can() {
    // a consistency model needs two levels; the Runge-Kutta method needs four steps
    let cannot = [&["CMStochasticIterativeScheduler"], &WITHOUT[..], &["PNDMScheduler"]].concat();
    assert_eq!(with_few_timesteps(1), cannot);
}

#[test]
fn two_timesteps_are_enough_where_the_class_can() {
    assert_eq!(with_few_timesteps(2), [&WITHOUT[..], &["PNDMScheduler"]].concat());
}

#[test]
fn five_timesteps_are_enough() {
    assert_eq!(with_few_timesteps(5), WITHOUT);
}

#[test]
fn eight_timesteps_are_enough() {
    assert_eq!(with_few_timesteps(8), WITHOUT);
}

#[test]
fn every_model_comes_to_its_end_or_its_configuration_is_refused() {
    let basic = "[model]\n_class_name = \"BasicUNet\"\n".to_owned();
    let fourier = UNET.to_owned() + "time_embedding_type = \"fourier\"\n";
    let learned = UNET.to_owned() + "time_embedding_type = \"learned\"\nnum_train_timesteps = 1000\n";
    let classes = UNET.to_owned() + "num_class_embeds = 9\n";
    let planes = UNET.replace("UNet2DModel", "ClassConditionedUnet") + "num_classes = 9\nclass_emb_size = 2\n";
    let cases = [
        (&basic, "LinearMixScheduler", ""),
        (&basic, "PNDMScheduler", ""),
        (&fourier, "LinearMixScheduler", ""),
        (&fourier, "ScoreSdeVeScheduler", ""),
        (&fourier, "FlowMatchEulerDiscreteScheduler", ""),
        (&fourier, "DDPMScheduler", "timestep 0 has no logarithm"),
        (&fourier, "EDMEulerScheduler", "has no logarithm"),
        (&learned, "DDPMScheduler", ""),
        (&learned, "LinearMixScheduler", "a whole number from 0 to 999"),
        (&classes, "DDPMScheduler", ""),
        (&planes, "LinearMixScheduler", ""),
        (&planes, "EDMEulerScheduler", ""),
    ];
    for (model, class_name, refused) in cases {
        match config(model, class_name, &steps(5, &[])) {
            Ok(config) => {
                assert!(refused.is_empty(), "{model} with {class_name}");
                assert_eq!(to_the_end(&config, class_name, false), [""; 0], "{model} with {class_name}");
            }
            Err(said) => {
                assert!(!refused.is_empty() && said.contains(refused), "{model}: {said}");
                assert!(said.contains("`time_embedding_type`") && said.contains("positional"), "{said}");
            }
        }
    }
    let told = ["scheduler.timestep=0".to_owned()];
    assert!(config(&fourier, "LinearMixScheduler", &told).unwrap_err().contains("timestep 0 has no logarithm"));
}

#[test]
fn an_end_that_was_cut_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = config(UNET, "DDPMScheduler", &steps(2, &[])).unwrap();
    train(config.clone(), &out, Existing::Refuse).unwrap();
    let weights = || std::fs::read(out.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let (learnt, samples) = (weights(), std::fs::read(out.join("images/samples.png")).unwrap());
    for cut in [&["model_index.json", "images/samples.png", "images/mean.png"][..], &["images/samples.png"], &["unet"]]
    {
        for name in cut {
            let path = out.join(name);
            if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
        }
        train(config.clone(), &out, Existing::Resume { allow_changes: false, checkpoint: None }).unwrap();
        assert!(weights() == learnt && std::fs::read(out.join("images/samples.png")).unwrap() == samples, "{cut:?}");
        assert!(out.join("model_index.json").is_file() && out.join("images/mean.png").is_file());
    }
}

#[test]
fn a_last_step_that_diverges_is_never_called_done() {
    for set in [&[][..], &["train.use_ema=true"], &["train.checkpoint_every=1"], &["train.optimizer=sgd"]] {
        let set: Vec<String> =
            ["train.learning_rate=1e30", "train.max_steps=1"].iter().chain(set).map(|&text| text.to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("run");
        let error = train(config(UNET, "DDPMScheduler", &set).unwrap(), &out, Existing::Refuse).unwrap_err();
        assert!(matches!(error, Error::Unsound { step: 1, .. }) && !error.is_usage(), "{error}");
        let said = error.to_string();
        assert!(said.contains("after step 1: the training has diverged") && said.contains("learning_rate"), "{said}");
        assert!(!out.join("model_index.json").exists() && !out.join("checkpoints/checkpoint-1").exists(), "{set:?}");
    }
}
