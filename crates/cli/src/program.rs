//! The name under which this command was called, so that the commands it prints can be typed.

use std::env;
use std::path::PathBuf;

use kakusan::pipeline::{Error, Result};
use kakusan::report::quote;

/// Set by `cargo xtask` to its own name: it builds this command and runs it in its place.
const CALLED_AS: &str = "KAKUSAN_CALLED_AS";
/// The name of the command where it is installed.
pub(crate) const NAME: &str = "kakusan";

/// The words with which our commands begin here: `cargo xtask`, or the command as it was typed.
pub(crate) fn program() -> String {
    let called_as = env::var(CALLED_AS).ok().filter(|words| !words.trim().is_empty());
    called_as.unwrap_or_else(|| quote(&env::args_os().next().unwrap_or_else(|| "kakusan".into()).to_string_lossy()))
}

/// The folder for what can be computed again: `$KAKUSAN_CACHE`, else `kakusan` in the user's cache folder.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let named = |name: &str| env::var_os(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    if let Some(dir) = named("KAKUSAN_CACHE") {
        return Ok(dir);
    }
    let home = || Some(named("HOME")?.join(".cache"));
    let cache = named("XDG_CACHE_HOME").or_else(|| named("LOCALAPPDATA")).or_else(home);
    let none = || Error::Unfit("there is no folder for the cache: name one by KAKUSAN_CACHE".into());
    Ok(cache.ok_or_else(none)?.join("kakusan"))
}
