//! What only a machine with a CUDA card can show: the tests on the card, the same training on both devices, times and
//! memory against PyTorch. It writes docs/gpu.md.

mod measure;
mod options;
mod pack;
mod page;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use self::options::{HELP, Options};
use crate::bench::report::today;
use crate::bench::{build, check_python};
use crate::{machine, options_of, root};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The most by which a loss of the first epoch may differ between the devices, relative to it.
const LOSS_BAR: f64 = 1e-3;

pub(crate) fn run(args: &[String]) -> crate::Result {
    let options = match options_of(args, HELP, Options::parse) {
        Ok(options) => options,
        Err(code) => return Ok(code),
    };
    if let Some(dir) = &options.pack {
        pack::pack(dir, &Programs::build(&options)?)?;
        println!("Copy {} to the machine with the card, and run gpu-check.sh there.", dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    let cards = machine::cards();
    if cards.is_empty() {
        return Err(
            "nvidia-smi reports no CUDA card, which this check needs; --pack DIR prepares the check here for a \
                    machine that has one"
                .into(),
        );
    }
    let programs = match &options.packed {
        Some(dir) => pack::unpacked(dir)?,
        None => Programs::build(&options)?,
    };
    check(&options, &programs)
}

/// What is run, and where its files are.
pub(crate) struct Programs {
    /// The folder with `configs`, `tests/golden` and `xtask/bench`.
    files: PathBuf,
    kakusan: PathBuf,
    worker: PathBuf,
    tests: Vec<PathBuf>,
}

impl Programs {
    fn build(options: &Options) -> Result<Self> {
        if machine::nvcc().is_none() {
            return Err(
                "nvcc is not found, without which nothing is built for a card: install the CUDA toolkit, or set \
                        CUDA_HOME"
                    .into(),
            );
        }
        let profile = options.profile.as_str();
        let kakusan = ["--package", "kakusan-cli", "--features", "cuda", "--bin", "kakusan"];
        let worker = ["--package", "kakusan", "--features", "report,cuda", "--bench", "worker"];
        Ok(Self {
            files: root(),
            kakusan: build(profile, &kakusan)?,
            worker: build(profile, &worker)?,
            tests: tests(profile)?,
        })
    }
}

/// Builds the tests of `ops`, which run on the card where there is one.
fn tests(profile: &str) -> Result<Vec<PathBuf>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--no-run", "--profile", profile, "--message-format=json-render-diagnostics"]);
    cargo.args(["--package", "kakusan-ops", "--features", "cuda", "--lib", "--tests", "--manifest-path"]);
    let output = cargo.arg(root().join("Cargo.toml")).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the tests of kakusan-ops cannot be built".into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(crate::bench::executable).collect())
}

/// One line of the page's first table.
pub(crate) struct Outcome {
    what: String,
    result: String,
    passed: bool,
}

fn check(options: &Options, programs: &Programs) -> crate::Result {
    let python = python(options);
    let place = measure::Place::new(programs, python.as_deref())?;
    let card = place.card()?;
    println!("{card}");
    let mut outcomes = vec![];
    for test in &programs.tests {
        outcomes.push(place.test(test)?);
    }
    let mnist = options.mnist.clone().unwrap_or_else(|| programs.files.join("tests/golden/mnist"));
    outcomes.extend(place.noise()?);
    outcomes.extend(place.trainings(&mnist, LOSS_BAR)?);
    let timings = if options.quick { None } else { Some(place.timings()?) };
    let page = page::page(&today(), &card, &outcomes, timings.as_ref(), &options.command());
    println!("\n{page}");
    std::fs::write(&options.out, page).map_err(|e| format!("cannot write {}: {e}", options.out.display()))?;
    eprintln!("written: {}", options.out.display());
    let failed: Vec<&str> = outcomes.iter().filter(|outcome| !outcome.passed).map(|outcome| &*outcome.what).collect();
    match failed.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        failed => Err(format!("failed: {}", failed.join("; ")).into()),
    }
}

/// The Python to compare with: the named one, or one whose torch has CUDA.
fn python(options: &Options) -> Option<String> {
    let python = options.python.clone().unwrap_or_else(|| "python3".to_owned());
    let usable = check_python(&python, &["numpy", "safetensors", "torch"]).and_then(|()| {
        let has_cuda = "import sys, torch; sys.exit(not torch.cuda.is_available())";
        let status = Command::new(&python).args(["-c", has_cuda]).status()?;
        if status.success() { Ok(()) } else { Err(format!("the torch of {python} sees no card").into()) }
    });
    match usable {
        Ok(()) => Some(python),
        Err(reason) => {
            eprintln!("without a comparison with PyTorch: {reason}");
            None
        }
    }
}

/// The folders of CUDA's libraries that a Python's packages brought with them, for `LD_LIBRARY_PATH`.
fn libraries_of(python: &str) -> Vec<PathBuf> {
    let script = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let Some(packages) = machine::first_line(Command::new(python).args(["-c", script])) else { return vec![] };
    let folders = |dir: &Path| dir.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    folders(&Path::new(&packages).join("nvidia")).map(|part| part.join("lib")).filter(|lib| lib.is_dir()).collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn without_a_card_it_says_so() {
        if machine::cards().is_empty() {
            let said = run(&[]).unwrap_err().to_string();
            assert!(said.contains("no CUDA card") && said.contains("--pack DIR"), "{said}");
        }
    }
}
