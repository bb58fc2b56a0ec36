//! Checkpoints in every layout that diffusers writes or reads, made by Python (`tests/golden/checkpoints.py`), and what
//! becomes of damaged ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use kakusan_weights::{Checkpoint, Dtype, Error, FloatType, SaveOptions, choose_weights, convert};

type TestResult = Result<(), Box<dyn std::error::Error>>;

const STEM: &str = "diffusion_pytorch_model";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoints").join(name)
}

fn expected() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let file = Checkpoint::open(&golden("expected.safetensors")).unwrap();
    let values = |name: &str| file.values(name).unwrap();
    file.tensors().map(|(name, info)| (name.to_owned(), (info.shape.clone(), values(name)))).collect()
}

fn copy(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

/// Whether a checkpoint holds the golden model: a convolution, an attention block, a linear layer.
fn all_as_expected(checkpoint: &Checkpoint) -> TestResult {
    let (expected, mut count) = (expected(), 0);
    for (name, info) in checkpoint.tensors() {
        let values = checkpoint.values(name)?;
        count += values.len();
        assert_eq!(
            (&info.shape, &values),
            (&expected[name].0, &expected[name].1),
            "{}: {name}",
            checkpoint.path().display()
        );
    }
    assert_eq!(count, 119);
    Ok(())
}

#[test]
fn every_layout_loads_with_the_same_values() -> TestResult {
    let layouts = [
        ("plain", None, "diffusion_pytorch_model.safetensors", 1),
        ("fp16", None, "diffusion_pytorch_model.fp16.safetensors", 1),
        ("fp16", Some("fp16"), "diffusion_pytorch_model.fp16.safetensors", 1),
        ("bf16", None, "diffusion_pytorch_model.bf16.safetensors", 1),
        ("sharded", None, "diffusion_pytorch_model.safetensors.index.json", 3),
        ("sharded_fp16", None, "diffusion_pytorch_model.safetensors.index.fp16.json", 2),
        ("sharded_fp16_legacy", Some("fp16"), "diffusion_pytorch_model.safetensors.fp16.index.json", 2),
        ("bin", None, "diffusion_pytorch_model.bin", 1),
        ("bin_sharded", None, "diffusion_pytorch_model.bin.index.json", 3),
    ];
    for (folder, variant, file, files) in layouts {
        let checkpoint = Checkpoint::find(&golden(folder), variant)?;
        assert_eq!(checkpoint.path().file_name().unwrap(), file);
        assert_eq!(checkpoint.files().len(), files, "{folder}");
        assert_eq!(checkpoint.variant().is_some(), folder.ends_with("16") || variant.is_some(), "{folder}");
        all_as_expected(&checkpoint)?;
    }
    all_as_expected(&Checkpoint::open(&golden("torch_1_5.bin"))?)?;
    Ok(())
}

#[test]
fn tensors_that_are_views_and_of_other_types_are_read_in_order() -> TestResult {
    let checkpoint = Checkpoint::open(&golden("views.bin"))?;
    let expected = expected();
    let names: Vec<&str> = checkpoint.tensors().map(|(name, _)| name).collect();
    assert_eq!(names[..3], ["transposed", "row", "every_second"]); // the file's own order
    for name in names {
        let (shape, values) = &expected[&format!("views.{name}")];
        assert_eq!(&checkpoint.info(name).unwrap().shape, shape, "{name}");
        assert_eq!(&checkpoint.values(name)?, values, "{name}");
    }
    let integers = Checkpoint::open(&golden("integers.bin"))?;
    assert_eq!(integers.info("a").unwrap().dtype, Dtype::I64);
    let refused = integers.values("a").unwrap_err().to_string();
    assert!(refused.contains("a: its dtype is I64, expected F32, F64, F16 or BF16"), "{refused}");
    assert!(integers.values("none").unwrap_err().to_string().contains("none: missing"));
    Ok(())
}

#[test]
fn nothing_in_a_pickle_is_executed() {
    for (file, reason) in [
        ("executes.bin", "it uses \"posix\".\"system\""),
        ("executes_torch_1_5.bin", "it uses \"posix\".\"system\""),
        ("nested.bin", "its entry `epoch` is not a tensor: save only the model's state_dict()"),
        ("expanded.bin", "a tensor of shape [3, 2], strides [0, 1] and offset 0 does not fit its 2 values"),
    ] {
        let error = Checkpoint::open(&golden(file)).unwrap_err();
        assert!(matches!(error, Error::Pickle { .. }), "{error}");
        assert!(error.to_string().contains(reason) && error.to_string().contains(file), "{error}");
        assert!(error.to_string().ends_with("; nothing in it was executed"), "{error}");
    }
    assert!(!Path::new("executed").exists());
}

/// An archive as `torch.save` writes it, around `pickle`, with four floats as `data/0`; `wide` as where the directory
/// lies beyond 4 GB.
fn archive(pickle: &[u8], wide: bool) -> Vec<u8> {
    let (mut bytes, mut directory) = (vec![], vec![]);
    let entries: [(&str, &[u8]); 2] = [("archive/data.pkl", pickle), ("archive/data/0", &[0; 16])];
    for (name, content) in entries {
        let (start, crc) = (bytes.len() as u64, crc32fast::hash(content));
        let common = |out: &mut Vec<u8>, len: u32, extra: u16| {
            out.extend([20, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            out.extend(crc.to_le_bytes());
            out.extend([len; 2].iter().flat_map(|len| len.to_le_bytes()));
            out.extend((name.len() as u16).to_le_bytes());
            out.extend(extra.to_le_bytes());
        };
        let len = content.len() as u64;
        bytes.extend(b"PK\x03\x04");
        common(&mut bytes, len as u32, 0);
        bytes.extend(name.bytes().chain(content.iter().copied()));
        directory.extend(b"PK\x01\x02\x14\0");
        common(&mut directory, if wide { u32::MAX } else { len as u32 }, if wide { 34 } else { 0 });
        directory.extend([0; 10]);
        directory.extend(if wide { u32::MAX } else { start as u32 }.to_le_bytes());
        directory.extend(name.bytes());
        if wide {
            directory.extend([9, 0, 2, 0, 7, 7]); // a field of somebody else's
            directory.extend([1, 0, 24, 0]);
            directory.extend([len, len, start].iter().flat_map(|n| n.to_le_bytes()));
        }
    }
    let (mut start, mut size) = (bytes.len() as u32, directory.len() as u32);
    bytes.extend_from_slice(&directory);
    if wide {
        let record = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes());
        bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([2u64, 2, size.into(), start.into()].iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(record.to_le_bytes());
        bytes.extend([1, 0, 0, 0]);
        (start, size) = (u32::MAX, u32::MAX);
    }
    bytes.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
    bytes.extend([size, start].iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend([0, 0]);
    bytes
}

/// What opening an archive around this pickle says.
fn opened(pickle: &[u8]) -> Result<Checkpoint, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.bin");
    fs::write(&path, archive(pickle, true)).unwrap();
    let wide = Checkpoint::open(&path).map(|_| ());
    fs::write(&path, archive(pickle, false)).unwrap();
    assert_eq!(wide.is_ok(), Checkpoint::open(&path).is_ok());
    Checkpoint::open(&path)
}

/// The pickle of `{"a": tensor}` on the four floats, with this offset, shape and strides.
fn tensor(len: i32, offset: i32, shape: [i32; 2], strides: [i32; 2]) -> Vec<u8> {
    let int = |value: i32| [b"J".as_slice(), &value.to_le_bytes()].concat();
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let pair = |[a, b]: [i32; 2]| [int(a), int(b), b"\x86".to_vec()].concat();
    [
        b"\x80\x02}".to_vec(),
        text("a"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(len),
        b"tQ".to_vec(),
        int(offset),
        pair(shape),
        pair(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

#[test]
fn tensors_lie_within_their_values() {
    assert_eq!(opened(&tensor(4, 0, [2, 2], [2, 1])).unwrap().values("a").unwrap(), [0.0; 4]);
    assert!(opened(&tensor(4, 1, [1, 2], [9, 2])).is_ok());
    assert!(opened(&tensor(4, 4, [0, 2], [2, 1])).is_ok());
    let huge = i32::MAX;
    for (len, offset, shape, strides) in [
        (4, 1, [2, 2], [2, 1]),
        (4, 0, [2, 2], [3, 1]),
        (4, -1, [2, 2], [2, 1]),
        (4, 0, [-2, 2], [2, 1]),
        (4, 0, [2, 2], [-2, 1]),
        (4, 0, [huge, huge], [0, 0]),
        (4, huge, [huge, huge], [huge, huge]),
        (4, 0, [0, huge], [huge, huge]),
        (4, 5, [0, 2], [2, 1]),
        (5, 0, [2, 2], [2, 1]),
        (huge, 0, [2, 2], [2, 1]),
    ] {
        let error = opened(&tensor(len, offset, shape, strides));
        // an empty tensor has no value that could lie elsewhere, unless its strides overflow
        if shape[0] == 0 && offset <= 4 && error.is_ok() {
            continue;
        }
        assert!(matches!(error, Err(Error::Pickle { .. })), "{len} {offset} {shape:?} {strides:?}: {error:?}");
    }
}

/// Each byte of what says where things lie is changed.
#[test]
fn a_directory_for_large_archives_is_read_and_may_be_damaged() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("w.bin");
    let whole = archive(&tensor(4, 0, [2, 2], [2, 1]), true);
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).and_then(|checkpoint| checkpoint.values("a"))
    };
    assert_eq!(read(&whole)?, [0.0; 4]);
    let directory = whole.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    for at in directory..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= change;
            assert!(!matches!(read(&changed), Err(Error::Io { .. })), "{at}");
        }
    }
    Ok(())
}

#[test]
fn two_tensors_of_one_new_name_are_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    let same = |_: &str| "same".to_owned();
    let error =
        convert(&Checkpoint::open(&golden("views.bin"))?, &dir.path().join("new"), &SaveOptions::default(), same);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("row: its current name is same, which transposed also becomes"), "{error}");
    assert!(!dir.path().join("new").exists());
    Ok(())
}

