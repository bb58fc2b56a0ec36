//! The configuration of a run: TOML, one table per component, checked in full when it is read.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kakusan_config::did_you_mean;
use kakusan_data::{Augmentation, DataConfig};
use kakusan_models::{ModelConfig, Weights};
use kakusan_rng::Generator;
use kakusan_scheduler::{Draw, Family, Process, RunOptions, Scheduler, saved_config};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::document::{CLASS_NAME, Document, NULL};
use super::freeze;
use super::objective::Objective;
use super::origin::{self, FROM, Lookup, Origin};
use crate::ddpm::inverts;
use crate::{DDPMPipeline, Registry, SampleOptions, SampleWarning, TrainConfig, Warning};

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
    /// `[model]`: the network. diffusers' null is written `"null"`. With `from`, the pretrained model's, with these
    /// keys in place of its own.
    pub model: Arc<dyn ModelConfig>,
    /// The pretrained pipeline with whose weights the training begins: `[model] from`.
    pub origin: Option<Origin>,
    /// `[scheduler]`: the noise process of the training. By default that of the pretrained pipeline.
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// How much of a guided prediction is rescaled to the contrast of the one with the class, 0 to 1
    /// ([`SampleOptions::guidance_rescale`](crate::SampleOptions::guidance_rescale)). 0 by default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_rescale: Option<f64>,
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
            guidance_rescale: None,
            trajectory_steps: 5,
        }
    }
}

impl SampleConfig {
    /// How this says that so many images are drawn, in so many steps, without their classes.
    pub fn options(&self, count: usize, steps: usize) -> SampleOptions {
        SampleOptions::new(count)
            .run(RunOptions { eta: self.eta, ..RunOptions::steps(steps) })
            .guidance_scale(self.guidance_scale.unwrap_or(1.0))
            .guidance_interval(self.guidance_interval)
            .guidance_rescale(self.guidance_rescale.unwrap_or(0.0))
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
    /// The pretrained model was trained to predict something else.
    #[error(
        "the pretrained model was trained with {class_name}: {before}. This training is {now}, so the model has to learn \
         again what to predict; without [scheduler], the training continues as before"
    )]
    OtherProcess {
        /// The class of the scheduler that the pretrained model was trained with.
        class_name: String,
        /// What it was trained for.
        before: Family,
        /// What this training is for.
        now: Family,
    },
    /// Unexpected content in the files of the pretrained model.
    #[error(transparent)]
    Pretrained(Warning),
    /// Images can be drawn as `[sample]` says, but will be poor.
    #[error("[sample]: {0}")]
    Sampling(SampleWarning),
    /// The scheduler for sampling goes from images to noise.
    #[error("{scheduler} inverts sampling: it turns images into noise, and does not draw images from noise")]
    Inverts {
        /// The scheduler's class.
        scheduler: String,
    },
}

