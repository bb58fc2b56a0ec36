//! Tiny models with random weights.

use std::path::Path;
use std::sync::Arc;

use kakusan::candle::Device;
use kakusan::models::Weights;
use kakusan::pipeline::{DDPMPipeline, Labels, Registry};
use kakusan::rng::Generator;
use serde_json::json;

/// Saves a pipeline of images of 16 pixels and so many channels, with three classes or none.
pub(crate) fn save(dir: &Path, channels: usize, classes: Option<usize>, seed: u64) {
    let registry = Registry::default();
    let fields = json!({
        "sample_size": 16, "in_channels": channels, "out_channels": channels, "layers_per_block": 1,
        "block_out_channels": [4, 8], "norm_num_groups": 4, "attention_head_dim": 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "num_class_embeds": classes,
    });
    let config = registry.models.from_map("UNet2DModel", fields.as_object().unwrap()).unwrap();
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(seed), |vb| config.build(vb)).unwrap();
    let scheduler = json!({"num_train_timesteps": 1000});
    let scheduler = registry.schedulers.build("DDPMScheduler", scheduler.as_object().unwrap()).unwrap();
    let mut pipeline = DDPMPipeline::new(Arc::clone(&config), weights, scheduler).unwrap();
    if classes.is_some() {
        let names = ["cat", "dog"].map(str::to_owned);
        pipeline.set_labels(Labels::new((0..).zip(names).collect()));
    }
    pipeline.save_pretrained(dir).unwrap();
}
