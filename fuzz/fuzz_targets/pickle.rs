//! A `.bin` file of PyTorch's, a zip archive or the older pickles in a row: nothing is executed, no tensor lies outside
//! the file, and memory stays a small multiple of it.
#![no_main]

use kakusan_fuzz::{allow_memory, read_checkpoint, scratch, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    allow_memory((1 << 20) + 128 * data.len());
    let dir = scratch();
    write(dir.path(), "weights.bin", data);
    read_checkpoint(&dir.path().join("weights.bin"));
});
