//! The index of a checkpoint in several files: only files in its folder are read, and each tensor from the file that
//! the index names.
#![no_main]

use kakusan_fuzz::{allow_memory, read_checkpoint, scratch, write};
use libfuzzer_sys::fuzz_target;

const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";
/// Each file holds one number, named `a` or `b`.
const SHARDS: [(&str, &str); 2] = [("1.safetensors", "a"), ("2.safetensors", "b")];

fuzz_target!(|data: &[u8]| {
    allow_memory((1 << 20) + 128 * data.len());
    let dir = scratch();
    for (file, name) in SHARDS {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        write(dir.path(), file, &[&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat());
    }
    write(dir.path(), INDEX, data);
    read_checkpoint(&dir.path().join(INDEX));
});
