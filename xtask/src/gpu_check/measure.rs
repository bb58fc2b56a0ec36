//! Runs tests, trainings and workers on the card.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::page::{Card, Row, Timings};
use super::{Outcome, Programs, Result, libraries_of};
use crate::bench::stats::Summary;
use crate::bench::worker::{Answer, Item, Worker};
use crate::machine;

/// The first is PyTorch as most people run it; the others are faster.
pub(crate) const LAYOUTS: [&str; 3] = ["channels-last", "compiled", "graphs"];
/// What the items that are measured begin with.
const MEASURED: [&str; 7] = [
    "step 184.toml ",
    "step ddpm-184.toml ",
    "step ddpm-cat-256 ",
    "step ddpm-butterflies-64 ",
    "sample 184.toml ",
    "sample ddpm-184.toml ",
    "forward ",
];
const ROUNDS: usize = 7;

pub(crate) struct Place<'a> {
    programs: &'a Programs,
    python: Option<&'a str>,
    /// For what is written meanwhile.
    scratch: PathBuf,
    library_path: Option<OsString>,
}

impl<'a> Place<'a> {
    pub(crate) fn new(programs: &'a Programs, python: Option<&'a str>) -> Result<Self> {
        let scratch = std::env::temp_dir().join(format!("kakusan-gpu-check-{}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        let set = std::env::var_os("LD_LIBRARY_PATH");
        let set = set.iter().flat_map(std::env::split_paths).chain(libraries_of(python.unwrap_or("python3")));
        let library_path = std::env::join_paths(set).ok();
        Ok(Self { programs, python, scratch, library_path })
    }

    /// A program that finds CUDA's libraries.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(path) = &self.library_path {
            command.env("LD_LIBRARY_PATH", path);
        }
        command
    }

    pub(crate) fn card(&self) -> Result<Card> {
        let query = "--query-gpu=name,driver_version,memory.total,compute_cap";
        let line = machine::first_line(Command::new("nvidia-smi").args([query, "--format=csv,noheader"]));
        Card::parse(&line.unwrap_or_default()).ok_or_else(|| "nvidia-smi does not describe the card".into())
    }

