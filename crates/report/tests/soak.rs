//! A training of many epochs holds no more open files and memory at its end than at its beginning.
//!
//! The long form: `cargo test -p kakusan-report --test soak -- --ignored`.
#![cfg(target_os = "linux")]

use std::fs;

use kakusan_pipeline::{DeviceChoice, Event, Outcome, Registry, RunConfig, Training};
use kakusan_report::Report;

/// The number of open files, and the memory in use in MiB.
fn held() -> (usize, f64) {
    let files = fs::read_dir("/proc/self/fd").unwrap().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (files, resident.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0)
}

/// Trains with every option that opens files, and compares the end with an epoch after the warm-up.
fn soak(epochs: usize, warm: usize, mebibytes: f64) {
    let text = format!(
        r#"
        data = {{ name = "mnist", classes = [1, 8], sources = ["drawn"], drawn_per_class = 4 }}
        model = {{ _class_name = "BasicUNet" }}
        scheduler = {{ _class_name = "LinearMixScheduler" }}
        sample = {{ steps = 2, batch_size = 4 }}
        [train]
        epochs = {epochs}
        batch_size = 2
        use_ema = true
        gradient_accumulation_steps = 2
        checkpoint_every = 1
        keep_best = true
        tensorboard = true
        sample_every = 1
        "#
    );
    let registry = Registry::default();
    let config = RunConfig::parse(&text, "soak", &[], &registry).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let training = Training::new(config, dir.path().join("run"), &registry).device(DeviceChoice::Cpu);
    let (mut report, mut measured) = (Report::new("kakusan"), vec![]);
    let outcome = training.run(&mut |event| {
        if let Event::Epoch(epoch) = event
            && [warm, epochs].contains(&epoch.epoch)
        {
            measured.push(held());
        }
        report.observe(event, &mut |_| {})
    });
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let [(files, memory), (files_after, memory_after)] = measured[..] else { panic!("{measured:?}") };
    assert_eq!(files, files_after);
    assert!(memory_after - memory < mebibytes, "{memory} MiB after {warm} epochs, {memory_after} MiB after {epochs}");
}

#[test]
fn twenty_epochs_leak_nothing() {
    soak(20, 8, 24.0);
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_epochs_leak_nothing() {
    soak(1000, 50, 24.0);
}
