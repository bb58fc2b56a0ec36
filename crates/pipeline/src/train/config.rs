//! The configuration of a run: TOML, one table per component, checked in full when it is read.

use std::fmt;
use std::num::IntErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kakusan_config::{did_you_mean, types_in_words};
use kakusan_data::DataConfig;
use kakusan_models::ModelConfig;
use kakusan_rng::Generator;
use kakusan_scheduler::{Draw, Process, RunOptions, Scheduler, saved_config};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::objective::Objective;
use crate::ddpm::inverts;
use crate::{Registry, SampleOptions, TrainConfig};

/// The configuration of a run: the tables of a file such as `configs/184.toml`, with the overrides applied.
///
/// ```
/// use kakusan_pipeline::{Registry, RunConfig};
///
/// let text = r#"
///     [data]
///     name = "mnist"
///     classes = [1, 8, 4]
///     sources = ["drawn"]
///     [model]
///     _class_name = "BasicUNet"
///     [scheduler]
///     _class_name = "LinearMixScheduler"
/// "#;
/// let set = ["train.epochs=1".to_owned()];
/// let config = RunConfig::parse(text, "184.toml", &set, &Registry::default()).unwrap();
/// assert_eq!((config.train.epochs, config.train.batch_size), (1, 128));
///
/// let wrong = RunConfig::parse(text, "184.toml", &["train.epoch=1".to_owned()], &Registry::default()).unwrap_err();
/// assert_eq!(wrong.to_string(), "--set train.epoch: there is no key `epoch` in [train]; did you mean `epochs`?");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunConfig {
    /// `[data]`: the images to train on. `None` if a program provides them
    /// ([`Training::images`](crate::Training::images)).
    pub data: Option<DataConfig>,
    /// `[model]`: the network. diffusers' null is written `"null"`.
    pub model: Arc<dyn ModelConfig>,
    /// `[scheduler]`: the noise process of the training.
    pub scheduler: Arc<dyn Scheduler>,
    /// `[train]`.
    pub train: TrainConfig,
    /// `[sample]`.
    pub sample: SampleConfig,
    /// The scheduler for sampling: that of `sample.scheduler`, otherwise `scheduler`.
    pub sample_scheduler: Arc<dyn Scheduler>,
}

/// `[sample]`: what is sampled at the end of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SampleConfig {
    /// Sampling steps.
    pub steps: usize,
    /// Number of images.
    pub batch_size: usize,
    /// The class of the scheduler that samples. It is built from the scheduler configuration that the trained pipeline
    /// saves, so that the training and a later `sample --scheduler` draw the same. By default `[scheduler]` itself
    /// samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// The fraction of fresh noise in each step, 0 to 1, for schedulers such as DDIM. 0 by default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Classifier-free guidance, for a class-conditional model that was trained with `train.class_dropout`. 1 by
    /// default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// The noise levels at which guidance is on, `[low, high]`, σ of `x₀ + σ ε`
    /// ([`SampleOptions::guidance_interval`](crate::SampleOptions::guidance_interval)). All by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<[f64; 2]>,
    /// Steps of the sampling that the report shows step by step; of more than five steps, five are shown.
    pub trajectory_steps: usize,
}

impl Default for SampleConfig {
    /// The tutorial's values: 64 images in 40 steps, and eight images shown in 5 steps.
    fn default() -> Self {
        Self {
            steps: 40,
            batch_size: 64,
            scheduler: None,
            eta: None,
            guidance_scale: None,
            guidance_interval: None,
            trajectory_steps: 5,
        }
    }
}

/// A configuration that can run but will hardly give the intended result: [`RunConfig::warnings`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigWarning {
    /// The model has to predict numbers that it cannot output.
    #[error(
        "a {model} never predicts less than {lowest:.2}, but {scheduler} needs predictions down to {least:.2}: the images \
         will be poor; use a UNet2DModel, or LinearMixScheduler"
    )]
    TargetOutOfReach {
        /// The model's class.
        model: String,
        /// The scheduler's class.
        scheduler: String,
        /// The lowest output of the model.
        lowest: f32,
        /// The lowest number that it has to predict, from a sample of them.
        least: f32,
    },
    /// The scheduler for sampling goes from images to noise.
    #[error("{scheduler} inverts sampling: it turns images into noise, and does not draw images from noise")]
    Inverts {
        /// The scheduler's class.
        scheduler: String,
    },
}