    /// Runs one binary of tests: those of a card, too, which are ignored elsewhere, but not those of its kernels on the
    /// host, which need a C++ compiler.
    pub(crate) fn test(&self, program: &Path) -> Result<Outcome> {
        let chosen = ["--include-ignored", "--skip", "kernels::cuda::host", "--skip", "every_backend_agrees"];
        let output = self.command(program).args(chosen).output().map_err(|e| format!("{}: {e}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success();
        if !passed {
            eprintln!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = name.rsplit_once('-').map_or(name.as_str(), |(name, _)| name).replace('_', "-");
        let result = said.lines().rev().find_map(|line| line.strip_prefix("test result: ")).unwrap_or("no result");
        let result = result.split("; 0 ignored").next().unwrap_or(result).to_owned();
        Ok(Outcome { what: format!("tests of {name}"), result, passed })
    }

    /// All of configs/184.toml on the card, its first epoch on the processor, and the difference of the losses.
    pub(crate) fn trainings(&self, mnist: &Path, bar: f64) -> Result<Vec<Outcome>> {
        let train = |device: &str, more: &[&str]| -> Result<(Vec<(u64, f64)>, f64)> {
            let out = self.scratch.join(device);
            let mut command = self.command(&self.programs.kakusan);
            command.arg("train").arg("--config").arg(self.programs.files.join("configs/184.toml"));
            command.args(["--seed", "0", "--overwrite", "--device", device]).args(more);
            command.arg("--data").arg(mnist).arg("--out").arg(&out);
            let begin = Instant::now();
            let output = command.output()?;
            if !output.status.success() {
                return Err(format!("the training on {device}: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            let seconds = begin.elapsed().as_secs_f64();
            Ok((losses(&fs::read_to_string(out.join("metrics.jsonl"))?), seconds))
        };
        let (on_card, seconds) = match train("cuda", &[]) {
            Ok(trained) => trained,
            Err(error) => {
                let what = "configs/184.toml on the card".to_owned();
                return Ok(vec![Outcome { what, result: error.to_string().replace('\n', " "), passed: false }]);
            }
        };
        let first: Vec<f64> = on_card.iter().filter(|(epoch, _)| *epoch == 1).map(|(_, loss)| *loss).collect();
        let (on_cpu, _) = train("cpu", &["--max-steps", &first.len().to_string()])?;
        let (worst, step) = difference(&first, &on_cpu.iter().map(|(_, loss)| *loss).collect::<Vec<_>>());
        let images = if mnist.ends_with("golden/mnist") { "512 images" } else { "MNIST" };
        Ok(vec![
            Outcome {
                what: "losses of the first epoch of configs/184.toml, seed 0: card and processor".into(),
                result: format!("largest difference {worst:.1e}, in step {step} of {}; bar {bar:.0e}", first.len()),
                passed: worst <= bar,
            },
            Outcome {
                what: format!("all of configs/184.toml on {images}, pictures included"),
                result: format!("{seconds:.1} s"),
                passed: true,
            },
        ])
    }

    /// Whether torch draws on the card what our arithmetic says, in tensors smaller and larger than the card.
    pub(crate) fn noise(&self) -> Result<Option<Outcome>> {
        let Some(python) = self.python else { return Ok(None) };
        let (mut ours, mut theirs) = (self.kakusan()?, self.pytorch(python)?);
        let mut worst = [0.0f64; 2];
        for (kind, worst) in ["rand", "randn"].into_iter().zip(&mut worst) {
            for what in ["0 5000", "42 3000000", "18446744073709551615 700001"].map(|what| format!("{kind} {what}")) {
                let (ours, theirs) = (ours.draw(&what)?, theirs.draw(&what)?);
                let each = ours.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs());
                *worst = each.fold(*worst, f64::max);
                if ours.len() != theirs.len() {
                    *worst = f64::INFINITY;
                }
            }
        }
        let [rand, randn] = worst;
        Ok(Some(Outcome {
            what: "torch.Generator(\"cuda\"): torch and CudaGenerator".into(),
            result: format!("largest difference of rand {rand:.1e}, bar 1e-7; of randn {randn:.1e}, bar 1e-5"),
            passed: rand <= 1e-7 && randn <= 1e-5,
        }))
    }

    /// The items on the card and in PyTorch, in turns.
    pub(crate) fn timings(&self) -> Result<Timings> {
        let mut kakusan = self.kakusan()?;
        let (items, _) = kakusan.list()?;
        let mut pytorch = self.python.map(|python| self.pytorch(python)).transpose()?;
        let about: BTreeMap<String, String> = pytorch.as_mut().map_or(Ok(vec![]), Worker::about)?.into_iter().collect();
        let mut notes = vec![];
        let mut peak = None;
        let mut rows = vec![];
        for item in items {
            if item.name == "peak" {
                peak = self.rounds(&mut kakusan, "kakusan", &item, &mut notes)?.zip(item.flops);
            } else if MEASURED.iter().any(|begin| item.name.starts_with(begin)) {
                let mut row = Row { item, kakusan: None, pytorch: [None; 3], memory: [None; 2] };
                row.kakusan = self.rounds(&mut kakusan, "kakusan", &row.item, &mut notes)?;
                for (place, layout) in row.pytorch.iter_mut().zip(LAYOUTS) {
                    if let Some(pytorch) = &mut pytorch {
                        *place = self.rounds(pytorch, layout, &row.item, &mut notes)?;
                    }
                }
                eprintln!("{}: {:?}", row.item.name, row.kakusan.map(|summary| summary.median));
                rows.push(row);
            }
        }
        drop((kakusan, pytorch)); // their memory is not that of the items
        for row in rows.iter_mut().filter(|row| row.item.name.starts_with("step ")) {
            row.memory[0] = self.memory(self.kakusan()?, "kakusan", &row.item)?;
            if let Some(python) = self.python {
                row.memory[1] = self.memory(self.pytorch(python)?, LAYOUTS[0], &row.item)?;
            }
        }
        let peak = peak.map(|(time, flops)| flops / time.least / 1e6);
        Ok(Timings { torch: about.get("torch").cloned(), peak, rows, notes })
    }

    fn kakusan(&self) -> Result<Worker> {
        let mut command = self.command(&self.programs.worker);
        command.arg("--configs").arg(self.programs.files.join("configs")).args(["--device", "cuda"]);
        Worker::start("Kakusan", command)
    }

    fn pytorch(&self, python: &str) -> Result<Worker> {
        let mut command = Command::new(python); // it finds its own libraries
        command.arg(self.programs.files.join("xtask/bench/pytorch.py"));
        command.arg("--configs").arg(self.programs.files.join("configs")).args(["--device", "cuda", "--threads", "1"]);
        command.env("TORCHINDUCTOR_CACHE_DIR", self.scratch.join("inductor"));
        Worker::start("PyTorch", command)
    }

    /// Some rounds of one item. `None` if the worker does not have it, or fails, which is noted.
    fn rounds(
        &self,
        worker: &mut Worker,
        layout: &str,
        item: &Item,
        notes: &mut Vec<String>,
    ) -> Result<Option<Summary>> {
        let mut times = vec![];
        for _ in 0..ROUNDS {
            match worker.run(layout, &item.name)? {
                Answer::Milliseconds(ms) => times.push(ms),
                Answer::None => break,
                Answer::Failed(reason) => {
                    notes.push(format!("{}: {layout} failed: {reason}", item.name));
                    break;
                }
            }
        }
        Ok(Summary::of(&times))
    }

    /// The MiB of the card that a worker takes for one item.
    fn memory(&self, mut worker: Worker, layout: &str, item: &Item) -> Result<Option<u64>> {
        let watched = Watch::new();
        worker.run(layout, &item.name)?;
        worker.run(layout, &item.name)?;
        drop(worker);
        Ok(watched.most())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Looks at the used memory of the first card until it is asked for the most.
struct Watch {
    before: Option<u64>,
    done: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Option<u64>>,
}

impl Watch {
    fn new() -> Self {
        let (before, done) = (used_memory(), Arc::new(AtomicBool::new(false)));
        let seen = done.clone();
        let thread = std::thread::spawn(move || {
            let mut most = None;
            while !seen.load(Ordering::Relaxed) {
                most = most.max(used_memory());
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        Self { before, done, thread }
    }

    fn most(self) -> Option<u64> {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().ok()??.checked_sub(self.before?)
    }
}

/// In MiB.
fn used_memory() -> Option<u64> {
    let query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"];
    machine::first_line(Command::new("nvidia-smi").args(query))?.parse().ok()
}

/// Epoch and loss of each step in the text of metrics.jsonl.
fn losses(text: &str) -> Vec<(u64, f64)> {
    let number = |line: &str, key: &str| -> Option<f64> {
        let (_, rest) = line.split_once(&format!("\"{key}\":"))?;
        rest.split([',', '}']).next()?.trim().parse().ok()
    };
    text.lines().filter_map(|line| Some((number(line, "epoch")? as u64, number(line, "loss")?))).collect()
}

/// The largest relative difference, and its step from 1; infinite if the numbers of steps differ.
fn difference(ours: &[f64], theirs: &[f64]) -> (f64, usize) {
    if ours.len() != theirs.len() || ours.is_empty() {
        return (f64::INFINITY, 0);
    }
    let each = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / b.abs());
    // NaN is the largest
    each.zip(1..)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or((f64::INFINITY, 0), |(worst, step)| (if worst.is_nan() { f64::INFINITY } else { worst }, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_and_compared() {
        let text = "{\"step\":1,\"epoch\":1,\"loss\":0.5,\"seconds\":0.1}\n{\"step\":2,\"epoch\":2,\"loss\":0.25}\n";
        assert_eq!(losses(text), [(1, 0.5), (2, 0.25)]);
        assert_eq!(difference(&[1.0, 2.2], &[1.0, 2.0]), ((2.2f64 - 2.0) / 2.0, 2));
        assert_eq!(difference(&[1.0, f64::NAN], &[1.0, 2.0]), (f64::INFINITY, 2));
        assert_eq!(difference(&[1.0], &[1.0, 2.0]).0, f64::INFINITY);
    }
}
