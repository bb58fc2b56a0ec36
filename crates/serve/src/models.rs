//! The models of a folder, by name: what they are, without their weights.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kakusan::pipeline::{Described, Labels, Registry, recorded_config};
use kakusan::scheduler::{RunOptions, Scheduler};
use serde::Serialize;
use utoipa::ToSchema;

use crate::folders::{Folders, files, modified};
use crate::refusal::Refusal;

/// A model that can be drawn from.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// Of its files; another one means that the model changed.
    pub(crate) fingerprint: u64,
    /// Channels, height, width.
    pub(crate) shape: [usize; 3],
    /// The number of labels, with the one that may stand for "no class".
    pub(crate) num_classes: Option<usize>,
    pub(crate) labels: Labels,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) steps: usize,
    /// Where its run sampled with another one than `scheduler`.
    sample_scheduler: Option<String>,
    eta: Option<f64>,
    guidance_scale: f64,
    class: String,
    pub(crate) unfinished: bool,
    modified: u64,
    fitting: OnceLock<Vec<SchedulerChoice>>,
}

/// A model in the list of models.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "name": "184", "class": "BasicUNet", "channels": 1, "height": 28, "width": 28, "classes": [],
    "scheduler": "LinearMixScheduler", "steps": 50, "sample_scheduler": null, "eta": null, "guidance_scale": 1.0,
    "unfinished": false, "modified": 1796000000
}))]
pub(crate) struct ModelListed {
    /// The name by which requests call it.
    name: String,
    /// The class of its network.
    class: String,
    /// Channels of its images: 1 for grey.
    channels: usize,
    /// Their height in pixels.
    height: usize,
    /// Their width in pixels.
    width: usize,
    /// The classes that it was trained on; empty for a model without classes.
    classes: Vec<ClassListed>,
    /// The scheduler that samples unless another is asked for.
    scheduler: String,
    /// The number of steps unless another is asked for.
    steps: usize,
    /// The scheduler with which its run sampled, where that is another one.
    sample_scheduler: Option<String>,
    /// The share of fresh noise with which its run sampled.
    eta: Option<f64>,
    /// The guidance with which its run sampled; 1 is off.
    guidance_scale: f64,
    /// Whether its training has not ended: it draws from the newest checkpoint.
    unfinished: bool,
    /// When it was last saved, in seconds since 1970.
    modified: u64,
}

/// A class of a model.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ClassListed {
    /// The number, as `class_label` takes it.
    id: u32,
    /// Its name.
    label: String,
}

/// A scheduler that fits a model.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({"class_name": "DDIMScheduler", "is_default": false, "takes_eta": true}))]
pub(crate) struct SchedulerChoice {
    /// diffusers' name of the class.
    class_name: String,
    /// Whether it samples unless another is asked for.
    is_default: bool,
    /// Whether `eta` has an effect.
    takes_eta: bool,
}

impl Model {
    pub(crate) fn listed(&self) -> ModelListed {
        let [channels, height, width] = self.shape;
        ModelListed {
            name: self.name.clone(),
            class: self.class.clone(),
            channels,
            height,
            width,
            classes: self.classes(),
            scheduler: self.scheduler.class_name().to_owned(),
            steps: self.steps,
            sample_scheduler: self.sample_scheduler.clone(),
            eta: self.eta,
            guidance_scale: self.guidance_scale,
            unfinished: self.unfinished,
            modified: self.modified,
        }
    }

    fn classes(&self) -> Vec<ClassListed> {
        let class = |(id, label): (u32, String)| ClassListed { id, label };
        match self.num_classes {
            None => vec![],
            Some(count) if self.labels.names().is_empty() => {
                (0..count as u32).map(|id| class((id, id.to_string()))).collect()
            }
            Some(_) => {
                let classes = self.labels.by_class().into_iter();
                classes.map(|(name, labels)| class((labels[0], name.to_owned()))).collect()
            }
        }
    }

    /// The schedulers that can sample it.
    pub(crate) fn fitting(&self, registry: &Registry) -> Vec<SchedulerChoice> {
        let find = || {
            let choice = |class_name: String| {
                let scheduler = registry.schedulers.swap(&class_name, self.scheduler.as_ref()).ok()?;
                let is_default = class_name == self.scheduler.class_name();
                let takes_eta = draws_images(scheduler.as_ref(), Some(0.5));
                let draws = draws_images(scheduler.as_ref(), None);
                draws.then_some(SchedulerChoice { class_name, is_default, takes_eta })
            };
            registry.schedulers.class_names().into_iter().filter_map(choice).collect()
        };
        self.fitting.get_or_init(find).clone()
    }
}

