use std::fmt;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_config::{Config, from_json};
use kakusan_models::{Model, ModelConfig, UNet2DModel, Weights};
use kakusan_scheduler::{LinearMixScheduler, Scheduler, ScoreSdeVpScheduler};
use kakusan_weights::SaveOptions;
use serde_json::{Value, json};

use crate::files::{create_folders, read_text, write_whole};
use crate::layout::{CLASS_NAMES, INDEX_FILE, Index, LABEL_COUNTS, PIXEL_SCALE, SCHEDULER_FILE, component_dir};
use crate::{Error, Labels, PipelineClass, Registry, Result, Warning};

/// A model and a scheduler that draw images, in diffusers' folder layout (`model_index.json`, `unet/`, `scheduler/`).
///
/// This is diffusers' `DDPMPipeline`, and every other pipeline with these two components ([`PipelineClass`]). Unlike in
/// diffusers, any scheduler can be swapped in: it provides the initial noise, scales the model's input, and draws the
/// noise of its steps.
///
/// ```
/// use candle_core::Device;
/// use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
/// use kakusan_pipeline::DDPMPipeline;
/// use kakusan_rng::Generator;
/// use kakusan_scheduler::LinearMixScheduler;
/// use std::sync::Arc;
///
/// # fn main() -> kakusan_pipeline::Result<()> {
/// let mut rng = Generator::new(0);
/// let config = Arc::new(BasicUNetConfig::default());
/// let (weights, _) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config.build(vb))?;
/// let pipeline = DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default()))?;
/// let images = pipeline.sample(2, 5, &mut rng)?;
/// assert_eq!(images.dims(), [2, 1, 28, 28]);
/// # Ok(())
/// # }
/// ```
pub struct DDPMPipeline {
    class: PipelineClass,
    config: Arc<dyn ModelConfig>,
    weights: Weights,
    model: Box<dyn Model>,
    scheduler: Arc<dyn Scheduler>,
    /// The fields of the `config.json` that the model was loaded from.
    fields: Config,
    labels: Labels,
    /// The training's `pixel_scale`.
    pixel_scale: f64,
    warnings: Vec<Warning>,
}

impl fmt::Debug for DDPMPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, scheduler) = (self.config.class_name(), self.scheduler.class_name());
        let mut pipeline = f.debug_struct(self.class.class_name());
        pipeline.field("model", &model).field("scheduler", &scheduler).finish_non_exhaustive()
    }
}

impl DDPMPipeline {
    /// Builds a pipeline from its components. If `weights` are trained further, the pipeline uses the new values.
    ///
    /// # Errors
    /// When the weights do not fit the model.
    pub fn new(config: Arc<dyn ModelConfig>, weights: Weights, scheduler: Arc<dyn Scheduler>) -> Result<Self> {
        let model = weights.frozen(|vb| config.build(vb))?;
        Ok(Self {
            class: PipelineClass::DDPM,
            config,
            weights,
            model,
            scheduler,
            fields: Config::new(),
            labels: Labels::default(),
            pixel_scale: 1.0,
            warnings: vec![],
        })
    }

    /// Loads a pipeline from its folder, with the weights that [`Checkpoint::find`](kakusan_weights::Checkpoint::find)
    /// selects. Classes are looked up in `registry`. The components lie in folders of their names (`unet/`,
    /// `scheduler/`), or all in `dir`.
    ///
    /// Unexpected content that changes nothing is ignored, as in diffusers, and reported by
    /// [`warnings`](Self::warnings): fields that the model does not know, tensors that it does not have, and a
    /// scheduler whose file names another class than the index (the index wins).
    ///
    /// # Errors
    /// When a component is missing or damaged, or its class is unknown.
    pub fn from_pretrained(dir: &Path, registry: &Registry, device: &Device) -> Result<Self> {
        Self::from_pretrained_variant(dir, None, registry, device)
    }

    /// As [`from_pretrained`](Self::from_pretrained); if `variant` (`fp16`, `ema`) is given, loads the weights of that
    /// variant.
    ///
    /// # Errors
    /// As [`from_pretrained`](Self::from_pretrained), and when there are no such weights.
    pub fn from_pretrained_variant(
        dir: &Path,
        variant: Option<&str>,
        registry: &Registry,
        device: &Device,
    ) -> Result<Self> {
        let (index, scheduler) = read_scheduler(dir, registry)?;
        let Index { class, unet, labels, pixel_scale, mut warnings, .. } = index;
        let models = &registry.models;
        let unet = kakusan_models::from_pretrained(&component_dir(dir, "unet"), Some(&unet), variant, models, device)?;
        warnings.extend(unet.warnings.into_iter().map(Warning::from));
        let pipeline = Self::new(unet.config, unet.weights, scheduler)?;
        Ok(Self { class, fields: unet.fields, labels, pixel_scale, warnings, ..pipeline })
    }

