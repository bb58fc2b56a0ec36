//! Initialisation as torch does it, and the way to disk and back.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use kakusan_models::{
    BasicUNetConfig, Error, Model, ModelConfig, Registry, VarBuilder, Weights, candle_builder, load_config, save,
};
use kakusan_rng::Generator;
use kakusan_weights::WEIGHTS_FILE;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn config() -> BasicUNetConfig {
    BasicUNetConfig::default()
}

fn initialised(seed: u64) -> (Weights, Box<dyn Model>) {
    Weights::initialise(&Device::Cpu, &mut Generator::new(seed), |vb| config().build(vb)).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn load(path: &Path) -> Result<(Weights, Box<dyn Model>), Error> {
    Weights::load(path, &Device::Cpu, |name| config().tensor_name(name), |vb| config().build(vb))
}

fn predict(model: &dyn Model, seed: u64) -> Vec<f32> {
    let x = Tensor::from_vec(Generator::new(seed).rand(2 * 784), (2, 1, 28, 28), &Device::Cpu).unwrap();
    values(&model.forward(&x, &Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap(), None).unwrap())
}

/// PyTorch 2.15 after `manual_seed(0)`: the first weights, the last bias, and what the stream gives next.
#[test]
fn the_network_is_initialised_as_torch_does() -> TestResult {
    let mut rng = Generator::new(0);
    let (weights, model) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config().build(vb))?;
    let names: Vec<&str> = weights.iter().map(|(name, _)| name).collect();
    let layers = ["down_layer1", "down_layer2", "down_layer3", "up_layer1", "up_layer2", "up_layer3"];
    let expected: Vec<String> = layers.iter().flat_map(|l| [format!("{l}.weight"), format!("{l}.bias")]).collect();
    assert_eq!(names, expected);
    assert_eq!(weights.parameter_count(), 309_057);

    let all: Vec<f32> = weights.iter().flat_map(|(_, var)| values(var)).collect();
    assert_eq!(all[..3], [-0.001_497_364, 0.107_288_72, -0.164_609_03]);
    assert_eq!(all.last(), Some(&0.032_133_162));

    let input = rng.rand(2 * 784);
    assert_eq!(input[..2], [0.190_122_19, 0.353_891_97]);
    let x = Tensor::from_vec(input, (2, 1, 28, 28), &Device::Cpu)?;
    let sum = model.forward(&x, &Tensor::zeros(2, DType::F32, &Device::Cpu)?, None)?.sum_all()?.to_scalar::<f32>()?;
    assert!((sum - 86.6599).abs() < 1e-3, "{sum}");
    Ok(())
}

#[test]
fn every_parameter_gets_a_gradient() -> TestResult {
    let (weights, model) = initialised(0);
    let x = Tensor::from_vec(Generator::new(1).rand(784), (1, 1, 28, 28), &Device::Cpu)?;
    let loss = model.forward(&x, &Tensor::zeros(1, DType::F32, &Device::Cpu)?, None)?.sqr()?.mean_all()?;
    let gradients = kakusan_ops::backward(&loss)?;
    for (name, var) in weights.iter() {
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert_eq!(gradient.dims(), var.dims(), "{name}");
        assert!(values(gradient).iter().any(|&g| g != 0.0), "{name}");
    }
    Ok(())
}

#[test]
fn what_is_saved_is_loaded_and_read_by_name() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (weights, model) = initialised(3);
    save(&config(), &weights, dir.path())?;
    assert_eq!(load_config(dir.path(), &Registry::default())?.0.to_map(), config().to_map());
    let (again, loaded) = load(&dir.path().join(WEIGHTS_FILE))?;
    assert_eq!(again.parameter_count(), 309_057);
    assert_eq!(predict(model.as_ref(), 5), predict(loaded.as_ref(), 5));

    let text = std::fs::read_to_string(dir.path().join("config.json"))?;
    let expected = "{\n  \"_class_name\": \"BasicUNet\",\n  \"_diffusers_version\": \"0.42.1\",\n  \"in_channels\": 1,\n  \
                    \"out_channels\": 1,\n  \"sample_size\": 28\n}\n";
    assert_eq!(text, expected);
    Ok(())
}

#[test]
fn a_frozen_view_follows_the_weights_and_records_nothing() -> TestResult {
    let (weights, model) = initialised(0);
    let frozen = weights.frozen(|vb| config().build(vb))?;
    assert_eq!(predict(model.as_ref(), 1), predict(frozen.as_ref(), 1));
    for (_, var) in weights.iter() {
        var.set(&var.affine(0.5, 0.0)?)?;
    }
    assert_eq!(predict(model.as_ref(), 1), predict(frozen.as_ref(), 1));
    let x = Tensor::zeros((1, 1, 28, 28), DType::F32, &Device::Cpu)?;
    assert!(!frozen.forward(&x, &Tensor::zeros(1, DType::F32, &Device::Cpu)?, None)?.track_op());
    Ok(())
}

