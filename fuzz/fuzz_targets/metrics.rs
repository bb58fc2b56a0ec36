//! The files that `kakusan report` reads in a run's folder, complete or truncated: a page or an error.
#![no_main]

use kakusan_fuzz::{allow_memory, scratch, write};
use kakusan_report::compare;
use libfuzzer_sys::fuzz_target;

const CONFIG: &str = "[train]\nlearning_rate = 0.001\n";
const LINE: &str = r#"{"step":1,"epoch":1,"loss":0.5,"lr":0.001,"grad_norm":1.0,"seconds":0.25}"#;

// The first byte selects the file that the other bytes are: 0 the log, 1 the configuration.
fuzz_target!(|data: &[u8]| {
    let Some((&which, bytes)) = data.split_first() else { return };
    allow_memory((4 << 20) + 128 * bytes.len());
    let dir = scratch();
    let (log, config) = if which & 1 == 0 { (bytes, CONFIG.as_bytes()) } else { (LINE.as_bytes(), bytes) };
    for (run, config, log) in [("a", config, log), ("b", CONFIG.as_bytes(), LINE.as_bytes())] {
        write(dir.path(), &format!("{run}/config.toml"), config);
        write(dir.path(), &format!("{run}/metrics.jsonl"), log);
    }
    let _ = compare(&[dir.path().join("a"), dir.path().join("b")]);
});
