//! Checkpoints go both ways between this and Python's diffusers: `python/exchange.py`, with the Python that
//! `KAKUSAN_PYTHON` names. It needs torch and diffusers, so it runs on demand:
//!
//!     KAKUSAN_PYTHON=python cargo test --test exchange -- --ignored

use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "needs a Python with torch and diffusers, named by KAKUSAN_PYTHON"]
fn checkpoints_go_both_ways() {
    let python = std::env::var("KAKUSAN_PYTHON").expect("KAKUSAN_PYTHON names a Python with torch and diffusers");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/exchange.py");
    let done = Command::new(python).arg(script).args(["--kakusan", env!("CARGO_BIN_EXE_kakusan")]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.lines().count() > 30, "{said}");
}
