//! Several schedulers side by side: the same model, the same noise, one row of a picture for each.
//!
//!     cargo run --release --package schedulers -- runs/184-v

use std::ops::ControlFlow;
use std::path::Path;

use kakusan::candle::{Device, Tensor};
use kakusan::pipeline::{DDPMPipeline, Registry, Result, SampleOptions, write_whole};
use kakusan::report::pictures::{Images, grid};
use kakusan::rng::Generator;

const SCHEDULERS: [&str; 4] = ["ddpm", "ddim", "euler", "dpmsolver"];
const IMAGES: usize = 8;

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "runs/184-v".into());
    let mut pipeline = DDPMPipeline::from_pretrained(Path::new(&dir), &Registry::default(), &Device::Cpu)?;
    let images = compare(&mut pipeline, &SCHEDULERS, 20)?;
    let (_, channels, height, width) = images.dims4()?;
    let pixels = images.flatten_all()?.to_vec1::<f32>()?;
    let picture = grid(Images { pixels: &pixels, channels, height, width }, IMAGES, 3, &[])?;
    write_whole(Path::new("schedulers.png"), &picture)?;
    println!("schedulers.png: 20 steps of {}, from above", SCHEDULERS.join(", "));
    Ok(())
}

/// Images of each scheduler, pixels from 0 to 1. The noise of the beginning is the same for all.
fn compare(pipeline: &mut DDPMPipeline, names: &[&str], steps: usize) -> Result<Tensor> {
    let registry = Registry::default().schedulers;
    let mut rows = vec![];
    for name in names {
        pipeline.set_scheduler(registry.swap(registry.resolve(name)?, pipeline.scheduler())?)?;
        let options = SampleOptions::new(IMAGES).steps(steps);
        let row = pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(()))?;
        rows.push(pipeline.scheduler().process().pixel_range().to_unit(&row)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

#[test]
fn all_draw_from_the_same_noise() {
    use kakusan::models::{BasicUNetConfig, ModelConfig, Weights};

    let (config, mut rng) = (std::sync::Arc::new(BasicUNetConfig::default()), Generator::new(0));
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config.build(vb)).unwrap();
    let scheduler = std::sync::Arc::new(kakusan::scheduler::DDPMScheduler::default());
    let mut pipeline = DDPMPipeline::new(config, weights, scheduler).unwrap();
    let images = compare(&mut pipeline, &["ddim", "ddim", "euler"], 3).unwrap();
    let row = |i: usize| images.narrow(0, i * IMAGES, IMAGES).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(row(0), row(1));
    assert_ne!(row(0), row(2));
}
