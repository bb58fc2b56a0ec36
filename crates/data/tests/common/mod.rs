//! Helpers that several tests use.
#![allow(dead_code)] // each test file uses only some of them

use std::{io::Write, num::NonZeroUsize, path::Path, sync::Arc};

use flate2::{Compression, write::GzEncoder};
use kakusan_data::{Batch, DataConfig, DatasetName, ImageSet, Loader, SourceKind};
use kakusan_rng::Generator;

/// MNIST from this folder only.
pub(crate) fn from_dir(dir: &Path) -> DataConfig {
    DataConfig { sources: vec![SourceKind::Dir], dir: Some(dir.to_owned()), ..DataConfig::new(DatasetName::Mnist) }
}

pub(crate) fn header(fields: &[u32]) -> Vec<u8> {
    fields.iter().flat_map(|field| field.to_be_bytes()).collect()
}

/// Pixel `j` of image `i`.
pub(crate) fn pixel(i: usize, j: usize) -> u8 {
    (i * 7 + j) as u8
}

/// An IDX file of `n` images.
pub(crate) fn images(n: usize) -> Vec<u8> {
    let mut file = header(&[2051, n as u32, 28, 28]);
    file.extend((0..n).flat_map(|i| (0..784).map(move |j| pixel(i, j))));
    file
}

/// An IDX file of `n` labels: 0, 1, 2, ...
pub(crate) fn labels(n: usize) -> Vec<u8> {
    let mut file = header(&[2049, n as u32]);
    file.extend((0..n).map(|i| (i % 10) as u8));
    file
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    dir
}

/// Pictures from this folder.
pub(crate) fn folder_of(dir: &Path) -> DataConfig {
    DataConfig { dir: Some(dir.to_owned()), ..DataConfig::new(DatasetName::Folder) }
}

/// All batches of one epoch, of three images each.
pub(crate) fn epoch(images: &Arc<ImageSet>, threads: usize, prefetch: usize, rng: &mut Generator) -> Vec<Batch> {
    let number = |n| NonZeroUsize::new(n).unwrap();
    let loader = Loader::new(images.clone(), number(3)).threads(number(threads)).prefetch(number(prefetch));
    loader.epoch(rng).map(Result::unwrap).collect()
}

/// A grey PNG whose pixels count up from `first`.
pub(crate) fn grey_png(width: u32, height: u32, first: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..width * height).map(|i| first.wrapping_add(i as u8)).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    bytes
}
