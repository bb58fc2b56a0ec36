//! A file of weights in safetensors: no tensor lies outside the file, and no memory is allocated for unfounded claims.
#![no_main]

use kakusan_fuzz::{allow_memory, read_checkpoint, scratch, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    allow_memory((1 << 20) + 128 * data.len());
    let dir = scratch();
    write(dir.path(), "weights.safetensors", data);
    read_checkpoint(&dir.path().join("weights.safetensors"));
});
