use std::path::PathBuf;

/// Unexpected content in the files of a saved pipeline. As in diffusers, the pipeline is loaded nevertheless:
/// [`DDPMPipeline::warnings`](crate::DDPMPipeline::warnings) lists the warnings, and
/// [`DDPMPipeline::strict`](crate::DDPMPipeline::strict) turns them into an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// `model_index.json` names no class, or names it wrongly.
    #[error(
        "{}: its `_class_name` is {}; it is read as {class_name}",
        path.display(), found.as_deref().unwrap_or("missing")
    )]
    NoClass {
        /// The file.
        path: PathBuf,
        /// The value found, as JSON.
        found: Option<String>,
        /// The class that was assumed.
        class_name: &'static str,
    },
    /// `model_index.json` names something that is not a component of such a pipeline.
    #[error("{} names components that a {class_name} does not have; they are ignored: {}", path.display(), names.join(", "))]
    UnknownComponents {
        /// The file.
        path: PathBuf,
        /// The pipeline's class.
        class_name: &'static str,
        /// The unknown names.
        names: Vec<String>,
    },
    /// `scheduler_config.json` names no class, or another one than the index; the index's class was built.
    #[error(
        "{}: its `_class_name` is {}; it is read as {class_name}, the class in the pipeline's index",
        path.display(), found.as_deref().unwrap_or("missing")
    )]
    OtherScheduler {
        /// The file.
        path: PathBuf,
        /// The value found, as JSON.
        found: Option<String>,
        /// The class that was built.
        class_name: String,
    },
    /// A warning about the model's files.
    #[error(transparent)]
    Model(#[from] kakusan_models::Warning),
}
