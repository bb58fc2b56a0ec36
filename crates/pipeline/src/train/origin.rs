//! `[model]`, and the pretrained pipeline with whose weights a fine-tuning begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use kakusan_data::DataConfig;
use kakusan_models::{Adaptation, Change, ModelConfig, Weights};
use kakusan_rng::Generator;
use kakusan_scheduler::{Scheduler, set_config};
use kakusan_weights::Checkpoint;
use serde_json::{Map, Value};

use super::checkpointed;
use super::config::trained_model;
use super::document::{CLASS_NAME, Document};
use crate::ddpm::read_scheduler;
use crate::layout::{RUN_CONFIG_FILE, component_dir, hub_name};
use crate::{ConfigError, ConfigWarning, DDPMPipeline, Labels, Registry, Result, RunConfig, Warning};

/// The key of `[model]` with the pretrained pipeline.
pub(crate) const FROM: &str = "from";

/// The pretrained pipeline with whose weights a training begins: `[model] from`.
///
/// Its model's configuration is that of the training, with the keys of `[model]` in place of its own. The network may
/// have more classes and other channels at its ends ([`Adaptation`]).
#[derive(Debug, Clone)]
pub struct Origin {
    name: String,
    /// `None` in the configuration that a run stores: its checkpoints have the weights.
    opened: Option<Arc<Opened>>,
}

#[derive(Debug)]
struct Opened {
    /// The folder with the weights.
    dir: PathBuf,
    scheduler: Arc<dyn Scheduler>,
    pixel_scale: Option<f64>,
    labels: Labels,
    adaptation: Adaptation,
    warnings: Vec<Warning>,
}

/// Where [`read_model`] looks for the pretrained pipeline.
pub(crate) enum Lookup<'a> {
    /// In the folder that `from` names.
    Folder,
    /// In the cache of the Hub: the folder, and `owner/name@commit`.
    #[cfg_attr(not(feature = "hub"), expect(dead_code))]
    Snapshot { dir: &'a Path, name: String },
    /// Nowhere: the run that stores the configuration has checkpoints.
    Recorded,
}

/// Downloads the pipeline that `[model] from` names, if it is on the Hub and not a folder. Gives its folder, and its
/// name with the commit.
#[cfg(feature = "hub")]
pub(crate) fn download(document: &Document, hub: &kakusan_hub::Hub) -> Result<Option<(PathBuf, String)>> {
    use kakusan_hub::Error::{Denied, NotFound, Offline, Unreachable};

    let from = document.table.get("model").and_then(|model| model.get(FROM)?.as_str());
    let Some((repo_id, revision)) = from.and_then(hub_name) else { return Ok(None) };
    match crate::hub::download(hub, repo_id, revision, None) {
        Ok((dir, commit)) => Ok(Some((dir, format!("{repo_id}@{commit}")))),
        // probably a folder was meant
        Err(crate::Error::Hub(e @ (Denied { .. } | NotFound { .. } | Offline { .. } | Unreachable { .. }))) => {
            let message = format!("`from`: there is no folder {repo_id} here, and it is not on the Hub: {e}");
            Err(document.error(&["model", FROM], message).into())
        }
        Err(e) => Err(e),
    }
}

