//! Trains a UNet2DModel from a configuration: blocks in TOML, dropout, and the same numbers on any number of threads.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_data::draw_digits;
use kakusan_pipeline::{Registry, RunConfig, Trainer};

const TEXT: &str = r#"[data]
name = "mnist"
classes = [8]
sources = ["drawn"]

[model]
_class_name = "UNet2DModel"
sample_size = 28
in_channels = 1
out_channels = 1
block_out_channels = [8, 16]
down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
time_embedding_type = "fourier"
dropout = 0.1

[scheduler]
_class_name = "LinearMixScheduler"

[train]
epochs = 1
batch_size = 20
"#;

/// The losses of some steps, and the final weights.
fn train(threads: usize, set: &[String]) -> (Vec<f32>, Vec<f32>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let config = RunConfig::parse(TEXT, "my.toml", set, &Registry::default()).unwrap();
        let images = Arc::new(draw_digits(&[8], 60, 0).unwrap());
        let mut trainer = Trainer::new(&config, images, &Device::Cpu).unwrap();
        let losses = std::iter::from_fn(|| trainer.step().unwrap().map(|step| step.loss)).collect();
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (losses, trainer.weights().iter().flat_map(|(_, var)| values(var)).collect())
    })
}

#[test]
fn a_training_does_not_depend_on_the_threads() {
    let (losses, weights) = train(1, &[]);
    assert_eq!(losses.len(), 3);
    assert!(losses.iter().all(|loss| loss.is_finite()) && losses[2] < losses[0], "{losses:?}");
    assert_eq!((losses.clone(), weights), train(3, &[]));
    let (without, _) = train(2, &["model.dropout=0.0".to_owned()]);
    assert!(without[0] != losses[0] && without.len() == 3);
}

#[test]
fn a_model_without_a_size_says_so() {
    let set = ["model.sample_size=[]".to_owned()];
    let error = RunConfig::parse(TEXT, "my.toml", &set, &Registry::default()).unwrap_err().to_string();
    assert!(error.contains("sample_size"), "{error}");
    let text = TEXT.replace("sample_size = 28\n", "");
    let config = RunConfig::parse(&text, "my.toml", &[], &Registry::default()).unwrap();
    let images = Arc::new(draw_digits(&[8], 1, 0).unwrap());
    let error = Trainer::new(&config, images, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("sample_size is null"), "{error}");
}
