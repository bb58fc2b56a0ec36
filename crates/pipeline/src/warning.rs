use std::path::PathBuf;

/// Unexpected content in the files of a saved pipeline. It was loaded nevertheless, as diffusers does:
/// [`DDPMPipeline::warnings`](crate::DDPMPipeline::warnings) has them all, and
/// [`DDPMPipeline::strict`](crate::DDPMPipeline::strict) refuses them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// `model_index.json` says no class, or not by its name.
    #[error(
        "{}: its `_class_name` is {}, and it is read as {class_name}",
        path.display(), found.as_deref().unwrap_or("missing")
    )]
    NoClass {
        /// The file.
        path: PathBuf,
        /// What stands there, as JSON.
        found: Option<String>,
        /// The class that it was taken for.
        class_name: &'static str,
    },
    /// `model_index.json` names something that is no part of such a pipeline.
    #[error("{} names what is no part of a {class_name}, and it has no effect: {}", path.display(), names.join(", "))]
    UnknownParts {
        /// The file.
        path: PathBuf,
        /// The pipeline's class.
        class_name: &'static str,
        /// Their names.
        names: Vec<String>,
    },
    /// `scheduler_config.json` is read as one of another class than it says, or says none.
    #[error(
        "{}: its `_class_name` is {}, and it is read as {class_name}, which the pipeline's index says",
        path.display(), found.as_deref().unwrap_or("missing")
    )]
    OtherScheduler {
        /// The file.
        path: PathBuf,
        /// What stands there, as JSON.
        found: Option<String>,
        /// The class that was built.
        class_name: String,
    },
    /// Of the model's files.
    #[error(transparent)]
    Model(#[from] kakusan_models::Warning),
}
