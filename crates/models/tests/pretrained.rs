//! Models in folders: what is saved is loaded, and what does not fit is named.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use kakusan_config::Config;
use kakusan_models::legacy::attention_name;
use kakusan_models::{
    BasicUNetConfig, CONFIG_FILE, ModelConfig, Outline, Registry, VarBuilder, Warning, Weights, load_config, save,
    save_with,
};
use kakusan_rng::Generator;
use kakusan_weights::{Checkpoint, SaveOptions};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints").join(name)
}

fn basic() -> BasicUNetConfig {
    BasicUNetConfig::default()
}

/// The golden model: a convolution, an attention block, a linear layer.
fn tiny(vb: VarBuilder) -> kakusan_models::Result<()> {
    vb.get((3, 2, 3, 3), "conv_in.weight")?;
    vb.get(3, "conv_in.bias")?;
    let attention = vb.pp("attentions.0");
    for layer in ["to_q", "to_k", "to_v", "to_out.0"] {
        attention.get((3, 3), &format!("{layer}.weight"))?;
        attention.get(3, &format!("{layer}.bias"))?;
    }
    attention.get(3, "group_norm.weight")?;
    attention.get(3, "group_norm.bias")?;
    vb.get((2, 3), "a_last.weight")?;
    vb.get(2, "a_last.bias")?;
    Ok(())
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn numbers_and_fields_of_a_configuration_are_saved_as_they_were() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| basic().build(vb))?;
    save(&basic(), &weights, dir.path())?;
    let written = fs::read_to_string(dir.path().join(CONFIG_FILE))?;
    let averaged = written.replace("{\n", "{\n  \"_name_or_path\": \"x\",\n  \"decay\": 0.9999,\n  \"power\": 1,\n");
    fs::write(dir.path().join(CONFIG_FILE), averaged)?;
    let (config, fields) = load_config(dir.path(), &Registry::default())?;
    assert_eq!(config.to_map(), basic().to_map());
    save_with(config.as_ref(), &weights, dir.path(), &SaveOptions::default(), &fields)?;
    let again = fs::read_to_string(dir.path().join(CONFIG_FILE))?;
    assert!(
        again.contains("\"decay\": 0.9999") && again.contains("\"power\": 1,") && !again.contains("_name_or_path"),
        "{again}"
    );

    let wrong = written.replace("{\n", "{\n  \"in_chanels\": 1,\n  \"depth\": 2,\n");
    fs::write(dir.path().join(CONFIG_FILE), wrong)?;
    let error = load_config(dir.path(), &Registry::default()).unwrap_err().to_string();
    assert!(error.contains("BasicUNet has no field `depth`"), "{error}");
    assert!(error.contains("`in_chanels`; did you mean `in_channels`?"), "{error}");
    Ok(())
}

#[test]
fn a_saved_model_predicts_the_same() -> TestResult {
    let (weights, model) = Weights::initialise(&Device::Cpu, &mut Generator::new(5), |vb| basic().build(vb))?;
    let x = Tensor::from_vec(Generator::new(1).rand(784), (1, 1, 28, 28), &Device::Cpu)?;
    let level = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    let dir = tempfile::tempdir()?;
    let mut options = SaveOptions::default();
    options.max_shard_size = 300_000;
    save_with(&basic(), &weights, dir.path(), &options, &Config::new())?;
    let checkpoint = Checkpoint::find(dir.path(), None)?;
    assert!(checkpoint.files().len() > 3);
    let outline = Outline::of(|vb| basic().build(vb))?;
    let (again, _) = Weights::from_checkpoint(&checkpoint, &outline, &Device::Cpu, str::to_owned)?;
    let again = again.build(|vb| basic().build(vb))?;
    assert_eq!(values(&model.forward(&x, &level, None)?), values(&again.forward(&x, &level, None)?));
    Ok(())
}

#[test]
fn two_names_for_one_tensor_are_refused() -> TestResult {
    let (dir, bytes) = (tempfile::tempdir()?, [0; 4]);
    let path = dir.path().join("w.safetensors");
    let view = || TensorView::new(Dtype::F32, vec![1], &bytes);
    let tensors = [("attentions.0.query.bias", view()?), ("attentions.0.to_q.bias", view()?)];
    fs::write(&path, safetensors::serialize(tensors, None)?)?;
    let build = |vb: VarBuilder| Ok(vb.get(1, "attentions.0.to_q.bias")?);
    let loaded = Weights::load(&path, &Device::Cpu, attention_name, build).err().unwrap();
    assert!(loaded.to_string().contains("it is the model's attentions.0.to_q.bias, and so is"), "{loaded}");
    Ok(())
}

/// As diffusers 0.42.1, which keeps quiet about a tensor that the index does not know.
#[test]
fn a_tensor_that_a_shard_holds_beside_its_index_is_unexpected() -> TestResult {
    let dir = tempfile::tempdir()?;
    for entry in fs::read_dir(golden("sharded"))? {
        let entry = entry?;
        fs::copy(entry.path(), dir.path().join(entry.file_name()))?;
    }
    let shard = dir.path().join("diffusion_pytorch_model-00003-of-00003.safetensors");
    let (bytes, spare) = (fs::read(&shard)?, [7u8; 8]);
    let mut tensors = SafeTensors::deserialize(&bytes)?.tensors();
    tensors.push(("spare".into(), TensorView::new(Dtype::I64, vec![1], &spare)?));
    fs::write(&shard, safetensors::serialize(tensors, None)?)?;
    let outline = Outline::of(tiny)?;
    let load =
        |dir: &Path| Weights::from_checkpoint(&Checkpoint::find(dir, None)?, &outline, &Device::Cpu, str::to_owned);
    let ((weights, unexpected), (sound, _)) = (load(dir.path())?, load(&golden("sharded"))?);
    assert_eq!(unexpected, ["spare"]);
    assert!(weights.iter().zip(sound.iter()).all(|((_, a), (_, b))| values(a) == values(b)));
    Ok(())
}

/// It names all, a few where there are many, and nothing reaches a terminal as it is.
#[test]
fn a_warning_names_what_it_is_about() {
    let names = |count: usize| (0..count).map(|i| format!("x{i}\u{1b}[31m")).collect();
    let said = |count| Warning::UnexpectedTensors { path: "w.bin".into(), names: names(count) }.to_string();
    assert!(said(2).starts_with("w.bin has tensors") && said(2).contains("`x0\\u{1b}[31m`, `x1\\u{1b}[31m`"));
    assert!(said(1000).ends_with("and 968 more") && !said(1000).contains('\u{1b}'));
}