    /// Saves the pipeline in diffusers' layout. Each file is written atomically, the index last.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_pretrained(&self, dir: &Path) -> Result<()> {
        self.save_pretrained_with(dir, &SaveOptions::default())
    }

    /// As [`save_pretrained`](Self::save_pretrained), with the weights written as `options` says: another type, a
    /// variant, shards.
    ///
    /// # Errors
    /// As [`save_pretrained`](Self::save_pretrained), and when a value does not fit the requested type.
    pub fn save_pretrained_with(&self, dir: &Path, options: &SaveOptions) -> Result<()> {
        kakusan_models::save_with(self.config.as_ref(), &self.weights, &dir.join("unet"), options, &self.fields)?;
        let scheduler = dir.join("scheduler");
        create_folders(&scheduler)?;
        write_whole(&scheduler.join(SCHEDULER_FILE), kakusan_scheduler::to_json(self.scheduler.as_ref()).as_bytes())?;
        let mut index = json!({
            "_class_name": self.class.class_name(),
            "_diffusers_version": kakusan_config::DIFFUSERS_VERSION,
            "scheduler": [library(self.scheduler.class_name()), self.scheduler.class_name()],
            "unet": [library(self.config.class_name()), self.config.class_name()],
        });
        if !self.labels.names().is_empty() {
            index[CLASS_NAMES] = json!(self.labels.names());
        }
        if !self.labels.counts().is_empty() {
            index[LABEL_COUNTS] = json!(self.labels.counts());
        }
        if self.pixel_scale != 1.0 {
            index[PIXEL_SCALE] = json!(self.pixel_scale);
        }
        write_whole(&dir.join(INDEX_FILE), format!("{index:#}\n").as_bytes())
    }

    /// Saves the scheduler alone into the folder of this pipeline. Keys of its file that were not set stay absent, so
    /// that other schedulers that are built from it take their own defaults.
    ///
    /// # Errors
    /// When a file is missing or damaged, or cannot be written; when pipelines of this class have one scheduler, and
    /// this is another.
    pub fn save_scheduler(&self, dir: &Path) -> Result<()> {
        let class_name = self.scheduler.class_name();
        if let Some(own) = self.class.scheduler_class().filter(|own| *own != class_name) {
            let pipeline = self.class.class_name();
            return Err(Error::Unfit(format!(
                "a {pipeline} always samples with {own}: {class_name} cannot be saved in it"
            )));
        }
        let read = |path: &Path| {
            let damaged = |e| Error::NotAPipeline { dir: dir.to_owned(), reason: format!("{}: {e}", path.display()) };
            from_json(&read_text(path)?).map_err(damaged)
        };
        let (file, index) = (component_dir(dir, "scheduler").join(SCHEDULER_FILE), dir.join(INDEX_FILE));
        let (mut config, mut components) = (read(&file)?, read(&index)?);
        config.extend(kakusan_scheduler::set_config(self.scheduler.as_ref()));
        let saved = components.get("scheduler").and_then(|names| names.get(1)).and_then(Value::as_str);
        let is_other = saved != Some(class_name) && self.class.scheduler_class().is_none();
        if is_other {
            config.insert("_class_name".into(), class_name.into());
        }
        write_whole(&file, kakusan_config::to_json(&config).as_bytes())?;
        if is_other {
            components.insert("scheduler".into(), json!([library(class_name), class_name]));
            write_whole(&index, kakusan_config::to_json(&components).as_bytes())?;
        }
        Ok(())
    }

    /// Warnings about the files that the pipeline was loaded from.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    #[cfg(feature = "train")]
    pub(crate) fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    /// Returns the pipeline if its files gave no warnings.
    ///
    /// # Errors
    /// [`Error::Odd`] with all [`warnings`](Self::warnings).
    pub fn strict(self) -> Result<Self> {
        if self.warnings.is_empty() { Ok(self) } else { Err(Error::Odd { warnings: self.warnings }) }
    }

    /// Which of diffusers' pipelines this is.
    pub fn class(&self) -> PipelineClass {
        self.class
    }

    /// Whether Python's diffusers has the classes of the network and the scheduler, so that it can load the pipeline.
    pub fn is_in_diffusers(&self) -> bool {
        [self.config.class_name(), self.scheduler.class_name()].map(library) == ["diffusers"; 2]
    }

    /// The shape of one image `[c, h, w]`.
    ///
    /// # Errors
    /// When the model's configuration does not fix the size.
    pub fn sample_shape(&self) -> Result<[usize; 3]> {
        Ok(self.config.sample_shape()?)
    }

    /// The network. It records no gradients.
    pub fn model(&self) -> &dyn Model {
        self.model.as_ref()
    }

    /// The network's configuration.
    pub fn model_config(&self) -> &dyn ModelConfig {
        self.config.as_ref()
    }

    /// The network's weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The classes that the model was trained on.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Sets the classes; the index stores them.
    pub fn set_labels(&mut self, labels: Labels) {
        self.labels = labels;
    }

    /// Pixels from 0 to 1 in the form in which the model was trained on them: in the scheduler's range, with their
    /// distance from middle grey times [`pixel_scale`](Self::pixel_scale). A sampling that starts from a picture starts
    /// from this.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn preprocess(&self, pixels: &Tensor) -> Result<Tensor> {
        let scale = self.pixel_scale;
        let range = self.scheduler.process().pixel_range();
        Ok(range.from_unit(&pixels.affine(scale, 0.5 - 0.5 * scale)?)?)
    }

    /// The `pixel_scale` that the model was trained with, from 1 to 2: 1 unless it was set or its index has another.
    pub fn pixel_scale(&self) -> f64 {
        self.pixel_scale
    }

    /// Sets [`pixel_scale`](Self::pixel_scale); the index stores it.
    pub fn set_pixel_scale(&mut self, pixel_scale: f64) {
        self.pixel_scale = pixel_scale;
    }

    /// The scheduler.
    pub fn scheduler(&self) -> &dyn Scheduler {
        self.scheduler.as_ref()
    }

    /// Samples with another scheduler from now on, such as one of
    /// [`Registry::swap`](kakusan_scheduler::Registry::swap).
    ///
    /// # Errors
    /// When the scheduler is for models of another [`Family`](kakusan_scheduler::Family).
    pub fn set_scheduler(&mut self, scheduler: Arc<dyn Scheduler>) -> Result<()> {
        kakusan_scheduler::Registry::default().check_fit(scheduler.as_ref(), self.scheduler.as_ref())?;
        self.scheduler = scheduler;
        Ok(())
    }

    /// Whether the scheduler inverts sampling, as `DDIMInverseScheduler` does: its steps go from images to noise.
    pub fn inverts(&self) -> bool {
        inverts(self.scheduler.as_ref())
    }

    /// Replaces the network, for example with a wrapper that counts its calls or, in a test, with one of known output.
    /// [`weights`](Self::weights) and what is saved stay the same.
    pub fn set_model(&mut self, model: Box<dyn Model>) {
        self.model = model;
    }

    /// The device of the weights, on which it samples.
    pub fn device(&self) -> &Device {
        self.weights.device()
    }
}

