//! A training that is killed at any moment goes on to the same bytes as one that is left alone.
//!
//! The long form, with 50 kills: `cargo test -p kakusan --test kill -- --ignored`.
#![cfg(unix)]

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use command::Workplace;
use kakusan::rng::Generator;

/// Everything that a checkpoint must remember: averages, moments, a place within an epoch, a rate that changes.
const SETTINGS: [&str; 10] = [
    "train.epochs=3",
    "train.checkpoint_every=1",
    "train.keep_checkpoints=3",
    "train.keep_best=true",
    "train.optimizer=adamw",
    "train.lr_scheduler=cosine",
    "train.gradient_accumulation_steps=2",
    "train.use_ema=true",
    "train.tensorboard=true",
    "train.sample_every=1",
];

/// The file, or for a folder of checkpoints each file in it, without what tells the time.
fn whole(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = vec![];
    for file in
        ["unet/diffusion_pytorch_model.safetensors", "images/samples.png", "images/epoch-002.png", "config.toml"]
    {
        found.push((file.to_owned(), fs::read(run.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))));
    }
    let mut checkpoints: Vec<_> = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap()).collect();
    checkpoints.sort_by_key(|entry| entry.file_name());
    for entry in checkpoints {
        let name = entry.file_name().into_string().unwrap();
        assert!(name.starts_with("checkpoint-"), "{name} was left behind");
        found.push((name, fs::read(entry.path().join("SHA256SUMS")).unwrap()));
    }
    for dir in ["", "images", "logs", "unet", "checkpoints"] {
        let hidden = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
        assert!(!fs::read_dir(run.join(dir)).unwrap().any(|entry| hidden(entry.unwrap())), "something half in {dir}");
    }
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let steps = metrics.lines().map(|line| line.split_once(",\"seconds\"").unwrap().0);
    found.push(("metrics.jsonl".into(), steps.collect::<Vec<_>>().join("\n").into_bytes()));
    found
}

/// Trains once undisturbed, and then again and again with kills at random moments, until there were so many.
fn kills(count: usize, seed: u64) {
    let place = Workplace::new();
    let settings: Vec<&str> = SETTINGS.iter().flat_map(|setting| ["--set", setting]).collect();
    let train = |out: &str| Workplace::quick(out, &settings);
    let begin = Instant::now();
    place.train("whole", &settings).expect(0);
    let mut usual = begin.elapsed();
    let expected = whole(&place.path("whole"));

    let mut rng = Generator::new(seed);
    let (mut killed, mut round) = (0, 0);
    while killed < count {
        round += 1;
        let run = format!("run-{round}");
        loop {
            let args = match place.path(&run).join("config.toml").exists() {
                true => vec!["train".to_owned(), "--resume".to_owned(), run.clone()],
                false => train(&run),
            };
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            if killed == count {
                place.run(&args).expect(0);
                break;
            }
            let mut child = place.kakusan(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let begin = Instant::now();
            let moment = begin + usual.mul_f32(0.9 * rng.rand(1)[0]);
            let status = loop {
                match child.try_wait().unwrap() {
                    None if Instant::now() < moment => std::thread::sleep(Duration::from_millis(1)),
                    status => break status,
                }
            };
            match status {
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    killed += 1;
                }
                Some(_) => {
                    command::Done(child.wait_with_output().unwrap()).expect(0);
                    usual = usual.min(begin.elapsed()); // the machine may have got faster
                    break;
                }
            }
        }
        for ((name, expected), (same, ours)) in expected.iter().zip(whole(&place.path(&run))) {
            assert_eq!(*name, same, "after {killed} kills");
            assert!(*expected == ours, "{name} differs after {killed} kills, seed {seed}");
        }
    }
}

#[test]
fn a_few_kills_change_no_byte() {
    kills(4, 1);
}

#[test]
#[ignore = "takes minutes"]
fn fifty_kills_change_no_byte() {
    kills(50, 2);
}
