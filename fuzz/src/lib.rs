//! Shared by the targets: a memory limit, temporary files, and which panics are findings.

use std::alloc::System;
use std::fs;
use std::path::Path;
use std::sync::Once;

use cap::Cap;
use kakusan_data::{DataConfig, load_with_hub};
use kakusan_hub::{Hub, HubConfig};
use kakusan_weights::Checkpoint;
use tempfile::TempDir;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// From now on, at most `bytes` more may be allocated at a time. A larger allocation ends the process, which is a
/// finding.
pub fn allow_memory(bytes: usize) {
    let _ = MEMORY.set_limit(usize::MAX);
    MEMORY.set_limit(MEMORY.allocated().saturating_add(bytes)).expect("a limit above what is held");
}

/// A temporary folder, in memory if the system supports it. It is deleted with the value.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("kakusan-fuzz-").tempdir_in(parent).expect("a folder can be made")
}

/// Writes `bytes` as the file `name` of `dir`.
pub fn write(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap_or(dir)).expect("a folder can be made");
    fs::write(path, bytes).expect("a file can be written");
}

/// Reads all tensors of a checkpoint's file: each has the shape of its description, or is an error.
pub fn read_checkpoint(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    for (name, info) in checkpoint.tensors() {
        if let Ok(values) = checkpoint.values(name) {
            assert_eq!(values.len(), info.shape.iter().product::<usize>(), "{name}");
        }
    }
}

/// Loads a set of images (a set of the Hub from `cache`) and decodes them: each has the set's shape, or is an error.
pub fn read_images(config: &DataConfig, cache: &Path) {
    let mut hub = HubConfig::new("http://127.0.0.1:9", cache);
    hub.offline = true;
    let Ok(loaded) = load_with_hub(config, &Hub::new(hub)) else { return };
    let images = loaded.images;
    assert_eq!(images.labels().len(), images.len());
    for i in 0..images.len() {
        assert!((images.label(i) as usize) < images.class_names().len());
        if let Ok(image) = images.image(i) {
            assert_eq!(image.len(), images.shape().iter().product::<usize>());
        }
    }
}

/// As [`read_images`], if the headers claim no more than a few thousand pixels: larger pictures, up to the crate's
/// limit of 2^27 pixels, may legitimately take long and need much memory.
pub fn read_pictures(config: &DataConfig, cache: &Path) {
    let mut hub = HubConfig::new("http://127.0.0.1:9", cache);
    hub.offline = true;
    let headers = DataConfig { resolution: None, cache_mb: Some(0), ..config.clone() };
    match load_with_hub(&headers, &Hub::new(hub)) {
        Ok(loaded) if loaded.images.height() * loaded.images.width() <= 1 << 14 => read_images(config, cache),
        _ => {}
    }
}

/// Ignores panics of third-party decoders, which the crate `data` catches and reports as a damaged file. Panics of our
/// own code, caught or not, and uncaught panics are findings.
pub fn forgive_decoders() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.location().is_none_or(|place| place.file().contains("crates/data/")) {
                abort(panic);
            }
        }));
    });
}
