//! A model's `config.json`: an accepted configuration can be built, and saving and reading it gives the same.
#![no_main]

use kakusan_fuzz::allow_memory;
use kakusan_models::ModelConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    allow_memory(64 << 20);
    let Ok(config) = ModelConfig::from_json(text, "config.json") else { return };
    let saved = config.to_json();
    let again = ModelConfig::from_json(&saved, "config.json").expect("a configuration that was saved is read");
    assert_eq!(again, config);
    assert_eq!(again.to_json(), saved);
    assert!(!config.parts().expect("a configuration that was read has parts").is_empty());
});
