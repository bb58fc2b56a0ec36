use std::fmt::{Display, Write};
use std::path::PathBuf;

use serde_json::Value;

use crate::Misfit;

/// An error of building, loading or saving a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model's configuration has an invalid value.
    #[error("{origin}: {reason}")]
    Config {
        /// The file, or the class when there is no file.
        origin: String,
        /// The key, what is wrong with its value, and how to fix it.
        reason: String,
    },
    /// A model cannot take these images, timesteps or labels.
    #[error("{model}: {reason}")]
    Input {
        /// The model's class.
        model: &'static str,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// The size of a model's images is needed, but its configuration does not have it.
    #[error("{0}: sample_size is null; set it to the size of the images")]
    NoSampleSize(String),
    /// The model cannot recompute its activations.
    #[error("{0} does not support gradient checkpointing")]
    NoGradientCheckpointing(String),
    /// No model of this `_class_name` is registered.
    #[error("no model is called `{name}`; known are {}", known.join(", "))]
    UnknownClass {
        /// The requested name.
        name: String,
        /// The registered names.
        known: Vec<String>,
    },
    /// A checkpoint does not have the model's tensors.
    #[error("{} does not fit the model:{}", path.display(), list(problems))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// One line for every missing, unexpected, mis-shaped, mistyped or non-finite tensor.
        problems: Vec<String>,
    },
    /// A pretrained model's tensors do not fit the network that is to begin with them.
    #[error("the pretrained model {} does not fit the configured one:{}\n{}", path.display(), some(misfits), remedy(keys))]
    Misfit {
        /// The file with the pretrained weights.
        path: PathBuf,
        /// The tensors that do not fit.
        misfits: Vec<Misfit>,
        /// The keys of the configuration to set, with the pretrained model's values.
        keys: Vec<(String, Value)>,
    },
    /// An error of the weight files.
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

fn list<T: Display>(problems: &[T]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        let _ = write!(text, "\n  {problem}"); // writing to a String cannot fail
        text
    })
}

/// The first tensors that do not fit, and how many more there are.
fn some(misfits: &[Misfit]) -> String {
    const SHOWN: usize = 12;
    let shown = list(&misfits[..misfits.len().min(SHOWN)]);
    match misfits.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}\n  and {more} more tensors"),
    }
}

/// What to set so that a pretrained model fits.
fn remedy(keys: &[(String, Value)]) -> String {
    if keys.is_empty() {
        return "its config.json does not describe its own weights; save it again".into();
    }
    let value = |value: &Value| if value.is_null() { "\"null\"".to_owned() } else { value.to_string() };
    let keys: Vec<String> = keys.iter().map(|(key, own)| format!("{key} = {}", value(own))).collect();
    format!("set in [model], as the pretrained model has it: {}", keys.join(", "))
}
