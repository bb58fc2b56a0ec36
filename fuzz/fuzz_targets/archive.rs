//! A zip, tar or tar.gz of pictures: read within a multiple of its size, or refused; nothing outside it is touched.
#![no_main]

use kakusan_data::{DataConfig, DatasetName, SourceKind};
use kakusan_fuzz::{allow_memory, forgive_decoders, read_pictures, scratch, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: forgive_decoders(), |data: &[u8]| {
    // the decoders' share as in the target `image`; deflate packs at most 1032 bytes into one
    allow_memory((64 << 20) + 3 * 1032 * data.len());
    let dir = scratch();
    write(dir.path(), "archive", data);
    let mut config = DataConfig::new(DatasetName::Folder);
    (config.sources, config.dir) = (vec![SourceKind::Dir], Some(dir.path().join("archive")));
    (config.resolution, config.cache_mb) = (Some(16.into()), Some(0));
    read_pictures(&config, dir.path());
});
