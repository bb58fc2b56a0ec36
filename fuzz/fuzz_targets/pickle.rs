//! A `.bin` file of PyTorch, a zip archive or the older sequence of pickles: nothing is executed, no tensor lies
//! outside the file, and memory stays a small multiple of its size.
#![no_main]

use kakusan_fuzz::{allow_memory, read_checkpoint, scratch, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    allow_memory((1 << 20) + 128 * data.len());
    let dir = scratch();
    write(dir.path(), "weights.bin", data);
    read_checkpoint(&dir.path().join("weights.bin"));
});