/// The lowest number that a model has to predict for black and white images, over a draw of noise and levels.
fn lowest_target(scheduler: &dyn Scheduler) -> kakusan_scheduler::Result<f32> {
    let mut rng = Generator::new(0);
    let ends = [0f32, 1.0].repeat(32);
    let process = scheduler.process();
    let clean = process.pixel_range().from_unit(&Tensor::from_vec(ends, (64, 1, 1, 1), &Device::Cpu)?)?;
    let Draw { noise, levels } = process.draw(&clean, &mut rng)?;
    Ok(process.target(&clean, &noise, &levels)?.flatten_all()?.min_all()?.to_scalar()?)
}

/// Many draws of the values that training conditions the model on.
fn timesteps_in_training(process: &Process) -> kakusan_scheduler::Result<Vec<f32>> {
    /// With this many draws, each of a thousand timesteps occurs.
    const DRAWN: usize = 16_384;
    let images = Tensor::zeros((DRAWN, 1, 1, 1), DType::F32, &Device::Cpu)?;
    Ok(process.timesteps(&process.draw(&images, &mut Generator::new(0))?.levels))
}

/// A configuration that cannot run: what is wrong, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file or the override (`--set train.epochs`) with the error.
    pub origin: String,
    /// The text of the file, if the position in it is known.
    pub text: Option<String>,
    /// The bytes of `text` with the error.
    pub span: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
}

