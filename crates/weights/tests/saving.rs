//! What is saved, byte for byte what Python's libraries write (`tests/golden/checkpoints.py`), and read again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kakusan_weights::{Checkpoint, Dtype, Error, FloatType, Result, SaveOptions, TensorInfo, parse_size, save_tensors};

type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints").join(name)
}

fn options(change: impl FnOnce(&mut SaveOptions)) -> SaveOptions {
    let mut options = SaveOptions::default();
    change(&mut options);
    options
}

/// Saves the weights in the golden `folder`, in the order in which torch's module has them.
fn save(folder: &str, dir: &Path, options: &SaveOptions) -> Result<()> {
    let checkpoint = Checkpoint::find(&golden(folder), None)?;
    let layers = ["conv_in", "group_norm", "to_q", "to_k", "to_v", "to_out.0", "a_last"];
    let names = layers.iter().flat_map(|layer| ["weight", "bias"].map(|kind| format!("{layer}.{kind}")));
    let (mut tensors, mut values) = (vec![], BTreeMap::new());
    for short in names {
        let is_it = |name: &str| today(name).trim_start_matches("attentions.0.") == short;
        let (name, info) = checkpoint.tensors().find(|(name, _)| is_it(name)).unwrap();
        values.insert(today(name), checkpoint.values(name)?);
        tensors.push((today(name), TensorInfo { dtype: Dtype::F32, shape: info.shape.clone() }));
    }
    assert_eq!(tensors.len(), checkpoint.tensors().count());
    save_tensors(dir, &tensors, options, |name| Ok(bytes(&values[name])))
}

/// The name that a tensor of the golden `old_names` has today.
fn today(name: &str) -> String {
    let old = [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    old.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// All files of a folder but the configuration.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    });
    files.filter(|(name, _)| name != "config.json").collect()
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
            save(source, dir.path(), &options)?;
            assert_eq!(files(dir.path()), files(&golden(folder)), "{folder}");
        }
    }
    Ok(())
}

#[test]
fn a_save_leaves_nothing_of_the_one_before_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    let sharded = options(|o| o.max_shard_size = 200);
    let half = options(|o| (o.dtype, o.variant) = (Some(FloatType::F16), Some("fp16".into())));
    fs::write(dir.path().join("diffusion_pytorch_model.notes.txt"), "mine")?;
    for file in fs::read_dir(golden("sharded_fp16_legacy"))? {
        let file = file?;
        fs::copy(file.path(), dir.path().join(file.file_name()))?;
    }
    save("plain", dir.path(), &SaveOptions::default())?;
    let legacy = files(&golden("sharded_fp16_legacy"));
    assert!(legacy.keys().all(|name| dir.path().join(name).exists())); // another variant, which stays
    save("plain", dir.path(), &half)?;
    assert!(!legacy.keys().any(|name| dir.path().join(name).exists()));
    for (options, expected) in [(&sharded, "sharded"), (&SaveOptions::default(), "plain"), (&sharded, "sharded")] {
        save("plain", dir.path(), options)?;
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
    let tensors = [("w".to_owned(), TensorInfo { dtype: Dtype::F32, shape: vec![4] })];
    let save = |values: [f32; 4], dir: &Path, options: &SaveOptions| {
        save_tensors(dir, &tensors, options, |_| Ok::<_, Error>(bytes(&values)))
    };
    let (fit, large) = ([0.0, 0.25, 0.5, 0.75], [65_519f32, 65_520., 1e-9, -1e9]);
    let dir = tempfile::tempdir()?;
    let half = options(|o| o.dtype = Some(FloatType::F16));
    save(fit, dir.path(), &half)?;
    let before = files(dir.path());
    let error = save(large, dir.path(), &half).unwrap_err();
    assert!(matches!(error, Error::Tensor { .. }), "{error}");
    assert!(error.to_string().contains("w: 2 of its values are too large for F16"), "{error}");
    assert_eq!(files(dir.path()), before);
    let wide = options(|o| o.dtype = Some(FloatType::BF16));
    save(large, dir.path(), &wide)?;
    Ok(())
}

#[test]
fn options_that_make_no_sense_are_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    for variant in ["", "a/b", "..", "fp16.x", "a-00001-of-00002", "é"] {
        let options = options(|o| o.variant = Some(variant.into()));
        assert!(save("plain", dir.path(), &options).is_err(), "{variant}");
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
