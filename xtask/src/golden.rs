//! Regenerates the golden files, which hold PyTorch's results for the tests to compare with.

use std::process::{Command, ExitCode};

use crate::root;

pub(crate) fn run(args: &[String]) -> crate::Result {
    let [python, mnist] = ["--python", "--mnist"].map(|name| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)
    });
    let (Some(python), Some(mnist)) = (python, mnist) else {
        return Err("expected: cargo xtask golden --python PYTHON --mnist DIR".into());
    };
    let dir = root().join("tests/golden");
    let mnist = std::fs::canonicalize(mnist).map_err(|e| format!("{mnist}: {e}"))?;
    let mut scripts: Vec<_> =
        std::fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "py"));
    scripts.sort();
    for script in scripts {
        println!("{}", script.display());
        if !Command::new(python).arg(&script).arg("--mnist").arg(&mnist).status()?.success() {
            return Err(format!("{} failed", script.display()).into());
        }
    }
    Ok(ExitCode::SUCCESS)
}