/// The lowest number that a model has to predict for black and white images, over a draw of noise and levels.
fn lowest_target(train: &TrainConfig, scheduler: &dyn Scheduler) -> kakusan_scheduler::Result<f32> {
    let mut rng = Generator::new(0);
    let ends = [0f32, 1.0].repeat(32);
    let process = scheduler.process();
    let ends = train.scaled(Tensor::from_vec(ends, (64, 1, 1, 1), &Device::Cpu)?)?;
    let clean = process.pixel_range().from_unit(&ends)?;
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
/// A configuration file is a page of text; a far larger file is not one.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl RunConfig {
    /// Reads a configuration file and applies overrides of the form `table.key=value`. The value is TOML; anything that
    /// is not valid TOML is taken as a string. `[model] from` may be a folder.
    ///
    /// # Errors
    /// When the file cannot be read, and as [`parse`](Self::parse).
    pub fn load(path: &Path, overrides: &[String], registry: &Registry) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?, &path.display().to_string(), overrides, registry)
    }

    /// Reads only `[data]` of a configuration file, with overrides as in [`load`](Self::load).
    ///
    /// # Errors
    /// When the file cannot be read, and for an error in `[data]`.
    pub fn load_data(path: &Path, overrides: &[String]) -> Result<Option<DataConfig>, ConfigError> {
        let text = read(path)?;
        read_data(&document(&text, &path.display().to_string(), overrides)?)
    }

    /// As [`load`](Self::load). `[model] from` may also be a repository of the Hub, `owner/name[@revision]`: its
    /// pipeline is downloaded.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when the pipeline cannot be downloaded.
    #[cfg(feature = "hub")]
    pub fn load_with_hub(
        path: &Path,
        overrides: &[String],
        registry: &Registry,
        hub: &kakusan_hub::Hub,
    ) -> crate::Result<Self> {
        let text = read(path)?;
        let origin = path.display().to_string();
        let document = document(&text, &origin, overrides)?;
        let Some((dir, name)) = origin::download(&document, hub)? else {
            return Ok(Self::read(&document, &Lookup::Folder, registry)?);
        };
        Ok(Self::read(&document, &Lookup::Snapshot { dir: &dir, name }, registry)?)
    }

    /// As [`load`](Self::load), from a text; errors refer to it as `origin`.
    ///
    /// # Errors
    /// When the text is not TOML, and for an unknown table or key (the error suggests the nearest known one), a wrong
    /// type, a value out of range, or a class that does not exist. The error contains the position.
    pub fn parse(text: &str, origin: &str, overrides: &[String], registry: &Registry) -> Result<Self, ConfigError> {
        Self::read(&document(text, origin, overrides)?, &Lookup::Folder, registry)
    }

    /// Reads the configuration that a run stores: its pretrained model, if it has one, need not exist any more.
    pub(crate) fn load_recorded(path: &Path, overrides: &[String], registry: &Registry) -> Result<Self, ConfigError> {
        let text = read(path)?;
        Self::read(&document(&text, &path.display().to_string(), overrides)?, &Lookup::Recorded, registry)
    }

    fn read(document: &Document, lookup: &Lookup, registry: &Registry) -> Result<Self, ConfigError> {
        let data = read_data(document)?;
        let (model, origin) = origin::read_model(document, data.as_ref(), lookup, registry)?;

        let registry = &registry.schedulers;
        let known = registry.class_names();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let mut fields = document.fields("scheduler")?;
        if !fields.contains_key(CLASS_NAME) {
            // that of the pretrained model, with the keys that are given
            let mut all = origin.as_ref().and_then(|origin| origin.scheduler_fields(registry)).unwrap_or_default();
            all.extend(fields);
            fields = all;
        }
        let class_name = document.class_name("scheduler", &fields, &known, |wrong| match registry.nearest(wrong) {
            Some(class_name) => format!("; did you mean `{class_name}`?"),
            None => did_you_mean(wrong, &known),
        })?;
        let scheduler =
            registry.build(&class_name, &fields).map_err(|e| document.refusal("scheduler", &e.to_string()))?;

        let mut train: TrainConfig = document.section("train")?;
        // a network that continues on other pixels would have to unlearn
        train.pixel_scale = train.pixel_scale.or_else(|| origin.as_ref()?.pixel_scale());
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
        let config = Self { data, model, origin, scheduler, train, sample, sample_scheduler };
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
        if self.model.to_map().contains_key("augment_dim") {
            return Err(("model", "`augment_dim` follows from data.augment: set that, and remove it".into()));
        }
        if self.data.as_ref().is_some_and(|data| data.augment.is_some()) && self.model.with_augment_dim(1).is_none() {
            let class_name = self.model.class_name();
            let reason = format!("`augment` needs a model that can be told of it, which a {class_name} cannot");
            return Err(("data", format!("{reason}: remove it, or train a UNet2DModel")));
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
        freeze::check(&self.train.freeze, self.model.as_ref()).map_err(|reason| ("train", reason))?;
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
        let (interval, rescale) = (self.sample.guidance_interval, self.sample.guidance_rescale);
        if self.sample.guidance_scale.is_none_or(|scale| scale == 1.0) {
            let keys = [("guidance_interval", interval.is_some()), ("guidance_rescale", rescale.is_some())];
            if let Some((key, _)) = keys.into_iter().find(|(_, is_set)| *is_set) {
                return Err(("sample", format!("`{key}` has no effect without guidance: set guidance_scale")));
            }
        }
        if let Some(rescale) = rescale.filter(|rescale| !(0.0..=1.0).contains(rescale)) {
            return Err(("sample", format!("`guidance_rescale` is {rescale}; it must be from 0 to 1")));
        }
        if interval.is_some() {
            self.sample
                .options(1, self.sample.steps)
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
        if let (Some(lowest), Ok(least)) =
            (self.model.lowest_output(), lowest_target(&self.train, self.scheduler.as_ref()))
            && least < lowest
        {
            let (model, scheduler) = (self.model.class_name().to_owned(), self.scheduler.class_name().to_owned());
            warnings.push(ConfigWarning::TargetOutOfReach { model, scheduler, lowest, least });
        }
        if inverts(self.sample_scheduler.as_ref()) {
            warnings.push(ConfigWarning::Inverts { scheduler: self.sample_scheduler.class_name().to_owned() });
        }
        let sampling = self.sample.options(1, self.sample.steps).warnings(self.sample_scheduler.as_ref());
        warnings.extend(sampling.into_iter().map(ConfigWarning::Sampling));
        if let Some(origin) = &self.origin {
            warnings.extend(origin.warnings(self.scheduler.as_ref()));
        }
        warnings
    }

    /// The network that is trained. With `data.augment`, it is `model` and what tells it how an image was changed.
    pub fn trained_model(&self) -> Arc<dyn ModelConfig> {
        trained_model(&self.model, self.data.as_ref())
    }

    /// The pipeline of trained weights: `model`, without what only the training needs.
    pub(crate) fn pipeline(&self, weights: &Weights, scheduler: Arc<dyn Scheduler>) -> crate::Result<DDPMPipeline> {
        let weights = weights.only(&self.model.outline()?);
        let mut pipeline = DDPMPipeline::new(self.model.clone(), weights, scheduler)?;
        pipeline.set_pixel_scale(self.train.pixel_scale.unwrap_or(1.0));
        Ok(pipeline)
    }

    /// The full configuration as TOML, including defaults and overrides. A run folder stores it.
    ///
    /// # Errors
    /// When a scheduler's configuration has no TOML form.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let class = |class_name: &str, fields: Map<String, Value>, omits_null: &dyn Fn(&str) -> bool| {
            let mut map = Map::from_iter([(CLASS_NAME.to_owned(), Value::from(class_name))]);
            map.extend(fields);
            map.retain(|key, value| !(value.is_null() && omits_null(key)));
            map.values_mut().filter(|value| value.is_null()).for_each(|value| *value = NULL.into()); // TOML has no null
            map
        };
        let defaults = self.model.default_map();
        // a null may stand in place of the pretrained model's value
        let is_default = |key: &str| self.origin.is_none() && defaults.get(key).is_none_or(Value::is_null);
        let mut model = class(self.model.class_name(), self.model.to_map(), &is_default);
        model.extend(self.origin.as_ref().map(|origin| (FROM.to_owned(), origin.name().into())));
        let whole = Whole {
            data: self.data.as_ref(),
            model,
            scheduler: class(self.scheduler.class_name(), saved_config(self.scheduler.as_ref()), &|_| true),
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

/// [`RunConfig::trained_model`].
pub(crate) fn trained_model(model: &Arc<dyn ModelConfig>, data: Option<&DataConfig>) -> Arc<dyn ModelConfig> {
    let augments = data.is_some_and(|data| data.augment.is_some());
    let told = augments.then(|| model.with_augment_dim(Augmentation::LABELS)).flatten();
    told.unwrap_or_else(|| model.clone())
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

/// Reads `[data]`, after a check that there are no other tables than the known ones.
fn read_data(document: &Document) -> Result<Option<DataConfig>, ConfigError> {
    if let Some(unknown) = document.table.keys().find(|key| !TABLES.contains(&key.as_str())) {
        let message = format!("there is no table [{unknown}]{}", did_you_mean(unknown, &TABLES));
        return Err(document.error(&[unknown], message));
    }
    if !document.has("data") {
        return Ok(None);
    }
    let data: DataConfig = document.section("data")?;
    data.check().map_err(|e| document.refusal("data", &e.to_string()))?;
    Ok(Some(data))
}

/// Reads the text of a configuration file.
fn read(path: &Path) -> Result<String, ConfigError> {
    let refuse = |message: String| ConfigError { origin: path.display().to_string(), text: None, span: None, message };
    let size = std::fs::metadata(path).map_err(|e| refuse(format!("cannot be read: {e}")))?.len();
    if size > MAX_FILE_BYTES {
        return Err(refuse(format!("has {size} bytes; a configuration may have at most {MAX_FILE_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(|e| refuse(format!("cannot be read: {e}")))
}

/// A text with the overrides applied.
fn document<'a>(text: &'a str, origin: &'a str, overrides: &[String]) -> Result<Document<'a>, ConfigError> {
    let mut document = Document::parse(text, origin)?;
    overrides.iter().try_for_each(|text| document.set(text))?;
    Ok(document)
}
