//! A loss of your own that guides a sampling: symmetric images, by a model that was never trained for it.
//!
//!     cargo run --release --package guidance -- runs/184-v

use std::ops::ControlFlow;
use std::path::Path;

use kakusan::candle::{Device, Tensor};
use kakusan::pipeline::{DDPMPipeline, Guidance, Guide, Predicted, Registry, Result, SampleOptions, write_whole};
use kakusan::report::pictures::{Images, grid};
use kakusan::rng::Generator;

/// How far the left half is from being a mirror image of the right one.
#[derive(Debug)]
struct Symmetry;

impl Guidance for Symmetry {
    fn loss(&self, predicted: &Predicted) -> Result<Tensor> {
        asymmetry(predicted.images)
    }
}

/// A number for each image `[b, c, h, w]`.
fn asymmetry(images: &Tensor) -> Result<Tensor> {
    Ok((images - images.flip(&[3])?)?.sqr()?.flatten_from(1)?.mean(1)?)
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "runs/184-v".into());
    let pipeline = DDPMPipeline::from_pretrained(Path::new(&dir), &Registry::default(), &Device::Cpu)?;
    let rows = [0.0, 40.0].map(|strength| draw(&pipeline, strength, 8, 50));
    let images = Tensor::cat(&rows.into_iter().collect::<Result<Vec<_>>>()?, 0)?;
    let images = pipeline.scheduler().process().pixel_range().to_unit(&images)?;
    let (_, channels, height, width) = images.dims4()?;
    let pixels = images.flatten_all()?.to_vec1::<f32>()?;
    let picture = grid(Images { pixels: &pixels, channels, height, width }, 8, 3, &[])?;
    write_whole(Path::new("guidance.png"), &picture)?;
    println!("guidance.png: above without guidance, below with it");
    Ok(())
}

/// Images from the noise of seed 0. The guide gets weaker from step to step.
fn draw(pipeline: &DDPMPipeline, strength: f64, count: usize, steps: usize) -> Result<Tensor> {
    let guide = Guide::new(Symmetry, strength).schedule(|progress| 1.0 - progress);
    let options = SampleOptions::new(count).steps(steps).guide(guide);
    pipeline.sample_with(&options, &mut Generator::new(0), |_| ControlFlow::Continue(()))
}

#[test]
fn guided_images_are_more_symmetric() {
    use kakusan::models::{BasicUNetConfig, ModelConfig, Weights};

    let (config, mut rng) = (std::sync::Arc::new(BasicUNetConfig::default()), Generator::new(0));
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config.build(vb)).unwrap();
    let scheduler = std::sync::Arc::new(kakusan::scheduler::DDIMScheduler::default());
    let pipeline = DDPMPipeline::new(config, weights, scheduler).unwrap();
    let loss = |strength| {
        let images = draw(&pipeline, strength, 2, 5).unwrap();
        asymmetry(&images).unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap()
    };
    assert!(loss(200.0) < 0.8 * loss(0.0), "{} {}", loss(200.0), loss(0.0));
}
