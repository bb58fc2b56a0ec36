//! Whole trainings by the command: the run's folder, reproducibility, and resuming.

#[path = "support/command.rs"]
mod command;
#[path = "support/fake_hub.rs"]
mod fake_hub;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use command::{WEIGHTS, Workplace, bytes};
use fake_hub::{FakeHub, Fault};

#[test]
fn a_training_leaves_the_whole_run_folder() {
    let place = Workplace::new();
    let said = place.train("run", &[]).expect(0).stdout();
    for expected in [
        "digits drawn by Kakusan's own code",
        "They stand in for MNIST; pass --data DIR to use a folder that has it.",
        "309,057 parameters",
        "Epoch 2 of 2: average loss",
        "run/report.html",
    ] {
        assert!(said.contains(expected), "{expected}\nnot in\n{said}");
    }
    let run = place.path("run");
    let unet: serde_json::Value = serde_json::from_slice(&bytes(&run.join("unet/config.json"))).unwrap();
    assert_eq!(unet["_class_name"], "BasicUNet");
    let index: serde_json::Value = serde_json::from_slice(&bytes(&run.join("model_index.json"))).unwrap();
    assert_eq!(index["scheduler"], serde_json::json!(["kakusan", "LinearMixScheduler"]));
    assert!(run.join("scheduler/scheduler_config.json").is_file());
    assert!(fs::read_to_string(run.join("config.toml")).unwrap().contains("drawn_per_class = 40"));
    assert!(fs::read_to_string(run.join("data.json")).unwrap().contains("\"images\": 120"));

    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let steps: Vec<serde_json::Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.len(), 8);
    for (i, step) in steps.iter().enumerate() {
        assert_eq!((step["step"].as_u64(), step["epoch"].as_u64()), (Some(i as u64 + 1), Some(i as u64 / 4 + 1)));
        assert!(step["loss"].as_f64().unwrap() > 0.0);
        assert_eq!(step["lr"], 1e-3);
    }
    for picture in ["corrupted", "loss", "predictions", "mean", "trajectory", "samples"] {
        let decoder = png::Decoder::new(
            fs::File::open(run.join(format!("images/{picture}.png"))).map(std::io::BufReader::new).unwrap(),
        );
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert!(pixels.contains(&0) || picture == "loss", "{picture} has no ink");
        assert!(pixels.contains(&255), "{picture} has no paper");
    }
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert_eq!(report.matches("<img src=\"data:image/png;base64,").count(), 6);
    assert!(report.contains("stand in for MNIST") && !report.contains("http"));
    assert!(fs::read_to_string(run.join("README.md")).unwrap().starts_with("---\nlibrary_name: kakusan\n"));
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let place = Workplace::new();
    let arguments = |out: &str| Workplace::quick(out, &["--max-steps", "5"]);
    for (out, threads) in [("one", "1"), ("two", "2"), ("again", "2"), ("three", "3")] {
        let args = arguments(out);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let done = place.kakusan(&args).env("RAYON_NUM_THREADS", threads).output().unwrap();
        command::Done(done).expect(0);
    }
    let one = bytes(&place.path("one").join(WEIGHTS));
    for out in ["two", "again", "three"] {
        assert!(one == bytes(&place.path(out).join(WEIGHTS)), "{out} differs");
        assert_eq!(bytes(&place.path("one/images/samples.png")), bytes(&place.path(out).join("images/samples.png")));
    }
    place.train("other", &["--max-steps", "5", "--seed", "1"]).expect(0);
    assert!(one != bytes(&place.path("other").join(WEIGHTS)));
}

