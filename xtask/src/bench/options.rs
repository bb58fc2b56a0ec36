//! The options of `cargo xtask bench` and the settings that they select.

use std::path::PathBuf;
use std::process::Command;

pub(crate) const HELP: &str = "\
Usage: cargo xtask bench [OPTIONS]

Measures each operation, and the training step and the sampling of each configuration in configs/. A full run is kept
in docs/runs, and docs/performance.md shows it with what changed. Run nothing else on the machine: figures of a busy one
are printed, but not kept.

  --against-pytorch   also measure PyTorch, in turns, with the ratio to its best layout
  --python PYTHON     the Python that has torch, numpy and safetensors [default: python3]
  --threads N         threads on both sides [default: all]
  --vectors avx2      no wider vectors than AVX2 on both sides
  --all-settings      all threads, one thread, and AVX2, one after the other
  --whole             also run `kakusan train --config configs/184.toml` as a process: time and peak memory (Linux)
  --whole-rounds N    number of such runs [default: 1]
  --mnist DIR         MNIST's files, for --whole
  --only TEXT         only items whose name contains TEXT; writes no file
  --quick             fewer rounds; writes no file
  --keep              keep the results of --quick, and those of a busy machine, too
  --out FILE          write the results to FILE instead
  --page              measure nothing; write docs/performance.md from the newest run in docs/runs

Noise, in parentheses, is the interquartile range in % of the median.

Examples:
  cargo xtask bench --quick --only conv
  cargo xtask bench --against-pytorch --all-settings --python .venv/bin/python --whole --mnist path/to/mnist";

#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) against_pytorch: bool,
    pub(crate) python: String,
    pub(crate) settings: Vec<Setting>,
    pub(crate) all_settings: bool,
    /// The number of whole trainings, and the folder of their data.
    pub(crate) whole: Option<(usize, PathBuf)>,
    pub(crate) only: Option<String>,
    pub(crate) quick: bool,
    pub(crate) out: Option<PathBuf>,
    pub(crate) keep: bool,
    pub(crate) page: bool,
}

/// The setting of one table of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) threads: usize,
    pub(crate) avx2: bool,
}

impl Options {
    pub(crate) fn parse(args: &[String], all_threads: usize) -> Result<Self, String> {
        let mut options = Self {
            against_pytorch: false,
            python: "python3".into(),
            settings: vec![],
            all_settings: false,
            whole: None,
            only: None,
            quick: false,
            out: None,
            keep: false,
            page: false,
        };
        let mut setting = Setting { threads: all_threads, avx2: false };
        let (mut whole, mut rounds, mut mnist) = (false, 1, None);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or(format!("{arg} needs a value"));
            let number = |text: String| match text.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("{arg} is `{text}`; it must be a number from 1 on")),
            };
            match arg.as_str() {
                "--against-pytorch" => options.against_pytorch = true,
                "--python" => options.python = value()?,
                "--threads" => setting.threads = number(value()?)?,
                "--vectors" => match value()?.as_str() {
                    "avx2" => setting.avx2 = true,
                    other => return Err(format!("--vectors is `{other}`; it can be avx2")),
                },
                "--all-settings" => options.all_settings = true,
                "--whole" => whole = true,
                "--whole-rounds" => rounds = number(value()?)?,
                "--mnist" => mnist = Some(PathBuf::from(value()?)),
                "--only" => options.only = Some(value()?),
                "--quick" => options.quick = true,
                "--keep" => options.keep = true,
                "--page" => options.page = true,
                "--out" => options.out = Some(value()?.into()),
                other => return Err(format!("there is no option {other}; cargo xtask bench --help lists them")),
            }
        }
        options.settings = match options.all_settings {
            true => vec![setting, Setting { threads: 1, ..setting }, Setting { avx2: true, ..setting }],
            false => vec![setting],
        };
        if options.keep && (options.only.is_some() || options.out.is_some()) {
            return Err("--keep keeps a run of all items in docs/runs; leave out --only and --out".into());
        }
        options.settings.dedup(); // a machine may have a single thread
        options.whole = match (whole, mnist) {
            (true, Some(mnist)) => Some((rounds, mnist)),
            (true, None) => return Err("--whole needs --mnist DIR, the folder of MNIST's files".into()),
            (false, _) => None,
        };
        Ok(options)
    }

    /// The command that repeats this measurement, without the paths of this machine.
    pub(crate) fn command(&self) -> String {
        let mut command = "cargo xtask bench".to_owned();
        if self.against_pytorch {
            command += " --against-pytorch --python PYTHON";
        }
        match self.settings.as_slice() {
            _ if self.all_settings => command += " --all-settings",
            [Setting { threads, avx2 }] => {
                command += &format!(" --threads {threads}{}", if *avx2 { " --vectors avx2" } else { "" });
            }
            _ => {}
        }
        if let Some((rounds, _)) = self.whole {
            command += &format!(" --whole --whole-rounds {rounds} --mnist DIR");
        }
        if let Some(only) = &self.only {
            command += &format!(" --only '{only}'");
        }
        command + if self.quick { " --quick" } else { "" }
    }
}

impl Setting {
    pub(crate) fn title(self) -> String {
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        threads + if self.avx2 { ", vectors no wider than AVX2" } else { "" }
    }

    /// Configures a process of ours: the number of threads by its environment. The vectors are an option of the worker
    /// (`worker.rs`).
    pub(crate) fn for_kakusan(self, command: &mut Command) {
        command.env("RAYON_NUM_THREADS", self.threads.to_string());
    }

    /// Configures a process of PyTorch's; the script takes `--threads`.
    pub(crate) fn for_pytorch(self, command: &mut Command) {
        command.arg("--threads").arg(self.threads.to_string());
        if self.avx2 {
            command.envs([("ATEN_CPU_CAPABILITY", "avx2"), ("ONEDNN_MAX_CPU_ISA", "AVX2")]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), 2)
    }

    #[test]
    fn settings_follow_from_the_options() {
        let settings = |line| -> Vec<String> { parse(line).unwrap().settings.iter().map(|s| s.title()).collect() };
        assert_eq!(settings(""), ["2 threads"]);
        assert_eq!(settings("--threads 1 --vectors avx2"), ["1 thread, vectors no wider than AVX2"]);
        assert_eq!(settings("--all-settings"), ["2 threads", "1 thread", "2 threads, vectors no wider than AVX2"]);
    }

    #[test]
    fn the_command_has_no_paths() {
        let options = parse("--against-pytorch --python /home/me/python --whole --mnist /data --all-settings").unwrap();
        let expected =
            "cargo xtask bench --against-pytorch --python PYTHON --all-settings --whole --whole-rounds 1 --mnist DIR";
        assert_eq!(options.command(), expected);
        assert_eq!(
            parse("--only conv --quick").unwrap().command(),
            "cargo xtask bench --threads 2 --only 'conv' --quick"
        );
    }

    #[test]
    fn wrong_options_are_named() {
        assert_eq!(parse("--threads 0").unwrap_err(), "--threads is `0`; it must be a number from 1 on");
        assert_eq!(parse("--only").unwrap_err(), "--only needs a value");
        assert!(parse("--whole").unwrap_err().contains("--mnist DIR"));
        assert!(parse("--keep --only conv").unwrap_err().contains("leave out --only"));
        assert!(parse("--fast").unwrap_err().contains("--fast"));
    }
}