/// Writes the weights of seed 0, changed by `change`, and gives the error that loading them raises.
fn refused(change: impl FnOnce(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>)) -> String {
    let (weights, _) = initialised(0);
    let mut tensors: Vec<_> = weights
        .iter()
        .map(|(name, var)| {
            let bytes = values(var).iter().flat_map(|v| v.to_le_bytes()).collect();
            (name.to_owned(), Dtype::F32, var.dims().to_vec(), bytes)
        })
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    match load(&path) {
        Ok(_) => "loaded".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn the_notebooks_names_are_accepted() {
    let outcome = refused(|tensors| {
        for (name, ..) in tensors {
            let (layer, rest) = name.split_once('.').unwrap();
            let (part, number) = layer.split_at(layer.len() - 1);
            *name = format!("{part}s.{}.{rest}", number.parse::<usize>().unwrap() - 1);
        }
    });
    assert_eq!(outcome, "loaded");
}

#[test]
fn every_difference_is_listed() {
    let outcome = refused(|tensors| {
        tensors.retain(|(name, ..)| name != "up_layer3.bias");
        tensors[1].2 = vec![4, 8]; // down_layer1.bias, 32 values
        tensors.push(("time.weight".into(), Dtype::F32, vec![1], vec![0; 4]));
        tensors[2].3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        tensors[3].1 = Dtype::I32;
    });
    for expected in [
        "up_layer3.bias: missing; expected shape [1]",
        "down_layer1.bias: its shape is [4, 8], expected [32]",
        "time.weight: unexpected",
        "down_layer2.weight: 1 of its 51200 values are NaN or infinite",
        "down_layer2.bias: its dtype is I32, expected F32",
    ] {
        assert!(outcome.contains(expected), "{expected}\nnot in\n{outcome}");
    }
    assert!(!outcome.contains("down_layer2.weight: missing"), "{outcome}");
}

#[test]
fn damaged_files_are_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (weights, _) = initialised(0);
    let path = dir.path().join("w.safetensors");
    weights.save(&path)?;
    let whole = std::fs::read(&path)?;
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for bytes in [&whole[..whole.len() / 2], &whole[..4], &[], &lying, b"<html>not found</html>".as_slice()] {
        std::fs::write(&path, bytes)?;
        let error = load(&path).err().unwrap();
        assert!(matches!(error, Error::Weights(kakusan_weights::Error::Safetensors { .. })), "{error}");
    }
    let none = load(&dir.path().join("none")).err().unwrap();
    assert!(matches!(none, Error::Weights(kakusan_weights::Error::Io { .. })), "{none}");
    Ok(())
}

#[test]
fn bad_configurations_name_the_key() {
    let error = |text: &str| Registry::default().from_json(text, "unet/config.json").unwrap_err().to_string();
    assert!(error(r#"{"_class_name": "BasicUnet"}"#).contains("known are BasicUNet"));
    assert!(error(r#"{"_class_name": "BasicUNet", "sample_size": 30}"#).contains("sample_size is 30"));
    assert!(error(r#"{"_class_name": "BasicUNet", "in_channels": 0}"#).contains("in_channels is 0"));
    assert!(error(r#"{"_class_name": "BasicUNet", "layers": 2}"#).contains("layers"));
    assert!(error(r#"{"in_channels": 1}"#).contains("_class_name"));
    assert!(error("[]").starts_with("unet/config.json: "));
}

#[test]
fn inputs_that_do_not_fit_are_refused() -> TestResult {
    let (_, model) = initialised(0);
    let level = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    for shape in [[1, 3, 28, 28], [1, 1, 30, 28], [1, 1, 28, 27]] {
        assert!(model.forward(&Tensor::zeros(&shape, DType::F32, &Device::Cpu)?, &level, None).is_err());
    }
    assert!(model.forward(&Tensor::zeros((1, 28, 28), DType::F32, &Device::Cpu)?, &level, None).is_err());
    let empty = model.forward(&Tensor::zeros((0, 1, 28, 28), DType::F32, &Device::Cpu)?, &level, None)?;
    assert_eq!(empty.dims(), [0, 1, 28, 28]);
    Ok(())
}

#[test]
fn a_tensor_that_is_requested_twice_is_shared() -> TestResult {
    let tied = |second: usize| move |vb: VarBuilder| Ok((vb.get((2, 3), "table")?, vb.get((2, second), "table")?));
    let (weights, (a, b)) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), tied(3))?;
    assert_eq!((weights.iter().len(), a.id()), (1, b.id()));
    let other = Weights::initialise(&Device::Cpu, &mut Generator::new(0), tied(4)).unwrap_err().to_string();
    assert!(other.contains("table: requested with the shapes [2, 3] and [2, 4]"), "{other}");
    Ok(())
}

/// The layers of candle_nn, with the values that their initialisations ask for, from our generator.
#[test]
fn candles_layers_are_built_and_initialised() -> TestResult {
    let build = |vb: VarBuilder| Ok(candle_nn::conv2d(64, 32, 3, Default::default(), candle_builder(vb.pp("conv")))?);
    let (weights, conv) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), build)?;
    let names: Vec<&str> = weights.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["conv.weight", "conv.bias"]);
    let (weight, fan_in) = (values(conv.weight()), 64.0 * 9.0);
    let variance = weight.iter().map(|w| f64::from(w * w)).sum::<f64>() / weight.len() as f64;
    assert!((variance * fan_in / 2.0 - 1.0).abs() < 0.05, "{variance}"); // Kaiming's, for ReLU
    let (again, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), build)?;
    assert_eq!(values(again.vars()[0].as_tensor()), weight);
    let frozen = weights.frozen(build)?;
    assert!(!frozen.weight().is_variable() && values(frozen.weight()) == weight);
    Ok(())
}
