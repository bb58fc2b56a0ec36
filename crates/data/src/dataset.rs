//! The named data sets and their sources.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A data set that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DatasetName {
    /// Handwritten digits: 60,000 grey images of 28 x 28 for training, 10 classes.
    Mnist,
    /// Photographs of clothes, shoes and bags, in MNIST's format.
    FashionMnist,
    /// Photographs of animals and vehicles: 50,000 RGB images of 32 x 32 for training, 10 classes.
    Cifar10,
    /// Any pictures in a folder: [`DataConfig::dir`](crate::DataConfig::dir).
    Folder,
    /// Any data set of the Hub: [`DataConfig::repo`](crate::DataConfig::repo).
    Hub,
}

/// A source of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A folder: [`DataConfig::dir`](crate::DataConfig::dir).
    Dir,
    /// The Hugging Face Hub.
    Hub,
    /// Drawn by this crate; digits only.
    Drawn,
}

impl DatasetName {
    /// The names of the classes, in the order of their labels. Empty if they are known only from the data.
    pub fn class_names(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Mnist => &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            Self::FashionMnist => &[
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
            Self::Cifar10 => {
                &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
            }
            Self::Folder | Self::Hub => &[],
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Whether the images may have any size and format.
    pub(crate) fn is_pictures(self) -> bool {
        matches!(self, Self::Folder | Self::Hub)
    }

    /// The sources that have the set, in the order in which they are tried.
    pub(crate) fn sources(self) -> &'static [SourceKind] {
        match self {
            Self::Mnist => &[SourceKind::Dir, SourceKind::Hub, SourceKind::Drawn],
            Self::FashionMnist | Self::Cifar10 => &[SourceKind::Dir, SourceKind::Hub],
            Self::Folder => &[SourceKind::Dir],
            Self::Hub => &[SourceKind::Hub],
        }
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion_mnist",
            Self::Cifar10 => "cifar10",
            Self::Folder => "folder",
            Self::Hub => "hub",
        })
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dir => "dir",
            Self::Hub => "hub",
            Self::Drawn => "drawn",
        })
    }
}
