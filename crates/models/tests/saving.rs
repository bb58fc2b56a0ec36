//! What is saved, byte for byte what Python's libraries write (`tests/golden/checkpoints.py`), and read again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::Init;
use kakusan_models::{
    BasicUNetConfig, CONFIG_FILE, Checkpoint, Error, FloatType, ModelConfig, SaveOptions, VarBuilder, Weights,
    load_config_and_fields, parse_size, save, save_with,
};
use kakusan_rng::Generator;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints").join(name)
}

fn options(change: impl FnOnce(&mut SaveOptions)) -> SaveOptions {
    let mut options = SaveOptions::default();
    change(&mut options);
    options
}

/// The weights in `folder`, in the order in which torch's module has them.
fn weights(folder: &str) -> Weights {
    let build = |vb: VarBuilder| {
        let mut all = vec![("conv_in.weight", vec![3, 2, 3, 3]), ("conv_in.bias", vec![3])];
        all.extend([("attentions.0.group_norm.weight", vec![3]), ("attentions.0.group_norm.bias", vec![3])]);
        all.extend([("attentions.0.to_q.weight", vec![3, 3]), ("attentions.0.to_q.bias", vec![3])]);
        all.extend([("attentions.0.to_k.weight", vec![3, 3]), ("attentions.0.to_k.bias", vec![3])]);
        all.extend([("attentions.0.to_v.weight", vec![3, 3]), ("attentions.0.to_v.bias", vec![3])]);
        all.extend([("attentions.0.to_out.0.weight", vec![3, 3]), ("attentions.0.to_out.0.bias", vec![3])]);
        all.extend([("a_last.weight", vec![2, 3]), ("a_last.bias", vec![2])]);
        all.into_iter().try_for_each(|(name, shape)| Ok(vb.get(shape, name).map(drop)?))
    };
    let checkpoint = Checkpoint::find(&golden(folder), None).unwrap();
    Weights::from_checkpoint(checkpoint, &Device::Cpu, kakusan_models::legacy::attention_name, build).unwrap().0
}

/// All files of a folder but the configuration.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    });
    files.filter(|(name, _)| name != CONFIG_FILE).collect()
}

fn basic() -> ModelConfig {
    ModelConfig::BasicUNet(BasicUNetConfig::default())
}

#[test]
fn files_are_byte_for_byte_what_python_writes() -> TestResult {
    let small = parse_size("0.2KB")?;
    for (folder, options) in [
        ("plain", SaveOptions::default()),
        ("sharded", options(|o| o.max_shard_size = small)),
        ("fp16", options(|o| (o.dtype, o.variant) = (Some(FloatType::F16), Some("fp16".into())))),
        ("bf16", options(|o| (o.dtype, o.variant) = (Some(FloatType::BF16), Some("bf16".into())))),
        (
            "sharded_fp16",
            options(|o| {
                (o.dtype, o.variant, o.max_shard_size) = (Some(FloatType::F16), Some("fp16".into()), small);
            }),
        ),
    ] {
        // from a file with the old names of attention layers, and from its shards
        for source in ["old_names", "sharded", "plain"] {
            let dir = tempfile::tempdir()?;
            save_with(&basic(), &weights(source), dir.path(), &options)?;
            assert_eq!(files(dir.path()), files(&golden(folder)), "{folder}");
        }
    }
    Ok(())
}

#[test]
fn a_save_leaves_nothing_of_the_one_before_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    let weights = weights("plain");
    let sharded = options(|o| o.max_shard_size = 200);
    let half = options(|o| (o.dtype, o.variant) = (Some(FloatType::F16), Some("fp16".into())));
    fs::write(dir.path().join("diffusion_pytorch_model.notes.txt"), "mine")?;
    for file in fs::read_dir(golden("sharded_fp16_legacy"))? {
        let file = file?;
        fs::copy(file.path(), dir.path().join(file.file_name()))?;
    }
    save_with(&basic(), &weights, dir.path(), &SaveOptions::default())?;
    let legacy = files(&golden("sharded_fp16_legacy"));
    assert!(legacy.keys().all(|name| dir.path().join(name).exists())); // another variant, which stays
    save_with(&basic(), &weights, dir.path(), &half)?;
    assert!(!legacy.keys().any(|name| dir.path().join(name).exists()));
    for (options, expected) in [(&sharded, "sharded"), (&SaveOptions::default(), "plain"), (&sharded, "sharded")] {
        save_with(&basic(), &weights, dir.path(), options)?;
        let mut found = files(dir.path());
        assert!(found.remove("diffusion_pytorch_model.notes.txt").is_some());
        assert!(found.remove("diffusion_pytorch_model.fp16.safetensors").is_some());
        assert_eq!(found, files(&golden(expected)));
        assert_eq!(Checkpoint::find(dir.path(), None)?.tensors().count(), 14);
    }
    Ok(())
}

