//! Images that a program makes itself: discs and rings, with their classes. A model learns to draw either.
//!
//!     cargo run --release --package own-data

use std::path::Path;

use kakusan::candle::Device;
use kakusan::data::ImageSet;
use kakusan::pipeline::{DDPMPipeline, Labels, Registry, Result, RunConfig, Trainer};
use kakusan::rng::Generator;

const SIDE: usize = 16;
const CLASSES: [&str; 2] = ["disc", "ring"];
const CONFIG: &str = r#"
    model = { _class_name = "UNet2DModel", sample_size = 16, in_channels = 1, out_channels = 1, layers_per_block = 1, block_out_channels = [16, 32], norm_num_groups = 8, add_attention = false, down_block_types = ["DownBlock2D", "DownBlock2D"], up_block_types = ["UpBlock2D", "UpBlock2D"], num_class_embeds = 2 }
    scheduler = { _class_name = "DDPMScheduler", prediction_type = "v_prediction" }
    train = { epochs = 5, batch_size = 16, optimizer = "muon", learning_rate = 8e-3, lr_scheduler = "cosine" }
"#;

fn main() -> Result<()> {
    let mut pipeline = train(&[])?;
    pipeline.set_labels(Labels::new((0..).zip(CLASSES.map(str::to_owned)).collect()));
    pipeline.save_pretrained(Path::new("runs/own-data"))?;
    println!("runs/own-data: kakusan sample --model runs/own-data --class disc,ring");
    Ok(())
}

/// Bytes of `count` images, a disc and a ring in turns, each at another place: `[count, 1, 16, 16]`.
fn shapes(count: usize) -> Result<ImageSet> {
    let mut rng = Generator::new(0);
    let mut pixels = Vec::with_capacity(count * SIDE * SIDE);
    for i in 0..count {
        let place = rng.rand(2);
        let [x, y] = [place[0], place[1]].map(|at| 5.0 + 6.0 * at);
        for pixel in 0..SIDE * SIDE {
            let (dx, dy) = ((pixel % SIDE) as f32 - x, (pixel / SIDE) as f32 - y);
            let distance = (dx * dx + dy * dy).sqrt();
            let inside = if i % 2 == 0 { 4.5 - distance } else { 1.5 - (distance - 3.5).abs() };
            pixels.push((255.0 * inside.clamp(0.0, 1.0)) as u8);
        }
    }
    let labels = (0..count as u32).map(|i| i % 2).collect();
    Ok(ImageSet::new([1, SIDE, SIDE], pixels, labels, CLASSES.map(str::to_owned).to_vec())?)
}

fn train(overrides: &[String]) -> Result<DDPMPipeline> {
    let config = RunConfig::parse(CONFIG, "the example's configuration", overrides, &Registry::default())?;
    let mut trainer = Trainer::new(&config, shapes(2000)?.into(), &Device::Cpu)?;
    let mut losses = vec![];
    while let Some(step) = trainer.step()? {
        losses.push(step.loss);
        if step.ends_epoch {
            println!("epoch {}: mean loss {:.4}", step.epoch, losses.iter().sum::<f32>() / losses.len() as f32);
            losses.clear();
        }
    }
    DDPMPipeline::new(config.model, trainer.sampling_weights()?, config.scheduler)
}

#[test]
fn discs_and_rings_are_learnt() {
    let pipeline = train(&["train.max_steps=2".into()]).unwrap();
    let options = kakusan::pipeline::SampleOptions::new(2).steps(2).class_labels(vec![0, 1]);
    let watch = |_: &kakusan::pipeline::SampleStep| std::ops::ControlFlow::Continue(());
    let images = pipeline.sample_with(&options, &mut Generator::new(0), watch).unwrap();
    assert_eq!(images.dims(), [2, 1, SIDE, SIDE]);
}