#[test]
fn all_tensors_are_converted_those_that_are_no_floats_as_they_are() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut options = SaveOptions::default();
    options.dtype = Some(FloatType::F32);
    for file in ["views.bin", "integers.bin"] {
        let before = Checkpoint::open(&golden(file))?;
        convert(&before, dir.path(), &options, str::to_owned)?;
        let after = Checkpoint::find(dir.path(), None)?;
        assert_eq!(before.tensors().count(), after.tensors().count());
        for (name, info) in before.tensors() {
            assert_eq!(after.info(name).unwrap().shape, info.shape, "{name}");
            if info.dtype == Dtype::I64 {
                assert_eq!(after.info(name), Some(info));
            } else {
                assert_eq!(after.values(name)?, before.values(name)?, "{name}");
            }
        }
    }
    // 2^100 is more than f16 has
    options.dtype = Some(FloatType::F16);
    let error = convert(&Checkpoint::open(&golden("views.bin"))?, dir.path(), &options, str::to_owned);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("bfloat: 1 of its values are too large for F16"), "{error}");
    Ok(())
}

#[test]
fn pickles_that_wind_themselves_up_are_refused() {
    let deep = [b"\x80\x02)".as_slice(), &[0x85; 1_000_000], b"."].concat();
    // a dictionary that is its own entry, under its own name
    let circular = b"\x80\x02}q\0X\x01\0\0\0ah\0s.";
    // each tuple holds the one before it twice: 2^200 values if they were copied
    let doubling = [b"\x80\x02)q\0".as_slice(), &b"h\0h\0\x86q\0".repeat(200), b"."].concat();
    for pickle in [
        deep.as_slice(),
        circular,
        &doubling,
        b"\x80\x02X\xff\xff\xff\xffab", // a text of 4 GB
        b"\x80\x02\x8a\xff",
        b"\x80\x02.",
        b"\x80\x02h\x07.",
        b"\x80\x02tQR.",
        b"\x80\x02(Q.",
        b"\x80\x02)(e.",
        b"\x80\x02}Na.",
        b"\x80\x02}NNb.",
        b"\x80\x04\x95.",
        b"c",
        b"cos\nsystem\n.",
        b"\x80\x02i__builtin__\neval\n.",
        b"",
    ] {
        let outcome = opened(pickle);
        assert!(matches!(outcome, Err(Error::Pickle { .. })), "{outcome:?}");
    }
}

