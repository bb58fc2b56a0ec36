//! The `[data]` table of a configuration.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// Which images to learn, and where they may come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The set.
    pub name: DatasetName,
    /// The classes to keep, 0 to 9; all if the key is absent.
    #[serde(default = "all_classes")]
    pub classes: Vec<u8>,
    /// The sources, in the order in which they are asked; none named means all that know the set.
    #[serde(default)]
    pub sources: Vec<SourceKind>,
    /// The folder that holds the set's IDX files, or torchvision's root folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// How many digits of each class to draw: 1 to 60,000. 6,000 give epochs as long as MNIST's.
    #[serde(default = "drawn_per_class")]
    pub drawn_per_class: usize,
    /// The seed of the drawn digits. Apart from the training's, so that two trainings learn from the same digits.
    #[serde(default)]
    pub drawn_seed: u64,
}

fn all_classes() -> Vec<u8> {
    (0..10).collect()
}

fn drawn_per_class() -> usize {
    6_000
}

/// The sets that can be loaded. Each has 28 x 28 grey images of 10 classes, 60,000 for training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetName {
    /// Handwritten digits.
    Mnist,
    /// Photographs of clothes, shoes and bags.
    FashionMnist,
}

/// Where a set may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A folder of IDX files: [`DataConfig::dir`].
    Dir,
    /// The Hugging Face Hub.
    Hub,
    /// This crate's own hand: digits only.
    Drawn,
}

impl DataConfig {
    /// All of a set, from any source that knows it.
    ///
    /// ```
    /// use kakusan_data::{DataConfig, DatasetName};
    ///
    /// let config = DataConfig { classes: vec![1, 8, 4], ..DataConfig::new(DatasetName::Mnist) };
    /// config.check()?;
    /// # Ok::<(), kakusan_data::Error>(())
    /// ```
    pub fn new(name: DatasetName) -> Self {
        Self {
            name,
            classes: all_classes(),
            sources: Vec::new(),
            dir: None,
            drawn_per_class: drawn_per_class(),
            drawn_seed: 0,
        }
    }

    /// Whether a configuration that was read can be run.
    ///
    /// # Errors
    ///
    /// For no class at all, a class that the set lacks, a class or source named twice, a source that does not know the set, a folder that no
    /// source would read, and a number of drawn digits out of range.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key, reason: &str| Err(Error::Config { key, reason: reason.to_owned() });
        let names = self.name.class_names();
        if self.classes.is_empty() {
            return Err(Error::EmptySelection);
        }
        for (i, &class) in self.classes.iter().enumerate() {
            if usize::from(class) >= names.len() {
                return Err(Error::UnknownClass { class, known: known_classes(0..names.len() as u8, &names) });
            }
            if self.classes[..i].contains(&class) {
                return Err(Error::DuplicateClass { class });
            }
        }
        for (i, source) in self.sources.iter().enumerate() {
            if self.sources[..i].contains(source) {
                return wrong("sources", &format!("names \"{source}\" twice; name it once"));
            }
        }
        if self.name != DatasetName::Mnist && self.sources.contains(&SourceKind::Drawn) {
            return wrong(
                "sources",
                &format!("has \"drawn\", but only digits can be drawn, not {}; take it out", self.name),
            );
        }
        if self.dir.is_some() && !self.sources_or_all().contains(&SourceKind::Dir) {
            return wrong(
                "dir",
                "names a folder, but `sources` lacks \"dir\", so it would not be read; add \"dir\" to `sources`",
            );
        }
        if !(1..=60_000).contains(&self.drawn_per_class) {
            return wrong("drawn_per_class", &format!("is {}; it must be from 1 to 60000", self.drawn_per_class));
        }
        Ok(())
    }

    /// The sources, in the order in which they are asked.
    pub fn sources_or_all(&self) -> Vec<SourceKind> {
        match (self.sources.as_slice(), self.name) {
            ([], DatasetName::Mnist) => vec![SourceKind::Dir, SourceKind::Hub, SourceKind::Drawn],
            ([], DatasetName::FashionMnist) => vec![SourceKind::Dir, SourceKind::Hub],
            (sources, _) => sources.to_vec(),
        }
    }
}

impl DatasetName {
    /// What the classes are called, in the order of their labels.
    pub fn class_names(self) -> Vec<String> {
        let names = match self {
            Self::Mnist => ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            Self::FashionMnist => [
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
        };
        names.map(str::to_owned).to_vec()
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion_mnist",
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

/// Classes for a message: `0, 1, 2`, or `0 (Trouser), 1 (Coat)` where the names say more than the labels.
pub(crate) fn known_classes(classes: impl IntoIterator<Item = u8>, names: &[String]) -> String {
    let known = classes.into_iter().map(|class| match names.get(usize::from(class)) {
        Some(name) if *name != class.to_string() => format!("{class} ({name})"),
        _ => class.to_string(),
    });
    known.collect::<Vec<_>>().join(", ")
}
