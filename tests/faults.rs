//! Bad input gives a message with a remedy and the right exit code, and nothing is lost.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;

use command::{Done, Workplace, config};

/// Runs the command and checks its exit code and message; it must not create anything.
#[track_caller]
fn refused(place: &Workplace, args: &[&str], code: i32, words: &[&str]) {
    let done = place.run(args).expect(code);
    let said = done.stderr();
    for word in words {
        assert!(said.contains(word), "{args:?} said\n{said}\nwhich lacks {word}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(!place.path("runs").exists() && !place.path("run").exists(), "{args:?} left something behind");
}

#[test]
fn wrong_usage_and_configurations_end_with_2() {
    let place = Workplace::new();
    let config = config("184.toml");
    let config = config.to_str().unwrap();
    refused(&place, &["train"], 2, &["--config"]);
    refused(&place, &["train", "--config", "none.toml"], 2, &["none.toml", "cannot be read"]);
    refused(&place, &["train", "--config", config, "--device", "tpu"], 2, &["cpu, cuda, cuda:N or auto"]);
    refused(&place, &["train", "--config", config, "--threads", "0"], 2, &["--threads", "from 1 to 1024"]);
    refused(&place, &["train", "--config", config, "--threads", "999999"], 2, &["--threads", "from 1 to 1024"]);
    refused(&place, &["train", "--config", config, "--vectors", "mmx"], 2, &["mmx", "avx512, avx2, neon or scalar"]);
    for threads in ["many", "-1", "2.5", "9999"] {
        let done = place.kakusan(&["info"]).env("RAYON_NUM_THREADS", threads).output().unwrap();
        let said = Done(done).expect(2).stderr();
        assert!(said.contains("RAYON_NUM_THREADS is") && said.contains(threads), "{said}");
    }
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    refused(&place, &["train", "--config", config, "--vectors", foreign], 2, &["this machine has no", foreign]);
    for (set, words) in [
        ("train.epoch=2", ["did you mean `epochs`?", "--set train.epoch"]),
        ("train.batch_size=0", ["batch_size", "between 1 and"]),
        ("train.batch_size=-1", ["batch_size", "-1"]),
        ("data.classes=[11]", ["names 11", "0, 1, 2"]),
        ("data.classes=[]", ["is empty", "classes"]),
        ("model._class_name=UNet", ["no model is called `UNet`", "UNet2DModel"]),
        ("model.sample_size=32", ["28 x 28", "sample_size"]),
    ] {
        let drawn = "data.sources=[\"drawn\"]";
        refused(&place, &["train", "--config", config, "--set", drawn, "--set", set], 2, &words);
    }
    let file = place.path("my.toml");
    fs::write(&file, fs::read_to_string(config).unwrap().replace("epochs = 5", "epoch = 5")).unwrap();
    refused(&place, &["train", "--config", "my.toml"], 2, &["my.toml:19:1", "did you mean `epochs`?", "epoch = 5"]);
    refused(&place, &["train", "--resume", "."], 2, &["is not the folder of a run"]);
    refused(&place, &["sample", "--model", ".", "--batch", "0"], 2, &["--batch"]);
}

/// Each flag that takes a number, with values that it must refuse and the range in its message.
#[test]
fn a_number_out_of_a_flags_range_is_refused_with_the_range() {
    let place = Workplace::new();
    let config = config("184.toml");
    let train = ["train", "--config", config.to_str().unwrap(), "--resume", "run"];
    let whole = ["-1", "-0.5", "1.5", "1e3", "nan", "-inf", "", "x", "99999999999999999999999"];
    let real = ["nan", "-nan", "inf", "-inf", "1e999", "-1e999", "", "x"];
    let (from_0, of_1024) = ("expected a whole number from 0 to", "expected a whole number from 1 to 1024");
    let step = format!("{from_0} {}", usize::MAX);
    let seed = format!("{from_0} {}", u64::MAX);
    let toml_seed = format!("{from_0} {}", i64::MAX);
    let toml_steps = format!("expected a whole number from 1 to {}", i64::MAX);
    let sample = ["sample", "--model", "run"].as_slice();
    let info = ["info", "run"].as_slice();
    let check = |command: &[&str], flag: &str, values: &[&[&str]], range: &str| {
        for value in values.concat() {
            refused(&place, &[command, &[flag, value]].concat(), 2, &[flag, &format!("'{value}'"), range]);
        }
    };
    check(&train, "--seed", &[&whole, &["9223372036854775808"]], &toml_seed);
    check(&train, "--max-steps", &[&whole, &["0", "-3", "9223372036854775808"]], &toml_steps);
    check(&train, "--checkpoint", &[&whole], &step);
    check(&train, "--threads", &[&whole, &["0", "1025"]], of_1024);
    check(sample, "--checkpoint", &[&whole], &step);
    check(sample, "--steps", &[&whole, &["0", "-3", "100001"]], "expected a whole number from 1 to 100000");
    check(sample, "--batch", &[&whole, &["0", "4097"]], "expected a whole number from 1 to 4096");
    check(sample, "--seed", &[&whole, &["18446744073709551616"]], &seed);
    check(sample, "--eta", &[&real, &["-1", "1.5", "-1e-9"]], "expected a number from 0 to 1");
    check(sample, "--churn", &[&real, &["-1", "-0.001"]], "expected a number of at least 0");
    check(sample, "--guidance", &[&real], "expected a finite number");
    check(sample, "--threads", &[&whole, &["0", "1025"]], of_1024);
    check(info, "--checkpoint", &[&whole], &step);
    for seeds in ["-1", "-1..3", "3..-1", "1.5", "nan", "5..2", "0..18446744073709551615"] {
        refused(&place, &[sample, &["--seeds", seeds]].concat(), 2, &["--seeds"]);
    }
    for size in ["-1", "-1MB", "0", "0MB", "nanMB", "infGB", "1e30TB"] {
        refused(&place, &["convert", "run", "half", "--max-shard-size", size], 2, &["--max-shard-size", "like 100MB"]);
    }
    // values in a flag's range are accepted: only the model is missing
    for (flag, value) in [("--guidance", "-1"), ("--guidance", "-2.5e3"), ("--seed", "18446744073709551615")] {
        let done = place.run(&[sample, &[flag, value]].concat());
        assert!(done.code() != Some(0) && !done.stderr().contains(flag), "{}", done.stderr());
    }
}

/// A small UNet2DModel on drawn digits.
const SMALL: &str = r#"
data = { name = "mnist", classes = [1], sources = ["drawn"], drawn_per_class = 4 }
scheduler = { _class_name = "LinearMixScheduler" }
train = { epochs = 1, batch_size = 4, optimizer = "adam" }
sample = { steps = 1, batch_size = 1, trajectory_steps = 1 }

[model]
_class_name = "UNet2DModel"
sample_size = 28
in_channels = 1
out_channels = 1
layers_per_block = 1
block_out_channels = [2, 4]
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
attention_head_dim = 2
norm_num_groups = 2
"#;

/// Text that no message may contain: candle adds a backtrace to its errors if `RUST_BACKTRACE` is set.
#[track_caller]
fn assert_no_backtrace(said: &str) {
    let frame =
        |line: &str| line.trim_start().split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    let inner = ["stack backtrace", "candle_core::", "kakusan_ops::", "kakusan_models::", "panicked", ".rs:"];
    let bad = said.lines().any(frame) || inner.iter().any(|word| said.contains(word));
    assert!(!bad && !said.trim().is_empty(), "{said}");
}

#[test]
fn no_message_contains_a_backtrace_or_a_rust_type() {
    let place = Workplace::new();
    fs::write(place.path("small.toml"), SMALL).unwrap();
    fs::write(place.path("large.toml"), SMALL.replace("epochs = 1", "epochs = 9223372036854775808")).unwrap();
    place.run(&["train", "--config", "small.toml", "--out", "run"]).expect(0);
    // all checksums are right, but the state is another optimiser's
    let checkpoint = place.path("run/checkpoints/checkpoint-1");
    let optimizer = checkpoint.join("optimizer.safetensors");
    let bytes = fs::read(&optimizer).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let flat = tensors.iter().map(|(name, tensor)| {
        let elements = tensor.shape().iter().product();
        (name, safetensors::tensor::TensorView::new(tensor.dtype(), vec![1, 1, elements], tensor.data()).unwrap())
    });
    fs::write(&optimizer, safetensors::serialize(flat, None).unwrap()).unwrap();
    let sums = checkpoint.join("SHA256SUMS");
    let kept = fs::read_to_string(&sums).unwrap();
    fs::write(
        &sums,
        kept.lines()
            .filter(|line| !line.ends_with("optimizer.safetensors"))
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    )
    .unwrap();
    // and a damaged model: its header, its length
    for (name, keep) in [("header", 4), ("short", 9_000)] {
        let dir = place.path(name);
        copy(&place.path("run"), &dir);
        let weights = dir.join("unet/diffusion_pytorch_model.safetensors");
        let bytes = fs::read(&weights).unwrap();
        fs::write(&weights, &bytes[..keep.min(bytes.len() / 2)]).unwrap();
    }

    let train = ["train", "--config", "small.toml", "--out", "new"];
    let settings = [
        ("model.out_channels=3", "model.out_channels = 1"),
        ("model.in_channels=3", "model.in_channels"),
        ("model.sample_size=32", "model.sample_size"),
        ("model.sample_size=27", "model.sample_size"),
        ("model.block_out_channels=[3,5]", "block_out_channels must be multiples of norm_num_groups"),
        ("model.block_out_channels=[2]", "block_out_channels"),
        ("model.block_out_channels=[2,-4]", "a whole number of at least 0"),
        ("model.block_out_channels=[2,1.5]", "a whole number of at least 0"),
        ("model.norm_num_groups=3", "norm_num_groups"),
        ("model.norm_eps=\"small\"", "a number"),
        ("scheduler.num_train_timesteps=-1", "a whole number of at least 0"),
        ("scheduler.beta_start=\"low\"", "a number"),
        ("train.batch_size=-1", "a whole number of at least 0"),
        ("train.learning_rate=\"fast\"", "a number"),
        ("train.seed=-1", "a whole number of at least 0"),
        ("train.seed=9223372036854775808", "out of range"),
        ("data.classes=[-1]", "-1"),
        ("data.drawn_per_class=-4", "a whole number of at least 0"),
        ("sample.steps=-3", "a whole number of at least 0"),
    ];
    let ddpm = ["--set", "scheduler._class_name=DDPMScheduler"];
    let mut cases: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec!["train", "--resume", "run", "--checkpoint", "1"], 1, "its moment"),
        (vec!["train", "--resume", "run", "--set", "train.epochs=2"], 1, "checkpoint-1"),
        (vec!["train", "--config", "large.toml"], 2, "out of range"),
        (vec!["sample", "--model", "header"], 1, "diffusion_pytorch_model.safetensors"),
        (vec!["sample", "--model", "short"], 1, "diffusion_pytorch_model.safetensors"),
        (vec!["info", "short"], 1, "diffusion_pytorch_model.safetensors"),
        (vec!["sample", "--model", "run", "--steps", "-3"], 2, "--steps"),
        (vec!["train", "--config", "small.toml", "--max-steps", "-3"], 2, "--max-steps"),
    ];
    cases.extend(settings.iter().map(|(set, word)| {
        let scheduler = if set.starts_with("scheduler") { ddpm.as_slice() } else { &[] };
        ([&train[..], scheduler, &["--set", set]].concat(), 2, *word)
    }));
    if !cfg!(feature = "cuda") {
        cases.push((vec!["sample", "--model", "run", "--device", "cuda"], 1, "--features cuda"));
        cases.push(([&train[..], &["--device", "cuda:1"]].concat(), 1, "--device cpu"));
    }
    for (args, code, word) in cases {
        for backtrace in ["1", "full"] {
            let done = Done(place.kakusan(&args).env("RUST_BACKTRACE", backtrace).output().unwrap()).expect(code);
            let said = done.stderr();
            assert!(said.contains(word), "{args:?} said\n{said}\nwhich lacks {word}");
            assert_no_backtrace(&said);
            for name in ["usize", "u64", "u32", "i64", "i128", "f64", "f32"] {
                assert!(!said.contains(name), "{args:?} said {said}");
            }
        }
    }
}

