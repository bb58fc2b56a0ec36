use std::path::{Path, PathBuf};

#[cfg(feature = "train")]
use crate::ConfigError;
use crate::Warning;

/// An error of training or sampling.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot run.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// A valid configuration that does not fit its data or device.
    #[error("{0}")]
    Unfit(String),
    /// The folder for a new run exists already.
    #[error(
        "{} already exists; choose another folder (--out {}), or delete its content with --overwrite{}",
        dir.display(), fresh.display(), if *resumable { ", or resume it with --resume" } else { "" }
    )]
    RunExists {
        /// The folder.
        dir: PathBuf,
        /// A folder name that is free.
        fresh: PathBuf,
        /// Whether the folder holds a run that can be resumed.
        resumable: bool,
    },
    /// The folder is not a run, so it is neither overwritten nor resumed.
    #[error("{} is not the folder of a run: {reason}", dir.display())]
    NotARun {
        /// The folder.
        dir: PathBuf,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The folder holds no finished pipeline.
    #[error("{} holds no saved pipeline: {reason}", dir.display())]
    NotAPipeline {
        /// The folder.
        dir: PathBuf,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The pipeline's files gave warnings, and warnings are refused.
    #[error("the saved pipeline is refused because of these warnings:{}", warnings.iter().map(|warning| format!("\n  {warning}")).collect::<String>())]
    Odd {
        /// All warnings.
        warnings: Vec<Warning>,
    },
    /// A checkpoint that cannot be resumed from.
    #[error("the checkpoint {} cannot be used: {reason}", dir.display())]
    Checkpoint {
        /// The checkpoint.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The loss or the gradients are not finite; the weights are those before the step.
    #[error("{what} of step {step} is {value}: the training has diverged, on {}. {}", listed(images), advice(last_checkpoint.as_deref()))]
    Diverged {
        /// The loss, or the norm of the gradients.
        what: &'static str,
        /// The step, from 1.
        step: usize,
        /// NaN or infinity.
        value: f64,
        /// The images of the step's batches, by their number in the set.
        images: Vec<usize>,
        /// The checkpoint from which the training can be resumed.
        last_checkpoint: Option<PathBuf>,
    },
    /// A step left unusable weights. Its loss did not show it: that is the loss of the weights before the step.
    #[error("{what} after step {step}: the training has diverged. {}", advice(last_checkpoint.as_deref()))]
    Unsound {
        /// What is not finite.
        what: String,
        /// The step, from 1.
        step: usize,
        /// The checkpoint from which the training can be resumed.
        last_checkpoint: Option<PathBuf>,
    },
    /// The memory of the card is full.
    #[error("the memory of {card} is full: it does not hold {asked}. {advice}{}", intact(last_checkpoint.as_deref()))]
    OutOfMemory {
        /// The card, its memory, and what was free when this was noticed.
        card: String,
        /// What did not fit.
        asked: String,
        /// What to reduce.
        advice: &'static str,
        /// The checkpoint from which the training can be resumed.
        last_checkpoint: Option<PathBuf>,
    },
    /// Another process trains in the folder.
    #[error(
        "{} is in use: another training writes there; wait until it ends, stop it, or choose another folder with --out",
        dir.display()
    )]
    RunInUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The configuration or the images differ from those of the run to be resumed.
    #[error(
        "the run {} has other settings or images: {}. Undo the changes, {}or start another run with --out",
        dir.display(), differences.join("; "),
        if *changeable { "accept them with --allow-changes, " } else { "" }
    )]
    OtherConfig {
        /// The run's folder.
        dir: PathBuf,
        /// Each difference, with both values.
        differences: Vec<String>,
        /// Whether the run could be resumed with them.
        changeable: bool,
    },
    /// Images or features hold numbers that are not finite, as those of a model that diverged.
    #[error("{0}")]
    NotFinite(String),
    /// The device cannot be used.
    #[error("{0}")]
    Device(String),
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// An error of a training's observer, such as a report.
    #[error(transparent)]
    Observer(Box<dyn std::error::Error + Send + Sync>),
    /// An error of the data.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Data(#[from] kakusan_data::Error),
    /// The processes that train together cannot, or one of them ended.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Group(#[from] kakusan_distributed::Error),
    /// An error of the Hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] kakusan_hub::Error),
    /// An error of the model.
    #[error(transparent)]
    Model(kakusan_models::Error),
    /// An error of the weight files.
    #[error(transparent)]
    Weights(#[from] kakusan_weights::Error),
    /// An error of the scheduler.
    #[error(transparent)]
    Scheduler(#[from] kakusan_scheduler::Error),
    /// An error of the tensor library.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        kakusan_models::Error::from(error).into() // without candle's backtrace
    }
}

impl From<kakusan_models::Error> for Error {
    fn from(error: kakusan_models::Error) -> Self {
        match error {
            kakusan_models::Error::Weights(error) => Self::Weights(error),
            kakusan_models::Error::Candle(error) => Self::Candle(error),
            other => Self::Model(other),
        }
    }
}

#[cfg(feature = "train")]
impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl Error {
    /// Wraps an I/O error, for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the request (configuration, usage) is the cause, not something that happened while it ran.
    pub fn is_usage(&self) -> bool {
        match self {
            #[cfg(feature = "train")]
            Self::Config(_) => true,
            #[cfg(feature = "train")]
            Self::Group(kakusan_distributed::Error::Differ(_)) => true,
            Self::Unfit(_) | Self::RunExists { .. } | Self::NotARun { .. } => true,
            Self::RunInUse { .. } | Self::OtherConfig { .. } => true,
            Self::Model(kakusan_models::Error::Misfit { .. }) => true,
            _ => false,
        }
    }
}

/// Images by their numbers; only the first ones if there are many.
fn listed(images: &[usize]) -> String {
    const SHOWN: usize = 16;
    let numbers: Vec<String> = images.iter().take(SHOWN).map(ToString::to_string).collect();
    let rest = match images.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the images {}{rest} of the set", numbers.join(", "))
}

/// What is not lost when the memory was too small.
fn intact(last_checkpoint: Option<&Path>) -> String {
    last_checkpoint.map_or_else(String::new, |checkpoint| {
        format!(". The last checkpoint, {}, is intact: resume from it", checkpoint.display())
    })
}

/// How to continue after a training has diverged.
fn advice(last_checkpoint: Option<&Path>) -> String {
    const REMEDY: &str = "a lower train.learning_rate, or with train.max_grad_norm = 1.0";
    match last_checkpoint {
        Some(checkpoint) => {
            format!("The last checkpoint, {}, is intact: resume from it with {REMEDY}", checkpoint.display())
        }
        None => format!("There is no checkpoint yet: start again with {REMEDY}"),
    }
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
