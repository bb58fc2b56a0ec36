//! The layout of a saved pipeline: diffusers' `model_index.json`, and a folder for each component or one for all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kakusan_config::{Config, did_you_mean};
use serde_json::Value;

use crate::files::read_text;
use crate::{Error, Labels, PipelineClass, Result, Warning};

/// The file that names a pipeline's components. It is written last: a folder with it is complete.
pub(crate) const INDEX_FILE: &str = "model_index.json";
pub(crate) const SCHEDULER_FILE: &str = "scheduler_config.json";
/// The configuration of a training. A folder with this file is a run.
pub(crate) const RUN_CONFIG_FILE: &str = "config.toml";
/// The key of the class names in the index. Python's diffusers ignores keys that begin with `_`, without a warning.
pub(crate) const CLASS_NAMES: &str = "_id2label";
/// The key of the numbers of images that have each label.
pub(crate) const LABEL_COUNTS: &str = "_label_counts";
/// The key of `train.pixel_scale` in the index.
pub(crate) const PIXEL_SCALE: &str = "_pixel_scale";
const DIT_CLASS_NAMES: &str = "id2label";
/// The libraries that the index may name for a component.
const LIBRARIES: [&str; 2] = ["diffusers", "kakusan"];

/// The classes of a pipeline and its components.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) class: PipelineClass,
    /// `UNet2DModel`, for example.
    pub(crate) unet: String,
    /// `DDPMScheduler`, for example.
    pub(crate) scheduler: String,
    /// Our `_id2label`, or the `id2label` of diffusers' `DiTPipeline`, with `_label_counts`.
    pub(crate) labels: Labels,
    /// What the pixels of the training's images were multiplied by; 1 if the index does not say.
    pub(crate) pixel_scale: f64,
    /// Warnings about its other content.
    pub(crate) warnings: Vec<Warning>,
}

impl Index {
    /// Reads `model_index.json` of the pipeline in `dir`. Ignores other keys that begin with `_`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(INDEX_FILE);
        let unfit = |reason: String| Error::NotAPipeline { dir: dir.to_owned(), reason };
        if !path.is_file() {
            return Err(unfit(if dir.is_file() {
                format!("it is a file; name the folder that contains {INDEX_FILE}")
            } else if !dir.is_dir() {
                let lacks = "; repositories of the Hub need a build with the feature `hub`";
                format!("there is no such folder{}", if cfg!(feature = "hub") { "" } else { lacks })
            } else if dir.join(RUN_CONFIG_FILE).is_file() {
                "its training has not ended".into()
            } else if let Some(above) = dir.parent().filter(|above| above.join(INDEX_FILE).is_file()) {
                format!("it holds one component of a pipeline; name the folder {}", above.display())
            } else {
                format!("it has no {INDEX_FILE}")
            }));
        }
        let components = kakusan_config::from_json(&read_text(&path)?)
            .map_err(|e| unfit(format!("{INDEX_FILE} is damaged: {e}")))?;
        Self::check(&components, &path).map_err(|reason| unfit(format!("{INDEX_FILE}: {reason}")))
    }

    fn check(components: &Config, path: &Path) -> std::result::Result<Self, String> {
        let mut warnings = vec![];
        let class = match components.get("_class_name") {
            Some(Value::String(class)) => {
                let known = PipelineClass::CLASS_NAMES;
                PipelineClass::from_name(class)
                    .ok_or_else(|| format!("`{class}` is not a known pipeline{}", did_you_mean(class, &known)))?
            }
            found => {
                let (class, found) = (PipelineClass::default(), found.map(Value::to_string));
                warnings.push(Warning::NoClass { path: path.to_owned(), found, class_name: class.class_name() });
                class
            }
        };
        if let Some(missing) = ["unet", "scheduler"].into_iter().find(|&name| !components.contains_key(name)) {
            return Err(format!("`{missing}` is missing"));
        }
        let labels = |key: &str| components.get(key).and_then(labels);
        let is_known = |key: &str| {
            key.starts_with('_')
                || ["unet", "scheduler"].contains(&key)
                || key == DIT_CLASS_NAMES && labels(key).is_some()
        };
        let unknown = components.iter().filter(|(key, value)| !is_known(key) && !is_left_out(value));
        let names: Vec<String> = unknown.map(|(key, _)| format!("`{}`", key.escape_debug())).collect();
        if !names.is_empty() {
            warnings.push(Warning::UnknownComponents { path: path.to_owned(), class_name: class.class_name(), names });
        }
        let class_of = |name: &str| {
            let value = components.get(name).unwrap_or(&Value::Null);
            match value.as_array().map(Vec::as_slice) {
                Some([Value::String(library), Value::String(class)]) if LIBRARIES.contains(&library.as_str()) => {
                    Ok(class.clone())
                }
                Some([Value::String(library), Value::String(class)]) => {
                    Err(format!("`{name}` is {class} of {library}; known are {}", LIBRARIES.join(", ")))
                }
                _ => Err(format!("`{name}` is {value}, expected [\"diffusers\", a class]")),
            }
        };
        let class_names = labels(CLASS_NAMES).or_else(|| labels(DIT_CLASS_NAMES)).unwrap_or_default();
        let label_counts = components.get(LABEL_COUNTS).and_then(counts).unwrap_or_default();
        let labels = Labels::new(class_names).with_counts(label_counts);
        let pixel_scale = match components.get(PIXEL_SCALE) {
            None => 1.0,
            Some(value) => {
                let scale = value.as_f64().filter(|scale| (1.0..=2.0).contains(scale));
                scale.ok_or_else(|| format!("`{PIXEL_SCALE}` is {value}, expected a number from 1 to 2"))?
            }
        };
        let (unet, scheduler) = (class_of("unet")?, class_of("scheduler")?);
        Ok(Self { class, unet, scheduler, labels, pixel_scale, warnings })
    }
}

