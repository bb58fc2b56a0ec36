//! Fine-tuning: a pretrained pipeline, a run or a folder that Python's diffusers saved, learns other images.
//!
//!     cargo run --release --package fine-tuning -- runs/184-v

use std::path::Path;

use kakusan::candle::Device;
use kakusan::data::draw_digits;
use kakusan::pipeline::{DDPMPipeline, Registry, Result, RunConfig, Trainer};

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "runs/184-v".into());
    let tuned = tune(&dir, 200)?;
    tuned.save_pretrained(Path::new("runs/fine-tuning"))?;
    println!("runs/fine-tuning: kakusan sample --model runs/fine-tuning --scheduler ddim --eta 1");
    Ok(())
}

/// The pipeline in `dir` after so many steps on threes and fives. The first layers stay as they are.
fn tune(dir: &str, steps: usize) -> Result<DDPMPipeline> {
    let config = format!(
        r#"
        [model]
        from = {dir:?}
        [train]
        max_steps = {steps}
        batch_size = 16
        learning_rate = 5e-4
        freeze = ["conv_in", "time_embedding"]
        use_ema = true
        "#
    );
    let config = RunConfig::parse(&config, "the example's configuration", &[], &Registry::default())?;
    let mut trainer = Trainer::new(&config, draw_digits(&[3, 5], 1000, 0)?.into(), &Device::Cpu)?;
    while let Some(step) = trainer.step()? {
        if step.step % 20 == 0 {
            println!("step {}: loss {:.4}", step.step, step.loss);
        }
    }
    DDPMPipeline::new(config.model, trainer.sampling_weights()?, config.scheduler)
}

#[test]
fn the_rest_is_tuned_and_the_first_layers_stay() {
    use kakusan::models::{ModelConfig, UNet2DConfig, Weights};
    use kakusan::rng::Generator;

    let config = r#"{"sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
        "block_out_channels": [4, 4], "norm_num_groups": 2, "add_attention": false,
        "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"]}"#;
    let config: std::sync::Arc<UNet2DConfig> = std::sync::Arc::new(serde_json::from_str(config).unwrap());
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb)).unwrap();
    let scheduler = std::sync::Arc::new(kakusan::scheduler::DDPMScheduler::default());
    let pretrained = DDPMPipeline::new(config, weights, scheduler).unwrap();
    let dir = tempfile::tempdir().unwrap();
    pretrained.save_pretrained(dir.path()).unwrap();

    let tuned = tune(dir.path().to_str().unwrap(), 3).unwrap();
    let weight = |pipeline: &DDPMPipeline, name: &str| {
        let (_, var) = pipeline.weights().iter().find(|(other, _)| *other == name).unwrap();
        var.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(weight(&tuned, "conv_in.weight"), weight(&pretrained, "conv_in.weight"));
    assert_ne!(weight(&tuned, "conv_out.weight"), weight(&pretrained, "conv_out.weight"));
}
