//! Sets from a folder of IDX files, valid and invalid.

mod common;

use std::path::Path;

use common::{folder, from_dir, gzip, header, images, labels, pixel};
use kakusan_data::{DatasetName, Error, ImageSet, SourceKind, load};

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";

fn read(dir: &Path) -> Result<ImageSet, Error> {
    load(&from_dir(dir)).map(|loaded| (*loaded.images).clone())
}

fn assert_good(set: &ImageSet, n: usize) {
    assert_eq!((set.len(), set.height(), set.width()), (n, 28, 28));
    for i in 0..n {
        assert_eq!(set.label(i), (i % 10) as u32);
        assert_eq!(*set.image(i).unwrap(), (0..784).map(|j| pixel(i, j)).collect::<Vec<_>>());
    }
}

/// The error message if one file of an otherwise valid set of 5 is invalid.
fn complaint(name: &str, bytes: &[u8]) -> String {
    let (images, labels) = (images(5), labels(5));
    let mut files: Vec<(&str, &[u8])> = vec![(IMAGES, &images), (LABELS, &labels)];
    let plain = name.trim_end_matches(".gz");
    files.retain(|(file, _)| *file != plain);
    files.push((name, bytes));
    let dir = folder(&files);
    let error = read(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Idx { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.starts_with(&dir.path().join(name).display().to_string()), "{message}");
    message
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}

#[test]
fn every_layout_and_spelling() {
    for place in ["", "MNIST/raw/"] {
        for (images_name, labels_name) in [
            (IMAGES, LABELS),
            ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
            (IMAGES, "train-labels.idx1-ubyte"),
        ] {
            for (images_gz, labels_gz) in [(false, false), (true, true), (true, false), (false, true)] {
                let file = |name: &str, bytes: Vec<u8>, gz: bool| match gz {
                    true => (format!("{place}{name}.gz"), gzip(&bytes)),
                    false => (format!("{place}{name}"), bytes),
                };
                let (a, b) = (file(images_name, images(23), images_gz), file(labels_name, labels(23), labels_gz));
                let dir = folder(&[(&a.0, &a.1), (&b.0, &b.1)]);
                assert_good(&read(dir.path()).unwrap(), 23);
            }
        }
    }
}

#[test]
fn the_test_split_is_in_the_other_two_files() {
    let (five, three, three_labels) = ((images(5), labels(5)), images(3), gzip(&labels(3)));
    let train: [(&str, &[u8]); 2] = [(IMAGES, &five.0), (LABELS, &five.1)];
    let test: [(&str, &[u8]); 2] = [("t10k-images-idx3-ubyte", &three), ("t10k-labels.idx1-ubyte.gz", &three_labels)];
    let dir = folder(&[train, test].concat());
    let split = |split: &str| load(&from_dir(dir.path()).with_split(split)).map(|loaded| (*loaded.images).clone());
    assert_good(&split("test").unwrap(), 3);
    assert_good(&split("train").unwrap(), 5);
    let only_train = folder(&train);
    let error = load(&from_dir(only_train.path()).with_split("test")).unwrap_err().to_string();
    assert_says(&error, &["holds no mnist; looked for t10k-images-idx3-ubyte"]);
}

#[test]
fn fashion_mnist_lies_in_its_own_folder() {
    let dir = folder(&[
        ("FashionMNIST/raw/train-images-idx3-ubyte", &images(10)),
        ("FashionMNIST/raw/train-labels-idx1-ubyte", &labels(10)),
    ]);
    let mut config = from_dir(dir.path());
    assert!(matches!(load(&config), Err(Error::MissingFile { .. })));
    config.name = DatasetName::FashionMnist;
    config = config.with_classes([9, 8]);
    let loaded = load(&config).unwrap();
    assert_eq!(loaded.images.labels(), [8, 9]);
    assert_eq!(loaded.images.class_names()[9], "Ankle boot");
}

#[test]
fn the_source_is_named() {
    let dir = folder(&[(IMAGES, &images(5)), (LABELS, &labels(5))]);
    let loaded = load(&from_dir(dir.path())).unwrap();
    assert_eq!(loaded.source.kind, Some(SourceKind::Dir));
    assert_says(&loaded.source.to_string(), &[&dir.path().join(IMAGES).display().to_string(), LABELS]);
    assert!(loaded.skipped.is_empty());
}

#[test]
fn a_missing_folder_or_file() {
    let dir = folder(&[("file", b"")]);
    for name in ["nowhere", "file", "file/below"] {
        let error = read(&dir.path().join(name)).unwrap_err();
        assert_says(&error.to_string(), &[&dir.path().join(name).display().to_string()]);
        assert!(matches!(error, Error::NotAFolder { .. } | Error::Io { .. }), "{error:?}");
    }
    let error = read(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::MissingFile { looked_for, .. } if looked_for.len() == 4));
    let places = [IMAGES, "train-images.idx3-ubyte", "MNIST/raw/train-images-idx3-ubyte", ".gz", "mnist"];
    assert_says(&error.to_string(), &places);
    let dir = folder(&[(IMAGES, &images(5)), ("train-labels-idx1-ubyte/not-a-file", b"")]);
    assert_says(&read(dir.path()).unwrap_err().to_string(), &[LABELS, "train-labels.idx1-ubyte"]);
}

