use std::path::PathBuf;

use crate::{BadImage, Class, DatasetName, Skipped};

/// What can go wrong with a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of the configuration has a value that cannot be used.
    #[error("`{key}` {reason}")]
    Config {
        /// The key, as it stands in the configuration's `[data]`.
        key: &'static str,
        /// What is wrong with its value, and what to do.
        reason: String,
    },
    /// A class was asked for that the set does not hold.
    #[error("`classes` names {class}, but the set holds the classes {known}")]
    UnknownClass {
        /// The class that was asked for.
        class: Class,
        /// The classes that the set holds.
        known: String,
    },
    /// A class was asked for twice.
    #[error("`classes` names {class} twice; name it once")]
    DuplicateClass {
        /// The class.
        class: Class,
    },
    /// A selection of no class at all.
    #[error("`classes` names no class, so there would be no image to learn from")]
    EmptySelection,
    /// The parts of an image set do not fit together.
    #[error("an image set does not fit together: {0}")]
    ImageSet(String),
    /// The folder that was named is not there, or is no folder.
    #[error("{} is not a folder, an archive or a parquet file; name the one that holds the set as `dir`", path.display())]
    NotAFolder {
        /// What was named.
        path: PathBuf,
    },
    /// The folder lacks a file.
    #[error(
        "{} holds no {dataset}; looked for {}{}",
        path.display(),
        looked_for.join(", "),
        if *dataset == DatasetName::Cifar10 { "" } else { ", each also with .gz" }
    )]
    MissingFile {
        /// The folder.
        path: PathBuf,
        /// The set that was sought.
        dataset: DatasetName,
        /// The files that would have done, relative to the folder.
        looked_for: Vec<String>,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not the IDX file that it should be.
    #[error("{}: {reason}", path.display())]
    Idx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// A file is not the parquet file of images and labels that it should be.
    #[error("{}: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// Images cannot be made a set.
    #[error("{} {reason}", path.display())]
    Images {
        /// The folder, file or data set.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// An image cannot be decoded.
    #[error("{0}; repair or remove it, or set `on_bad_image` to \"skip\"")]
    BadImage(BadImage),
    /// None of the sources answered.
    #[error("no source of {dataset} answered:{}\n{}", list(tried), remedy(*dataset))]
    NoSource {
        /// The set that was sought.
        dataset: DatasetName,
        /// Every source that was asked, and why it did not answer.
        tried: Vec<Skipped>,
    },
}

fn list(tried: &[Skipped]) -> String {
    tried.iter().map(|skipped| format!("\n  {}: {}", skipped.source, skipped.reason)).collect()
}

fn remedy(dataset: DatasetName) -> &'static str {
    match dataset {
        DatasetName::Mnist => {
            "Name a folder that holds its IDX files as `dir`, or see that the Hub can be reached, or add \"drawn\" to `sources`."
        }
        DatasetName::FashionMnist => {
            "Name a folder that holds its IDX files as `dir`, or see that the Hub can be reached."
        }
        DatasetName::Cifar10 => {
            "Name a folder that holds its binary version as `dir`, or see that the Hub can be reached."
        }
        DatasetName::Folder => "Name a folder of pictures as `dir`, or by --data DIR.",
        DatasetName::Hub => "See that the Hub can be reached and that `repo`, `config_name` and `split` are right.",
    }
}
