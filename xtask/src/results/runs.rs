//! The runs that are kept: a line for each training, in columns.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::train::{Figures, Recipe, Trained, sampling_steps};
use super::{cores, this_machine};
use crate::bench::report::date;

/// The columns of the file, which are its first line.
const COLUMNS: [&str; 16] = [
    "measured",
    "recipe",
    "by",
    "seed",
    "seconds",
    "parameters",
    "steps",
    "sampling_steps",
    "images",
    "distance",
    "held_out_distance",
    "sure",
    "held_out_sure",
    "others_percent",
    "busy",
    "machine",
];

/// What trained a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Kakusan,
    PyTorch,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kakusan => "Kakusan",
            Self::PyTorch => "PyTorch",
        }
    }
}

/// One training and its figures.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    /// When the command was started, in UTC: the same for all runs of one command.
    pub(crate) measured: String,
    pub(crate) recipe: String,
    pub(crate) side: Side,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) parameters: u64,
    pub(crate) steps: u64,
    pub(crate) sampling_steps: u64,
    pub(crate) images: u64,
    pub(crate) figures: Figures,
    /// What other processes used during the training and what was stolen, in % of one core.
    pub(crate) others: f64,
    /// Whether the training suffered from them.
    pub(crate) busy: bool,
    pub(crate) machine: String,
}

impl Run {
    pub(crate) fn new(
        recipe: &Recipe,
        side: Side,
        seed: u64,
        measured: &str,
        trained: &Trained,
        figures: Figures,
    ) -> Self {
        Self {
            measured: measured.to_owned(),
            recipe: recipe.name.to_owned(),
            side,
            seed,
            seconds: trained.seconds,
            parameters: trained.parameters,
            steps: trained.steps,
            sampling_steps: sampling_steps(&recipe.text),
            images: recipe.options.images as u64,
            figures,
            others: trained.load.percent().map_or(0.0, |[others, stolen]| others + stolen),
            busy: trained.load.disturbs(cores(), cores()),
            machine: this_machine(),
        }
    }

    /// Its line in the file.
    pub(crate) fn line(&self) -> String {
        let Figures { distance, sure, held_out_distance, held_out_sure } = self.figures;
        let Self { measured, recipe, seed, parameters, steps, sampling_steps, images, busy, machine, .. } = self;
        let numbers =
            [distance, held_out_distance, sure, held_out_sure].map(|figure| format!("{figure:.5}")).join("\t");
        format!(
            "{measured}\t{recipe}\t{}\t{seed}\t{:.2}\t{parameters}\t{steps}\t{sampling_steps}\t{images}\t{numbers}\t{:.1}\t\
             {busy}\t{machine}",
            self.side.name(),
            self.seconds,
            self.others
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.split('\t').collect();
        let cell = |name: &str| cells.get(COLUMNS.iter().position(|column| *column == name)?).copied();
        let whole = |name: &str| cell(name)?.parse::<u64>().ok();
        let real = |name: &str| cell(name)?.parse::<f64>().ok().filter(|number| number.is_finite());
        Some(Self {
            measured: cell("measured")?.to_owned(),
            recipe: cell("recipe")?.to_owned(),
            side: [Side::Kakusan, Side::PyTorch].into_iter().find(|side| cell("by") == Some(side.name()))?,
            seed: whole("seed")?,
            seconds: real("seconds")?,
            parameters: whole("parameters")?,
            steps: whole("steps")?,
            sampling_steps: whole("sampling_steps")?,
            images: whole("images")?,
            figures: Figures {
                distance: real("distance")?,
                sure: real("sure")?,
                held_out_distance: real("held_out_distance")?,
                held_out_sure: real("held_out_sure")?,
            },
            others: real("others_percent")?,
            busy: cell("busy")?.parse().ok()?,
            machine: cell("machine")?.to_owned(),
        })
    }
}

/// All runs of the file; none if there is no file.
pub(crate) fn read(file: &Path) -> Result<Vec<Run>, String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let parse = |(i, line)| Run::parse(line).ok_or_else(|| format!("{}:{}: not a run", file.display(), i + 1));
    text.lines().enumerate().skip(1).map(parse).collect()
}

/// Adds a run to the file.
pub(crate) fn add(file: &Path, run: &Run) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let is_new = !file.exists();
    let mut open = OpenOptions::new().create(true).append(true).open(file)?;
    let head = if is_new { COLUMNS.join("\t") + "\n" } else { String::new() };
    open.write_all(format!("{head}{}\n", run.line()).as_bytes())
}

/// The time in UTC, to the second.
pub(crate) fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    format!("{} {:02}:{:02}:{:02}", date(days as i64), rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run with these seconds and this distance.
    pub(crate) fn run(measured: &str, recipe: &str, side: Side, seed: u64, seconds: f64, distance: f64) -> Run {
        Run {
            measured: measured.into(),
            recipe: recipe.into(),
            side,
            seed,
            seconds,
            parameters: 619_697,
            steps: 2304,
            sampling_steps: 30,
            images: 2048,
            figures: Figures { distance, sure: 0.9, held_out_distance: 0.1, held_out_sure: 0.97 },
            others: 1.5,
            busy: false,
            machine: "AMD EPYC, 2 threads, AVX-512".into(),
        }
    }

    #[test]
    fn runs_are_kept() {
        let file = std::env::temp_dir().join(format!("kakusan-results-{}/results.tsv", std::process::id()));
        assert_eq!(read(&file), Ok(vec![]));
        let first = run("2026-11-30 04:00:00", "184-v", Side::Kakusan, 0, 59.25, 0.43);
        let second = Run { busy: true, ..run("2026-11-30 04:00:00", "184-v", Side::PyTorch, 2, 60.0, 12.5) };
        for run in [&first, &second] {
            add(&file, run).unwrap();
        }
        assert_eq!(read(&file), Ok(vec![first, second]));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("measured\trecipe\tby\tseed\tseconds\t"), "{text}");
        fs::write(&file, text.replace("\t12.5", "\tNaN")).unwrap();
        assert!(read(&file).unwrap_err().ends_with("results.tsv:3: not a run"));
        fs::remove_dir_all(file.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_time_has_the_order_of_its_text() {
        let now = now();
        assert!(now.len() == 19 && now.as_str() > "2026-11-30 00:00:00", "{now}");
    }
}