/// What a pickle says once and then repeats takes no memory again.
#[test]
fn what_a_pickle_repeats_is_not_copied() {
    let text = |text: &[u8]| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text].concat();
    // a hundred thousand references to values whose key is a million letters long
    let id = [b"(".to_vec(), text(b"storage"), b"ctorch\nFloatStorage\n".to_vec(), text(&[b'k'; 1_000_000])].concat();
    let pickle =
        [b"\x80\x02".as_slice(), &id, &text(b"cpu"), b"K\x01tq\x01", &b"h\x01Q".repeat(100_000), b"."].concat();
    assert!(matches!(opened(&pickle), Err(Error::Pickle { .. })));
    let flat = tensor(4, 0, [2, 2], [2, 1]);
    let two = [b"J".as_slice(), &2i32.to_le_bytes()].concat().repeat(2);
    let at = flat.windows(two.len()).position(|bytes| bytes == two).unwrap();
    let ones = |count| [b"(".to_vec(), b"K\x01".repeat(count), b"t".to_vec()].concat();
    let strides = at + two.len() + 1 + 11;
    let with = |count| [&flat[..at], &ones(count), &ones(count), &flat[strides..]].concat();
    assert_eq!(opened(&with(8)).unwrap().values("a").unwrap(), [0.0]);
    assert!(matches!(opened(&with(9)), Err(Error::Pickle { .. })));
}

