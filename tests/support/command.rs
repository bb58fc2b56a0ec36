//! Runs the command as a user would, isolated from the network and from the user's own files.

#![allow(dead_code)] // each test file uses its own part

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The temporary folder of one test, with access to the shipped configurations.
pub(crate) struct Workplace {
    dir: tempfile::TempDir,
}

/// The weights of a pipeline.
pub(crate) const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// A few drawn digits: a short training.
pub(crate) const QUICK: [&str; 10] = [
    "--set",
    "data.sources=[\"drawn\"]",
    "--set",
    "data.drawn_per_class=40",
    "--set",
    "train.epochs=2",
    "--set",
    "train.batch_size=32",
    "--set",
    "sample.batch_size=4",
];

/// To be added to [`QUICK`]: 120 drawn digits with averages and accumulation, in batches of 50, 50 and 20.
pub(crate) const UNEVEN: [&str; 8] = [
    "--set",
    "train.batch_size=50",
    "--set",
    "train.gradient_accumulation_steps=2",
    "--set",
    "train.use_ema=true",
    "--set",
    "train.checkpoint_every=1",
];

impl Workplace {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command with `args`, ready to run.
    pub(crate) fn kakusan(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kakusan"));
        command.args(args).current_dir(self.dir.path());
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("hf")).env("NO_COLOR", "1");
        command.env("KAKUSAN_CACHE", self.path("cache"));
        command
    }

    /// A shell command line, in a folder of the workplace; `kakusan` is in its `PATH`.
    pub(crate) fn shell(&self, line: &str, folder: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_kakusan"));
        let mut places = vec![binary.parent().unwrap().to_owned()];
        places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(self.path(folder)).env("PATH", std::env::join_paths(places).unwrap());
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("hf")).env("NO_COLOR", "1");
        command
    }

    /// Runs the command with `args` to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        Done(self.kakusan(args).output().unwrap())
    }

    /// A short training into `out` with extra arguments.
    pub(crate) fn train(&self, out: &str, more: &[&str]) -> Done {
        self.run(&words(&Self::quick(out, more)))
    }

    /// The arguments of [`train`](Self::train).
    pub(crate) fn quick(out: &str, more: &[&str]) -> Vec<String> {
        let config = config("184.toml");
        let head = ["train", "--config", config.to_str().unwrap(), "--out", out];
        head.iter().chain(QUICK.iter()).chain(more).map(|arg| (*arg).to_owned()).collect()
    }
}

/// Arguments as [`Workplace::kakusan`] takes them.
pub(crate) fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// The content of a file.
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `mnist-classes.toml` for few images: without clusters.
pub(crate) fn few_of_each_class(place: &Workplace) -> PathBuf {
    let text = fs::read_to_string(config("mnist-classes.toml")).unwrap();
    let few = text.replace("clusters = 8 ", "").replace("num_class_embeds = 81 ", "num_class_embeds = 11 ");
    assert_eq!(text.len() - few.len(), "clusters = 8 ".len());
    let path = place.path("classes.toml");
    fs::write(&path, few).unwrap();
    path
}

/// The path of a shipped configuration.
pub(crate) fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name).canonicalize().unwrap()
}

/// The exit code and output of a command.
pub(crate) struct Done(pub(crate) Output);

impl Done {
    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Panics with the command's output unless it ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr());
        self
    }
}
