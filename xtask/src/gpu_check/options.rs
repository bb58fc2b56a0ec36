//! The options of `cargo xtask gpu-check`.

use std::path::PathBuf;

use crate::root;

pub(crate) const HELP: &str = "\
Usage: cargo xtask gpu-check [OPTIONS]

On a machine with a CUDA card: runs the tests of the operations on the card, trains configs/184.toml on the processor
and on the card and compares the losses, measures training steps, sampling and memory, and PyTorch's where a Python has
it, and writes docs/gpu.md. It ends with 1 if something fails, or if there is no card.

  --python PYTHON   the Python that has torch (with CUDA), numpy and safetensors, and diffusers for UNet2DModel
                    [default: python3, without a comparison if it has none]
  --mnist DIR       MNIST's files to train on [default: its first 512 images, which are in the repository]
  --quick           no times
  --out FILE        write the page to FILE [default: docs/gpu.md]
  --pack DIR        build everything (which needs the CUDA toolkit, but no card), and put it into DIR with a script,
                    gpu-check.sh, that takes the other options: for a machine with a card and without Rust
  --profile NAME    cargo's profile of the build [default: release]

Examples:
  cargo xtask gpu-check --python .venv/bin/python --mnist path/to/mnist
  cargo xtask gpu-check --pack gpu && scp -r gpu machine: && ssh machine gpu/gpu-check.sh";

#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) python: Option<String>,
    pub(crate) mnist: Option<PathBuf>,
    pub(crate) quick: bool,
    pub(crate) out: PathBuf,
    pub(crate) pack: Option<PathBuf>,
    /// The folder that `--pack` made: the script passes it.
    pub(crate) packed: Option<PathBuf>,
    pub(crate) profile: String,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self {
            python: None,
            mnist: None,
            quick: false,
            out: PathBuf::new(),
            pack: None,
            packed: None,
            profile: "release".into(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--python" => options.python = Some(value()?),
                "--mnist" => options.mnist = Some(value()?.into()),
                "--quick" => options.quick = true,
                "--out" => options.out = value()?.into(),
                "--pack" => options.pack = Some(value()?.into()),
                "--packed" => options.packed = Some(value()?.into()),
                "--profile" => options.profile = value()?,
                other => return Err(format!("there is no option {other}; cargo xtask gpu-check --help lists them")),
            }
        }
        if options.out.as_os_str().is_empty() {
            options.out = match &options.packed {
                Some(dir) => dir.join("gpu.md"),
                None => root().join("docs/gpu.md"),
            };
        }
        Ok(options)
    }

    /// The command that repeats this check, without the paths of this machine.
    pub(crate) fn command(&self) -> String {
        let set = [
            (self.python.is_some(), " --python PYTHON"),
            (self.mnist.is_some(), " --mnist DIR"),
            (self.quick, " --quick"),
        ];
        set.iter().filter(|(set, _)| *set).fold("cargo xtask gpu-check".to_owned(), |command, (_, more)| command + more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parse("").unwrap().out, root().join("docs/gpu.md"));
        assert_eq!(parse("--packed /x").unwrap().out, PathBuf::from("/x/gpu.md"));
        let options = parse("--python /home/me/python --quick --mnist /data").unwrap();
        assert_eq!(options.command(), "cargo xtask gpu-check --python PYTHON --mnist DIR --quick");
        assert!(parse("--packs x").unwrap_err().contains("--packs"));
        assert_eq!(parse("--pack").unwrap_err(), "--pack needs a value");
    }
}
