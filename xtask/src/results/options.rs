//! The options of `cargo xtask results`.

use std::path::PathBuf;

use super::RECIPES;

pub(crate) const HELP: &str = "\
Usage: cargo xtask results --mnist DIR [OPTIONS]

Trains each recipe (184, 184-v and 184-fast in configs/) with several seeds, measures the samples of each model by
`kakusan eval`, and writes docs/results.md: medians and ranges. The clock runs from the start of `kakusan train` to its
end: data, pictures and report included. Each run is kept in docs/runs/results.tsv, so recipes that are not measured
now stay in the table. For meaningful figures, run nothing else on the machine.

  --mnist DIR         MNIST's files
  --seeds N           train with the seeds 0 to N - 1 [default: 3]
  --only NAME         only this recipe (can be repeated)
  --python PYTHON     also train the same recipe in PyTorch, for the same time: a Python that has torch, diffusers,
                      numpy and safetensors. Its imports are not counted, and it draws no pictures
  --program FILE      measure this build of `kakusan` instead of building one
  --images N          samples that are measured of each model [default: 2048]
  --busy              measure although the machine is busy with something else; the rows are marked
  --smoke             a few steps and samples of each, to see that everything works; writes below target/results
  --page              measure nothing; write docs/results.md from the runs that are kept

Examples:
  cargo xtask results --mnist path/to/mnist --python .venv/bin/python
  cargo xtask results --mnist path/to/mnist --only 184-fast --seeds 5";

#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) mnist: PathBuf,
    pub(crate) seeds: u64,
    pub(crate) only: Vec<String>,
    pub(crate) python: Option<String>,
    pub(crate) program: Option<PathBuf>,
    pub(crate) images: usize,
    pub(crate) busy: bool,
    pub(crate) smoke: bool,
    pub(crate) page: bool,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let (mut seeds, mut only, mut python, mut images, mut mnist) = (None, vec![], None, None, None);
        let (mut busy, mut smoke, mut page, mut program) = (false, false, false, None);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or(format!("{arg} needs a value"));
            let number = |text: String, least: usize| match text.parse() {
                Ok(number) if number >= least => Ok(number),
                _ => Err(format!("{arg} is `{text}`; it must be a number from {least} on")),
            };
            match arg.as_str() {
                "--mnist" => mnist = Some(PathBuf::from(value()?)),
                "--seeds" => seeds = Some(number(value()?, 1)? as u64),
                "--only" => match value()? {
                    name if RECIPES.contains(&name.as_str()) => only.push(name),
                    name => return Err(format!("--only is `{name}`; the recipes are {}", RECIPES.join(", "))),
                },
                "--python" => python = Some(value()?),
                "--program" => program = Some(PathBuf::from(value()?)),
                "--images" => images = Some(number(value()?, 5)?),
                "--busy" => busy = true,
                "--smoke" => smoke = true,
                "--page" => page = true,
                other => return Err(format!("there is no option {other}; cargo xtask results --help lists them")),
            }
        }
        let mnist = match mnist {
            Some(mnist) => mnist,
            None if page => PathBuf::new(),
            None => return Err("--mnist DIR is missing, the folder of MNIST's files".into()),
        };
        let (default_seeds, default_images) = if smoke { (1, 16) } else { (3, 2048) };
        let (seeds, images) = (seeds.unwrap_or(default_seeds), images.unwrap_or(default_images));
        Ok(Self { mnist, seeds, only, python, program, images, busy, smoke, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn defaults_and_values() {
        let options = parse("--mnist /m --only 184 --only 184-v --seeds 5 --python p --busy").unwrap();
        assert_eq!((options.seeds, options.images, options.busy, options.smoke), (5, 2048, true, false));
        assert_eq!(options.only, ["184", "184-v"]);
        let smoke = parse("--mnist /m --smoke").unwrap();
        assert_eq!((smoke.seeds, smoke.images), (1, 16));
        assert!(parse("--page").unwrap().page);
    }

    #[test]
    fn wrong_options_are_named() {
        assert_eq!(parse("").unwrap_err(), "--mnist DIR is missing, the folder of MNIST's files");
        assert!(parse("--mnist m --only cifar").unwrap_err().contains("the recipes are 184, 184-v, 184-fast"));
        assert_eq!(parse("--seeds 0").unwrap_err(), "--seeds is `0`; it must be a number from 1 on");
        assert_eq!(parse("--mnist").unwrap_err(), "--mnist needs a value");
    }
}
