//! Builds the command `kakusan` for this machine and runs it.

use std::process::Command;

use crate::machine;

pub(crate) fn run(args: &[String]) -> crate::Result {
    if !cargo("build").status()?.success() {
        return Err("the build failed".into());
    }
    hand_over(cargo("run").arg("--quiet").arg("--").args(args))
}

fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    let manifest = crate::root().join("Cargo.toml");
    cargo.arg(command).arg("--manifest-path").arg(manifest);
    cargo.args(["--release", "--package", "kakusan-cli", "--bin", "kakusan"]);
    cargo.env("KAKUSAN_CALLED_AS", "cargo xtask"); // printed commands begin with this
    let features = machine::features();
    if !features.is_empty() {
        cargo.arg("--features").arg(features.join(","));
    }
    cargo
}

/// Replaces this process by the command, so that it gets the signals and returns its own exit code.
#[cfg(unix)]
fn hand_over(command: &mut Command) -> crate::Result {
    use std::os::unix::process::CommandExt;
    Err(command.exec().into())
}

#[cfg(not(unix))]
fn hand_over(command: &mut Command) -> crate::Result {
    use std::process::ExitCode;
    let code = command.status()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_knows_how_it_was_called() {
        let command = cargo("run");
        let mut set = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
        assert!(set.any(|pair| pair == ("KAKUSAN_CALLED_AS", "cargo xtask")));
    }
}
