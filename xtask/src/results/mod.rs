//! Trains the recipes in configs/ and measures their samples, and PyTorch's of the same recipe in the same time. It
//! keeps each run in docs/runs/results.tsv and writes docs/results.md.

mod options;
mod page;
mod runs;
mod train;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::options::{HELP, Options};
use self::runs::{Run, Side};
use self::train::{Recipe, Trained};
use crate::bench::{build, check_python};
use crate::{load, machine, options_of, root};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The recipes, in the order of the page.
const RECIPES: [&str; 3] = ["184", "184-v", "184-fast"];
/// The modules that xtask/bench/train.py imports.
const MODULES: [&str; 4] = ["diffusers", "numpy", "safetensors", "torch"];

pub(crate) fn run(args: &[String]) -> crate::Result {
    let options = match options_of(args, HELP, Options::parse) {
        Ok(options) => options,
        Err(code) => return Ok(code),
    };
    // a smoke test leaves the published results alone
    let docs = if options.smoke { root().join("target/results") } else { root().join("docs") };
    let (kept, page) = (docs.join("runs/results.tsv"), docs.join("results.md"));
    if !options.page {
        measure(&options, &kept)?;
    }
    let text = page::text(&runs::read(&kept)?, &RECIPES);
    std::fs::write(&page, &text).map_err(|e| format!("cannot write {}: {e}", page.display()))?;
    println!("{text}");
    eprintln!("written: {}", page.display());
    Ok(ExitCode::SUCCESS)
}

/// Measures the recipes and keeps the runs.
fn measure(options: &Options, kept: &Path) -> Result<()> {
    if let Some(python) = &options.python {
        check_python(python, &MODULES)?;
    }
    let program = match &options.program {
        Some(program) => program.canonicalize().map_err(|e| format!("{}: {e}", program.display()))?,
        None => build("release", &["--package", "kakusan-cli", "--bin", "kakusan"])?,
    };
    let mnist = options.mnist.canonicalize().map_err(|e| format!("{}: {e}", options.mnist.display()))?;
    let scratch = root().join("target/results");
    std::fs::create_dir_all(&scratch)?;
    let now = runs::now();
    for name in RECIPES.iter().filter(|name| options.only.is_empty() || options.only.iter().any(|only| only == *name)) {
        let config = root().join(format!("configs/{name}.toml"));
        let Ok(text) = std::fs::read_to_string(&config) else {
            eprintln!("{name}: skipped, there is no {}", config.display());
            continue;
        };
        let recipe = Recipe { name, config, text, program: &program, mnist: &mnist, scratch: &scratch, options };
        for seed in 0..options.seeds {
            if !options.busy && !options.smoke {
                load::check_quiet().map_err(|reason| format!("{reason}, or name --busy to mark the results"))?;
            }
            let keep = |side, trained: &Trained, figures| -> Result<()> {
                let run = Run::new(&recipe, side, seed, &now, trained, figures);
                eprintln!("{}", run.line());
                Ok(runs::add(kept, &run)?)
            };
            let ours = recipe.kakusan(seed)?;
            keep(Side::Kakusan, &ours, recipe.figures(&ours, false)?)?;
            let Some(python) = &options.python else { continue };
            match recipe.pytorch(python, seed, &ours)? {
                Some(theirs) => keep(Side::PyTorch, &theirs, recipe.figures(&theirs, true)?)?,
                None => eprintln!("{name}: PyTorch has no such network here"),
            }
        }
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The machine in words.
fn this_machine() -> String {
    format!("{}, {} threads, {}", machine::processor(), cores(), machine::vector_instructions())
}

/// The folder of a run below `scratch`.
fn folder(scratch: &Path, name: &str, side: Side, seed: u64) -> PathBuf {
    let side = match side {
        Side::Kakusan => "",
        Side::PyTorch => "-pytorch",
    };
    scratch.join(format!("{name}-seed-{seed}{side}"))
}