/// Reads `[model]`.
pub(crate) fn read_model(
    document: &Document,
    data: Option<&DataConfig>,
    lookup: &Lookup,
    registry: &Registry,
) -> std::result::Result<(Arc<dyn ModelConfig>, Option<Origin>), ConfigError> {
    let models = &registry.models;
    let mut fields = document.fields("model")?;
    let refused = |e: kakusan_models::Error| document.refusal("model", &e.to_string());
    let at_from = |reason: String| document.error(&["model", FROM], format!("`from`: {reason}"));
    let name = match fields.remove(FROM) {
        None => None,
        Some(Value::String(name)) if !name.trim().is_empty() => Some(name),
        Some(other) => {
            let expected = "expected the folder of a pretrained pipeline, or owner/name[@revision] on the Hub";
            return Err(at_from(format!("it is {other}, {expected}")));
        }
    };
    if fields.contains_key(CLASS_NAME) && (name.is_none() || matches!(lookup, Lookup::Recorded)) {
        let known = models.class_names();
        let meant = |wrong: &str| kakusan_config::did_you_mean(wrong, &known);
        let class_name = document.class_name("model", &fields, &known, meant)?;
        let model = models.from_map(&class_name, &fields).map_err(refused)?;
        return Ok((model, name.map(|name| Origin { name, opened: None })));
    }
    let (name, dir) = match (name, lookup) {
        (None, _) => {
            let known = models.class_names().join(", ");
            let message = format!("[model] needs `_class_name`, one of {known}, or `from`, a pretrained model");
            return Err(document.error(&["model"], message));
        }
        (Some(_), Lookup::Snapshot { dir, name }) => (name.clone(), dir.to_path_buf()),
        (Some(name), _) => {
            let dir = PathBuf::from(&name);
            if hub_name(&name).is_some() {
                let reason = format!("there is no folder {name}; this program reads no pretrained models of the Hub");
                return Err(at_from(reason));
            }
            // the run may be resumed elsewhere
            let dir = std::path::absolute(&dir).unwrap_or(dir);
            (dir.to_str().map_or(name, str::to_owned), dir)
        }
    };
    let pretrained = Pretrained::open(&dir, registry).map_err(|e| at_from(e.to_string()))?;
    let class_name = pretrained.config.class_name();
    if let Some(other) = fields.get(CLASS_NAME).filter(|other| *other != class_name) {
        let message = format!("`_class_name` is {other}, but the pretrained model is a {class_name}: remove it");
        return Err(document.error(&["model", CLASS_NAME], message));
    }
    let mut all = pretrained.config.to_map();
    all.extend(fields);
    let model = models.from_map(class_name, &all).map_err(refused)?;
    let trained = trained_model(&model, data);
    let opened = pretrained.adapted_to(trained.as_ref(), registry).map_err(|e| at_from(e.to_string()))?;
    Ok((model, Some(Origin { name, opened: Some(Arc::new(opened)) })))
}

impl Origin {
    /// The folder, as an absolute path, or `owner/name@commit` on the Hub.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The repository on the Hub, `owner/name`, if it is from there.
    pub fn repo_id(&self) -> Option<&str> {
        hub_name(&self.name).map(|(repo_id, _)| repo_id)
    }

    /// The scheduler with which the pretrained model was trained. `None` in the configuration that a run stores.
    pub fn scheduler(&self) -> Option<&dyn Scheduler> {
        self.opened.as_deref().map(|opened| opened.scheduler.as_ref())
    }

    /// The `train.pixel_scale` with which the pretrained model was trained, if it was.
    pub(crate) fn pixel_scale(&self) -> Option<f64> {
        self.opened.as_deref()?.pixel_scale
    }

    /// Whether the pretrained model is known to have had no images of a label.
    pub(crate) fn lacks(&self, label: u32) -> bool {
        let names = self.opened.as_deref().map(|opened| opened.labels.names());
        names.is_some_and(|names| !names.is_empty() && !names.contains_key(&label))
    }

