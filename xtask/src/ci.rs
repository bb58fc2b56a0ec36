//! Every check that must pass before a change lands. `.ci/run` and the workflow of GitHub both run this list.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::fuzz::nightly;
use crate::{machine, root};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One check.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn() -> Result<Outcome>,
}

/// How a check ended that did not fail.
enum Outcome {
    Passed,
    /// It could not run here, for this reason.
    Skipped(String),
}

const STEPS: &[Step] = &[
    Step { name: "fmt", about: "the format of rustfmt", run: fmt },
    Step { name: "clippy", about: "no warning of the compiler or clippy", run: clippy },
    Step { name: "features", about: "libraries with few of their features compile, too", run: features },
    Step { name: "doc", about: "no warning of rustdoc", run: doc },
    Step { name: "test", about: "all tests", run: test },
    Step { name: "mpi", about: "trainings under mpirun, where MPI and libclang are installed", run: mpi },
    Step { name: "mnist", about: "the tests on all of MNIST, where its files are", run: mnist },
    Step { name: "browser", about: "the page of `serve` in a browser that clicks (Chromium)", run: browser },
    Step { name: "vectors", about: "the kernels' tests with narrower vectors than this machine's", run: vectors },
    Step { name: "kernels", about: "the CUDA kernels compile without spilled registers (nvcc)", run: kernels },
    Step { name: "book", about: "the book can be built (mdBook)", run: book },
    Step { name: "fuzz", about: "the fuzz targets compile", run: fuzz },
    Step { name: "deny", about: "licences and sources of the dependencies (cargo-deny)", run: deny },
    Step { name: "miri", about: "undefined behaviour, where Miri can run (nightly)", run: miri },
    Step { name: "smoke", about: "every fuzz target for a few seconds (nightly, cargo-fuzz)", run: smoke },
];

/// Seconds that each fuzz target runs in `smoke`.
const SMOKE_SECONDS: u32 = 20;

/// Runs all steps, or those that `args` name, and stops at the first that fails.
pub(crate) fn run(args: &[String]) -> crate::Result {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("Usage: cargo xtask ci [STEP ...]\n\nWithout a step, all of them in this order:\n");
        STEPS.iter().for_each(|step| println!("  {:8} {}", step.name, step.about));
        return Ok(ExitCode::SUCCESS);
    }
    let steps = select(args)?;
    let mut done = vec![];
    for step in steps {
        println!("\n== {}: {}", step.name, step.about);
        let start = Instant::now();
        let outcome = (step.run)().map_err(|error| format!("{}: {error}", step.name))?;
        if let Outcome::Skipped(reason) = &outcome {
            println!("skipped: {reason}");
        }
        done.push((step.name, outcome, start.elapsed()));
    }
    println!();
    done.iter().for_each(|(name, outcome, time)| println!("{}", line(name, outcome, *time)));
    Ok(ExitCode::SUCCESS)
}

/// The named steps in the order of the list; all of them if none is named.
fn select(names: &[String]) -> Result<Vec<&'static Step>> {
    if let Some(unknown) = names.iter().find(|name| !STEPS.iter().any(|step| step.name == **name)) {
        let known: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        return Err(format!("there is no step `{unknown}`; expected {}", known.join(", ")).into());
    }
    Ok(STEPS.iter().filter(|step| names.is_empty() || names.iter().any(|name| name == step.name)).collect())
}

fn line(name: &str, outcome: &Outcome, time: Duration) -> String {
    match outcome {
        Outcome::Passed => format!("{name:8} {:6.0} s", time.as_secs_f64()),
        Outcome::Skipped(reason) => format!("{name:8} skipped: {reason}"),
    }
}