impl ConfigError {
    /// Line and column of the error, from 1.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        let before = self.text.as_ref()?.get(..self.span.as_ref()?.start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some((before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.line_column() {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.origin, self.message),
            None => write!(f, "{}: {}", self.origin, self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The tables that a configuration has.
const TABLES: [&str; 5] = ["data", "model", "scheduler", "train", "sample"];
/// The text for JSON's null in `[model]` and `[scheduler]`, e.g. `attention_head_dim = "null"`.
const NULL: &str = "null";
/// A configuration file is a page of text; a far larger file is not one.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl RunConfig {
    /// Reads a configuration file and applies overrides of the form `table.key=value`. The value is TOML; anything that
    /// is not valid TOML is taken as a string.
    ///
    /// # Errors
    /// When the file cannot be read, and as [`parse`](Self::parse).
    pub fn load(path: &Path, overrides: &[String], registry: &Registry) -> Result<Self, ConfigError> {
        let origin = path.display().to_string();
        let refuse = |message: String| ConfigError { origin: origin.clone(), text: None, span: None, message };
        let size = std::fs::metadata(path).map_err(|e| refuse(format!("cannot be read: {e}")))?.len();
        if size > MAX_FILE_BYTES {
            return Err(refuse(format!("has {size} bytes; a configuration may have at most {MAX_FILE_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| refuse(format!("cannot be read: {e}")))?;
        Self::parse(&text, &origin, overrides, registry)
    }

    /// As [`load`](Self::load), from a text; errors refer to it as `origin`.
    ///
    /// # Errors
    /// When the text is not TOML, and for an unknown table or key (the error suggests the nearest known one), a wrong
    /// type, a value out of range, or a class that does not exist. The error contains the position.
    pub fn parse(text: &str, origin: &str, overrides: &[String], registry: &Registry) -> Result<Self, ConfigError> {
        let mut document = Document::parse(text, origin)?;
        for text in overrides {
            document.set(text)?;
        }
        if let Some(unknown) = document.table.keys().find(|key| !TABLES.contains(&key.as_str())) {
            let message = format!("there is no table [{unknown}]{}", did_you_mean(unknown, &TABLES));
            return Err(document.error(&[unknown], message));
        }
        let data: Option<DataConfig> = match document.table.contains_key("data") {
            true => Some(document.section("data")?),
            false => None,
        };
        if let Some(data) = &data {
            data.check().map_err(|e| document.refusal("data", &e.to_string()))?;
        }

        let known = registry.models.class_names();
        let (class_name, fields) = document.class("model", &known, |wrong| did_you_mean(wrong, &known))?;
        let model = registry.models.from_map(&class_name, &fields);
        let model = model.map_err(|e| document.refusal("model", &e.to_string()))?;

        let registry = &registry.schedulers;
        let known = registry.class_names();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let (class_name, fields) = document.class("scheduler", &known, |wrong| match registry.nearest(wrong) {
            Some(class_name) => format!("; did you mean `{class_name}`?"),
            None => did_you_mean(wrong, &known),
        })?;
        let scheduler =
            registry.build(&class_name, &fields).map_err(|e| document.refusal("scheduler", &e.to_string()))?;

        let train: TrainConfig = document.section("train")?;
        let sample: SampleConfig = document.section("sample")?;
        let sample_scheduler = match &sample.scheduler {
            None => scheduler.clone(),
            Some(name) => registry
                .resolve(name)
                .and_then(|class_name| {
                    // as if it had been saved and loaded: a later `sample --scheduler` draws the same
                    let saved = registry.from_config(scheduler.class_name(), &saved_config(scheduler.as_ref()))?;
                    registry.swap(class_name, saved.as_ref())
                })
                .map_err(|e| document.error(&["sample", "scheduler"], e.to_string()))?,
        };
        let unfit = |by: &dyn Scheduler, e: &dyn fmt::Display| {
            let message = format!(
                "`time_embedding_type`: {} gives the model timesteps that it cannot take: {e}; positional takes any",
                by.class_name()
            );
            document.refusal("model", &message)
        };
        train.check().map_err(|message| document.refusal("train", &message))?;
        let objective = Objective::new(&train, scheduler.as_ref());
        let objective = objective.map_err(|message| document.refusal("train", &message))?;
        let timesteps = timesteps_in_training(objective.process())
            .map_err(|e| document.error(&["scheduler"], format!("{class_name} cannot train: {e}")))?;
        model.check_timesteps(&timesteps).map_err(|e| unfit(scheduler.as_ref(), &e))?;
        for (key, steps) in [("steps", sample.steps), ("trajectory_steps", sample.trajectory_steps)] {
            let refused =
                |key: &str, e: &kakusan_scheduler::Error| document.error(&["sample", key], format!("`{key}`: {e}"));
            sample_scheduler.run(steps).map_err(|e| refused(key, &e))?;
            let run = RunOptions { eta: sample.eta, ..RunOptions::steps(steps) };
            let run = sample_scheduler.run_with(&run).map_err(|e| refused("eta", &e))?;
            model.check_timesteps(run.timesteps()).map_err(|e| unfit(sample_scheduler.as_ref(), &e))?;
        }
        let config = Self { data, model, scheduler, train, sample, sample_scheduler };
        config.check_ranges().map_err(|(table, message)| document.refusal(table, &message))?;
        Ok(config)
    }

    /// Checks ranges that types cannot express, and combinations. The message names the key in backticks.
    fn check_ranges(&self) -> Result<(), (&'static str, String)> {
        let classes = self.model.num_classes();
        if classes.is_none() && self.model.wants_labels() {
            let reason =
                "`class_embed_type`: training passes classes as numbers, which only works without it; remove it";
            return Err(("model", reason.into()));
        }
        if self.train.class_dropout.is_some() && classes.is_none() {
            return Err(("train", "`class_dropout` needs a model with classes: set model.num_class_embeds".into()));
        }
        if let Some(scale) = self.train.pixel_scale {
            let config = self.scheduler.config();
            let range = config.get("clip_sample_range").and_then(Value::as_f64).unwrap_or(1.0);
            let clips = config.get("clip_sample").is_some_and(|clips| *clips == Value::Bool(true));
            if clips && range < scale {
                let reason = format!("`pixel_scale` is {scale}, but the scheduler clips images at {range}");
                return Err(("train", format!("{reason}: set scheduler.clip_sample_range = {scale}")));
            }
        }
        if self.train.gradient_checkpointing && !self.model.supports_gradient_checkpointing() {
            let class_name = self.model.class_name();
            return Err(("train", format!("`gradient_checkpointing` has no effect on a {class_name}; remove it")));
        }
        match self.sample.guidance_scale {
            Some(_) if self.train.class_dropout.is_none() => {
                let reason =
                    "`guidance_scale` needs a model that was also trained without classes: set train.class_dropout";
                return Err(("sample", reason.into()));
            }
            Some(scale) if !scale.is_finite() => {
                return Err(("sample", format!("`guidance_scale` is {scale}; it must be a number")));
            }
            _ => {}
        }
        if self.sample.guidance_interval.is_some() {
            let scale = self.sample.guidance_scale.filter(|scale| *scale != 1.0);
            let Some(scale) = scale else {
                return Err((
                    "sample",
                    "`guidance_interval` has no effect without guidance: set guidance_scale".into(),
                ));
            };
            let options = SampleOptions::new(1).steps(self.sample.steps).guidance_scale(scale);
            let options = options.guidance_interval(self.sample.guidance_interval);
            options
                .check_guidance(self.sample_scheduler.as_ref())
                .map_err(|e| ("sample", format!("`guidance_interval`: {e}")))?;
        }
        let counts = [
            ("steps", self.sample.steps, 100_000),
            ("trajectory_steps", self.sample.trajectory_steps, 100_000),
            ("batch_size", self.sample.batch_size, 4_096),
        ];
        for (key, value, most) in counts {
            if !(1..=most).contains(&value) {
                return Err(("sample", format!("`{key}` is {value}; it must be between 1 and {most}")));
            }
        }
        Ok(())
    }

    /// Settings that are allowed but will hardly give the intended result.
    pub fn warnings(&self) -> Vec<ConfigWarning> {
        let mut warnings = vec![];
        if let (Some(lowest), Ok(least)) = (self.model.lowest_output(), lowest_target(self.scheduler.as_ref()))
            && least < lowest
        {
            let (model, scheduler) = (self.model.class_name().to_owned(), self.scheduler.class_name().to_owned());
            warnings.push(ConfigWarning::TargetOutOfReach { model, scheduler, lowest, least });
        }
        if inverts(self.sample_scheduler.as_ref()) {
            warnings.push(ConfigWarning::Inverts { scheduler: self.sample_scheduler.class_name().to_owned() });
        }
        warnings
    }

    /// The full configuration as TOML, including defaults and overrides. A run folder stores it.
    ///
    /// # Errors
    /// When a scheduler's configuration has no TOML form.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let class = |class_name: &str, fields: Map<String, Value>, defaults: Map<String, Value>| {
            let mut map = Map::from_iter([("_class_name".to_owned(), Value::from(class_name))]);
            map.extend(fields);
            // TOML has no null: omit it where it is the default, write a word elsewhere
            map.retain(|key, value| !value.is_null() || defaults.get(key).is_some_and(|default| !default.is_null()));
            map.values_mut().filter(|value| value.is_null()).for_each(|value| *value = NULL.into());
            map
        };
        let whole = Whole {
            data: self.data.as_ref(),
            model: class(self.model.class_name(), self.model.to_map(), self.model.default_map()),
            scheduler: class(self.scheduler.class_name(), saved_config(self.scheduler.as_ref()), Map::new()),
            train: &self.train,
            sample: &self.sample,
        };
        toml::to_string(&whole).map_err(|e| ConfigError {
            origin: "config.toml".into(),
            text: None,
            span: None,
            message: e.to_string(),
        })
    }
}

/// The tables in the order of `config.toml`.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a DataConfig>,
    model: Map<String, Value>,
    scheduler: Map<String, Value>,
    train: &'a TrainConfig,
    sample: &'a SampleConfig,
}

/// The text and values from which a [`RunConfig`] is read; knows the position of each key.
struct Document<'a> {
    origin: &'a str,
    text: &'a str,
    table: toml::Table,
    /// Dotted paths of the overridden keys.
    overridden: Vec<String>,
}

impl<'a> Document<'a> {
    fn parse(text: &'a str, origin: &'a str) -> Result<Self, ConfigError> {
        let table = text.parse::<toml::Table>().map_err(|e| {
            let number = e.span().and_then(|span| text.get(span)).filter(|number| is_too_large(number));
            ConfigError {
                origin: origin.to_owned(),
                text: Some(text.to_owned()),
                span: e.span(),
                message: number.map_or_else(|| e.message().to_owned(), out_of_range),
            }
        })?;
        Ok(Self { origin, text, table, overridden: vec![] })
    }

