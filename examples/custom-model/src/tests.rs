use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_data::{ImageSet, load};
use kakusan_models::{Model, Weights};
use kakusan_pipeline::{DDPMPipeline, Trainer};
use kakusan_rng::Generator;

use super::*;

const QUICK: [&str; 6] = [
    "data.drawn_per_class=16",
    "train.epochs=2",
    "train.batch_size=12",
    "model.width=16",
    "sample.steps=3",
    "sample.trajectory_steps=3",
];

fn quick(more: &[&str]) -> Vec<String> {
    QUICK.iter().chain(more).map(|&set| set.to_owned()).collect()
}

fn config(more: &[&str]) -> RunConfig {
    RunConfig::parse(CONFIG, "test", &quick(more), &registry()).unwrap()
}

fn images(config: &RunConfig) -> Arc<ImageSet> {
    load(config.data.as_ref().unwrap()).unwrap().images
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(weights: &Weights) -> Vec<u32> {
    weights.iter().flat_map(|(_, var)| values(var)).map(f32::to_bits).collect()
}

fn sample(pipeline: &DDPMPipeline) -> Vec<f32> {
    values(&pipeline.sample(2, 3, &mut Generator::new(0)).unwrap())
}

#[test]
fn every_parameter_gets_the_gradient_of_the_loss() {
    let config = config(&[]);
    let (weights, model) =
        Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.model.build(vb)).unwrap();
    assert_eq!(weights.parameter_count(), config.model.outline().unwrap().parameter_count());
    let x = Tensor::from_vec(Generator::new(1).randn(9 * 784), (9, 1, 28, 28), &Device::Cpu).unwrap();
    let timestep = Tensor::arange(0f32, 9.0, &Device::Cpu).unwrap();
    let loss = |model: &dyn Model| model.forward(&x, &timestep, None).unwrap().sqr().unwrap().mean_all().unwrap();
    let gradients = kakusan_ops::backward(&loss(model.as_ref())).unwrap();
    for (name, var) in weights.iter() {
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        let slope = values(gradient).iter().map(|g| g * g).sum::<f32>();
        if name.ends_with("tokens.1.bias") {
            continue; // one number for all that describes a patch, which the next normalisation takes away
        }
        assert!(slope > 1e-9, "{name}: {slope}");
        // a small step along the gradient changes the loss by the gradient's square
        let (before, step) = (var.as_tensor().copy().unwrap(), 0.01 / f64::from(slope.sqrt()));
        let at = |factor: f64| {
            var.set(&(&before + (gradient * (factor * step)).unwrap()).unwrap()).unwrap();
            f64::from(loss(model.as_ref()).to_scalar::<f32>().unwrap())
        };
        let measured = (at(1.0) - at(-1.0)) / (2.0 * step);
        at(0.0);
        assert!((measured / f64::from(slope) - 1.0).abs() < 0.05, "{name}: {measured} for {slope}");
    }
}

#[test]
fn it_trains_and_resumes_bit_for_bit() {
    let (config, dir) = (config(&["train.max_grad_norm=1.0"]), tempfile::tempdir().unwrap());
    let images = images(&config);
    let trainer = || Trainer::new(&config, images.clone(), &Device::Cpu).unwrap();
    let (mut whole, mut losses, mut checkpoint) = (trainer(), vec![], PathBuf::new());
    while let Some(step) = whole.step().unwrap() {
        losses.push(step.loss);
        if step.step == 3 {
            checkpoint = whole.save_checkpoint(dir.path(), step.loss.into()).unwrap();
        }
    }
    assert_eq!(losses.len(), 8);
    assert!(losses[4..].iter().sum::<f32>() < losses[..4].iter().sum::<f32>(), "{losses:?}");

    let mut resumed = trainer();
    resumed.load_checkpoint(&checkpoint).unwrap();
    while let Some(step) = resumed.step().unwrap() {
        assert_eq!(step.loss, losses[step.step - 1], "step {}", step.step);
    }
    assert_eq!(bits(resumed.weights()), bits(whole.weights()));
    assert_eq!(bits(&resumed.sampling_weights().unwrap()), bits(&whole.sampling_weights().unwrap()));
}

#[test]
fn a_run_has_all_that_runs_have() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut epochs = 0;
    let watch = &mut |event: &Event| epochs += usize::from(matches!(event, Event::Epoch(_)));
    assert_eq!(train(&quick(&[]), &out, Existing::Refuse, watch).unwrap(), Outcome::Finished);
    assert_eq!(epochs, 2);
    for file in ["report.html", "metrics.jsonl", "config.toml", "model_index.json", "unet/config.json"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let index = std::fs::read_to_string(out.join("model_index.json")).unwrap();
    assert!(index.contains("\"kakusan\",\n    \"PatchMixer\""), "{index}");

    let saved = DDPMPipeline::from_pretrained(&out, &registry(), &Device::Cpu).unwrap();
    assert_eq!(saved.model_config().to_map()["width"], 16);
    let last = DDPMPipeline::from_run(&out, None, &registry(), &Device::Cpu).unwrap().pipeline;
    assert_eq!(sample(&saved), sample(&last));
    let read = RunConfig::load(&out.join("config.toml"), &[], &registry()).unwrap();
    assert!(*read.model == *saved.model_config());

    let unknown = DDPMPipeline::from_pretrained(&out, &Registry::default(), &Device::Cpu).err().unwrap().to_string();
    assert!(unknown.contains("no model is called `PatchMixer`; known are BasicUNet"), "{unknown}");
}

#[test]
fn a_wrong_configuration_is_refused() {
    let set = |text: &str| RunConfig::parse(CONFIG, "test", &quick(&[text]), &registry()).unwrap_err().to_string();
    assert!(set("model.patch_size=5").contains("patch_size is 5; it must divide sample_size"));
    assert!(set("model.wdth=8").contains("there is no key `wdth` in [model]; did you mean `width`?"));
    assert!(set("model.layers=-1").contains("expected a whole number of at least 0"));
    assert!(set("model._class_name=PatchMixr").contains("did you mean `PatchMixer`?"));
}
