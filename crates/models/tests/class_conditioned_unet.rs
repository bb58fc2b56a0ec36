//! The course's class-conditioned network against PyTorch's (tests/golden/class_conditioned_unet.py).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_models::{Dropout, Error, ModelConfig, Registry, Weights, from_pretrained, save};
use kakusan_rng::Generator;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/class_conditioned_unet.safetensors");

fn metadata() -> Result<HashMap<String, String>, Box<dyn std::error::Error>> {
    let (_, header) = SafeTensors::read_metadata(&std::fs::read(GOLDEN)?)?;
    Ok(header.metadata().clone().ok_or("no metadata")?)
}

fn config(fields: &Value) -> Result<Arc<dyn ModelConfig>, Error> {
    Registry::default().from_map("ClassConditionedUnet", fields.as_object().unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn noise(rng: &mut Generator, dims: &[usize]) -> Tensor {
    Tensor::from_vec(rng.randn(dims.iter().product()), dims, &Device::Cpu).unwrap()
}

/// The largest difference over the largest number of `expected`.
fn error(got: &Tensor, expected: &Tensor) -> f32 {
    let (got, expected) = (values(got), values(expected));
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    got.iter().zip(&expected).fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

#[test]
fn it_is_the_courses() -> TestResult {
    let (metadata, golden) = (metadata()?, candle_core::safetensors::load(GOLDEN, &Device::Cpu)?);
    let config = config(&serde_json::from_str(&metadata["config"])?)?;
    let (weights, model) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    let mut digest = Sha256::new();
    for (name, var) in weights.iter().collect::<BTreeMap<_, _>>() {
        digest.update(name);
        values(var).iter().for_each(|value| digest.update(value.to_le_bytes()));
    }
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, metadata["sha256"], "the initial weights");

    let mut rng = Generator::new(1);
    let x = noise(&mut rng, &[3, 2, 8, 8]);
    let levels = Tensor::new(serde_json::from_str::<Vec<f32>>(&metadata["levels"])?, &Device::Cpu)?;
    let labels = Tensor::new(serde_json::from_str::<Vec<u32>>(&metadata["labels"])?, &Device::Cpu)?;
    let y = model.forward_train(&x, &levels, Some(&labels), None, Dropout { seed: 0, step: 0, first_image: 0 })?;
    assert!(error(&y, &golden["y"]) < 5e-6);
    let gradients = kakusan_ops::backward(&y.mul(&noise(&mut rng, y.dims()))?.sum_all()?)?;
    let vars: HashMap<_, _> = weights.iter().collect();
    for name in ["class_emb.weight", "model.conv_in.weight", "model.conv_out.weight"] {
        let gradient = gradients.get(vars[name]).ok_or(format!("no gradient of {name}"))?;
        assert!(error(gradient, &golden[name]) < 1e-5, "{name}");
    }
    Ok(())
}

#[test]
fn it_is_saved_and_opened() -> TestResult {
    let config = config(&serde_json::from_str(&metadata()?["config"])?)?;
    let (weights, model) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    let dir = tempfile::tempdir()?;
    save(config.as_ref(), &weights, dir.path())?;
    let opened = from_pretrained(dir.path(), None, None, &Registry::default(), &Device::Cpu)?;
    assert!(*opened.config == *config);
    let again = opened.weights.frozen(|vb| config.build(vb))?;
    assert!(*Registry::default().from_json(&config.to_json(), "config.json")? == *config);
    let (x, level, labels) = (
        noise(&mut Generator::new(3), &[1, 2, 8, 8]),
        Tensor::new(5f32, &Device::Cpu)?,
        Tensor::new(&[2u32], &Device::Cpu)?,
    );
    assert_eq!(values(&model.forward(&x, &level, Some(&labels))?), values(&again.forward(&x, &level, Some(&labels))?));
    let submodules = config.submodules()?;
    assert_eq!((submodules[0].name.as_str(), submodules[0].parameters), ("class_emb", 15));
    let down = submodules.iter().find(|submodule| submodule.name == "model.down_blocks.1").ok_or("no down block")?;
    assert_eq!(down.class_name.as_deref(), Some("AttnDownBlock2D"));
    assert_eq!(submodules.iter().map(|submodule| submodule.parameters).sum::<usize>(), weights.parameter_count());
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_by_name() -> TestResult {
    let fields: Value = serde_json::from_str(&metadata()?["config"])?;
    let with = |key: &str, value: Value| {
        let mut fields = fields.clone();
        fields[key] = value;
        config(&fields).unwrap_err().to_string()
    };
    assert!(with("num_classes", json!(0)).contains("num_classes is 0"));
    assert!(with("class_emb_size", json!(1u64 << 40)).contains("class_emb_size"));
    assert!(with("class_emb_size", json!("four")).contains("class_emb_size"));
    assert!(with("num_class_embeds", json!(10)).contains("num_class_embeds"));
    assert!(with("block_out_channel", json!([8])).contains("block_out_channel"));

    let config = config(&fields)?;
    let (_, model) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    let level = Tensor::new(5f32, &Device::Cpu)?;
    let refused = |x: &[usize], labels: Option<&[u32]>, expected: &str| {
        let labels = labels.map(|labels| Tensor::new(labels, &Device::Cpu).unwrap());
        let error = model.forward(&noise(&mut Generator::new(3), x), &level, labels.as_ref()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(&[1, 2, 8, 8], None, "got no labels");
    refused(&[1, 2, 8, 8], Some(&[0, 1]), "[2]");
    refused(
        &[1, 2, 8, 8],
        Some(&[5]),
        "ClassConditionedUnet: label 5 is out of range; expected a whole number from 0 to 4",
    );
    refused(&[1, 3, 8, 8], Some(&[1]), "3 channels, expected 2");
    refused(&[2, 8, 8], Some(&[1]), "[2, 8, 8]");
    Ok(())
}
