//! From a configuration to images: the first source that answers.

use std::{fmt, path::Path, sync::Arc};

use kakusan_hub::Hub;
use serde::{Deserialize, Serialize};

use crate::{DataConfig, DatasetName, Error, ImageSet, SourceKind, draw_digits, idx, parquet};

/// A set, and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The images of the classes kept, in the source's order.
    pub images: Arc<ImageSet>,
    /// The source that answered.
    pub source: SourceUsed,
    /// The sources asked before it, and why they did not answer.
    pub skipped: Vec<Skipped>,
}

/// The source that a set came from: to be said aloud, and written into the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceUsed {
    /// Which of the sources.
    pub kind: SourceKind,
    /// The same in words.
    pub description: String,
}

/// A source that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which of the sources.
    pub source: SourceKind,
    /// Why not.
    pub reason: String,
}

impl fmt::Display for SourceUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// Loads the training images of the configured set from the first source that answers.
///
/// - `dir` is passed over if no folder is named. A folder that is named must be good: what is wrong with it is an error, never
///   hidden by the next source.
/// - `hub` is passed over if the Hub is away, offline, refuses, or serves what is not the set.
/// - `drawn` always answers.
///
/// ```
/// use kakusan_data::{DataConfig, DatasetName, SourceKind, load};
/// use kakusan_hub::{Hub, HubConfig};
///
/// let mut hub = HubConfig::new("http://127.0.0.1:9", "no/such/cache");
/// hub.offline = true;
/// let config = DataConfig { classes: vec![1, 8, 4], drawn_per_class: 10, ..DataConfig::new(DatasetName::Mnist) };
/// let loaded = load(&config, &Hub::new(hub))?;
/// assert_eq!(loaded.source.kind, SourceKind::Drawn); // no folder was named, and the Hub is offline
/// assert_eq!(loaded.images.len(), 30);
/// # Ok::<(), kakusan_data::Error>(())
/// ```
///
/// # Errors
///
/// What [`DataConfig::check`] finds, anything wrong with a named folder, and [`Error::NoSource`] when no source answers.
pub fn load(config: &DataConfig, hub: &Hub) -> Result<Loaded, Error> {
    config.check()?;
    let mut skipped = Vec::new();
    for kind in config.sources_or_all() {
        let answer = match kind {
            SourceKind::Dir => match &config.dir {
                Some(dir) => Ok(from_dir(dir, config.name)?),
                None => Err("no folder was named".to_owned()),
            },
            SourceKind::Hub => from_hub(config.name, hub),
            SourceKind::Drawn => {
                let (n, seed) = (config.drawn_per_class, config.drawn_seed);
                let description = format!("digits drawn by Kakusan's own code, {n} of each, seed {seed}");
                Ok((draw_digits(&config.classes, n, seed)?, description))
            }
        };
        match answer {
            Ok((images, description)) => {
                // all classes are all that there are, also in a folder that lacks some
                let all = config.classes.len() == images.class_names().len();
                let images = if all { images } else { images.select(&config.classes)? };
                return Ok(Loaded { images: images.into(), source: SourceUsed { kind, description }, skipped });
            }
            Err(reason) => skipped.push(Skipped { source: kind, reason }),
        }
    }
    Err(Error::NoSource { dataset: config.name, tried: skipped })
}

fn from_dir(dir: &Path, name: DatasetName) -> Result<(ImageSet, String), Error> {
    let files = idx::find(dir, name)?;
    let description = format!("the IDX files {} and {}", files.images.display(), files.labels.display());
    Ok((idx::read(&files, name.class_names())?, description))
}

/// The set from the Hub, or the reason why not.
fn from_hub(name: DatasetName, hub: &Hub) -> Result<(ImageSet, String), String> {
    // The Hub itself keeps every data set as parquet, on a branch of this name.
    const REVISION: &str = "refs/convert/parquet";
    let (repo, file) = match name {
        DatasetName::Mnist => ("ylecun/mnist", "mnist/train/0000.parquet"),
        DatasetName::FashionMnist => ("zalando-datasets/fashion_mnist", "fashion_mnist/train/0000.parquet"),
    };
    let path = hub.dataset_file(repo, REVISION, file).map_err(|error| error.to_string())?;
    let read = || {
        let class_names = name.class_names();
        let (height, width, pixels, labels) = parquet::read(&path, class_names.len())?;
        ImageSet::new(height, width, pixels, labels, class_names)
    };
    let images = read().map_err(|error| error.to_string())?;
    Ok((images, format!("the Hub's data set {repo}")))
}
