//! The result of an evaluation: `eval.json`, and a table.

use std::path::Path;

use kakusan_pipeline::{Error, Result, write_whole};
use serde::{Deserialize, Serialize};

use crate::{Figures, Training};

/// The name of the file.
pub const EVAL_FILE: &str = "eval.json";

/// What was measured, how, and the figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The version of this crate.
    pub kakusan: String,
    /// The model, or the folder of images.
    pub model: String,
    /// How the model was sampled; absent for a folder of images.
    pub sampling: Option<Sampling>,
    /// The images of the reference, as their source describes them.
    pub data: String,
    /// The number of images of the reference.
    pub reference: usize,
    /// The network whose features are compared.
    pub network: NetworkUsed,
    /// The figures of the samples.
    pub samples: Figures,
    /// The figures of real images that are not in the reference: what a perfect model reaches.
    pub held_out: Option<HeldOut>,
}

/// How samples were drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// The scheduler's class.
    pub scheduler: String,
    /// The number of steps.
    pub steps: usize,
    /// Whether they are steps that were fitted to the model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fitted: bool,
    /// The seed of the first image; the next image has the next seed.
    pub seed: u64,
    /// The scale of classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// The noise levels at which it guides, if not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<[f64; 2]>,
    /// How much of the guided prediction is rescaled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guidance_rescale: f64,
    /// The share of the steps that restored images of the reference, if the samples began with these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<f64>,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// The network whose features were compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkUsed {
    /// Its name.
    pub name: String,
    /// The features of an image.
    pub features: usize,
    /// How it was trained, if it was trained on the data.
    pub training: Option<Training>,
}

/// The yardstick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Which images they are.
    pub images: String,
    /// Their figures.
    pub figures: Figures,
}

impl Evaluation {
    /// The content of `eval.json`.
    ///
    /// # Errors
    /// When it has no JSON form.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Unfit(e.to_string()))?;
        Ok(text + "\n")
    }

    /// Writes `eval.json` into a folder, atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_whole(&dir.join(EVAL_FILE), self.to_json()?.as_bytes())
    }

    /// Reads the `eval.json` of a folder; `None` if there is none that can be read.
    pub fn read(dir: &Path) -> Option<Self> {
        let text = kakusan_weights::read_text(&dir.join(EVAL_FILE), 1 << 24).ok()??;
        serde_json::from_str(&text).ok()
    }

    /// The rows of a table: each figure's name, its value for the samples and for the held-out images, as text.
    pub fn rows(&self) -> Vec<[String; 3]> {
        let held_out = self.held_out.as_ref().map(|held_out| &held_out.figures);
        let number = |value: f64| match value.abs() {
            100.0.. => format!("{value:.0}"),
            10.0.. => format!("{value:.1}"),
            1.0.. => format!("{value:.2}"),
            _ => format!("{value:.4}"),
        };
        let percent = |value: f64| format!("{:.1} %", 100.0 * value);
        let row = |name: &str, value: &dyn Fn(&Figures) -> Option<String>| -> Option<[String; 3]> {
            let own = value(&self.samples)?;
            Some([name.to_owned(), own, held_out.and_then(value).unwrap_or_else(|| "–".to_owned())])
        };
        let mut rows = vec![
            row("images", &|f| Some(f.images.to_string())),
            row("Fréchet distance", &|f| Some(number(f.frechet_distance))),
            row("KID (± its deviation)", &|f| Some(format!("{} ± {}", number(f.kid), number(f.kid_std)))),
            row("precision", &|f| Some(percent(f.precision))),
            row("recall", &|f| Some(percent(f.recall))),
            row("distance to the nearest", &|f| Some(number(f.nearest))),
            row("the classifier is sure (95 %)", &|f| f.sure.map(percent)),
        ];
        for class in self.samples.classes.iter().flatten().take(MOST_CLASSES) {
            let name = format!("class {} ({} of the data)", class.name, percent(class.reference));
            let of = |f: &Figures| {
                let same = f.classes.as_ref()?.iter().find(|other| other.name == class.name);
                Some(percent(same.map_or(0.0, |same| same.share)))
            };
            rows.push(row(&name, &of));
        }
        rows.into_iter().flatten().collect()
    }
}

/// The most classes that a table shows.
const MOST_CLASSES: usize = 20;