    /// The same without the path of a folder, whose last part remains: for what may be published.
    pub fn without_path(self) -> Self {
        let last = Path::new(&self.name).file_name().and_then(|last| last.to_str());
        match (self.repo_id(), last) {
            (None, Some(last)) => Self { name: last.to_owned(), ..self },
            _ => self,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// The same as a run's configuration stores it.
    pub(crate) fn recorded(self) -> Self {
        Self { opened: None, ..self }
    }

    /// Opens the pretrained pipeline in the folder `dir` for a training of `model`.
    pub(crate) fn open(&mut self, dir: &Path, model: &dyn ModelConfig, registry: &Registry) -> Result<()> {
        self.opened = Some(Arc::new(Pretrained::open(dir, registry)?.adapted_to(model, registry)?));
        Ok(())
    }

    /// Checks that the weights fit the network of `model`; reads only their shapes.
    pub(crate) fn check(&self, model: &dyn ModelConfig) -> Result<()> {
        if let Some(opened) = &self.opened {
            opened.adaptation.changes(&Checkpoint::find(&opened.dir, None)?, model)?;
        }
        Ok(())
    }

    /// The weights of the network of `model`, and what in them is not the pretrained model's: that is drawn from `rng`.
    /// `None` if the pretrained pipeline is not open.
    pub(crate) fn weights(
        &self,
        model: &dyn ModelConfig,
        device: &Device,
        rng: &mut Generator,
    ) -> Result<Option<(Weights, Vec<Change>)>> {
        let Some(opened) = &self.opened else { return Ok(None) };
        let checkpoint = Checkpoint::find(&opened.dir, None)?;
        Ok(Some(Weights::adapted(&checkpoint, model, &opened.adaptation, device, rng)?))
    }

    /// The scheduler's configuration with `_class_name`, as `[scheduler]` would have it.
    pub(crate) fn scheduler_fields(&self, registry: &kakusan_scheduler::Registry) -> Option<Map<String, Value>> {
        let scheduler = self.scheduler()?;
        let mut fields = set_config(scheduler);
        // keys of other classes, and steps that were fitted to the pretrained model, are not for this training
        if let Ok(known) = registry.from_config(scheduler.class_name(), &Map::new()).map(|known| known.config()) {
            fields.retain(|key, _| known.contains_key(key) && !key.starts_with('_'));
        }
        fields.insert(CLASS_NAME.to_owned(), scheduler.class_name().into());
        Some(fields)
    }

    /// What is odd in the pretrained pipeline's files, or in training its model with `scheduler`.
    pub(crate) fn warnings(&self, scheduler: &dyn Scheduler) -> Vec<ConfigWarning> {
        let Some(opened) = &self.opened else { return vec![] };
        let mut warnings: Vec<_> = opened.warnings.iter().cloned().map(ConfigWarning::Pretrained).collect();
        let (before, now) = (opened.scheduler.family(), scheduler.family());
        if before != now {
            let class_name = opened.scheduler.class_name().to_owned();
            warnings.push(ConfigWarning::OtherProcess { class_name, before, now });
        }
        warnings
    }
}

/// The pretrained pipeline without its weights.
struct Pretrained {
    /// The folder with the weights.
    dir: PathBuf,
    config: Arc<dyn ModelConfig>,
    scheduler: Arc<dyn Scheduler>,
    pixel_scale: Option<f64>,
    /// Unknown of an unfinished run.
    labels: Labels,
    warnings: Vec<Warning>,
}

impl Pretrained {
    /// Opens a saved pipeline, or the newest checkpoint of an unfinished run.
    fn open(dir: &Path, registry: &Registry) -> Result<Self> {
        if DDPMPipeline::is_unfinished(dir) {
            let config = RunConfig::load_recorded(&dir.join(RUN_CONFIG_FILE), &[], registry)?;
            let dir = checkpointed::newest_weights(dir)?;
            let RunConfig { model, scheduler, train, .. } = config;
            let (pixel_scale, labels) = (train.pixel_scale, Labels::default());
            return Ok(Self { dir, config: model, scheduler, pixel_scale, labels, warnings: vec![] });
        }
        let (index, scheduler) = read_scheduler(dir, registry)?;
        let dir = component_dir(dir, "unet");
        let model = kakusan_models::pretrained_config(&dir, Some(&index.unet), &registry.models)?;
        let warnings = index.warnings.into_iter().chain(model.warnings.into_iter().map(Warning::from)).collect();
        let pixel_scale = (index.pixel_scale != 1.0).then_some(index.pixel_scale);
        Ok(Self { dir, config: model.config, scheduler, pixel_scale, labels: index.labels, warnings })
    }

    fn adapted_to(self, model: &dyn ModelConfig, registry: &Registry) -> Result<Opened> {
        let adaptation = Adaptation::between(self.config.as_ref(), model, &registry.models)?;
        let Self { dir, scheduler, pixel_scale, labels, warnings, .. } = self;
        Ok(Opened { dir, scheduler, pixel_scale, labels, adaptation, warnings })
    }
}
