/// The classes that configurations and saved pipelines may name: the built-in ones, and those that you register.
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
    /// For `[model]`, and for a pipeline's `unet`.
    pub models: kakusan_models::Registry,
    /// For `[scheduler]` and `sample.scheduler`, and for a pipeline's `scheduler`.
    pub schedulers: kakusan_scheduler::Registry,
}
