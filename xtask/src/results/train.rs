//! Trains a recipe, in Kakusan or in PyTorch, and measures the samples.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::options::Options;
use super::runs::Side;
use super::{Result, cores, folder};
use crate::load::{Load, Look};
use crate::root;

/// Optimiser steps of Kakusan's training, and seconds of PyTorch's, in a smoke test.
const SMOKE: (&str, f64) = ("3", 3.0);

/// A configuration, and what is needed to train and to measure it.
pub(crate) struct Recipe<'a> {
    pub(crate) name: &'static str,
    pub(crate) config: PathBuf,
    /// The configuration.
    pub(crate) text: String,
    pub(crate) program: &'a Path,
    pub(crate) mnist: &'a Path,
    pub(crate) scratch: &'a Path,
    pub(crate) options: &'a Options,
}

/// A model that was trained.
pub(crate) struct Trained {
    pub(crate) dir: PathBuf,
    pub(crate) parameters: u64,
    /// Optimiser steps.
    pub(crate) steps: u64,
    /// From the start to the saved pipeline.
    pub(crate) seconds: f64,
    /// The loss of the first step, which the same recipe and seed make the same.
    pub(crate) first_loss: f64,
    pub(crate) load: Load,
}

/// The figures of samples and of as many held-out images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    pub(crate) distance: f64,
    pub(crate) sure: f64,
    pub(crate) held_out_distance: f64,
    pub(crate) held_out_sure: f64,
}

impl Recipe<'_> {
    /// Trains by `kakusan train`, whose clock includes the data, the pictures and the report.
    pub(crate) fn kakusan(&self, seed: u64) -> Result<Trained> {
        let dir = folder(self.scratch, self.name, Side::Kakusan, seed);
        let mut command = Command::new(self.program);
        command.arg("train").arg("--config").arg(&self.config).arg("--data").arg(self.mnist).arg("--out").arg(&dir);
        command.args(["--overwrite", "--device", "cpu", "--seed", &seed.to_string()]);
        if self.options.smoke {
            command.args(["--max-steps", SMOKE.0, "--set", "sample.steps=2"]);
        }
        let (said, seconds, load) = timed(&mut command)?;
        let parameters = said.lines().find_map(parameters).ok_or("kakusan train names no number of parameters")?;
        let log = std::fs::read_to_string(dir.join("metrics.jsonl"))?;
        let first_loss = number(&log, &["loss"]).ok_or("metrics.jsonl holds no loss")?;
        Ok(Trained { dir, parameters, steps: log.lines().count() as u64, seconds, first_loss, load })
    }

    /// Trains by xtask/bench/train.py for as long as `ours` took. `None` if PyTorch has no such network there.
    pub(crate) fn pytorch(&self, python: &str, seed: u64, ours: &Trained) -> Result<Option<Trained>> {
        let dir = folder(self.scratch, self.name, Side::PyTorch, seed);
        let seconds = if self.options.smoke { SMOKE.1 } else { ours.seconds };
        let mut command = Command::new(python);
        command.arg(root().join("xtask/bench/train.py")).arg("--config").arg(&self.config);
        command.arg("--like").arg(&ours.dir).arg("--mnist").arg(self.mnist).arg("--out").arg(&dir);
        command.args(["--seed", &seed.to_string(), "--seconds", &seconds.to_string()]);
        command.args(["--threads", &cores().to_string()]);
        let (said, _, load) = timed(&mut command)?;
        if said.lines().any(|line| line == "none") {
            return Ok(None);
        }
        let of = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<f64>().ok());
        let [Some(parameters), Some(steps), Some(seconds), Some(first_loss)] =
            ["parameters ", "steps ", "seconds ", "first_loss "].map(of)
        else {
            return Err(format!("xtask/bench/train.py says something unexpected:\n{said}").into());
        };
        if parameters as u64 != ours.parameters || (first_loss / ours.first_loss - 1.0).abs() > 1e-3 {
            eprintln!(
                "warning: {}: PyTorch begins with {parameters} parameters and a loss of {first_loss}, Kakusan with {} and \
                 {}: this is not the same recipe",
                self.name, ours.parameters, ours.first_loss
            );
        }
        let (parameters, steps) = (parameters as u64, steps as u64);
        Ok(Some(Trained { dir, parameters, steps, seconds, first_loss, load }))
    }

    /// Measures samples by `kakusan eval`, drawn as the recipe draws them.
    pub(crate) fn figures(&self, trained: &Trained, names_data: bool) -> Result<Figures> {
        let mut command = Command::new(self.program);
        command.arg("eval").arg("--model").arg(&trained.dir).arg("--out").arg(&trained.dir);
        command.args(["--device", "cpu", "--images", &self.options.images.to_string()]).args(sampling(&self.text));
        if names_data {
            command.arg("--data").arg(&self.config).args(["--set", "data.sources=[\"dir\"]"]);
            command.arg("--set").arg(format!("data.dir={:?}", self.mnist.display().to_string()));
        }
        timed(&mut command)?;
        let text = std::fs::read_to_string(trained.dir.join("eval.json"))?;
        figures(&text).ok_or_else(|| format!("{}/eval.json lacks a figure", trained.dir.display()).into())
    }
}

