//! A model of your own with Kakusan's crates: a run with checkpoints, report and pictures, and samples of what it
//! saved.
//!
//!     cargo run --release --package custom-model

mod patch_mixer;

use std::path::Path;

use kakusan_pipeline::{DeviceChoice, Event, Existing, Outcome, Registry, Result, RunConfig, Training};
use kakusan_report::Report;
use patch_mixer::PatchMixerConfig;

const CONFIG: &str = r#"
    [data]
    name = "mnist"
    classes = [1, 8, 4]
    sources = ["drawn"]
    drawn_per_class = 1000
    [model]
    _class_name = "PatchMixer"
    width = 96
    [scheduler]
    _class_name = "DDPMScheduler"
    [train]
    epochs = 10
    learning_rate = 2e-3
    use_ema = true
"#;

fn main() -> Result<()> {
    let out = Path::new("runs/custom-model");
    train(&[], out, Existing::Refuse, &mut |event| {
        if let Event::Epoch(epoch) = event {
            println!("epoch {}: loss {:.4}", epoch.epoch, epoch.mean_loss);
        }
    })?;
    println!("{} has the pipeline, its pictures and report.html", out.display());
    Ok(())
}

/// The classes of Kakusan, and ours.
fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.models.register::<PatchMixerConfig>();
    registry
}

fn train(set: &[String], out: &Path, existing: Existing, watch: &mut dyn FnMut(&Event)) -> Result<Outcome> {
    let registry = registry();
    let config = RunConfig::parse(CONFIG, "the example's configuration", set, &registry)?;
    let mut report = Report::new("kakusan");
    Training::new(config, out, &registry).existing(existing).device(DeviceChoice::Cpu).run(&mut |event| {
        watch(event);
        report.observe(event, &mut |_| {})
    })
}

#[cfg(test)]
mod tests;
