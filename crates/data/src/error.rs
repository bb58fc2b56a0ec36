use std::path::PathBuf;

use crate::{BadImage, Class, DatasetName, Skipped};

/// An error of loading or reading a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of the configuration has an invalid value.
    #[error("`{key}` {reason}")]
    Config {
        /// The key, as written in the configuration's `[data]` table.
        key: &'static str,
        /// What is wrong with the value, and how to fix it.
        reason: String,
    },
    /// A requested class is not in the set.
    #[error("`classes` names {class}, but the set holds the classes {known}")]
    UnknownClass {
        /// The requested class.
        class: Class,
        /// The classes of the set.
        known: String,
    },
    /// A class was requested twice.
    #[error("`classes` names {class} twice; name it once")]
    DuplicateClass {
        /// The class.
        class: Class,
    },
    /// The selection names no class.
    #[error("`classes` is empty, so there is no image to train on")]
    EmptySelection,
    /// An image set is inconsistent.
    #[error("the image set is inconsistent: {0}")]
    ImageSet(String),
    /// The configured path does not exist, or is not a folder, an archive or a parquet file.
    #[error("{} is not a folder, an archive or a parquet file; name the one that holds the set as `dir`", path.display())]
    NotAFolder {
        /// The configured path.
        path: PathBuf,
    },
    /// A file is missing in the folder.
    #[error(
        "{} holds no {dataset}; looked for {}{}",
        path.display(),
        looked_for.join(", "),
        if *dataset == DatasetName::Cifar10 { "" } else { ", each also with .gz" }
    )]
    MissingFile {
        /// The folder.
        path: PathBuf,
        /// The requested set.
        dataset: DatasetName,
        /// The file names that would have been accepted, relative to the folder.
        looked_for: Vec<String>,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not the expected IDX file.
    #[error("{}: {reason}", path.display())]
    Idx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// A file is not a parquet file with the expected images and labels.
    #[error("{}: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// No set can be made of the images.
    #[error("{} {reason}", path.display())]
    Images {
        /// The folder, file or data set.
        path: PathBuf,
        /// What is wrong with it, and how to fix it.
        reason: String,
    },
    /// An image cannot be decoded.
    #[error("{0}; repair or remove it, or set `on_bad_image` to \"skip\"")]
    BadImage(BadImage),
    /// No source could provide the set.
    #[error("no source provides {dataset}:{}\n{}", list(tried), remedy(*dataset))]
    NoSource {
        /// The requested set.
        dataset: DatasetName,
        /// Every source that was tried, and why it could not provide the set.
        tried: Vec<Skipped>,
    },
}

fn list(tried: &[Skipped]) -> String {
    tried.iter().map(|skipped| format!("\n  {}: {}", skipped.source, skipped.reason)).collect()
}

fn remedy(dataset: DatasetName) -> &'static str {
    match dataset {
        DatasetName::Mnist => {
            "Name a folder that holds its IDX files as `dir`, or check that the Hub can be reached, or add \"drawn\" to `sources`."
        }
        DatasetName::FashionMnist => {
            "Name a folder that holds its IDX files as `dir`, or check that the Hub can be reached."
        }
        DatasetName::Cifar10 => {
            "Name a folder that holds its binary version as `dir`, or check that the Hub can be reached."
        }
        DatasetName::Folder => "Name a folder of pictures as `dir`, or by --data DIR.",
        DatasetName::Hub => "Check that the Hub can be reached and that `repo`, `config_name` and `split` are right.",
    }
}