/// A tensor without values may claim any size in its other dimensions.
#[test]
fn an_empty_tensor_of_impossible_size_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("w.safetensors");
    let open = |side: u64| -> Result<Vec<f32>, Error> {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[0,{side},{side}],"data_offsets":[0,0]}}}}"#);
        fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
        Checkpoint::open(&path)?.values("a")
    };
    assert!(open(3)?.is_empty());
    let error = open(1 << 40).unwrap_err().to_string();
    assert!(error.contains("which is too large"), "{error}");
    Ok(())
}

#[test]
fn a_variant_is_chosen_where_there_is_one() {
    let choose = |names: &[&str], variant| choose_weights(names.iter().copied(), variant);
    let plain = format!("{STEM}.safetensors");
    let (fp16, ema) = (format!("{STEM}.fp16.safetensors"), format!("{STEM}.ema.bin"));
    assert_eq!(choose(&[&plain, &fp16], None).unwrap().name, plain);
    assert_eq!(choose(&[&plain, &fp16], Some("fp16")).unwrap().name, fp16);
    assert_eq!(choose(&[&ema], None).unwrap().variant.as_deref(), Some("ema"));
    assert_eq!(choose(&[&format!("{STEM}.bin"), &fp16], None).unwrap().variant, None);
    let both = choose(&[&ema, &fp16], None).unwrap_err();
    assert_eq!(both, "there are only variants; name one of ema, fp16");
    let other = choose(&[&plain, &fp16], Some("ema")).unwrap_err();
    assert_eq!(other, "there are none of variant `ema`, only of fp16; without a variant, there are");
    let shards = choose(&[&format!("{STEM}-00001-of-00002.safetensors")], None).unwrap_err();
    assert!(shards.contains("there are shards, but their index is missing"), "{shards}");
    let others = choose(&["config.json", "model.ckpt"], None).unwrap_err();
    assert!(others.contains("expected diffusion_pytorch_model.safetensors") && others.contains("only model.ckpt"));
    let none = Checkpoint::find(&golden("plain"), Some("ema")).unwrap_err();
    assert!(matches!(none, Error::NoWeights { .. }) && none.to_string().contains("plain"), "{none}");
    assert!(matches!(Checkpoint::find(&golden("nowhere"), None), Err(Error::Io { .. })));
}

