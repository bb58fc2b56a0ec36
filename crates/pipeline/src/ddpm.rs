use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use kakusan_hub::Hub;
use kakusan_models::{Model, ModelConfig, Weights};
use kakusan_scheduler::{Registry, Scheduler, to_json};
use serde_json::{Map, Value, json};

use crate::files::{read_text, write_whole};
use crate::{Error, Result};

/// diffusers' `DDPMPipeline`: unconditional images from a model and a scheduler, in diffusers' folder layout
/// (`model_index.json`, `unet/`, `scheduler/`).
///
/// ```
/// use candle_core::Device;
/// use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
/// use kakusan_pipeline::DDPMPipeline;
/// /// use kakusan_scheduler::LinearMixScheduler;
/// use std::sync::Arc;
///
/// # fn main() -> kakusan_pipeline::Result<()> {
/// let mut rng = Generator::new(0);
/// let config = ModelConfig::BasicUNet(BasicUNetConfig::default());
/// let (weights, _) = Weights::initialise(&Device::Cpu, &mut rng, |vb| config.build(vb))?;
/// let pipeline = DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default()))?;
/// let images = pipeline.sample(2, 5, &mut rng, |_| {})?;
/// assert_eq!(images.dims(), [2, 1, 28, 28]);
/// # Ok(())
/// # }
/// ```
pub struct DDPMPipeline {
    config: ModelConfig,
    weights: Weights,
    model: Box<dyn Model>,
    scheduler: Arc<dyn Scheduler>,
}

/// The file that names a pipeline's parts; it is written last, so that a folder with it is whole.
pub(crate) const INDEX_FILE: &str = "model_index.json";
const SCHEDULER_FILE: &str = "scheduler_config.json";

impl DDPMPipeline {
    /// Puts a pipeline together; it follows `weights` where they are trained on.
    ///
    /// # Errors
    /// When the weights are not those of the model.
    pub fn new(config: ModelConfig, weights: Weights, scheduler: Arc<dyn Scheduler>) -> Result<Self> {
        let model = weights.frozen(|vb| config.build(vb))?;
        Ok(Self { config, weights, model, scheduler })
    }

    /// Loads a pipeline from its folder. The scheduler's class is looked up in `registry`.
    ///
    /// # Errors
    /// When a part is missing or damaged, or its class is not known.
    pub fn from_pretrained(dir: &Path, registry: &Registry, device: &Device) -> Result<Self> {
        let index = dir.join(INDEX_FILE);
        if !index.is_file() {
            let reason = if !dir.is_dir() {
                "there is no such folder".into()
            } else if dir.join(crate::run_folder::CONFIG_FILE).is_file() {
                format!("its training has not ended; go on with `kakusan train --resume {}`", dir.display())
            } else {
                format!("it has no {INDEX_FILE}")
            };
            return Err(Error::NotAPipeline { dir: dir.to_owned(), reason });
        }
        let unfit = |reason: String| Error::NotAPipeline { dir: dir.to_owned(), reason };
        let parts: Map<String, Value> =
            serde_json::from_str(&read_text(&index)?).map_err(|e| unfit(format!("{INDEX_FILE} is damaged: {e}")))?;
        for part in ["unet", "scheduler"] {
            if !parts.contains_key(part) {
                return Err(unfit(format!("{INDEX_FILE} names no `{part}`")));
            }
        }
        let unet = dir.join("unet");
        let config = kakusan_models::load_config(&unet)?;
        let weights_file = unet.join(kakusan_models::WEIGHTS_FILE);
        let rename = |name: &str| config.tensor_name(name);
        let (weights, _) = Weights::load(&weights_file, device, rename, |vb| config.build(vb))?;
        let scheduler = dir.join("scheduler").join(SCHEDULER_FILE);
        let scheduler = registry
            .from_json(&read_text(&scheduler)?)
            .map_err(|e| unfit(format!("scheduler/{SCHEDULER_FILE}: {e}")))?;
        Self::new(config, weights, scheduler)
    }

    /// Loads a pipeline from the repository `repo_id` (`owner/name`) of the Hub, through its cache.
    ///
    /// # Errors
    /// When a file cannot be had, and as [`from_pretrained`](Self::from_pretrained).
    pub fn from_hub(repo_id: &str, revision: &str, hub: &Hub, registry: &Registry, device: &Device) -> Result<Self> {
        let index = hub.model_file(repo_id, revision, INDEX_FILE)?;
        let config = format!("unet/{}", kakusan_models::CONFIG_FILE);
        let weights = format!("unet/{}", kakusan_models::WEIGHTS_FILE);
        for file in [config, weights, format!("scheduler/{SCHEDULER_FILE}")] {
            hub.model_file(repo_id, revision, &file)?;
        }
        let snapshot = index.parent().unwrap_or(&index); // the cache lays a revision's files out as the repository has them
        Self::from_pretrained(snapshot, registry, device)
    }

    /// Saves the pipeline in diffusers' layout; each file appears whole or not at all, the index last.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_pretrained(&self, dir: &Path) -> Result<()> {
        kakusan_models::save(&self.config, &self.weights, &dir.join("unet"))?;
        let scheduler = dir.join("scheduler");
        std::fs::create_dir_all(&scheduler).map_err(Error::io("create", &scheduler))?;
        write_whole(&scheduler.join(SCHEDULER_FILE), to_json(self.scheduler.as_ref()).as_bytes())?;
        let index = json!({
            "_class_name": "DDPMPipeline",
            "_diffusers_version": kakusan_config::DIFFUSERS_VERSION,
            "scheduler": ["kakusan", self.scheduler.class_name()],
            "unet": ["kakusan", self.config.class_name()],
        });
        write_whole(&dir.join(INDEX_FILE), format!("{index:#}\n").as_bytes())
    }

    /// The shape of one image `[c, h, w]`.
    ///
    /// # Errors
    /// When the model's configuration leaves the size open.
    pub fn sample_shape(&self) -> Result<[usize; 3]> {
        Ok(self.config.sample_shape()?)
    }

    /// The network, recording no gradients.
    pub fn model(&self) -> &dyn Model {
        self.model.as_ref()
    }

    /// The network's configuration.
    pub fn model_config(&self) -> &ModelConfig {
        &self.config
    }

    /// The network's weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The scheduler.
    pub fn scheduler(&self) -> &dyn Scheduler {
        self.scheduler.as_ref()
    }

    /// Samples by another scheduler from now on.
    pub fn set_scheduler(&mut self, scheduler: Arc<dyn Scheduler>) {
        self.scheduler = scheduler;
    }

    pub(crate) fn device(&self) -> &Device {
        self.weights.device()
    }
}
