//! A training's checkpoint with one of its files replaced: the training resumes from it or refuses it, and can train on
//! after resuming.
#![no_main]

use std::{cell::RefCell, fs, sync::Arc};

use candle_core::Device;
use kakusan_fuzz::{allow_memory, scratch, write};
use kakusan_pipeline::{Registry, RunConfig, Trainer};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

const CONFIG: &str = include_str!("../checkpoint.toml");
const SUMS: &str = "SHA256SUMS";
const FILES: [&str; 4] = ["progress.json", "optimizer.safetensors", "unet/diffusion_pytorch_model.safetensors", SUMS];

thread_local!(static GOOD: RefCell<(Trainer, Vec<Vec<u8>>)> = RefCell::new(good()));

/// A trainer after one step, and the files of its checkpoint.
fn good() -> (Trainer, Vec<Vec<u8>>) {
    let config = RunConfig::parse(CONFIG, "checkpoint.toml", &[], &Registry::default()).expect("it is good");
    let images = kakusan_data::draw_digits(&[1], 4, 0).expect("digits are drawn");
    let mut trainer = Trainer::new(&config, Arc::new(images), &Device::Cpu).expect("a trainer");
    trainer.step().expect("a step");
    let dir = scratch();
    let saved = trainer.save_checkpoint(dir.path(), 0.5).expect("a checkpoint");
    (trainer, FILES.map(|name| fs::read(saved.join(name)).expect("a file")).to_vec())
}

// The first byte selects the file that the other bytes replace. Checksums are recomputed, unless they are that file.
fuzz_target!(|data: &[u8]| GOOD.with_borrow_mut(|(trainer, files)| {
    let Some((&which, bytes)) = data.split_first() else { return };
    allow_memory((8 << 20) + 128 * bytes.len());
    let (dir, which) = (scratch(), usize::from(which) % FILES.len());
    let mut sums = String::new();
    for (i, name) in FILES.iter().enumerate().take(3) {
        let file = if i == which { bytes } else { &files[i] };
        let sum: String = Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
        sums += &format!("{sum}  {name}\n");
        write(dir.path(), name, file);
    }
    write(dir.path(), SUMS, if FILES[which] == SUMS { bytes } else { sums.as_bytes() });
    if trainer.load_checkpoint(dir.path()).is_ok() && which == 0 {
        trainer.step().expect("a checkpoint that was loaded is gone on from");
    }
}));
