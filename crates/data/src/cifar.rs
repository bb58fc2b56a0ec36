//! CIFAR-10's binary version: five files of 10,000 records. A record is a label and 32 x 32 pixels: all red values,
//! then all green, then all blue. A sixth file is the test set.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use crate::{DatasetName, Error, ImageSet};

const SHAPE: [usize; 3] = [3, 32, 32];
const IMAGE: usize = 3 * 32 * 32;
const RECORD: usize = 1 + IMAGE;
/// The most records a file may have; CIFAR-10's own files have 10,000 each.
const MAX_RECORDS: u64 = 1_000_000;
/// The folder that the archive unpacks to.
const UNPACKED: &str = "cifar-10-batches-bin";

/// Finds the five files of the training set, or the file of the test set, in `dir` or in the archive's folder below it.
pub(crate) fn find(dir: &Path, test: bool) -> Result<Vec<PathBuf>, Error> {
    match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Err(source) if source.kind() != ErrorKind::NotFound => return Err(Error::Io { path: dir.to_owned(), source }),
        _ => return Err(Error::NotAFolder { path: dir.to_owned() }),
    }
    let names: Vec<String> = match test {
        false => (1..=5).map(|i| format!("data_batch_{i}.bin")).collect(),
        true => vec!["test_batch.bin".to_owned()],
    };
    let unpacked = dir.join(UNPACKED);
    let place = if unpacked.is_dir() { &unpacked } else { dir };
    let files: Vec<PathBuf> = names.iter().map(|name| place.join(name)).collect();
    let missing: Vec<&String> = names.iter().zip(&files).filter(|(_, file)| !file.is_file()).map(|(n, _)| n).collect();
    match missing.as_slice() {
        [] => Ok(files),
        missing if missing.len() == names.len() && place.join("data_batch_1").is_file() => Err(Error::Images {
            path: place.to_owned(),
            reason: "holds CIFAR-10's Python version; unpack cifar-10-binary.tar.gz instead".to_owned(),
        }),
        missing => Err(Error::MissingFile {
            path: place.to_owned(),
            dataset: DatasetName::Cifar10,
            looked_for: missing.iter().map(|&name| name.clone()).collect(),
        }),
    }
}

/// Reads the records of all files in order.
pub(crate) fn read(files: &[PathBuf], class_names: Vec<String>) -> Result<ImageSet, Error> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in files {
        let io = |source| Error::Io { path: path.clone(), source };
        let wrong = |reason| Error::Images { path: path.clone(), reason };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        if size == 0 || size % RECORD as u64 != 0 || size / RECORD as u64 > MAX_RECORDS {
            return Err(wrong(format!(
                "has {size} bytes, but records have {RECORD}: a label and 3 x 32 x 32 pixels each"
            )));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(size).read_to_end(&mut bytes).map_err(io)?;
        pixels.reserve(bytes.len());
        for (record, image) in bytes.chunks_exact(RECORD).enumerate() {
            let label = u32::from(image[0]);
            if label as usize >= class_names.len() {
                let last = class_names.len().saturating_sub(1);
                return Err(wrong(format!("record {record} has the label {label}; expected 0 to {last}")));
            }
            labels.push(label);
            pixels.extend_from_slice(&image[1..]);
        }
    }
    ImageSet::new(SHAPE, pixels, labels, class_names)
}
