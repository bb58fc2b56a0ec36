use std::fmt::Write;
use std::path::PathBuf;

/// What can go wrong in reading and writing weights.
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
        /// The system's word.
        source: std::io::Error,
    },
    /// A file that is not safetensors, is cut short, or whose header lies.
    #[error("{} is not a whole safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that PyTorch did not write, is cut short, or holds more than tensors. Nothing in such a file is ever
    /// executed.
    #[error("{} cannot be read as tensors of PyTorch's: {reason}; nothing in it was executed", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index of a sharded checkpoint that does not say what the shards hold.
    #[error("the index {} is not that of a whole checkpoint:{}", path.display(), list(problems))]
    Shards {
        /// The index.
        path: PathBuf,
        /// One line for every shard that is not there and every tensor that is not where the index says.
        problems: Vec<String>,
    },
    /// A folder without weights, or without those of the variant that was asked for.
    #[error("{} holds no weights that can be taken: {reason}", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// What there is, and what was expected.
        reason: String,
    },
    /// A tensor that is not there, cannot be read as floats, or cannot be saved in the type asked for.
    #[error("{}: {name}: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A variant that cannot be a part of a file's name.
    #[error("{}: the variant {variant:?} is no word of letters, digits, '-' and '_'", dir.display())]
    Variant {
        /// The folder in which the weights were to be saved.
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
