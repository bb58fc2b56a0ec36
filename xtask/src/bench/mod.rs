//! Measures Kakusan, and PyTorch for comparison. It keeps the results in docs/runs and writes docs/performance.md.

mod measure;
mod options;
pub(crate) mod report;
mod runs;
pub(crate) mod stats;
mod whole;
pub(crate) mod worker;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use self::options::{HELP, Options};
use self::worker::Worker;
use crate::{load, machine, options_of, root};

const RUNS: &str = "docs/runs";
const PAGE: &str = "docs/performance.md";
/// The modules that the scripts import; tomllib needs Python 3.11.
const MODULES: [&str; 3] = ["numpy", "safetensors", "torch"];

pub(crate) fn run(args: &[String]) -> crate::Result {
    let threads = std::thread::available_parallelism()?.get();
    let options = match options_of(args, HELP, |args| Options::parse(args, threads)) {
        Ok(options) => options,
        Err(code) => return Ok(code),
    };
    if options.page {
        write_page()?;
        return Ok(ExitCode::SUCCESS);
    }
    let everything = options.out.is_none() && options.only.is_none() && (options.keep || !options.quick);
    if everything && !options.keep {
        load::check_quiet()
            .map_err(|reason| format!("{reason}, or name --keep to publish the results all the same"))?;
    }
    if options.against_pytorch {
        check_python(&options.python, &MODULES)?;
    }
    let program = build("release", &["--package", "kakusan", "--features", "report", "--bench", "worker"])?;
    let kakusan = match options.whole {
        Some(_) => build("release", &["--package", "kakusan-cli", "--bin", "kakusan"])?,
        None => PathBuf::new(),
    };

    let (mut all, mut sections, mut code) = (vec![], vec![], ExitCode::SUCCESS);
    for &setting in &options.settings {
        let measured = Worker::kakusan(&program, setting).and_then(|worker| {
            let measured = measure::measure(&options, setting, worker)?;
            let whole = whole::measure(&options, setting, &kakusan);
            Ok((measured, whole))
        });
        // if one setting fails, the others are still reported
        match measured {
            Ok((measured, whole)) => {
                let whole = whole.unwrap_or_else(|error| {
                    eprintln!("error: {}: {error}", setting.title());
                    code = ExitCode::FAILURE;
                    vec![]
                });
                sections.push(report::section(&measured, &whole));
                all.push(measured);
            }
            Err(error) => {
                eprintln!("error: {}: {error}", setting.title());
                code = ExitCode::FAILURE;
            }
        }
    }
    if sections.is_empty() {
        return Ok(code);
    }
    let text = format!("{}\n{}", report::heading(&options, &all), sections.join("\n"));
    println!("{text}");
    if let Some(file) = &options.out {
        std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        eprintln!("written: {}", file.display());
    } else if everything && code == ExitCode::SUCCESS {
        if all.iter().any(|measured| measured.disturbed) && !options.keep {
            eprintln!("not kept: the machine was busy with something else; --keep publishes the results all the same");
            return Ok(ExitCode::FAILURE);
        }
        let file = runs::keep(&root().join(RUNS), &report::today(), &machine::processor(), &text)?;
        eprintln!("kept: {}", file.display());
        write_page()?;
    }
    Ok(code)
}

/// Writes docs/performance.md from the newest run that is kept.
fn write_page() -> Result<(), Box<dyn std::error::Error>> {
    let page = runs::page(&root().join(RUNS))?.ok_or_else(|| format!("{RUNS} holds no run"))?;
    std::fs::write(root().join(PAGE), page).map_err(|e| format!("cannot write {PAGE}: {e}"))?;
    eprintln!("written: {PAGE}");
    Ok(())
}

/// Builds one program in this profile and returns its path.
pub(crate) fn build(profile: &str, what: &[&str]) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--profile", profile, "--message-format=json-render-diagnostics", "--manifest-path"]);
    let output = cargo.arg(root().join("Cargo.toml")).args(what).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the build failed".into());
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    messages.lines().rev().find_map(executable).ok_or_else(|| "cargo reports no executable".into())
}

/// The path of the executable in one of cargo's messages.
pub(crate) fn executable(message: &str) -> Option<PathBuf> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    let (path, _) = rest.split_once('"')?;
    Some(path.replace(r"\\", r"\").into())
}

/// Checks that a Python has these modules.
pub(crate) fn check_python(python: &str, modules: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let remedy = format!(
        "name a Python of 3.11 or later with --python PYTHON, in which `PYTHON -m pip install {}` has been run",
        modules.join(" ")
    );
    let imports = format!("import tomllib, {}", modules.join(", "));
    let output = Command::new(python).args(["-c", &imports]).output();
    let output = output.map_err(|e| format!("cannot start {python}: {e}; {remedy}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{python} cannot run the comparison: {}; {remedy}", said.lines().last().unwrap_or("it failed")).into())
}

/// Whether an item is a whole network rather than an operation.
fn is_model(name: &str) -> bool {
    ["bare ", "step ", "train ", "sample ", "forward "].into_iter().any(|kind| name.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_the_program_is() {
        let message = r#"{"reason":"compiler-artifact","executable":"/x/deps/worker-1","fresh":true}"#;
        assert_eq!(executable(message), Some(PathBuf::from("/x/deps/worker-1")));
        assert_eq!(executable(r#"{"executable":null}"#), None);
    }

    #[test]
    fn a_python_that_cannot_be_used_is_explained() {
        let error = check_python("no-such-python", &MODULES).unwrap_err().to_string();
        assert!(error.contains("cannot start no-such-python") && error.contains("--python"), "{error}");
    }
}
