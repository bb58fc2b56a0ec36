/// The classes that configurations and saved pipelines may name: those of the crates, and those that are added.
///
/// ```
/// use kakusan_pipeline::Registry;
///
/// let mut registry = Registry::default();
/// assert_eq!(registry.models.class_names()[0], "BasicUNet");
/// assert!(registry.schedulers.class_names().contains(&"DDPMScheduler".to_owned()));
/// // registry.models.register::<MyConfig>();
/// // registry.schedulers.register(MyScheduler::CLASS_NAME, MyScheduler::from_config);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Of `[model]`, and of a pipeline's `unet`.
    pub models: kakusan_models::Registry,
    /// Of `[scheduler]` and `sample.scheduler`, and of a pipeline's `scheduler`.
    pub schedulers: kakusan_scheduler::Registry,
}