#[test]
fn an_index_that_lies_is_refused() -> TestResult {
    let index = format!("{STEM}.safetensors.index.json");
    let (one, three) = (format!("{STEM}-00001-of-00003"), format!("{STEM}-00003-of-00003"));
    let refused = |from: &str, to: &str| {
        let dir = copy(&golden("sharded"));
        let text = fs::read_to_string(dir.path().join(&index)).unwrap();
        assert!(text.contains(from));
        fs::write(dir.path().join(&index), text.replace(from, to)).unwrap();
        let error = Checkpoint::find(dir.path(), None).unwrap_err();
        assert!(matches!(error, Error::Shards { .. }), "{error}");
        error.to_string()
    };
    let weight = format!("\"a_last.weight\": \"{three}.safetensors\"");
    let moved = refused(&weight, &format!("\"a_last.weight\": \"{one}.safetensors\""));
    assert!(moved.contains(&format!("a_last.weight: it is not in {one}.safetensors, where the index")), "{moved}");
    assert!(moved.contains(&format!("a_last.weight: it is in {three}.safetensors, but the index does not")), "{moved}");
    let added = refused(&weight, &format!("{weight},\n \"ghost\": \"{three}.safetensors\""));
    assert!(added.contains("ghost: it is not in"), "{added}");
    let gone = refused(&three, "diffusion_pytorch_model-00009-of-00003");
    assert!(
        gone.contains("it names diffusion_pytorch_model-00009-of-00003.safetensors, which does not exist"),
        "{gone}"
    );
    for elsewhere in ["../x", "/etc/passwd", "a/b", "", "..", "C:x"] {
        let gone = refused(&format!("{three}.safetensors"), elsewhere);
        assert!(gone.contains("leads out of the folder"), "{elsewhere}: {gone}");
    }
    refused("\"weight_map\"", "\"weights\"");
    refused("{", "");
    Ok(())
}

/// Every beginning of a file, and the file with each byte changed, is loaded or refused with a word of what is wrong.
#[test]
fn damage_is_an_error_and_never_a_panic() -> TestResult {
    let dir = tempfile::tempdir()?;
    for name in ["plain/diffusion_pytorch_model.safetensors", "torch_1_5.bin", "views.bin"] {
        let path = dir.path().join(Path::new(name).file_name().unwrap());
        let whole = fs::read(golden(name))?;
        fs::write(&path, &whole)?;
        let mut file = fs::File::options().write(true).open(&path)?;
        let read_all = || {
            let checkpoint = Checkpoint::open(&path)?;
            checkpoint.tensors().try_for_each(|(name, _)| checkpoint.values(name).map(drop))
        };
        let mut write = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).and_then(|_| file.write_all(&[byte])).unwrap();
        };
        read_all()?;
        for (at, &byte) in whole.iter().enumerate() {
            for change in [0x01, 0x80] {
                write(at, byte ^ change);
                if let Err(error) = read_all() {
                    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                }
            }
            write(at, byte);
        }
        for len in (0..whole.len()).rev() {
            file.set_len(len as u64)?;
            assert!(read_all().is_err(), "{name}: {len} bytes of {}", whole.len());
        }
    }
    Ok(())
}

#[test]
fn a_damaged_index_is_an_error_and_never_a_panic() -> TestResult {
    let dir = copy(&golden("sharded"));
    let path = dir.path().join(format!("{STEM}.safetensors.index.json"));
    let whole = fs::read(&path)?;
    let mut changed = whole.clone();
    for at in 0..whole.len() {
        fs::write(&path, &whole[..at])?;
        assert!(at + 2 > whole.len() || Checkpoint::open(&path).is_err(), "{at} bytes");
        for change in [0x01, 0x80] {
            changed[at] ^= change;
            fs::write(&path, &changed)?;
            let _ = Checkpoint::open(&path); // white space may change
            changed[at] = whole[at];
        }
    }
    Ok(())
}

#[test]
fn what_git_left_in_a_files_place_is_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    for name in ["w.safetensors", "w.bin"] {
        let path = dir.path().join(name);
        fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")?;
        let error = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(error.contains("git lfs pull"), "{error}");
    }
    Ok(())
}
