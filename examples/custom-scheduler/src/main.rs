//! A scheduler of one's own with Kakusan's crates: train, sample, save, load again.
//!
//!     cargo run --release --package custom-scheduler

mod cosine_mix;

use std::path::Path;

use candle_core::{Device, Tensor};
use cosine_mix::CosineMix;
use kakusan_data::draw_digits;
use kakusan_pipeline::{DDPMPipeline, Registry, Result, RunConfig, Trainer, write_whole};
use kakusan_report::pictures;
use kakusan_rng::Generator;

const CONFIG: &str = r#"
    [model]
    _class_name = "BasicUNet"
    [scheduler]
    _class_name = "CosineMixScheduler"
    exponent = 1.5
    [train]
    epochs = 3
"#;

fn main() -> Result<()> {
    let dir = Path::new("runs/custom-scheduler");
    let pipeline = train(1000, &[])?;
    pipeline.save_pretrained(dir)?;

    let again = DDPMPipeline::from_pretrained(dir, &registry(), &Device::Cpu)?;
    let images = sample(&again, 64)?;
    let (_, channels, height, width) = images.dims4()?;
    let pixels = images.flatten_all()?.to_vec1::<f32>()?;
    let picture = pictures::grid(pictures::Images { pixels: &pixels, channels, height, width }, 8, 3, &[])?;
    write_whole(&dir.join("samples.png"), &picture)?;
    println!("{}: a pipeline with a {}, and samples.png", dir.display(), again.scheduler().class_name());
    Ok(())
}

/// The classes of Kakusan, and ours.
fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.schedulers.add::<CosineMix>();
    registry
}

/// Trains on so many drawn digits of each of three classes.
fn train(per_class: usize, overrides: &[String]) -> Result<DDPMPipeline> {
    let config = RunConfig::parse(CONFIG, "the example's configuration", overrides, &registry())?;
    let images = draw_digits(&[1, 8, 4], per_class, 0)?;
    let mut trainer = Trainer::new(&config, images.into(), &Device::Cpu)?;
    while let Some(step) = trainer.step()? {
        if step.ends_epoch {
            println!("epoch {}: loss {:.4}", step.epoch, step.loss);
        }
    }
    DDPMPipeline::new(config.model, trainer.weights().clone(), config.scheduler)
}

fn sample(pipeline: &DDPMPipeline, batch_size: usize) -> Result<Tensor> {
    let sample = pipeline.sample(batch_size, 20, &mut Generator::new(0))?;
    Ok(pipeline.scheduler().process().pixel_range().to_unit(&sample)?)
}

#[cfg(test)]
mod tests {
    use kakusan_scheduler::{Sampler, conformance};

    use super::*;

    #[test]
    fn the_scheduler_keeps_the_contract() {
        for exponent in [0.5, 1.5, 2.0] {
            let scheduler = Sampler::new(CosineMix { exponent }).unwrap();
            conformance::check(&scheduler, &registry().schedulers).unwrap();
        }
    }

    #[test]
    fn it_trains_samples_saves_and_reloads() {
        let dir = tempfile::tempdir().unwrap();
        let quick = ["train.epochs=2".to_owned(), "train.batch_size=16".to_owned()];
        let pipeline = train(16, &quick).unwrap();
        let before = sample(&pipeline, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();

        pipeline.save_pretrained(dir.path()).unwrap();
        let again = DDPMPipeline::from_pretrained(dir.path(), &registry(), &Device::Cpu).unwrap();
        assert_eq!(again.scheduler().config()["exponent"], 1.5);
        let after = sample(&again, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(before, after);

        let unknown = DDPMPipeline::from_pretrained(dir.path(), &Registry::default(), &Device::Cpu).err().unwrap();
        assert!(unknown.to_string().contains("CosineMixScheduler"), "{unknown}");
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        let set =
            |text: &str| RunConfig::parse(CONFIG, "config", &[text.to_owned()], &registry()).unwrap_err().to_string();
        assert!(set("scheduler.exponent=-1").contains("`exponent` is -1"));
        assert!(set("scheduler.exponents=1").contains("did you mean `exponent`?"));
    }
}
