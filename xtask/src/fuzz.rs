//! Runs fuzz targets, as `fuzz/README.md` describes.

use std::process::{Command, ExitCode};

use crate::root;

const DEFAULT_SECONDS: u32 = 600;

/// `cargo xtask fuzz TARGET [SECONDS]`
pub(crate) fn run(args: &[String]) -> crate::Result {
    let usage = || format!("expected: cargo xtask fuzz TARGET [SECONDS]; targets are {}", targets().join(", "));
    let (target, seconds) = match args {
        [target] => (target, DEFAULT_SECONDS),
        [target, seconds] => (target, seconds.parse().map_err(|_| usage())?),
        _ => return Err(usage().into()),
    };
    if !targets().contains(target) {
        return Err(usage().into());
    }
    let status = command(target, seconds)?.status().map_err(|e| format!("rustup: {e}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The names of all targets, sorted.
pub(crate) fn targets() -> Vec<String> {
    let files = std::fs::read_dir(root().join("fuzz/fuzz_targets")).into_iter().flatten().flatten();
    let mut names: Vec<_> = files.filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

/// `cargo fuzz run` for so many seconds. It starts from the committed corpus; new inputs go to `fuzz/grown`, which git
/// ignores.
pub(crate) fn command(target: &str, seconds: u32) -> std::io::Result<Command> {
    let grown = format!("fuzz/grown/{target}");
    std::fs::create_dir_all(root().join(&grown))?;
    let mut command = nightly();
    command.args(["fuzz", "run", "-s", "none", target, &grown, &format!("fuzz/corpus/{target}"), "--"]);
    command.args([&format!("-max_total_time={seconds}"), "-max_len=16384", "-timeout=20", "-rss_limit_mb=1024"]);
    let dictionary = format!("fuzz/dictionaries/{target}.dict");
    if root().join(&dictionary).is_file() {
        command.arg(format!("-dict={dictionary}"));
    }
    Ok(command)
}

/// The nightly cargo, in the root folder.
pub(crate) fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(root()).args(["run", "nightly", "cargo"]);
    command
}