/// A map from numbers, as text, to names.
fn labels(value: &Value) -> Option<BTreeMap<u32, String>> {
    let label = |(label, name): (&String, &Value)| Some((label.parse().ok()?, name.as_str()?.to_owned()));
    value.as_object()?.iter().map(label).collect()
}

/// A map from numbers, as text, to counts.
fn counts(value: &Value) -> Option<BTreeMap<u32, u64>> {
    value.as_object()?.iter().map(|(label, count)| Some((label.parse().ok()?, count.as_u64()?))).collect()
}

/// Whether a value of the index says that the pipeline omits a component: `[null, null]`.
fn is_left_out(value: &Value) -> bool {
    value.as_array().is_some_and(|names| names.iter().all(Value::is_null))
}

/// The folder of a component: `unet/`, or the pipeline's folder if all files lie in it.
pub(crate) fn component_dir(dir: &Path, name: &str) -> PathBuf {
    let own = dir.join(name);
    if own.is_dir() { own } else { dir.to_owned() }
}

/// The repository and the revision that the `name` of a model means: `owner/name` or `owner/name@revision`. `None` for
/// the path of a folder, and if there is a folder of this name.
///
/// ```
/// use kakusan_pipeline::hub_name;
///
/// assert_eq!(hub_name("google/ddpm-cat-256"), Some(("google/ddpm-cat-256", "main")));
/// assert_eq!(hub_name("google/ddpm-cat-256@82ca0d5"), Some(("google/ddpm-cat-256", "82ca0d5")));
/// assert_eq!(hub_name("./runs/184"), None);
/// ```
pub fn hub_name(name: &str) -> Option<(&str, &str)> {
    let (repo_id, revision) = name.split_once('@').unwrap_or((name, "main"));
    let is_id = repo_id.split('/').count() == 2 && !name.starts_with(['.', '/', '~']);
    (is_id && !Path::new(name).exists()).then_some((repo_id, revision))
}