/// Whether a scheduler's steps go from noise to images, with no more than a number of steps and this `eta`.
fn draws_images(scheduler: &dyn Scheduler, eta: Option<f64>) -> bool {
    let possible = scheduler.inference_steps();
    let steps = RunOptions::steps(10.clamp(*possible.start(), *possible.end()));
    let run = scheduler.run_with(&RunOptions { eta, ..steps });
    run.is_ok_and(|run| run.timesteps().first() >= run.timesteps().last())
}

/// The models of a folder.
#[derive(Debug)]
pub(crate) struct Models {
    folders: Folders,
    registry: Registry,
    /// By name.
    known: Mutex<HashMap<String, Known>>,
}

/// What is known of a folder.
#[derive(Debug)]
struct Known {
    fingerprint: u64,
    /// `None` if it holds no model.
    model: Option<Arc<Model>>,
}

impl Models {
    pub(crate) fn new(folders: Folders) -> Self {
        Self { folders, registry: Registry::default(), known: Mutex::default() }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn all(&self) -> Vec<Arc<Model>> {
        let folders = self.folders.all();
        let names: HashSet<&str> = folders.iter().map(|(name, _)| name.as_str()).collect();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name.as_str()));
        folders.into_iter().filter_map(|(name, dir)| self.look(&name, dir)).collect()
    }

    /// The model of this name. The error names the nearest one.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Model>, Refusal> {
        if let Some(model) = self.folders.find(name).and_then(|dir| self.look(name, dir)) {
            return Ok(model);
        }
        let names: Vec<String> = self.all().iter().map(|model| model.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let name: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        let hint = match names.as_slice() {
            [] => "; there is none here yet".to_owned(),
            names => kakusan_config::did_you_mean(&name, names),
        };
        Err(Refusal::not_found(format!("there is no model `{name}`{hint}")).at("model"))
    }

    fn look(&self, name: &str, dir: PathBuf) -> Option<Arc<Model>> {
        let fingerprint = fingerprint(&dir);
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known().get(name).filter(|known| known.fingerprint == fingerprint) {
            return known.model.clone();
        }
        let model = describe(name, dir, fingerprint, &self.registry).map(Arc::new);
        known().insert(name.to_owned(), Known { fingerprint, model: model.clone() });
        model
    }
}

fn describe(name: &str, dir: PathBuf, fingerprint: u64, registry: &Registry) -> Option<Model> {
    let Described { class, config, scheduler, labels, unfinished, .. } = Described::read(&dir, registry).ok()?;
    if unfinished && !has_checkpoint(&dir) {
        return None;
    }
    let run = dir.join("config.toml").is_file().then(|| recorded_config(&dir, registry).ok()).flatten();
    let sample_scheduler = run.as_ref().map(|run| run.sample_scheduler.class_name().to_owned());
    let sample = run.map(|run| run.sample);
    let changed =
        std::fs::metadata(dir.join("model_index.json")).or_else(|_| std::fs::metadata(dir.join("checkpoints")));
    Some(Model {
        name: name.to_owned(),
        fingerprint,
        shape: config.sample_shape().ok()?,
        num_classes: config.num_classes(),
        labels,
        steps: sample.as_ref().map_or(class.default_steps().min(50), |sample| sample.steps),
        sample_scheduler: sample_scheduler.filter(|name| name != scheduler.class_name()),
        eta: sample.as_ref().and_then(|sample| sample.eta),
        guidance_scale: sample.and_then(|sample| sample.guidance_scale).unwrap_or(1.0),
        class: config.class_name().to_owned(),
        scheduler,
        unfinished,
        modified: changed.map_or(0, |about| modified(&about)),
        fitting: OnceLock::new(),
        dir,
    })
}

fn has_checkpoint(dir: &Path) -> bool {
    folders_in(&dir.join("checkpoints")).next().is_some()
}

/// The names of the folders in a folder that are not hidden.
pub(crate) fn folders_in(dir: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.'))
}

/// A number that changes when the files of a model do.
pub(crate) fn fingerprint(dir: &Path) -> u64 {
    let mut hash = DefaultHasher::new();
    for folder in [dir.to_owned(), dir.join("unet"), dir.join("scheduler")] {
        for (name, about) in files(&folder) {
            let counts = folder != dir || name == "model_index.json" || name == "config.toml" || name == "config.json";
            if counts || name.ends_with(".safetensors") || name.ends_with(".bin") {
                (name, about.len(), about.modified().ok()).hash(&mut hash);
            }
        }
    }
    if !dir.join("model_index.json").is_file() {
        let mut checkpoints: Vec<String> = folders_in(&dir.join("checkpoints")).collect();
        checkpoints.sort();
        checkpoints.hash(&mut hash);
    }
    hash.finish()
}
