use std::path::Path;
use std::sync::Arc;

use kakusan_models::{ModelConfig, pretrained_config};
use kakusan_scheduler::Scheduler;

use crate::ddpm::read_scheduler;
use crate::layout::{Index, component_dir};
use crate::{Labels, PipelineClass, Registry, Result};

/// A saved pipeline or an unfinished run without its weights: all that is needed to offer it, and to check what is
/// asked of it, before any of it is loaded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Described {
    /// Which of diffusers' pipelines it is.
    pub class: PipelineClass,
    /// The network's configuration.
    pub config: Arc<dyn ModelConfig>,
    /// The scheduler that samples unless another is asked for.
    pub scheduler: Arc<dyn Scheduler>,
    /// The classes that the model was trained on.
    pub labels: Labels,
    /// Whether it is a run that has saved no pipeline yet: it samples from its newest checkpoint.
    pub unfinished: bool,
}

impl Described {
    /// Reads the description of the pipeline or the run in `dir`. Changes no file.
    ///
    /// ```
    /// use kakusan_pipeline::{Described, Registry};
    ///
    /// let refused = Described::read("no/such/folder".as_ref(), &Registry::default()).unwrap_err();
    /// assert!(refused.to_string().contains("there is no such folder"));
    /// ```
    ///
    /// # Errors
    /// When there is none, or its files are damaged.
    pub fn read(dir: &Path, registry: &Registry) -> Result<Self> {
        #[cfg(feature = "train")]
        if crate::DDPMPipeline::is_unfinished(dir) {
            let config = crate::recorded_config(dir, registry)?;
            let (class, labels) = (PipelineClass::default(), crate::train::labels(dir)?);
            let (config, scheduler) = (config.model, config.scheduler);
            return Ok(Self { class, config, scheduler, labels, unfinished: true });
        }
        let (Index { class, unet, labels, .. }, scheduler) = read_scheduler(dir, registry)?;
        let unet = pretrained_config(&component_dir(dir, "unet"), Some(&unet), &registry.models)?;
        Ok(Self { class, config: unet.config, scheduler, labels, unfinished: false })
    }
}
