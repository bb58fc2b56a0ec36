//! Pictures of a folder, known by their first bytes, decoded, resized and cut out: an image of the right shape or an
//! error. What claims a side of more than 256 pixels is left out: up to the crate's own limit, 2^27 pixels, it may take
//! its time.
#![no_main]

use std::{io::Cursor, panic::catch_unwind};

use image::ImageReader;
use kakusan_data::{DataConfig, DatasetName, SourceKind};
use kakusan_fuzz::{allow_memory, forgive_decoders, read_images, scratch, write};
use libfuzzer_sys::fuzz_target;

const MAX_SIDE: u32 = 256;

// The first byte says how the picture, the other bytes, becomes an image.
fuzz_target!(init: forgive_decoders(), |data: &[u8]| {
    let Some((&how, bytes)) = data.split_first() else { return };
    let size = || ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?.into_dimensions().ok();
    if let Ok(Some((width, height))) = catch_unwind(size)
        && width.max(height) > MAX_SIDE
    {
        return;
    }
    allow_memory(64 << 20);
    let dir = scratch();
    write(dir.path(), "picture.png", bytes);
    let mut config = DataConfig::new(DatasetName::Folder);
    (config.sources, config.dir) = (vec![SourceKind::Dir], Some(dir.path().to_owned()));
    config.resolution = (how & 1 == 0).then_some(16);
    config.center_crop = how & 2 == 0;
    config.cache_mb = Some(u64::from(how & 4 == 0));
    config.channels = (how & 8 == 0).then_some(if how & 16 == 0 { 1 } else { 3 });
    read_images(&config, dir.path());
});
