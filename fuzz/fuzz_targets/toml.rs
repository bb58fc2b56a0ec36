//! A run's configuration: an accepted configuration can be saved, and reading it again gives the same.
#![no_main]

use kakusan_fuzz::allow_memory;
use kakusan_pipeline::{Registry, RunConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    allow_memory(64 << 20);
    let parse = |text: &str| RunConfig::parse(text, "config.toml", &[], &Registry::default());
    match parse(text) {
        Ok(config) => {
            let saved = config.to_toml().expect("a configuration that was read is saved");
            let again = parse(&saved).expect("a configuration that was saved is read");
            assert_eq!(again.to_toml().expect("and saved again"), saved);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
