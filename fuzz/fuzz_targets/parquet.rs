//! The Hub's parquet files of images, held in memory or read on demand: rows are read or the file is refused.
#![no_main]

use kakusan_data::{DataConfig, DatasetName, SourceKind};
use kakusan_fuzz::{allow_memory, forgive_decoders, read_pictures, scratch, write};
use libfuzzer_sys::fuzz_target;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

// The first byte selects whether the pictures are held in memory.
fuzz_target!(init: forgive_decoders(), |data: &[u8]| {
    let Some((&how, bytes)) = data.split_first() else { return };
    allow_memory(160 << 20); // a small file's pages may unpack to 64 MiB
    let cache = scratch();
    let repo = cache.path().join("datasets--somebody--pictures");
    write(&repo, "refs/refs/convert/parquet", COMMIT.as_bytes());
    write(&repo, &format!("snapshots/{COMMIT}/default/train/0000.parquet"), bytes);
    let mut config = DataConfig::new(DatasetName::Hub);
    (config.sources, config.repo) = (vec![SourceKind::Hub], Some("somebody/pictures".to_owned()));
    config.resolution = Some(8.into());
    config.cache_mb = Some(u64::from(how & 1));
    read_pictures(&config, cache.path());
});