fn fmt() -> Result<Outcome> {
    pass(&mut cargo(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<Outcome> {
    pass(&mut cargo(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// The workspace as a whole has all features of its crates on, so none of the steps notices what only compiles with
/// another's.
fn features() -> Result<Outcome> {
    let few = [
        ("kakusan-models", ""),
        ("kakusan-data", ""),
        ("kakusan-data", "parquet"),
        ("kakusan-pipeline", ""),
        ("kakusan-pipeline", "train"),
        ("kakusan", ""),
        ("kakusan-cli", ""),
    ];
    for (package, features) in few {
        let mut command = cargo(["clippy", "--locked", "--no-default-features", "--package", package]);
        pass(command.args(["--features", features, "--", "-D", "warnings"]))?;
    }
    Ok(Outcome::Passed)
}

fn doc() -> Result<Outcome> {
    pass(cargo(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn test() -> Result<Outcome> {
    pass(in_memory(&mut cargo(["test", "--locked", "--workspace"])))
}

/// The command with its temporary files in memory, where the system has such a folder: the tests of runs sync thousands
/// of files.
fn in_memory(command: &mut Command) -> &mut Command {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { command.env("TMPDIR", memory) } else { command }
}

/// Trains with several processes under `mpirun`. `--workspace` keeps the features of the other steps, so that little more
/// than the command is built again.
fn mpi() -> Result<Outcome> {
    for (command, packages) in [("mpirun", "openmpi-bin"), ("mpicc", "libopenmpi-dev")] {
        if !answers(Command::new(command).arg("--version")) {
            return Ok(Outcome::Skipped(format!("there is no {command} (on Debian: {packages})")));
        }
    }
    if !has_libclang() {
        return Ok(Outcome::Skipped("there is no libclang, which the crate mpi needs (libclang-dev)".to_owned()));
    }
    pass(in_memory(&mut cargo(["test", "--locked", "--workspace", "--features", "kakusan-cli/mpi", "--test", "mpi"])))
}

/// Whether libclang is where bindgen finds it.
fn has_libclang() -> bool {
    let is_it = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libclang"));
    let holds = |dir: PathBuf| dir.read_dir().into_iter().flatten().flatten().any(|entry| is_it(&entry.path()));
    let llvm = Path::new("/usr/lib").read_dir().into_iter().flatten().flatten();
    let llvm =
        llvm.filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-")).map(|e| e.path().join("lib"));
    let named = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    named.into_iter().chain(llvm).chain(["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from)).any(holds)
}

/// The tests on all of MNIST: its own files and those of the Hub, from the folders that `KAKUSAN_MNIST_DIR` and
/// `KAKUSAN_HUB_DIR` name, else from `../shared/data`. All other runs show these tests as ignored.
fn mnist() -> Result<Outcome> {
    let shared = root().join("../shared/data");
    let dir = |variable: &str, name: &str| std::env::var_os(variable).map_or(shared.join(name), PathBuf::from);
    let (files, hub) = (dir("KAKUSAN_MNIST_DIR", "mnist"), dir("KAKUSAN_HUB_DIR", "hub"));
    if let Some(missing) = [&files, &hub].into_iter().find(|dir| !dir.is_dir()) {
        return Ok(Outcome::Skipped(format!("{} does not exist", missing.display())));
    }
    pass(
        cargo(["test", "--locked", "--workspace", "--lib", "--tests", "--", "--ignored", "whole_mnist"])
            .env("KAKUSAN_MNIST_DIR", files.canonicalize()?)
            .env("KAKUSAN_HUB_DIR", hub.canonicalize()?),
    )
}

/// The test of the page. `cargo test` shows it as ignored, because few machines have a browser.
fn browser() -> Result<Outcome> {
    let programs = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let named = std::env::var_os("CHROMIUM");
    let found = programs.iter().any(|program| answers(Command::new(program).arg("--version")));
    if named.is_none() && !found {
        return Ok(Outcome::Skipped("Chromium is not installed; another place of it is named by CHROMIUM".to_owned()));
    }
    pass(&mut cargo(["test", "--locked", "--workspace", "--test", "browser", "--", "--ignored"]))
}

/// The tests of the crate `ops`, as if this machine had narrower vectors. `--workspace` keeps the features of the other
/// steps, so that nothing is built again.
fn vectors() -> Result<Outcome> {
    let narrower = machine::narrower_vectors();
    if narrower.is_empty() {
        return Ok(Outcome::Skipped("this machine has none".to_owned()));
    }
    for vectors in narrower {
        println!("KAKUSAN_TEST_VECTORS={vectors}");
        let tests = VECTOR_TESTS.iter().flat_map(|name| ["--test", name]);
        pass(cargo(["test", "--locked", "--workspace"]).args(tests).env("KAKUSAN_TEST_VECTORS", vectors))?;
    }
    Ok(Outcome::Passed)
}

/// The test files of `ops` that read `KAKUSAN_TEST_VECTORS`.
const VECTOR_TESTS: [&str; 2] = ["kernels", "torch"];

/// Compiles the CUDA kernels to machine code. What they compute is among the tests.
fn kernels() -> Result<Outcome> {
    if !answers(Command::new("nvcc").arg("--version")) {
        return Ok(Outcome::Skipped("there is no nvcc (CUDA's toolkit)".to_owned()));
    }
    crate::kernels::ARCHITECTURES.iter().try_for_each(|architecture| crate::kernels::compile(architecture))?;
    Ok(Outcome::Passed)
}

/// Builds `docs/book`. Its code is run by `test`, its links and commands are checked by `tidy`.
fn book() -> Result<Outcome> {
    if !answers(Command::new("mdbook").arg("--version")) {
        return Ok(Outcome::Skipped("mdBook is not installed (cargo install mdbook)".to_owned()));
    }
    pass(
        Command::new("mdbook")
            .arg("build")
            .arg(root().join("docs/book"))
            .arg("--dest-dir")
            .arg(root().join("target/book")),
    )
}

/// Checks the fuzz targets with the compiler of the workspace, without the fuzzer itself, which is C++.
fn fuzz() -> Result<Outcome> {
    pass(
        cargo(["check", "--locked", "--no-default-features", "--manifest-path", "fuzz/Cargo.toml"])
            .args(shared_target()),
    )
}

fn deny() -> Result<Outcome> {
    if !answers(Command::new("cargo").args(["deny", "--version"])) {
        return Ok(Outcome::Skipped("cargo-deny is not installed (cargo install cargo-deny)".to_owned()));
    }
    pass(Command::new("cargo").current_dir(root()).args(["deny", "check"]))
}

/// The crates whose tests Miri can run: they call no C code.
const MIRI_CRATES: [&str; 2] = ["kakusan-config", "kakusan-rng"];

fn miri() -> Result<Outcome> {
    if !answers(nightly().args(["miri", "--version"])) {
        return Ok(Outcome::Skipped("there is no nightly with Miri (rustup +nightly component add miri)".to_owned()));
    }
    let packages = MIRI_CRATES.iter().flat_map(|name| ["--package", name]);
    pass(nightly().args(["miri", "test", "--locked", "--lib"]).args(packages))
}

fn smoke() -> Result<Outcome> {
    if !answers(nightly().args(["fuzz", "--version"])) {
        return Ok(Outcome::Skipped("there is no nightly with cargo-fuzz (cargo install cargo-fuzz)".to_owned()));
    }
    for target in crate::fuzz::targets() {
        println!("{target}");
        pass(&mut crate::fuzz::command(&target, SMOKE_SECONDS)?)?;
    }
    Ok(Outcome::Passed)
}

/// This workspace's cargo, in its root folder.
fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(args);
    command
}

/// What the fuzz workspace shares with this one where they agree.
fn shared_target() -> Vec<String> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(_) => vec![],
        None => vec!["--target-dir".to_owned(), "target".to_owned()],
    }
}

/// Runs a command to its end; an error if it fails.
fn pass(command: &mut Command) -> Result<Outcome> {
    match command.status()?.success() {
        true => Ok(Outcome::Passed),
        false => Err(format!("failed: {command:?}").into()),
    }
}

fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name() {
        let names = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
            select(&args).map(|steps| steps.iter().map(|step| step.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["doc", "fmt"]).unwrap(), ["fmt", "doc"]);
        assert_eq!(names(&[]).unwrap().len(), STEPS.len());
        assert!(names(&["tset"]).unwrap_err().to_string().contains("expected fmt, clippy"));
    }

    #[test]
    fn the_workflow_runs_known_steps() {
        let workflow = std::fs::read_to_string(root().join(".github/workflows/ci.yml")).unwrap();
        let lines: Vec<_> = workflow.lines().filter_map(|line| line.split_once("cargo xtask ci ")).collect();
        assert!(!lines.is_empty());
        for (_, steps) in lines {
            select(&steps.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).unwrap();
        }
    }
}
