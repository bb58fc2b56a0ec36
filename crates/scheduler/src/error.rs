use crate::registry::meant;

/// What can go wrong in a scheduler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No scheduler of this `_class_name` is registered.
    #[error("no scheduler is called `{name}`; {}known are {}", did_you_mean(name, known), known.join(", "))]
    UnknownClass {
        /// The name that was asked for.
        name: String,
        /// The names that are registered, in alphabetical order.
        known: Vec<String>,
    },
    /// A scheduler cannot sample a model, which was trained with one of another [`Family`](crate::Family).
    #[error("{class_name} cannot sample this model: {reason}{}", advice(fitting))]
    Misfit {
        /// The class of the scheduler that does not fit.
        class_name: String,
        /// The models that it samples, and what the model was trained with.
        reason: String,
        /// The classes that fit, in alphabetical order.
        fitting: Vec<String>,
    },
    /// The configuration of a scheduler does not fit its class.
    #[error("{class_name}: {reason}")]
    Config {
        /// The scheduler's class.
        class_name: String,
        /// What does not fit; names the key.
        reason: String,
    },
    /// The configuration is not a JSON object with a `_class_name`.
    #[error("a scheduler configuration is a JSON object with a `_class_name`: {0}")]
    Json(String),
    /// A run was asked for a number of steps that the scheduler cannot do.
    #[error("{class_name} cannot sample in {steps} steps: {reason}")]
    Steps {
        /// The scheduler's class.
        class_name: String,
        /// The number of steps that was asked for.
        steps: usize,
        /// Why not, and what would do.
        reason: String,
    },
    /// A run was asked for something that its scheduler does not do.
    #[error("{class_name} has no use for `{option}`")]
    Option {
        /// The scheduler's class.
        class_name: String,
        /// The field of [`RunOptions`](crate::RunOptions).
        option: &'static str,
    },
    /// A value of an option is out of its range.
    #[error("`{option}` is {value}; {expected}")]
    OptionValue {
        /// The field of [`RunOptions`](crate::RunOptions).
        option: &'static str,
        /// What was asked for.
        value: f64,
        /// What would do.
        expected: &'static str,
    },
    /// A level that is no timestep of the training.
    #[error("level {level} is not a timestep of this scheduler, which has those from 0 to {last}")]
    Level {
        /// The level.
        level: f32,
        /// The last timestep.
        last: usize,
    },
    /// Something that this scheduler, and perhaps its diffusers class, cannot do.
    #[error("{class_name} cannot {what}")]
    Unsupported {
        /// The scheduler's class.
        class_name: String,
        /// What it cannot do, and what would do.
        what: String,
    },
    /// A run was stepped after its last step.
    #[error("this run of {steps} steps is over; ask the scheduler for a new one")]
    RunIsOver {
        /// The number of steps of the run.
        steps: usize,
    },
    /// Shapes that do not belong together.
    #[error("{what} has shape {got:?}, expected {expected:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that fits.
        expected: Vec<usize>,
    },
    /// Noise that does not fit.
    #[error(transparent)]
    Noise(#[from] kakusan_rng::Error),
    /// An error of the tensor library.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl Error {
    /// [`Error::Config`] of a class that [`in_class`](Self::in_class) names.
    pub fn config(reason: impl Into<String>) -> Self {
        Self::Config { class_name: String::new(), reason: reason.into() }
    }

    /// [`Error::Steps`] of a class that [`in_class`](Self::in_class) names.
    pub fn steps(steps: usize, reason: impl Into<String>) -> Self {
        Self::Steps { class_name: String::new(), steps, reason: reason.into() }
    }

    /// [`Error::Unsupported`] of a class that [`in_class`](Self::in_class) names.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { class_name: String::new(), what: what.into() }
    }

    /// The same with the name of the scheduler's class, where it has none yet. [`Sampler`](crate::Sampler) sees to it.
    pub fn in_class(mut self, name: &str) -> Self {
        match &mut self {
            Self::Config { class_name, .. }
            | Self::Steps { class_name, .. }
            | Self::Option { class_name, .. }
            | Self::Unsupported { class_name, .. }
                if class_name.is_empty() =>
            {
                *class_name = name.to_owned();
            }
            _ => {}
        }
        self
    }
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

fn did_you_mean(name: &str, known: &[String]) -> String {
    meant(name, known).map(|class_name| format!("did you mean `{class_name}`? ")).unwrap_or_default()
}

/// Which schedulers fit instead; none may, if the model was trained with one that is not registered.
fn advice(fitting: &[String]) -> String {
    if fitting.is_empty() { String::new() } else { format!("; schedulers that fit are {}", fitting.join(", ")) }
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Refuses what does not hold.
pub(crate) fn ensure(holds: bool, error: impl FnOnce() -> Error) -> Result<()> {
    if holds { Ok(()) } else { Err(error()) }
}

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;

    use super::*;

    #[test]
    fn no_message_carries_a_backtrace() {
        let inner = Box::new(candle_core::Error::Msg("shapes differ".into()));
        let error =
            candle_core::Error::WithBacktrace { inner, backtrace: Box::new(Backtrace::force_capture()) }.context("add");
        let shown = Error::from(error).to_string();
        assert!(shown.contains("shapes differ") && !shown.contains("no_message_carries_a_backtrace"), "{shown}");
    }
}
