//! A pipeline's `model_index.json`, and the folder that it describes: loaded or refused.
#![no_main]

use candle_core::Device;
use kakusan_fuzz::{allow_memory, scratch, write};
use kakusan_pipeline::{DDPMPipeline, Registry};
use libfuzzer_sys::fuzz_target;

// There are no weights: loading ends there at the latest.
fuzz_target!(|data: &[u8]| {
    allow_memory((4 << 20) + 128 * data.len());
    let dir = scratch();
    write(dir.path(), "model_index.json", data);
    write(dir.path(), "unet/config.json", br#"{"_class_name": "BasicUNet"}"#);
    write(dir.path(), "scheduler/scheduler_config.json", b"{}");
    assert!(DDPMPipeline::from_pretrained(dir.path(), &Registry::default(), &Device::Cpu).is_err());
});