/// Runs a program to its end; returns what it said, the seconds, and what else the machine did.
fn timed(command: &mut Command) -> Result<(String, f64, Load)> {
    let (start, before, mut load) = (Instant::now(), Look::of_children(), Load::default());
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| format!("cannot start {}: {e}", command.get_program().display()))?;
    let seconds = start.elapsed().as_secs_f64();
    load.add(before, Look::of_children());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok((said, seconds, load)),
        false => Err(format!("{} failed: {}\n{said}", command.get_program().display(), output.status).into()),
    }
}

/// The number in `Model: BasicUNet, 309,057 parameters, LinearMixScheduler, on cpu.`
fn parameters(line: &str) -> Option<u64> {
    let (before, _) = line.strip_prefix("Model: ")?.split_once(" parameters")?;
    before.rsplit(' ').next()?.replace(',', "").parse().ok()
}

/// The options of `sample` and `eval` with which a recipe draws: those of its table `[sample]`.
pub(crate) fn sampling(config: &str) -> Vec<String> {
    let lines = config.lines().skip_while(|line| line.trim() != "[sample]").skip(1);
    let lines = lines.take_while(|line| !line.trim_start().starts_with('['));
    let pairs = lines.filter_map(|line| line.split('#').next()?.split_once('='));
    let option = |(key, value): (&str, &str)| {
        let option = match key.trim() {
            "scheduler" => "--scheduler",
            "eta" => "--eta",
            "steps" => "--steps",
            "guidance_scale" => "--guidance",
            _ => return None, // how many, and what else is drawn in a training
        };
        Some([option.to_owned(), value.trim().trim_matches('"').to_owned()])
    };
    pairs.filter_map(option).flatten().collect()
}

/// The number of sampling steps of a recipe; the default is that of a training.
pub(crate) fn sampling_steps(config: &str) -> u64 {
    let options = sampling(config);
    let steps = options.iter().skip_while(|option| *option != "--steps").nth(1);
    steps.and_then(|steps| steps.parse().ok()).unwrap_or(40)
}

/// The figures in the text of eval.json.
fn figures(text: &str) -> Option<Figures> {
    Some(Figures {
        distance: number(text, &["samples", "frechet_distance"])?,
        sure: number(text, &["samples", "sure"])?,
        held_out_distance: number(text, &["held_out", "figures", "frechet_distance"])?,
        held_out_sure: number(text, &["held_out", "figures", "sure"])?,
    })
}

/// A number in the text of JSON that Kakusan wrote: the first one of the last key, behind the first ones of the keys
/// before it.
fn number(text: &str, keys: &[&str]) -> Option<f64> {
    let rest = keys.iter().try_fold(text, |text, key| Some(text.split_once(&format!("\"{key}\":"))?.1))?;
    rest.split([',', '}', '\n']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_sampled_as_its_configuration_says() {
        let config = "[train]\nsteps = 3\n[sample]\nscheduler = \"DDIMScheduler\"\neta = 1.0  # noise\nsteps = 30\n\
                      batch_size = 64\n[data]\neta = 0.5\n";
        assert_eq!(sampling(config), ["--scheduler", "DDIMScheduler", "--eta", "1.0", "--steps", "30"]);
        assert_eq!((sampling_steps(config), sampling_steps("[sample]\nbatch_size = 4")), (30, 40));
        assert_eq!(sampling("[train]\nseed = 0"), Vec::<String>::new());
    }

    #[test]
    fn every_recipe_that_is_there_can_be_read() {
        for name in super::super::RECIPES {
            let Ok(text) = std::fs::read_to_string(root().join(format!("configs/{name}.toml"))) else { continue };
            assert!(sampling(&text).contains(&"--steps".to_owned()), "{name}");
            assert!((1..=1000).contains(&sampling_steps(&text)), "{name}");
        }
    }

    #[test]
    fn what_the_programs_say_is_read() {
        assert_eq!(parameters("Model: BasicUNet, 309,057 parameters, LinearMixScheduler, on cpu."), Some(309_057));
        let log = "{\"step\":1,\"epoch\":1,\"loss\":0.08456733,\"lr\":0.001}\n{\"step\":2,\"loss\":0.07}\n";
        assert_eq!((number(log, &["loss"]), number(log, &["kid"])), (Some(0.08456733), None));
        assert_eq!(parameters("Run: runs/184, 725 steps, 145 per epoch."), None);
        let text = r#"{
  "network": { "training": { "accuracy": 0.99, "scale": 0.5 } },
  "samples": {
    "images": 2048,
    "frechet_distance": 0.43,
    "sure": 0.891,
    "classes": [ { "name": "1", "share": 0.3, "reference": 0.3 } ]
  },
  "held_out": {
    "images": "test split",
    "figures": { "images": 2048, "frechet_distance": 6.3e-2, "sure": 0.97 }
  }
}"#;
        let expected = Figures { distance: 0.43, sure: 0.891, held_out_distance: 0.063, held_out_sure: 0.97 };
        assert_eq!(figures(text), Some(expected));
        assert_eq!(figures(&text.replace("0.891", "null")), None);
    }
}
