//! The name under which this command was called, so that the commands it prints can be typed.

use std::env;

use kakusan::report::quote;

/// Set by `cargo xtask` to its own name: it builds this command and runs it in its place.
const CALLED_AS: &str = "KAKUSAN_CALLED_AS";

/// The words with which our commands begin here: `cargo xtask`, or the command as it was typed.
pub(crate) fn program() -> String {
    let called_as = env::var(CALLED_AS).ok().filter(|words| !words.trim().is_empty());
    called_as.unwrap_or_else(|| quote(&env::args_os().next().unwrap_or_else(|| "kakusan".into()).to_string_lossy()))
}
