//! CIFAR-10's binary version.

mod common;

use std::fs;

use kakusan_data::{DataConfig, DatasetName, load};
use tempfile::TempDir;

fn byte(record: usize, at: usize) -> u8 {
    (record * 31 + at) as u8
}

/// A file of records; each label is the record's number modulo 10.
fn batch(records: std::ops::Range<usize>) -> Vec<u8> {
    records.flat_map(|i| std::iter::once((i % 10) as u8).chain((0..3072).map(move |at| byte(i, at)))).collect()
}

fn folder(below: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(below)).unwrap();
    for i in 0..5 {
        fs::write(dir.path().join(below).join(format!("data_batch_{}.bin", i + 1)), batch(i * 4..i * 4 + 4)).unwrap();
    }
    dir
}

fn config(dir: &TempDir) -> DataConfig {
    DataConfig { dir: Some(dir.path().to_owned()), ..DataConfig::new(DatasetName::Cifar10) }
}

fn refused(dir: &TempDir) -> String {
    load(&config(dir)).unwrap_err().to_string()
}

#[test]
fn five_files_in_order() {
    for below in ["", "cifar-10-batches-bin"] {
        let dir = folder(below);
        let images = load(&config(&dir)).unwrap().images;
        assert_eq!((images.shape(), images.len()), ([3, 32, 32], 20));
        for i in 0..20 {
            assert_eq!(images.label(i), (i % 10) as u32);
            assert!(images.image(i).unwrap().iter().enumerate().all(|(at, &pixel)| pixel == byte(i, at)));
        }
        let some = load(&config(&dir).with_classes(["dog", "cat"])).unwrap().images;
        assert_eq!(some.labels(), [3, 5, 3, 5]);
        assert_eq!(some.class_names()[3..6], ["cat", "deer", "dog"]);
    }
}

#[test]
fn the_test_split_is_the_sixth_file() {
    let dir = folder("");
    let test = config(&dir).with_split("test");
    assert!(load(&test).unwrap_err().to_string().contains("looked for test_batch.bin"));
    fs::write(dir.path().join("test_batch.bin"), batch(20..23)).unwrap();
    let images = load(&test).unwrap().images;
    assert_eq!((images.labels(), images.image(2).unwrap()[9]), ([0, 1, 2].as_slice(), byte(22, 9)));
    assert_eq!(load(&config(&dir).with_split("train")).unwrap().images.len(), 20);
}

#[test]
fn in_grey_and_at_another_size() {
    let dir = folder("");
    let grey = DataConfig { channels: Some(1), ..config(&dir) };
    let grey = load(&grey).unwrap().images;
    assert_eq!(grey.shape(), [1, 32, 32]);
    let [r, g, b] = [0, 1024, 2048].map(|at| f64::from(byte(7, at)));
    assert_eq!(f64::from(grey.image(7).unwrap()[0]), (0.299 * r + 0.587 * g + 0.114 * b).round());
    let small = DataConfig { resolution: Some(16.into()), random_flip: true, ..config(&dir) };
    assert_eq!(load(&small).unwrap().images.shape(), [3, 16, 16]);
}

#[test]
fn what_is_wrong_is_named() {
    let dir = folder("");
    fs::remove_file(dir.path().join("data_batch_3.bin")).unwrap();
    assert!(refused(&dir).contains("holds no cifar10; looked for data_batch_3.bin"), "{}", refused(&dir));
    for (bytes, part) in [
        (batch(0..2)[1..].to_vec(), "has 6145 bytes, but records have 3073"),
        (Vec::new(), "has 0 bytes"),
        ([vec![10], vec![0; 3072]].concat(), "record 0 has the label 10; expected 0 to 9"),
    ] {
        fs::write(dir.path().join("data_batch_3.bin"), bytes).unwrap();
        let text = refused(&dir);
        assert!(text.contains("data_batch_3.bin") && text.contains(part), "{text}");
    }
    let python = tempfile::tempdir().unwrap();
    fs::write(python.path().join("data_batch_1"), b"pickle").unwrap();
    assert!(refused(&python).contains("unpack cifar-10-binary.tar.gz instead"));
}
