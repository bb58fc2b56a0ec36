//! MNIST's own files, plain and gzipped: read or refused, in no more memory than the file can unpack to.
#![no_main]

use kakusan_data::{DataConfig, DatasetName, SourceKind};
use kakusan_fuzz::{allow_memory, read_images, scratch, write};
use libfuzzer_sys::fuzz_target;

/// Two labels, and the header of two images.
const LABELS: &[u8] = &[0, 0, 8, 1, 0, 0, 0, 2, 3, 5];
const IMAGES: &[u8] = &[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28];

// The first byte selects the file that the other bytes are: 0 labels, 1 images, plain; 2 and 3 the same, gzipped.
fuzz_target!(|data: &[u8]| {
    let Some((&which, bytes)) = data.split_first() else { return };
    allow_memory((8 << 20) + 3 * 1032 * bytes.len()); // deflate packs 1032 bytes into one at most
    let dir = scratch();
    let gz = if which & 2 == 0 { "" } else { ".gz" };
    let (fuzzed, good, good_bytes) = match which & 1 {
        0 => ("train-labels-idx1-ubyte", "train-images-idx3-ubyte", [IMAGES, &[7; 2 * 784]].concat()),
        _ => ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", LABELS.to_vec()),
    };
    write(dir.path(), &format!("{fuzzed}{gz}"), bytes);
    write(dir.path(), good, &good_bytes);
    let mut config = DataConfig::new(DatasetName::Mnist);
    (config.sources, config.dir) = (vec![SourceKind::Dir], Some(dir.path().to_owned()));
    read_images(&config, dir.path());
});