    /// Applies `table.key=value`.
    fn set(&mut self, text: &str) -> Result<(), ConfigError> {
        let refuse = |message: &str| ConfigError {
            origin: format!("--set {text}"),
            text: None,
            span: None,
            message: message.to_owned(),
        };
        let form = "expected table.key=value, e.g. train.epochs=2 or data.classes=[3,5]";
        let (path, value) = text.split_once('=').ok_or_else(|| refuse(form))?;
        let (path, value) = (path.trim(), value.trim());
        let (table, key) = path.split_once('.').ok_or_else(|| refuse(form))?;
        let value = match format!("value = {value}").parse::<toml::Table>() {
            Ok(mut parsed) => parsed.remove("value").ok_or_else(|| refuse(form))?,
            Err(_) if is_too_large(value) => return Err(refuse(&out_of_range(value))),
            Err(_) => toml::Value::String(value.to_owned()),
        };
        let section = self.table.entry(table).or_insert_with(|| toml::Table::new().into());
        let section = section.as_table_mut().ok_or_else(|| refuse("that is not a table in the file"))?;
        section.insert(key.to_owned(), value);
        self.overridden.push(path.to_owned());
        Ok(())
    }

    /// Reads a table whose keys are the fields of `T`; a missing table counts as empty.
    fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, ConfigError> {
        let value = self.table.get(name).cloned().unwrap_or_else(|| toml::Table::new().into());
        serde_path_to_error::deserialize(value).map_err(|e| {
            let key = e.path().iter().next().map(ToString::to_string).unwrap_or_default();
            let message = e.inner().message();
            if message.starts_with("unknown field") {
                return self.refusal(name, message);
            }
            let of_key = if key.is_empty() { String::new() } else { format!("`{key}`: ") };
            self.error(&[name, &key], format!("{of_key}{}", explain(message, name)))
        })
    }

