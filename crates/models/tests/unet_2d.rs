//! UNet2DModel against diffusers' (tests/golden/unet_2d.py): initialisation, predictions and gradients of 50 networks,
//! 48 of them over all blocks and fields, and what is known of some more.

#![allow(clippy::print_stdout)] // the errors, for those who run it with --nocapture

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_models::{Model, ModelConfig, Registry, Weights};
use kakusan_rng::Generator;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn config(fields: &Value) -> Arc<dyn ModelConfig> {
    Registry::default().from_map("UNet2DModel", fields.as_object().unwrap()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn noise(rng: &mut Generator, dims: &[usize]) -> Tensor {
    Tensor::from_vec(rng.randn(dims.iter().product()), dims, &Device::Cpu).unwrap()
}

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The names and bytes of all tensors in the order of their names.
fn sha256(weights: &Weights) -> String {
    let sorted: BTreeMap<_, _> = weights.iter().collect();
    let mut digest = Sha256::new();
    for (name, var) in sorted {
        digest.update(name);
        values(var).iter().for_each(|value| digest.update(value.to_le_bytes()));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn networks_of_all_kinds_are_those_of_diffusers() -> TestResult {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/unet_2d.safetensors");
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let cases: Vec<Value> = serde_json::from_str(&header.metadata().as_ref().unwrap()["cases"])?;
    assert!(cases.len() >= 30);
    let mut wrong = vec![];
    for (index, case) in cases.iter().enumerate() {
        let config = config(&case["config"]);
        let seed: u64 = numbers(&case["seed"]);
        let (weights, model) = Weights::initialise(&Device::Cpu, &mut Generator::new(seed), |vb| config.build(vb))?;
        if let Some(expected) = case["sha256"].as_str() {
            assert_eq!(sha256(&weights), expected, "case {index}: {}", case["config"]);
        }

        let mut rng = Generator::new(seed + 1);
        let (batch, [h, w]): (usize, [usize; 2]) = (numbers(&case["batch"]), numbers(&case["size"]));
        let x = noise(&mut rng, &[batch, numbers(&case["config"]["in_channels"]), h, w]);
        let level = Tensor::new(numbers::<Vec<f32>>(&case["levels"]), &Device::Cpu)?;
        let labels = if case["config"]["class_embed_type"] == "identity" {
            let width = weights.iter().find(|(name, _)| *name == "time_embedding.linear_2.bias").unwrap().1.dim(0)?;
            Some(noise(&mut rng, &[batch, width]))
        } else if case["labels"].is_null() {
            None
        } else {
            Some(Tensor::new(numbers::<Vec<i64>>(&case["labels"]), &Device::Cpu)?)
        };

        let y = model.forward(&x, &level, labels.as_ref())?;
        let expected = floats(&file, &format!("{index}.y"));
        let largest = expected.iter().fold(0f32, |largest, y| largest.max(y.abs()));
        let forward = values(&y).iter().zip(&expected).fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / largest;

        let factors = noise(&mut rng, y.dims());
        let gradients = kakusan_ops::backward(&y.mul(&factors)?.sum_all()?)?;
        let trained: BTreeMap<_, _> = weights.trained().collect();
        let rows = floats(&file, &format!("{index}.grads"));
        let rows = rows.as_chunks::<6>().0;
        assert_eq!(rows.len(), trained.len(), "case {index}");
        let overall = rows.iter().fold(0f32, |largest, row| largest.max(row[5]));
        let mut backward = (0f32, "");
        for (row, (name, var)) in rows.iter().zip(trained) {
            let [first, middle, last, sum, norm, largest] = *row;
            let own = values(gradients.get(var).ok_or(format!("case {index}: no gradient of {name}"))?);
            let (own_sum, own_norm) = own
                .iter()
                .fold((0f64, 0f64), |(sum, squares), &g| (sum + f64::from(g), squares + f64::from(g) * f64::from(g)));
            if largest < 1e-5 * overall {
                // zero but for rounding, e.g. of what a normalisation or a softmax takes off again
                assert!(own.iter().all(|g| g.abs() < 2e-5 * overall), "case {index}: {name}");
                continue;
            }
            let scale = largest;
            let errors = [
                (own[0] - first).abs() / scale,
                (own[own.len() / 2] - middle).abs() / scale,
                (own[own.len() - 1] - last).abs() / scale,
                (own_sum as f32 - sum).abs() / (scale * (own.len() as f32).sqrt()),
                (own_norm.sqrt() as f32 - norm).abs() / norm.max(scale),
            ];
            for error in errors {
                if error > backward.0 || error.is_nan() {
                    backward = (error, name);
                }
            }
        }
        println!("{index}: forward {forward:.1e}, gradients {:.1e} ({})", backward.0, backward.1);
        let close = forward < 1e-5 && backward.0 < 1e-4;
        if !close {
            wrong.push(format!("case {index}: forward {forward:.1e}, gradients {backward:?}: {}", case["config"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn parameters(fields: Value) -> usize {
    config(&fields).submodules().unwrap().iter().map(|submodule| submodule.parameters).sum()
}

/// Counts that diffusers gives for networks in use.
#[test]
fn networks_in_use_have_their_number_of_parameters() {
    let google = |mut fields: Value| {
        let common = json!({"norm_eps": 1e-6, "flip_sin_to_cos": false, "freq_shift": 1, "downsample_padding": 0,
            "attention_head_dim": null});
        fields.as_object_mut().unwrap().extend(common.as_object().unwrap().clone());
        fields
    };
    let cifar10 = google(json!({"sample_size": 32, "block_out_channels": [128, 256, 256, 256],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}));
    assert_eq!(parameters(cifar10), 35_746_307);
    let script = json!({"sample_size": 64, "block_out_channels": [128, 128, 256, 256, 512, 512],
        "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"]});
    assert_eq!(parameters(google(script.clone())), 113_673_219);
    assert_eq!(parameters(script), 113_673_219);
    let course = json!({"sample_size": 28, "in_channels": 1, "out_channels": 1, "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]});
    assert_eq!(parameters(course), 1_707_009);
    let butterflies = json!({"sample_size": 32, "block_out_channels": [64, 128, 128, 256],
        "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]});
    assert_eq!(parameters(butterflies), 18_536_323);
    let latent = json!({"sample_size": 64, "attention_head_dim": 32});
    assert_eq!(parameters(latent), 274_056_163);
}

fn tiny(more: Value) -> Value {
    let mut fields = json!({"sample_size": 8, "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fields
}

fn initialised(fields: Value, seed: u64) -> (Weights, Box<dyn Model>) {
    let config = config(&fields);
    Weights::initialise(&Device::Cpu, &mut Generator::new(seed), |vb| config.build(vb)).unwrap()
}

/// The tiny network of diffusers' own pipeline tests.
#[test]
fn the_tiny_network_predicts_what_diffusers_predicts() -> TestResult {
    let (weights, model) = initialised(tiny(json!({})), 0);
    assert_eq!(weights.parameter_count(), 11_767);
    let x = noise(&mut Generator::new(0), &[1, 3, 8, 8]);
    let y = values(&model.forward(&x, &Tensor::new(10f32, &Device::Cpu)?, None)?);
    for (y, expected) in y.iter().zip([0.434_827_74, 0.366_003_63, 0.255_614_37, 0.317_230_4]) {
        assert!((y - expected).abs() < 2e-6, "{y} {expected}");
    }
    let sum: f32 = y.iter().sum();
    assert!((sum - 10.742_19).abs() < 2e-4, "{sum}");
    Ok(())
}
