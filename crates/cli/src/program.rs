//! How this command is called, so that the commands it prints can be typed.

use std::env;

use kakusan::report::quote;

/// What `cargo xtask` says of itself, which builds this command and runs it in its place.
const CALLED_AS: &str = "KAKUSAN_CALLED_AS";

/// The words that begin a command of ours here: `cargo xtask`, or the command as it was typed.
pub(crate) fn program() -> String {
    let called_as = env::var(CALLED_AS).ok().filter(|words| !words.trim().is_empty());
    called_as.unwrap_or_else(|| quote(&env::args_os().next().unwrap_or_else(|| "kakusan".into()).to_string_lossy()))
}
