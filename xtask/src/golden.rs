//! Makes the golden files anew: what PyTorch computes, for the tests to compare with.

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
    let tutorial = |rest: &[&str]| ["tutorial.py", "--mnist", mnist].iter().chain(rest).map(|s| s.to_string()).collect();
    let scripts: [Vec<String>; 4] = [
        vec!["rng.py".into()],
        vec!["ops.py".into()],
        tutorial(&["--seed", "0", "--classes", "1,8,4", "--epochs", "5", "--out", "tutorial-184-seed0.safetensors"]),
        tutorial(&["--seed", "7", "--classes", "3,5", "--steps", "40", "--out", "tutorial-35-seed7.safetensors"]),
    ];
    for script in scripts {
        println!("{}", script.join(" "));
        if !Command::new(python).args(&script).current_dir(root().join("tests/golden")).status()?.success() {
            return Err(format!("{} failed", script.join(" ")).into());
        }
    }
    Ok(ExitCode::SUCCESS)
}
