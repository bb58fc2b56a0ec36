//! A folder that carries the check to a machine without Rust.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Programs, Result};
use crate::root;

/// What the check and the tests read.
const FILES: [&str; 3] = ["configs", "tests/golden", "xtask/bench"];
/// In the folder: where it was built, as the tests look for their files there.
const BUILT_IN: &str = "built-in.txt";
const SCRIPT: &str = "\
#!/usr/bin/env bash
# Checks Kakusan on this machine's CUDA card and writes gpu.md here; --help lists the options.
set -euo pipefail
here=$(cd \"$(dirname \"$0\")\" && pwd)
exec \"$here/bin/xtask\" gpu-check --packed \"$here\" \"$@\"
";

pub(crate) fn pack(dir: &Path, programs: &Programs) -> Result<()> {
    if dir.exists() && dir.read_dir()?.next().is_some() {
        return Err(format!("{} is not empty: name a new folder", dir.display()).into());
    }
    for file in FILES {
        copy(&programs.files.join(file), &dir.join(file))?;
    }
    let bin = dir.join("bin");
    fs::create_dir_all(bin.join("tests"))?;
    let own = std::env::current_exe()?;
    let named = [(&own, "xtask"), (&programs.kakusan, "kakusan"), (&programs.worker, "worker")];
    for (program, name) in named {
        fs::copy(program, bin.join(name))?;
    }
    for test in &programs.tests {
        fs::copy(test, bin.join("tests").join(test.file_name().unwrap_or_default()))?;
    }
    fs::write(dir.join(BUILT_IN), root().to_string_lossy().as_bytes())?;
    let script = dir.join("gpu-check.sh");
    fs::write(&script, SCRIPT)?;
    #[cfg(unix)]
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

/// The programs of such a folder, on the machine with the card.
pub(crate) fn unpacked(dir: &Path) -> Result<Programs> {
    let built_in = fs::read_to_string(dir.join(BUILT_IN)).map_err(|e| format!("{}: {e}", dir.display()))?;
    let bin = dir.join("bin");
    let mut tests: Vec<PathBuf> =
        bin.join("tests").read_dir()?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    tests.sort();
    link(Path::new(built_in.trim()), dir);
    Ok(Programs { files: dir.to_owned(), kakusan: bin.join("kakusan"), worker: bin.join("worker"), tests })
}

/// Lets the tests find their files where they were built, if nothing is there.
fn link(built_in: &Path, dir: &Path) {
    #[cfg(unix)]
    if !built_in.exists() {
        let parent = built_in.parent().unwrap_or(built_in);
        let linked = fs::create_dir_all(parent).and_then(|()| std::os::unix::fs::symlink(dir, built_in));
        if let Err(error) = linked {
            let place = built_in.display();
            eprintln!(
                "the tests that read files will fail: they look for them in {place}, which cannot be made: {error}"
            );
        }
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in from.read_dir()? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_found_again() {
        let scratch = std::env::temp_dir().join(format!("kakusan-pack-{}", std::process::id()));
        let (program, dir) = (std::env::current_exe().unwrap(), scratch.join("gpu"));
        let tests = vec![program.clone()];
        let programs = Programs { files: root(), kakusan: program.clone(), worker: program, tests };
        pack(&dir, &programs).unwrap();
        let found = unpacked(&dir).unwrap();
        assert!(found.kakusan.is_file() && found.worker.is_file() && found.tests.len() == 1);
        assert!(found.files.join("configs/184.toml").is_file() && found.files.join("xtask/bench/pytorch.py").is_file());
        assert!(pack(&dir, &programs).unwrap_err().to_string().contains("not empty"));
        #[cfg(unix)]
        {
            let script = std::process::Command::new(dir.join("gpu-check.sh")).arg("--help").output().unwrap();
            assert!(!String::from_utf8_lossy(&script.stderr).contains("No such file"), "{script:?}");
        }
        fs::remove_dir_all(scratch).unwrap();
    }
}
