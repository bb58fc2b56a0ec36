//! A model's `config.json`: an accepted configuration can be built, and saving and reading it gives the same.
#![no_main]

use kakusan_fuzz::allow_memory;
use kakusan_models::Registry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    allow_memory(64 << 20);
    let registry = Registry::default();
    let Ok(config) = registry.from_json(text, "config.json") else { return };
    let saved = config.to_json();
    let again = registry.from_json(&saved, "config.json").expect("a configuration that was saved is read");
    assert!(*again == *config);
    assert_eq!(again.to_json(), saved);
    assert!(!config.submodules().expect("a configuration that was read can be built").is_empty());
});
