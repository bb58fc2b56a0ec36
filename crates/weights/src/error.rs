use std::fmt::Write;
use std::path::PathBuf;

/// An error of reading or writing weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `create` or `delete`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file is not safetensors, is cut short, or does not match its header.
    #[error("{} is not a valid safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file was not written by PyTorch, is cut short, or holds more than tensors. Nothing in such a file is ever
    /// executed.
    #[error("{} is not a valid file of PyTorch tensors: {reason}; nothing in it was executed", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of a sharded checkpoint does not match its shards.
    #[error("the index {} does not describe a complete checkpoint:{}", path.display(), list(problems))]
    Shards {
        /// The index.
        path: PathBuf,
        /// One line for each missing shard and each tensor that is not where the index places it.
        problems: Vec<String>,
    },
    /// A folder has no weights, or none of the requested variant.
    #[error("{} holds no weights to load: {reason}", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// A tensor is missing, cannot be read as floats, or cannot be saved in the requested type.
    #[error("{}: {name}: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A variant cannot be used in file names.
    #[error("{}: the variant {variant:?} is invalid; expected at most 64 letters, digits, '-' and '_'", dir.display())]
    Variant {
        /// The folder to save the weights in.
        dir: PathBuf,
        /// The variant.
        variant: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

fn list(problems: &[String]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        let _ = write!(text, "\n  {problem}"); // writing to a String cannot fail
        text
    })
}