/// Reads the index and the scheduler of the pipeline in `dir`.
pub(crate) fn read_scheduler(dir: &Path, registry: &Registry) -> Result<(Index, Arc<dyn Scheduler>)> {
    let mut index = Index::read(dir)?;
    let path = component_dir(dir, "scheduler").join(SCHEDULER_FILE);
    let damaged = |reason: String| {
        let reason = format!("{}: {reason}", path.display());
        Error::NotAPipeline { dir: dir.to_owned(), reason }
    };
    let own = from_json(&read_text(&path)?).map_err(|e| damaged(e.to_string()))?;
    let found = own.get("_class_name");
    if found.and_then(Value::as_str) != Some(index.scheduler.as_str()) {
        let (path, found) = (path.clone(), found.map(Value::to_string));
        index.warnings.push(Warning::OtherScheduler { path, found, class_name: index.scheduler.clone() });
    }
    let load = || {
        let scheduler = registry.schedulers.from_config(&index.scheduler, &own)?;
        match index.class.scheduler_class() {
            Some(class_name) => registry.schedulers.swap(class_name, scheduler.as_ref()),
            None => Ok(scheduler),
        }
    };
    let scheduler = load().map_err(|e| damaged(e.to_string()))?;
    Ok((index, scheduler))
}

/// Whether a scheduler's steps go from images to noise: its timesteps increase.
pub(crate) fn inverts(scheduler: &dyn Scheduler) -> bool {
    let possible = scheduler.inference_steps();
    let run = scheduler.run(10.clamp(*possible.start(), *possible.end()));
    run.is_ok_and(|run| run.timesteps().first() < run.timesteps().last())
}

/// The library that defines a class: Python can load diffusers' classes only. Registered classes are not diffusers'.
fn library(class_name: &str) -> &'static str {
    // the second is diffusers' own, but its package does not export it
    let ours = [LinearMixScheduler::CLASS_NAME, ScoreSdeVpScheduler::CLASS_NAME];
    let schedulers = kakusan_scheduler::Registry::default().class_names();
    let mut known = schedulers.iter().map(String::as_str).chain([UNet2DModel::CLASS_NAME]);
    if known.any(|name| name == class_name) && !ours.contains(&class_name) { "diffusers" } else { "kakusan" }
}
