//! With the same seed, the command's losses and samples are PyTorch's: on MNIST's first 512 images
//! (`golden/mnist_excerpt.py`), and on all of MNIST, in the folder that `KAKUSAN_MNIST_DIR` names:
//! `cargo test --test parity -- --ignored whole_mnist`.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;

use command::{Workplace, config};
use safetensors::SafeTensors;

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)).unwrap()
}

fn f32s(bytes: &[u8], name: &str) -> Vec<f32> {
    let data = SafeTensors::deserialize(bytes).unwrap();
    data.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn losses(place: &Workplace) -> Vec<f32> {
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap() as f32;
    metrics.lines().map(loss).collect()
}

fn train(place: &Workplace, mnist: &str, more: &[&str]) {
    train_by("184.toml", place, mnist, more);
}

fn train_by(name: &str, place: &Workplace, mnist: &str, more: &[&str]) {
    let config = config(name);
    let args = ["train", "--config", config.to_str().unwrap(), "--data", mnist, "--out", "run"];
    place.run(&[args.as_slice(), more].concat()).expect(0);
}

#[track_caller]
fn within(ours: &[f32], theirs: &[f32], relative: f32) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= relative * b.abs(), "step {}: {a}, PyTorch {b}", i + 1);
    }
}

/// The images that the run samples; the first ones are compared with PyTorch's.
#[track_caller]
fn samples_within(place: &Workplace, theirs: &[f32], count: usize, most: f32) {
    let args = ["sample", "--model", "run", "--steps", "40", "--batch", "64", "--seed", "0", "--save-tensor", "s"];
    place.run(&args).expect(0);
    let ours = f32s(&fs::read(place.path("s")).unwrap(), "images");
    assert_eq!((ours.len(), theirs.len()), (64 * 784, count * 784));
    let difference = ours.iter().zip(theirs).map(|(a, b)| (a - b.clamp(0.0, 1.0)).abs()).fold(0.0, f32::max);
    assert!(difference <= most, "{difference}");
}

/// The excerpt's folder, and PyTorch's results on it.
fn excerpt() -> (String, Vec<u8>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mnist").canonicalize().unwrap();
    (folder.to_str().unwrap().to_owned(), golden("tutorial-excerpt.safetensors"))
}

#[test]
fn the_tutorial_on_an_excerpt_is_pytorchs_seed_for_seed() {
    let ((mnist, golden), place) = (excerpt(), Workplace::new());
    train(&place, &mnist, &["--seed", "0"]);
    let theirs = f32s(&golden, "losses");
    assert_eq!(theirs.len(), 10);
    within(&losses(&place), &theirs, 1e-4);
    samples_within(&place, &f32s(&golden, "samples"), 16, 0.005);
}

/// What `golden/unet_training.py` trains ddpm-184.toml's network by: PyTorch's Muon takes no kernels of convolutions.
const BY_ADAM: [&str; 12] = [
    "--set",
    "train.optimizer=\"adam\"",
    "--set",
    "train.learning_rate=1e-3",
    "--set",
    "train.lr_warmup_steps=100",
    "--set",
    "train.epochs=5",
    "--set",
    "train.pixel_scale=1.1",
    "--set",
    "scheduler.clip_sample_range=1.1",
];

/// The first losses of a configuration that trains UNet2DModel, with cheap pictures at the end.
#[track_caller]
fn the_unet_trains_as_in_pytorch(name: &str, mnist: &str, theirs: &[f32]) {
    let place = Workplace::new();
    let steps = theirs.len().to_string();
    let cheap = ["--set", "sample.steps=5", "--set", "sample.trajectory_steps=5", "--set", "sample.batch_size=2"];
    let adam = if name == "ddpm-184.toml" { BY_ADAM.as_slice() } else { &[] };
    train_by(name, &place, mnist, &[["--max-steps", &steps].as_slice(), &cheap, adam].concat());
    within(&losses(&place), theirs, 1e-3);
}