#[test]
fn a_file_cut_short_or_too_long() {
    let (good_images, good_labels) = (images(5), labels(5));
    for (name, good) in [(IMAGES, &good_images), (LABELS, &good_labels)] {
        let gz = format!("{name}.gz");
        for header_part in [0, 1, 4, 7] {
            assert_says(&complaint(name, &good[..header_part]), &["cut short within the header"]);
            assert_says(&complaint(&gz, &gzip(&good[..header_part])), &["cut short within the header"]);
        }
        let short = &good[..good.len() - 1];
        let promise = if name == IMAGES { "5 images of 28 x 28 bytes, 3920 bytes" } else { "5 labels, 5 bytes" };
        assert_says(&complaint(name, short), &["promises", promise, "follow it"]);
        assert_says(&complaint(&gz, &gzip(short)), &["promises", promise, "only"]);
        let long = [good.as_slice(), b"x"].concat();
        assert_says(&complaint(name, &long), &["promises", promise, "follow it"]);
        assert_says(&complaint(&gz, &gzip(&long)), &["promises", promise, "more follow it"]);
    }
}

#[test]
fn a_header_that_lies() {
    for count in [0, 6, 1_000_000, 1_000_001, u32::MAX] {
        let lie = |magic, rest: &[u8]| [&header(&[magic, count]), rest].concat();
        let (lying_images, lying_labels) = (lie(2051, &images(5)[8..]), lie(2049, &labels(5)[8..]));
        for message in [
            complaint(IMAGES, &lying_images),
            complaint(&format!("{IMAGES}.gz"), &gzip(&lying_images)),
            complaint(LABELS, &lying_labels),
            complaint(&format!("{LABELS}.gz"), &gzip(&lying_labels)),
        ] {
            assert_says(&message, &["the header promises", &count.to_string()]);
        }
    }
    for (rows, columns) in [(0, 0), (28, 27), (32, 32), (784, 1), (u32::MAX, u32::MAX)] {
        let bytes = [&header(&[2051, 5, rows, columns]), &images(5)[16..]].concat();
        let expected = format!("{rows} x {columns}; expected 28 x 28");
        assert_says(&complaint(IMAGES, &bytes), &[&expected]);
        assert_says(&complaint(&format!("{IMAGES}.gz"), &gzip(&bytes)), &[&expected]);
    }
}

#[test]
fn another_kind_of_file() {
    assert_says(&complaint(IMAGES, &labels(5)), &["is an IDX file of labels", "expected images"]);
    assert_says(&complaint(LABELS, &images(5)), &["is an IDX file of images", "expected labels"]);
    assert_says(&complaint(IMAGES, &gzip(&images(5))), &["is gzipped", "rename"]);
    assert_says(&complaint(LABELS, b"<!DOCTYPE html>"), &["is not IDX labels"]);
    assert_says(&complaint(IMAGES, &header(&[0x0d03, 5, 28, 28])), &["is not IDX images"]); // floats
}

#[test]
fn a_broken_gzip() {
    let gz = format!("{IMAGES}.gz");
    let good = gzip(&images(5));
    assert_says(&complaint(&gz, &images(5)), &["broken gzip"]);
    for cut in [5, 30, good.len() / 2, good.len() - 8, good.len() - 1] {
        assert_says(&complaint(&gz, &good[..cut]), &["the gzip is cut short"]);
    }
    let checksum = good.len() - 6;
    let mut wrong = good.clone();
    wrong[checksum] ^= 1;
    assert_says(&complaint(&gz, &wrong), &["broken gzip"]);
    assert_says(&complaint(&gz, &[good.as_slice(), b"trailing bytes"].concat()), &["broken gzip"]);
}

#[test]
fn images_and_labels_that_do_not_match() {
    for n in [4, 6] {
        assert_says(&complaint(IMAGES, &images(n)), &[&format!("holds {n} images"), LABELS, "5 labels"]);
    }
    let mut bad = labels(5);
    bad[8 + 3] = 10;
    assert_says(&complaint(LABELS, &bad), &["the label of image 3 is 10", "0 to 9"]);
}

/// If any single byte is changed, the result is a set or an error, never a panic. A changed header never gives a set.
#[test]
fn every_byte_of_a_header_counts() {
    for (name, good, len) in [(IMAGES, images(2), 16), (LABELS, labels(2), 8)] {
        for at in 0..len {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let other = if name == IMAGES { (LABELS, labels(2)) } else { (IMAGES, images(2)) };
                let dir = folder(&[(name, &bytes), (other.0, &other.1)]);
                assert!(matches!(read(dir.path()), Err(Error::Idx { .. })));
            }
        }
    }
}