    /// Reads a table that names its class. Returns the class, and the other keys as JSON. `meant` gives the end of the
    /// message about a class that does not exist.
    fn class(
        &self,
        name: &str,
        known: &[&str],
        meant: impl Fn(&str) -> String,
    ) -> Result<(String, Map<String, Value>), ConfigError> {
        let section: toml::Table = self.section(name)?;
        let Some(toml::Value::String(class_name)) = section.get("_class_name") else {
            let message = format!("[{name}] needs `_class_name`, one of {}", known.join(", "));
            return Err(self.error(&[name], message));
        };
        if !known.contains(&class_name.as_str()) {
            let message = format!("no {name} is called `{class_name}`{}", meant(class_name));
            return Err(self.error(&[name, "_class_name"], message));
        }
        if let Some((key, value)) = section.iter().find(|(_, value)| holds_non_finite(value)) {
            return Err(self.error(&[name, key], format!("`{key}` is {value}; it must be finite")));
        }
        match serde_json::to_value(&section) {
            Ok(Value::Object(mut fields)) => {
                fields.values_mut().filter(|value| *value == NULL).for_each(|value| *value = Value::Null);
                Ok((class_name.clone(), fields))
            }
            _ => Err(self.error(&[name], format!("[{name}] holds a value that JSON cannot represent"))),
        }
    }

    /// The error for a table that was refused with `message`. It points to the first key of the table that the message
    /// names.
    fn refusal(&self, table: &str, message: &str) -> ConfigError {
        let section = self.table.get(table).and_then(toml::Value::as_table);
        let named = message.split(['`', ' ', ':']).find(|word| section.is_some_and(|s| s.contains_key(*word)));
        self.error(&[table, named.unwrap_or_default()], explain(message, table))
    }

    /// An error at `path`; trailing parts of the path may be missing from the text.
    fn error(&self, path: &[&str], message: String) -> ConfigError {
        let dotted = path.join(".");
        if self.overridden.contains(&dotted) {
            return ConfigError { origin: format!("--set {dotted}"), text: None, span: None, message };
        }
        ConfigError {
            origin: self.origin.to_owned(),
            text: Some(self.text.to_owned()),
            span: self.locate(path),
            message,
        }
    }

    /// The bytes of the deepest key of `path` that the text contains.
    fn locate(&self, path: &[&str]) -> Option<Range<usize>> {
        let document = DeTable::parse(self.text).ok()?;
        let mut table = document.get_ref();
        let mut span = None;
        for part in path {
            let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == part) else { break };
            span = Some(key.span());
            let DeValue::Table(inner) = value.get_ref() else { break };
            table = inner;
        }
        span
    }
}

/// Whether a value contains a NaN or an infinity: JSON has neither, and null would take its place.
fn holds_non_finite(value: &toml::Value) -> bool {
    match value {
        toml::Value::Float(number) => !number.is_finite(),
        toml::Value::Array(values) => values.iter().any(holds_non_finite),
        toml::Value::Table(table) => table.values().any(holds_non_finite),
        _ => false,
    }
}

/// Whether the text is an integer too large for TOML.
fn is_too_large(text: &str) -> bool {
    let error = text.replace('_', "").parse::<i64>().err();
    error.is_some_and(|e| matches!(e.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow))
}

fn out_of_range(number: &str) -> String {
    format!("`{number}` is out of range: TOML has whole numbers from {} to {}", i64::MIN, i64::MAX)
}

/// Shortens serde's message about an unknown key or value and suggests the nearest known one.
fn explain(message: &str, table: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let (true, [wrong, known @ ..]) = (message.contains("unknown field"), quoted.as_slice()) {
        return format!("there is no key `{wrong}` in [{table}]{}", did_you_mean(wrong, known));
    }
    if let (true, [wrong, known @ ..]) = (message.starts_with("unknown variant"), quoted.as_slice()) {
        return format!("there is no `{wrong}`{}", did_you_mean(wrong, known));
    }
    types_in_words(message)
}
