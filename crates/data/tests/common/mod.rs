//! What several tests need.
#![allow(dead_code)] // each test file uses a part of it

use std::{io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use kakusan_data::{DataConfig, DatasetName, SourceKind};
use kakusan_hub::{Hub, HubConfig};

/// A Hub that is never reached.
pub(crate) fn no_hub() -> Hub {
    let mut config = HubConfig::new("http://127.0.0.1:9", "no/such/cache");
    config.offline = true;
    Hub::new(config)
}

/// MNIST from this folder and nowhere else.
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
