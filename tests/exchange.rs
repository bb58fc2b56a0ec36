//! Exchange with Python: diffusers reads our checkpoints and we read those of diffusers (`python/exchange.py`), and
//! TensorBoard reads a run's log (`python/tensorboard_log.py`). `KAKUSAN_PYTHON` names a Python with torch, diffusers
//! and tensorboard, so these tests run on demand:
//!
//!     KAKUSAN_PYTHON=python cargo test --test exchange -- --ignored

use std::path::Path;
use std::process::Command;

/// Runs a script, which must succeed, and returns its output.
fn run(script: &str) -> String {
    let python = std::env::var("KAKUSAN_PYTHON").expect("KAKUSAN_PYTHON names a Python with what the script needs");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python").join(script);
    let done = Command::new(python).arg(script).args(["--kakusan", env!("CARGO_BIN_EXE_kakusan")]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

#[test]
#[ignore = "needs a Python with torch and diffusers, named by KAKUSAN_PYTHON"]
fn checkpoints_go_both_ways() {
    let said = run("exchange.py");
    assert!(said.lines().count() > 30, "{said}");
}

#[test]
#[ignore = "needs a Python with tensorboard, named by KAKUSAN_PYTHON"]
fn tensorboard_opens_a_runs_log() {
    let said = run("tensorboard_log.py");
    assert!(said.contains("8 steps, 2 pictures"), "{said}");
}