/// A build without CUDA does not mention cards unless one is requested.
#[test]
fn a_build_without_cuda_does_not_mention_it() {
    let place = Workplace::new();
    fs::write(place.path("small.toml"), SMALL).unwrap();
    let done = place.run(&["train", "--config", "small.toml", "--out", "run", "--device", "cpu"]).expect(0);
    assert_eq!(done.stderr(), "");
    let sample = |device: &str| place.run(&["sample", "--model", "run", "--device", device]).expect(0).stderr();
    assert_eq!(sample("cpu"), "");
    assert!(cfg!(feature = "cuda") || sample("auto").is_empty());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn drawn_digits_never_replace_a_named_folder() {
    let place = Workplace::new();
    let config = config("184.toml");
    let train = |words: &[&str]| {
        refused(&place, &["train", "--config", config.to_str().unwrap(), "--data", "mnist"], 1, words);
    };
    train(&["mnist"]);
    let dir = place.path("mnist");
    fs::create_dir(&dir).unwrap();
    train(&["train-images", "mnist"]);
    fs::write(dir.join("train-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 2, 1, 8]).unwrap();
    let header = |count: u32| [0x803u32, count, 28, 28].map(u32::to_be_bytes).concat();
    fs::write(dir.join("train-images-idx3-ubyte"), header(u32::MAX)).unwrap();
    train(&["train-images-idx3-ubyte"]);
    fs::write(dir.join("train-images-idx3-ubyte"), [header(1), vec![0; 784]].concat()).unwrap();
    train(&["1", "2"]);
}

#[test]
fn an_existing_run_is_kept_without_overwrite() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    let before = fs::read(place.path("run/metrics.jsonl")).unwrap();
    let said = place.train("run", &[]).expect(2).stderr();
    assert!(said.contains("--overwrite") && said.contains("--out run-2"), "{said}");
    assert_eq!(fs::read(place.path("run/metrics.jsonl")).unwrap(), before);

    // leftovers of a killed run's first file do not matter
    fs::create_dir(place.path("begun")).unwrap();
    fs::write(place.path("begun/.config.toml.aZ09bY"), "half").unwrap();
    place.train("begun", &["--max-steps", "1"]).expect(0);
    fs::write(place.path("begun/images/.loss.png.aZ09bY"), "half").unwrap();
    place.run(&["train", "--resume", "begun"]).expect(0);
    assert!(!place.path("begun/.config.toml.aZ09bY").exists() && !place.path("begun/images/.loss.png.aZ09bY").exists());

    // --overwrite deletes only runs
    place.train("run", &["--max-steps", "2", "--overwrite"]).expect(0);
    assert_eq!(fs::read_to_string(place.path("run/metrics.jsonl")).unwrap().lines().count(), 2);
    fs::create_dir(place.path("mine")).unwrap();
    fs::write(place.path("mine/letter.txt"), "keep me").unwrap();
    let said = place.train("mine", &["--overwrite"]).expect(2).stderr();
    assert!(said.contains("will not delete"), "{said}");
    assert!(place.path("mine/letter.txt").exists());
    fs::write(place.path("file"), "").unwrap();
    place.train("file", &[]).expect(1);
    place.train("file/run", &[]).expect(1);
}

#[test]
fn damaged_pipelines_are_refused() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    let sample = |words: &[&str]| {
        let said = place.run(&["sample", "--model", "run", "--batch", "1", "--steps", "1"]).expect(1).stderr();
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains("panicked"), "{said}");
        assert!(!place.path("samples.png").exists());
    };
    let damage = |file: &str, bytes: &[u8], words: &[&str]| {
        let path = place.path("run").join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        sample(words);
        fs::write(&path, whole).unwrap();
    };
    let weights = "unet/diffusion_pytorch_model.safetensors";
    damage(weights, b"", &[weights, "not a valid safetensors file"]);
    damage(weights, &[0xff; 64], &[weights, "not a valid safetensors file"]);
    damage("unet/config.json", b"{}", &["unet/config.json", "_class_name"]);
    damage("unet/config.json", br#"{"_class_name": "BasicUNet", "in_channels": 3}"#, &["expected [32, 3, 5, 5]"]);
    damage("scheduler/scheduler_config.json", br#"{"_class_name": "#, &["scheduler_config.json", "JSON"]);
    damage("model_index.json", b"{\"unet\": 1}", &["model_index.json", "scheduler"]);
    damage("model_index.json", b"\xff", &["model_index.json"]);
    let said = place.run(&["sample", "--model", "nowhere"]).expect(1).stderr();
    assert!(said.contains("there is no such folder"), "{said}");
    let said = place.run(&["sample", "--model", "owner/name"]).expect(1).stderr();
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
}

#[test]
fn sampling_checks_first_that_it_can_write() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    let said = place.run(&["sample", "--model", "run", "--out", "no/such/a.png"]).expect(2).stderr();
    assert!(said.contains("there is no folder no/such"), "{said}");
}

/// A limit on file sizes makes a write fail half-way, as a full disk does: in the weights, and in later files.
#[test]
#[cfg(unix)]
fn a_full_disk_ends_the_run_and_loses_nothing() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "4"]).expect(0);
    let args = ["train", "--resume", "run", "--max-steps", "8"];
    for (kibibytes, file) in [(500, "diffusion_pytorch_model.safetensors"), (1800, "optimizer.safetensors")] {
        let mut limited = std::process::Command::new("bash");
        let script = format!("trap '' XFSZ; ulimit -f {kibibytes}; exec \"$0\" \"$@\"");
        limited.args(["-c", &script, env!("CARGO_BIN_EXE_kakusan")]);
        limited.args(args).current_dir(place.path("."));
        let said = command::Done(limited.output().unwrap()).expect(1).stderr();
        assert!(said.contains("cannot write") && said.contains(file) && said.contains("too large"), "{said}");
        assert!(said.contains("kakusan train --resume run\n"), "{said}");
        let mut left = fs::read_dir(place.path("run/checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
        // the unfinished file was deleted
        assert!(left.next().is_some_and(|name| name == "checkpoint-4") && left.next().is_none());
    }

    place.run(&args).expect(0);
    place.train("whole", &["--max-steps", "8"]).expect(0);
    let weights = |run: &str| fs::read(place.path(run).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert!(weights("run") == weights("whole"));
}

#[test]
fn a_run_resumes_with_its_own_configuration_or_names_the_differences() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    let before = fs::read(place.path("run/config.toml")).unwrap();
    let changed = |set: &str| ["train", "--resume", "run", "--max-steps", "2", "--set", set].map(str::to_owned);
    let resume = |args: &[String]| place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    for (set, words, changeable) in [
        ("train.learning_rate=0.01", "train.learning_rate is `0.01`, but `0.001` in the run", true),
        ("train.max_grad_norm=1.0", "train.max_grad_norm is `1.0`, but not set in the run", true),
        ("train.batch_size=16", "train.batch_size is `16`, but `32` in the run", true),
        ("data.classes=[3]", "data.classes is `[3]`, but `[1, 8, 4]` in the run", true),
        ("train.lr_scheduler=cosine", "train.max_steps is `2`, but `1` in the run", true),
    ] {
        let said = resume(&changed(set)).expect(2).stderr();
        assert!(said.contains(words) && said.contains("--allow-changes") == changeable, "{said}");
    }
    assert_eq!(fs::read(place.path("run/config.toml")).unwrap(), before);
    let again = Workplace::quick("run", &["--max-steps", "1", "--resume"]);
    let said = resume(&again).expect(0).stdout();
    assert!(said.contains("Resuming after step 1"), "{said}");
    let allowed = [&changed("train.learning_rate=0.01")[..], &["--allow-changes".to_owned()]].concat();
    resume(&allowed).expect(0);
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    let rates: Vec<&str> =
        metrics.lines().map(|line| if line.contains("\"lr\":0.001,") { "old" } else { "new" }).collect();
    assert_eq!(rates, ["old", "new"]);
    let fixed = [&changed("train.seed=5")[..], &["--allow-changes".to_owned()]].concat();
    assert!(resume(&fixed).expect(2).stderr().contains("train.seed"));
}

/// A larger data set, another batch size, more epochs with a decaying learning rate.
#[test]
fn a_run_resumes_with_allowed_changes() {
    let place = Workplace::new();
    place.train("run", &["--set", "train.lr_scheduler=linear"]).expect(0);
    let changes = ["data.drawn_per_class=50", "train.batch_size=16", "train.epochs=3"];
    let mut args = vec!["train", "--resume", "run"];
    args.extend(changes.iter().flat_map(|change| ["--set", change]));
    let said = place.run(&args).expect(2).stderr();
    for word in
        ["drawn_per_class is `50`, but `40` in the run", "batch_size is `16`", "epochs is `3`", "--allow-changes"]
    {
        assert!(said.contains(word) && !said.contains("is not the folder of a run"), "{said}");
    }
    args.push("--allow-changes");
    let said = place.run(&args).expect(0).stdout();
    for word in
        ["the result will differ", "the set has 150 images, the run's has 120 (50 of `1`, the run's 40", "Epoch 3 of 3"]
    {
        assert!(said.contains(word), "{word}\nnot in\n{said}");
    }
    // 8 steps with the old settings, and 10 with the new
    let steps = || fs::read_to_string(place.path("run/metrics.jsonl")).unwrap().lines().count();
    assert_eq!(steps(), 18);
    let said = place.run(&["train", "--resume", "run"]).expect(0).stdout();
    assert!(said.contains("Resuming after step 18") && steps() == 18, "{said}");
}

#[test]
fn a_diverging_training_names_the_step_and_a_remedy() {
    let place = Workplace::new();
    // the third step makes the weights diverge
    let rules = ["train.lr_scheduler=piecewise_constant", "train.lr_step_rules=1:2,1e33"];
    let diverges = |run: &str, set: &[&str], words: &[&str]| {
        let set = [&["train.optimizer=sgd", "train.checkpoint_every=2"], &rules[..], set].concat();
        let args: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let said = place.train(run, &args).expect(1).stderr();
        for word in words {
            assert!(said.contains(word), "{said}");
        }
        let resume = format!("kakusan train --resume {run} --allow-changes --set train.learning_rate");
        assert!(said.contains(&resume), "{said}");
        assert!(place.path(run).join("checkpoints/checkpoint-2/SHA256SUMS").is_file());
        assert!(!place.path(run).join("model_index.json").exists());
    };
    let words = ["step 4 is", "the images ", "more of the set", "run/checkpoints/checkpoint-2, is intact"];
    diverges("run", &[], &words);
    let words = ["after step 3: the training has diverged", "last/checkpoints/checkpoint-2, is intact"];
    diverges("last", &["train.max_steps=3"], &words); // its own loss is still that of the weights before it
    diverges("kept", &["train.checkpoint_every=1"], &["after step 3: the training has diverged"]);
}

/// A checkpoint of the tutorial's network takes 3.7 MB: there is no room for the second.
#[test]
#[cfg(target_os = "linux")]
#[ignore = "mounts a small file system, which takes root"]
fn a_training_on_a_full_disk_stops_and_resumes_when_there_is_room() {
    let place = Workplace::new();
    let run = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program).args(args).output().unwrap();
        assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let disk = place.path("disk");
    fs::create_dir(&disk).unwrap();
    let path = disk.to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=6m", "none", path]);
    let settings = ["--set", "train.checkpoint_every=2", "--set", "train.keep_checkpoints=9"];
    let said = place.train("disk/run", &settings).expect(1).stderr();
    assert!(said.contains("No space left on device") && said.contains("--resume disk/run"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(disk.join("run/checkpoints/checkpoint-2/SHA256SUMS").is_file(), "the first checkpoint is complete");
    assert!(!disk.join("run/checkpoints/checkpoint-4").exists(), "the second is not there in part");

    run("mount", &["-o", "remount,size=64m", path]);
    place.run(&["train", "--resume", "disk/run"]).expect(0);
    place.train("plain", &settings).expect(0);
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let same =
        fs::read(disk.join("run").join(weights)).unwrap() == fs::read(place.path("plain").join(weights)).unwrap();
    run("umount", &[path]);
    assert!(same, "it ends where an undisturbed training ends");
}
