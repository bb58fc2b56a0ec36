use std::fmt::Write;
use std::path::PathBuf;

/// What can go wrong in building, loading and saving a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model configuration that does not fit its class.
    #[error("{origin}: {reason}")]
    Config {
        /// The file, or the class when there is no file.
        origin: String,
        /// What does not fit; names the key.
        reason: String,
    },
    /// Images, levels or labels that a model cannot take.
    #[error("{model}: {reason}")]
    Input {
        /// The model's class.
        model: &'static str,
        /// What does not fit, and what would.
        reason: String,
    },
    /// A model whose configuration leaves the size of its images open, where the size is needed.
    #[error("{0}: sample_size is null; set it to the size of the images")]
    NoSampleSize(String),
    /// A model that keeps all that it computes in training.
    #[error("{0} does not support gradient checkpointing")]
    NoGradientCheckpointing(String),
    /// No model of this `_class_name` is registered.
    #[error("no model is called `{name}`; known are {}", known.join(", "))]
    UnknownClass {
        /// The name that was asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A checkpoint whose tensors are not those of the model.
    #[error("{} does not fit the model:{}", path.display(), list(problems))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// One line for every missing, unexpected, mis-shaped, mistyped or non-finite tensor.
        problems: Vec<String>,
    },
    /// Weights that cannot be read or written.
    #[error(transparent)]
    Weights(#[from] kakusan_weights::Error),
    /// An error of the tensor library.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(without_backtrace(error))
    }
}

/// The error without the backtrace that candle adds where `RUST_BACKTRACE` is set: it is shown to people.
fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        candle_core::Error::Context { inner, context } => {
            candle_core::Error::Context { inner: Box::new(without_backtrace(*inner)), context }
        }
        candle_core::Error::WithPath { inner, path } => {
            candle_core::Error::WithPath { inner: Box::new(without_backtrace(*inner)), path }
        }
        other => other,
    }
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

fn list(problems: &[String]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        let _ = write!(text, "\n  {problem}"); // writing to a String cannot fail
        text
    })
}
