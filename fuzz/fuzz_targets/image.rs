//! Pictures of a folder, recognised by their first bytes, decoded, resized and cropped: an image of the right shape or
//! an error.
#![no_main]

use kakusan_data::{DataConfig, DatasetName, SourceKind};
use kakusan_fuzz::{allow_memory, forgive_decoders, read_pictures, scratch, write};
use libfuzzer_sys::fuzz_target;

// The first byte selects the settings; the other bytes are the picture.
fuzz_target!(init: forgive_decoders(), |data: &[u8]| {
    let Some((&how, bytes)) = data.split_first() else { return };
    allow_memory(64 << 20);
    let dir = scratch();
    write(dir.path(), "picture.png", bytes);
    let mut config = DataConfig::new(DatasetName::Folder);
    (config.sources, config.dir) = (vec![SourceKind::Dir], Some(dir.path().to_owned()));
    config.resolution = (how & 1 == 0).then_some(if how & 32 == 0 { 16.into() } else { [16, 24].into() });
    config.center_crop = how & 2 == 0;
    config.cache_mb = Some(u64::from(how & 4 == 0));
    config.channels = (how & 8 == 0).then_some(if how & 16 == 0 { 1 } else { 3 });
    read_pictures(&config, dir.path());
});
