//! The project's own commands: `cargo xtask train --config configs/184.toml` and its siblings.

mod bench;
mod ci;
mod doctor;
mod fuzz;
mod golden;
mod gpu_check;
mod kakusan;
mod kernels;
mod load;
mod machine;
mod results;
mod scaling;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask COMMAND

  data|new|train|sample|serve|eval|fit-sampler|report|info|schedulers|average|push|convert|schema|completions|man
                              build the command `kakusan` in release mode for this machine and run it with all arguments
  doctor                      print what this machine offers, and what `train` would use
  ci [STEP ...]               run every check that must pass before a change lands, or only some (ci --help)
  tidy                        check the rules of ARCHITECTURE.md
  bench                       measure the speed, and PyTorch's for comparison (bench --help)
  results                     train the recipes and measure their samples, and PyTorch's (results --help)
  gpu-check                   check and measure what needs a CUDA card, and write docs/gpu.md (gpu-check --help)
  scaling                     print what training on many processes would cost, by a simulation
  golden --python P --mnist D regenerate the golden files with PyTorch (P has torch, D has MNIST's four files)
  fuzz TARGET [SECONDS]       run a fuzz target (see fuzz/README.md)

Example: cargo xtask train --config configs/184.toml";

/// The commands of `kakusan` itself.
const KAKUSAN: [&str; 16] = [
    "data",
    "new",
    "train",
    "sample",
    "serve",
    "eval",
    "fit-sampler",
    "report",
    "info",
    "schedulers",
    "average",
    "push",
    "convert",
    "schema",
    "completions",
    "man",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("", [].as_slice()),
    };
    let result = match command {
        command if KAKUSAN.contains(&command) => kakusan::run(&args),
        "bench" => bench::run(rest),
        "ci" => ci::run(rest),
        "doctor" => doctor::run(),
        "fuzz" => fuzz::run(rest),
        "golden" => golden::run(rest),
        "gpu-check" => gpu_check::run(rest),
        "results" => results::run(rest),
        "scaling" => scaling::run(rest),
        "tidy" => tidy::run(),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{HELP}");
            Ok(ExitCode::from(2))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// The result of a command of this program: its exit code, or a message.
type Result = std::result::Result<ExitCode, Box<dyn std::error::Error>>;

/// The options in a command's arguments. Otherwise the help or what is wrong was printed, and this is the exit code.
fn options_of<T>(
    args: &[String],
    help: &str,
    parse: impl FnOnce(&[String]) -> std::result::Result<T, String>,
) -> std::result::Result<T, ExitCode> {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{help}");
        return Err(ExitCode::SUCCESS);
    }
    parse(args).map_err(|wrong| {
        eprintln!("error: {wrong}");
        ExitCode::from(2)
    })
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}