#[test]
fn what_f16_cannot_hold_is_an_error_and_leaves_the_old_file() -> TestResult {
    let build = |vb: VarBuilder| Ok(vb.get_with_hints(4, "w", Init::Uniform { lo: 0.0, up: 1.0 }.into())?);
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), build)?;
    let dir = tempfile::tempdir()?;
    let half = options(|o| o.dtype = Some(FloatType::F16));
    save_with(&basic(), &weights, dir.path(), &half)?;
    let before = files(dir.path());
    for (_, var) in weights.iter() {
        var.set(&Tensor::new(&[65_519f32, 65_520., 1e-9, -1e9], &Device::Cpu)?)?;
    }
    let error = save_with(&basic(), &weights, dir.path(), &half).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("w: 2 of its values are too large for F16"), "{error}");
    assert_eq!(files(dir.path()), before);
    let wide = options(|o| o.dtype = Some(FloatType::BF16));
    save_with(&basic(), &weights, dir.path(), &wide)?;
    Ok(())
}

#[test]
fn options_that_make_no_sense_are_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    for variant in ["", "a/b", "..", "fp16.x", "a-00001-of-00002", "é"] {
        let options = options(|o| o.variant = Some(variant.into()));
        assert!(save_with(&basic(), &weights("plain"), dir.path(), &options).is_err(), "{variant}");
    }
    assert_eq!(parse_size("10GB")?, 10_000_000_000);
    assert_eq!(parse_size("1.5 kb")?, 1500);
    for size in ["", "0KB", "-1MB", "nanMB", "infGB", "1e300TB", "100", "10 MiB", "0.0001KB"] {
        assert!(parse_size(size).is_err(), "{size}");
    }
    assert_eq!("float16".parse(), Ok(FloatType::F16));
    assert!("f8".parse::<FloatType>().is_err());
    Ok(())
}

#[test]
fn numbers_and_fields_of_a_configuration_are_saved_as_they_were() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| basic().build(vb))?;
    save(&basic(), &weights, dir.path())?;
    let written = fs::read_to_string(dir.path().join(CONFIG_FILE))?;
    let averaged = written.replace("{\n", "{\n  \"_name_or_path\": \"x\",\n  \"decay\": 0.9999,\n  \"power\": 1,\n");
    fs::write(dir.path().join(CONFIG_FILE), averaged)?;
    let (config, fields) = load_config_and_fields(dir.path())?;
    assert_eq!(config, basic());
    save_with(&config, &weights, dir.path(), &options(|o| o.fields = fields))?;
    let again = fs::read_to_string(dir.path().join(CONFIG_FILE))?;
    assert!(
        again.contains("\"decay\": 0.9999") && again.contains("\"power\": 1,") && !again.contains("_name_or_path"),
        "{again}"
    );

    let wrong = written.replace("{\n", "{\n  \"in_chanels\": 1,\n  \"depth\": 2,\n");
    fs::write(dir.path().join(CONFIG_FILE), wrong)?;
    let error = load_config_and_fields(dir.path()).unwrap_err().to_string();
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
    save_with(&basic(), &weights, dir.path(), &options(|o| o.max_shard_size = 300_000))?;
    let checkpoint = Checkpoint::find(dir.path(), None)?;
    assert!(checkpoint.files().len() > 3);
    let (_, again, _) = Weights::from_checkpoint(checkpoint, &Device::Cpu, str::to_owned, |vb| basic().build(vb))?;
    let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(model.forward(&x, &level, None)?), values(again.forward(&x, &level, None)?));
    Ok(())
}