/// Starts a very long training and waits until it has done `steps`.
fn start(place: &Workplace, steps: usize) -> std::process::Child {
    let args = Workplace::quick("run", &["--set", "train.epochs=5000"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let child = place.kakusan(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while steps_done(place) < steps {
        assert!(begin.elapsed() < Duration::from_secs(300), "the training does not get on");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn steps_done(place: &Workplace) -> usize {
    fs::read_to_string(place.path("run/metrics.jsonl")).unwrap_or_default().lines().count()
}

/// The setting with which a run ends one epoch after the one in which it was stopped.
fn an_epoch_more(place: &Workplace) -> String {
    format!("train.epochs={}", steps_done(place) / 4 + 1)
}

#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    let status = std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn same_run(place: &Workplace) {
    assert!(bytes(&place.path("whole").join(WEIGHTS)) == bytes(&place.path("run").join(WEIGHTS)), "the weights differ");
    let without_time = |name: &str| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(place.path(name).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("seconds");
            line
        });
        lines.collect()
    };
    assert_eq!(without_time("whole"), without_time("run"));
}

#[test]
#[cfg(unix)]
fn an_interrupted_training_saves_and_resumes_to_the_same_weights() {
    let place = Workplace::new();
    let child = start(&place, 6);
    signal(&child, "-INT");
    let said = command::Done(child.wait_with_output().unwrap()).expect(130).stdout();
    assert!(said.contains("kakusan train --resume run\n"), "{said}");
    assert!(fs::read_to_string(place.path("run/report.html")).unwrap().contains("stopped before its end"));
    let said = place.run(&["sample", "--model", "run", "--batch", "1", "--steps", "1"]).expect(0).stdout();
    let newest = format!(
        "The training has not finished. Using the weights of run/checkpoints/checkpoint-{}.",
        steps_done(&place)
    );
    assert!(said.contains(&newest), "{said}");
    assert!(place.run(&["info", "run"]).expect(0).stdout().contains(&newest));
    let epochs = an_epoch_more(&place);
    place.run(&["train", "--resume", "run", "--set", &epochs]).expect(0);
    place.train("whole", &["--set", &epochs]).expect(0);
    same_run(&place);
}

#[test]
fn a_run_resumes_from_an_earlier_checkpoint() {
    let place = Workplace::new();
    place.train("run", &[]).expect(0);
    let before = bytes(&place.path("run").join(WEIGHTS));
    let said = place.run(&["train", "--resume", "run", "--checkpoint", "5"]).expect(2).stderr();
    assert!(
        said.contains("there is no checkpoint of step 5 in run/checkpoints; there are checkpoints of the steps 4, 8"),
        "{said}"
    );
    let said = place.run(&["train", "--resume", "run", "--checkpoint", "4"]).expect(0).stdout();
    assert!(said.contains("Resuming after step 4"), "{said}");
    assert!(before == bytes(&place.path("run").join(WEIGHTS)));
    let mut kept: Vec<_> =
        fs::read_dir(place.path("run/checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    kept.sort();
    assert_eq!(kept, ["checkpoint-4", "checkpoint-8", "later-checkpoint-8"]);
}

/// While it waits for the Hub, there is nothing to save.
#[test]
#[cfg(unix)]
fn an_interrupt_before_the_first_step_ends_the_training_at_once() {
    let (place, hub) = (Workplace::new(), FakeHub::start());
    hub.fault(Fault::Silent);
    let config = command::config("184.toml");
    let args = ["train", "--config", config.to_str().unwrap(), "--out", "run", "--set", "data.sources=[\"hub\"]"];
    let mut command = place.kakusan(&args);
    command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_OFFLINE", "0");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while hub.requests().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begin = Instant::now();
    signal(&child, "-INT");
    command::Done(child.wait_with_output().unwrap()).expect(130);
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited for the Hub all the same");
    assert!(!place.path("run").exists());
}

#[test]
#[cfg(unix)]
fn only_one_training_uses_a_run_at_a_time() {
    let place = Workplace::new();
    let child = start(&place, 5);
    for args in [Workplace::quick("run", &["--overwrite"]), vec!["train".into(), "--resume".into(), "run".into()]] {
        let said = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).expect(2).stderr();
        assert!(said.contains("run is in use: another training writes there"), "{said}");
    }
    signal(&child, "-TERM");
    command::Done(child.wait_with_output().unwrap()).expect(130);
}

/// Kills one real process; `tests/kill.rs` tests a kill at every change.
#[test]
#[cfg(unix)]
fn a_killed_training_leaves_no_partial_file_and_resumes_to_the_same_weights() {
    let place = Workplace::new();
    let mut child = start(&place, 5);
    child.kill().unwrap();
    child.wait().unwrap();
    let report = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(report.contains("This training is in progress") && report.contains("http-equiv=\"refresh\""));
    // every file with its final name is complete
    for entry in fs::read_dir(place.path("run/checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("checkpoint-") {
            for file in [WEIGHTS, "unet/config.json", "optimizer.safetensors", "progress.json", "SHA256SUMS"] {
                assert!(path.join(file).is_file(), "{} lacks {file}", path.display());
            }
        }
    }
    let epochs = an_epoch_more(&place);
    place.run(&["train", "--resume", "run", "--set", &epochs]).expect(0);
    place.train("whole", &["--set", &epochs]).expect(0);
    same_run(&place);
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let place = Workplace::new();
    place.train("whole", &["--set", "train.epochs=4"]).expect(0);
    place.train("run", &["--set", "train.epochs=4", "--max-steps", "12"]).expect(0);
    let newest = place.path("run/checkpoints/checkpoint-12/").join(WEIGHTS);
    let whole = bytes(&newest);
    fs::write(&newest, &whole[..whole.len() / 2]).unwrap();
    let said = place.run(&["train", "--resume", "run", "--max-steps", "16"]).expect(0).stdout();
    assert!(said.contains("is damaged: its checksum") && said.contains("Resuming after step 8"), "{said}");
    same_run(&place);
    // it is kept for inspection, and no good one was deleted in its place
    let mut kept: Vec<_> =
        fs::read_dir(place.path("run/checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    kept.sort();
    assert_eq!(kept, ["checkpoint-12", "checkpoint-16", "damaged-checkpoint-12"]);
}

#[test]
fn the_newest_checkpoints_and_the_best_are_kept() {
    let place = Workplace::new();
    let settings = ["train.checkpoint_every=1", "train.keep_checkpoints=1", "train.keep_best=true"];
    // a learning rate that rises until it does harm: the best weights are in the middle
    let rates = ["train.optimizer=sgd", "train.learning_rate=1.0", "train.lr_scheduler=piecewise_constant"];
    let rules = ["train.lr_step_rules=0.1:4,2", "train.max_steps=6"]; // before the weights stop being finite
    let args: Vec<&str> = [&settings[..], &rates, &rules].concat().iter().flat_map(|s| ["--set", s]).collect();
    place.train("run", &args).expect(0);
    let mut kept: Vec<usize> = fs::read_dir(place.path("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().strip_prefix("checkpoint-").unwrap().parse().unwrap())
        .collect();
    kept.sort_unstable();
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap())
        .collect();
    let mean = |steps: usize| losses[..steps].iter().sum::<f64>() / steps as f64;
    let best = (1..=6).min_by(|a, b| mean(*a).total_cmp(&mean(*b))).unwrap();
    assert!(best < 6, "{losses:?}");
    assert_eq!(kept, [best, 6]);
}

#[test]
fn the_average_is_saved_and_sampled() {
    let place = Workplace::new();
    let settings = ["use_ema=true", "tensorboard=true", "sample_every=2", "lr_scheduler=linear", "max_grad_norm=0.5"];
    let settings: Vec<String> = settings.iter().map(|setting| format!("train.{setting}")).collect();
    let args: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    place.train("run", &args).expect(0);
    let checkpoint = place.path("run/checkpoints/checkpoint-8");
    let average = bytes(&checkpoint.join("unet_ema/diffusion_pytorch_model.safetensors"));
    assert!(average == bytes(&place.path("run").join(WEIGHTS)), "the run's model is the average");
    assert!(average != bytes(&checkpoint.join(WEIGHTS)));
    let sample = |file: &str, more: &[&str]| {
        let args = ["sample", "--model", "run", "--batch", "1", "--steps", "1", "--save-tensor", file];
        (place.run(&[&args[..], more].concat()).expect(0).stdout(), bytes(&place.path(file)))
    };
    let (said, drawn) = sample("a.safetensors", &["--checkpoint", "8"]);
    assert!(said.contains("Using the averaged weights of run/checkpoints/checkpoint-8."), "{said}");
    assert!(drawn == sample("b.safetensors", &[]).1 && drawn != sample("c.safetensors", &["--checkpoint", "4"]).1);
    assert!(place.path("run/images/epoch-002.png").is_file() && !place.path("run/images/epoch-001.png").exists());
    let report = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(report.contains("after epoch 2") && !report.contains("http-equiv"));
    assert!(bytes(&place.path("run/logs/events.out.tfevents.0.kakusan")).len() > 8 * 100);
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    for line in metrics.lines() {
        let step: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(step["grad_norm"].as_f64().unwrap() > 0.0 && step["ema_decay"].as_f64().is_some(), "{line}");
    }
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!((last["lr"].as_f64().unwrap() - 1e-3 / 8.0).abs() < 1e-12);

    place.train("plain", &[]).expect(0);
    let said = place.run(&["report", "run", "plain", "--out", "both.html"]).expect(0).stdout();
    assert!(said.contains("both.html"), "{said}");
    let page = fs::read_to_string(place.path("both.html")).unwrap();
    assert_eq!(page.matches("<polyline").count(), 2);
    assert!(
        page.contains("<th>train.lr_scheduler</th><td>&quot;linear&quot;</td><td>&quot;constant&quot;</td>"),
        "{page}"
    );
    place.run(&["report", "nothing"]).expect(2);
}