#[test]
fn unets_on_an_excerpt_train_as_in_pytorch() {
    let (mnist, golden) = excerpt();
    for (name, tensor, steps) in [("ddpm-184.toml", "ddpm", 3), ("184-unet2d.toml", "mix", 2)] {
        let theirs = f32s(&golden, tensor);
        assert_eq!(theirs.len(), steps);
        the_unet_trains_as_in_pytorch(name, &mnist, &theirs);
    }
}

mod whole_mnist {
    use super::*;

    fn folder() -> String {
        std::env::var("KAKUSAN_MNIST_DIR").expect("KAKUSAN_MNIST_DIR names the folder of MNIST's files")
    }

    #[test]
    #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR"]
    fn the_tutorial_is_pytorchs_seed_for_seed() {
        let mnist = folder();
        let golden = golden("tutorial-184-seed0.safetensors");
        let place = Workplace::new();
        train(&place, &mnist, &["--seed", "0"]);

        let (ours, theirs) = (losses(&place), f32s(&golden, "losses"));
        assert_eq!((ours.len(), theirs.len()), (725, 725));
        within(&ours[..145], &theirs[..145], 1e-4);
        let means = |losses: &[f32]| -> Vec<f32> {
            losses.chunks(145).map(|epoch| (epoch.iter().map(|&l| f64::from(l)).sum::<f64>() / 145.0) as f32).collect()
        };
        within(&means(&ours), &means(&theirs), 5e-4);

        samples_within(&place, &f32s(&golden, "samples"), 64, 0.02);
    }

    #[test]
    #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR"]
    fn other_digits_and_another_seed_are_pytorchs_too() {
        let mnist = folder();
        let place = Workplace::new();
        train(&place, &mnist, &["--seed", "7", "--set", "data.classes=[3,5]", "--max-steps", "40"]);
        within(&losses(&place), &f32s(&golden("tutorial-35-seed7.safetensors"), "losses"), 1e-4);
    }

    #[test]
    #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR"]
    fn ddpm_trains_as_in_pytorch() {
        let theirs = f32s(&golden("unet-training.safetensors"), "ddpm");
        the_unet_trains_as_in_pytorch("ddpm-184.toml", &folder(), &theirs);
    }

    #[test]
    #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR"]
    fn the_courses_second_model_trains_as_in_pytorch() {
        let theirs = f32s(&golden("unet-training.safetensors"), "mix");
        the_unet_trains_as_in_pytorch("184-unet2d.toml", &folder(), &theirs);
    }

    /// AdamW, warm-up and cosine, accumulation, clipping and averaged weights together, from `golden/training_run.py`.
    #[test]
    #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR"]
    fn a_training_with_everything_is_pytorchs_and_diffusers() {
        let mnist = folder();
        let golden = golden("training-run-5.safetensors");
        let place = Workplace::new();
        let settings = [
            "data.classes=[5]",
            "train.epochs=2",
            "train.batch_size=64",
            "train.gradient_accumulation_steps=4",
            "train.optimizer=adamw",
            "train.betas=[0.95,0.999]",
            "train.lr_scheduler=cosine",
            "train.lr_warmup_steps=5",
            "train.max_grad_norm=0.05",
            "train.use_ema=true",
        ];
        train(&place, &mnist, &settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>());
        let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
        let steps: Vec<serde_json::Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (ours, theirs, relative) in [
            ("loss", "losses", 1e-4),
            ("grad_norm", "grad_norms", 1e-3),
            ("lr", "lrs", 1e-6),
            ("ema_decay", "ema_decays", 1e-6),
        ] {
            let ours: Vec<f32> = steps.iter().map(|step| step[ours].as_f64().unwrap() as f32).collect();
            within(&ours, &f32s(&golden, theirs), relative);
        }
        let weights = "unet/diffusion_pytorch_model.safetensors";
        let average = fs::read(place.path("run").join(weights)).unwrap();
        let last = fs::read(place.path("run/checkpoints/checkpoint-44").join(weights)).unwrap();
        for name in ["down_layer1.weight", "up_layer2.bias", "up_layer3.weight"] {
            for (ours, theirs) in [(&average, format!("ema.{name}")), (&last, name.to_owned())] {
                let pairs = f32s(ours, name).into_iter().zip(f32s(&golden, &theirs));
                let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(difference < 2e-5, "{theirs}: {difference}");
            }
        }
    }
}
