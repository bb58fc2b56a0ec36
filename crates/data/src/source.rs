//! Loads a configured set from the first available source.

use std::{fmt, path::Path, sync::Arc};

#[cfg(feature = "hub")]
use kakusan_hub::Hub;
use serde::{Deserialize, Serialize};

use crate::{
    BadImage, Class, DataConfig, DatasetName, Error, ImageSet, SourceKind, Validation, archive, cifar,
    clusters::Clusters,
    draw_digits, folder, idx, photos, tables,
    tree::{Content, Pictures, Tree},
};

/// A loaded set and its origin.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The images of the selected classes, in the source's order.
    pub images: Arc<ImageSet>,
    /// The images that [`DataConfig::validation`] keeps out of the training.
    pub validation: Option<Arc<ImageSet>>,
    /// The source that provided the set.
    pub source: SourceUsed,
    /// The sources that were tried before, and why each could not provide the set.
    pub skipped: Vec<Skipped>,
    /// The images that were skipped because they cannot be decoded (`on_bad_image = "skip"`). For sets that are not
    /// held in memory, this includes only images with a bad header. The others are found during training and are listed
    /// in [`Batch::skipped`](crate::Batch::skipped).
    pub bad_images: Vec<BadImage>,
    /// Further remarks for the user: which split and which folders were chosen, and what was left out.
    pub notes: Vec<String>,
    /// The reason if the images have neither classes nor clusters. A class-conditional model cannot be trained on them.
    pub unlabelled: Option<String>,
}

impl Loaded {
    /// Wraps images that a program provides. `description` states their origin.
    pub fn given(images: Arc<ImageSet>, description: impl Into<String>) -> Self {
        let source = SourceUsed { kind: None, description: description.into() };
        Self { images, validation: None, source, skipped: vec![], bad_images: vec![], notes: vec![], unlabelled: None }
    }

    /// With images that are kept out of the training, to measure the loss on them.
    pub fn with_validation(mut self, images: Arc<ImageSet>) -> Self {
        self.validation = Some(images);
        self
    }
}

/// The source of a set. It is shown to the user and recorded in the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceUsed {
    /// The kind of source. `None` for images that a program provided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SourceKind>,
    /// A description of the source.
    pub description: String,
}

/// A source that could not provide the set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The kind of source.
    pub source: SourceKind,
    /// The reason.
    pub reason: String,
}

impl fmt::Display for SourceUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// Loads the images of the configured set from the first source that has it: a folder or drawn digits. They are those
/// of its training split, unless `split` names another one.
///
/// - `dir` is skipped if no folder is configured. A problem with a configured folder is an error; the next source is
///   not tried.
/// - `hub` is skipped; use [`load_with_hub`] for it.
/// - `drawn` always succeeds.
///
/// ```
/// use kakusan_data::{DataConfig, DatasetName, SourceKind, load};
///
/// let config = DataConfig { drawn_per_class: 10, ..DataConfig::new(DatasetName::Mnist).with_classes([1, 8, 4]) };
/// let loaded = load(&config)?;
/// assert_eq!(loaded.source.kind, Some(SourceKind::Drawn)); // no folder was named
/// assert_eq!(loaded.images.len(), 30);
/// # Ok::<(), kakusan_data::Error>(())
/// ```
///
/// # Errors
///
/// The errors of [`DataConfig::check`], any problem with a configured folder, and [`Error::NoSource`] if no source can
/// provide the set.
pub fn load(config: &DataConfig) -> Result<Loaded, Error> {
    let reason = match cfg!(feature = "hub") {
        true => "the program does not use the Hub",
        false => "this program is built without the feature `hub`",
    };
    first_answer(config, |_| Err(reason.to_owned()))
}

/// Like [`load`], but includes the Hub. The Hub is skipped if it is offline or not reachable, refuses the request, or
/// serves other data than expected.
///
/// ```
/// use kakusan_data::{DataConfig, DatasetName, SourceKind, load_with_hub};
/// use kakusan_hub::{Hub, HubConfig};
///
/// let mut hub = HubConfig::new("http://127.0.0.1:9", "no/such/cache");
/// hub.offline = true;
/// let config = DataConfig { drawn_per_class: 10, ..DataConfig::new(DatasetName::Mnist).with_classes([1, 8, 4]) };
/// let loaded = load_with_hub(&config, &Hub::new(hub))?;
/// assert_eq!(loaded.source.kind, Some(SourceKind::Drawn)); // no folder was named, and the Hub is offline
/// # Ok::<(), kakusan_data::Error>(())
/// ```
///
/// # Errors
///
/// As [`load`].
#[cfg(feature = "hub")]
pub fn load_with_hub(config: &DataConfig, hub: &Hub) -> Result<Loaded, Error> {
    first_answer(config, |config| crate::hub::from_hub(config, hub))
}

/// Tries the sources in order. `ask_hub` returns the set from the Hub, or the reason why this is not possible.
fn first_answer(config: &DataConfig, ask_hub: impl Fn(&DataConfig) -> Result<Answer, String>) -> Result<Loaded, Error> {
    config.check()?;
    let ask = |kind: SourceKind, config: &DataConfig| -> Result<Result<Answer, String>, Error> {
        Ok(match kind {
            SourceKind::Dir => match &config.dir {
                Some(dir) => Ok(from_dir(dir, config)?),
                None => Err("no folder was named".to_owned()),
            },
            SourceKind::Hub => ask_hub(config),
            SourceKind::Drawn => Ok(drawn(config)?),
        })
    };
    let mut skipped = Vec::new();
    for kind in config.sources_or_all() {
        match ask(kind, config)? {
            Ok(Answer { images, mut bad_images, description, notes, unlabelled }) => {
                let all = choose(images, config)?;
                let (images, validation) = match &config.validation {
                    None => (all, None),
                    Some(Validation::Share(share)) => {
                        let (images, held_out) = all.hold_out(*share)?;
                        (images, Some(held_out))
                    }
                    Some(Validation::Split(split)) => {
                        let config = config.clone().with_split(split);
                        let answer = ask(kind, &config)?.map_err(|reason| Error::NoSource {
                            dataset: config.name,
                            tried: vec![Skipped { source: kind, reason }],
                        })?;
                        bad_images.extend(answer.bad_images);
                        (all, Some(choose(answer.images, &config)?))
                    }
                };
                let (images, validation) = match config.clusters {
                    None => (images, validation),
                    Some(count) => {
                        let (clusters, images) = Clusters::divide(images, count)?;
                        (images, validation.map(|set| clusters.label(set)).transpose()?)
                    }
                };
                let (images, validation) =
                    (images.with_random_flip(config.random_flip).into(), validation.map(Arc::new));
                let source = SourceUsed { kind: Some(kind), description };
                let unlabelled = unlabelled.filter(|_| config.clusters.is_none()); // clusters are as good as classes
                return Ok(Loaded { images, validation, source, skipped, bad_images, notes, unlabelled });
            }
            Err(reason) => skipped.push(Skipped { source: kind, reason }),
        }
    }
    Err(Error::NoSource { dataset: config.name, tried: skipped })
}

/// The set that a source provides.
pub(crate) struct Answer {
    pub(crate) images: ImageSet,
    pub(crate) bad_images: Vec<BadImage>,
    pub(crate) description: String,
    pub(crate) notes: Vec<String>,
    pub(crate) unlabelled: Option<String>,
}

impl Answer {
    pub(crate) fn good(images: ImageSet, description: String) -> Self {
        Self { images, bad_images: Vec::new(), description, notes: Vec::new(), unlabelled: None }
    }

    pub(crate) fn of_pictures((images, bad_images): (ImageSet, Vec<BadImage>), description: String) -> Self {
        let description = match bad_images.as_slice() {
            [] => description,
            [first, ..] => format!("{description}, without {} bad ones ({first})", bad_images.len()),
        };
        Self { bad_images, ..Self::good(images, description) }
    }
}

/// Selects the wanted classes, and converts a named set to the configured size and channels.
fn choose(images: ImageSet, config: &DataConfig) -> Result<ImageSet, Error> {
    let images = match &config.classes {
        None => images,
        Some(classes) => {
            // all of the classes that exist, even if a folder has no images of some
            let all = Class::labels(classes, images.class_names(), |_| true)?.len() == images.class_names().len();
            if all { images } else { images.select(classes)? }
        }
    };
    if config.name.is_pictures() { Ok(images) } else { photos::resized(images, &config.transform()) }
}

fn from_dir(dir: &Path, config: &DataConfig) -> Result<Answer, Error> {
    let names = config.name.class_names();
    match config.name {
        DatasetName::Mnist | DatasetName::FashionMnist => {
            let files = idx::find(dir, config.name, config.wants_test())?;
            let description = format!("the IDX files {} and {}", files.images.display(), files.labels.display());
            Ok(Answer::good(idx::read(&files, names)?, description))
        }
        DatasetName::Cifar10 => {
            let files = cifar::find(dir, config.wants_test())?;
            let beside = files.first().and_then(|file| file.parent()).unwrap_or(dir);
            let description = format!("CIFAR-10's binary files in {}", beside.display());
            Ok(Answer::good(cifar::read(&files, names)?, description))
        }
        DatasetName::Folder | DatasetName::Hub => {
            let (found, description) = find_pictures(dir, config)?;
            of_pictures(found, description, dir, config)
        }
    }
}

/// The pictures of a folder, an archive or parquet files, not decoded yet, and a description of them.
pub(crate) fn find_pictures(dir: &Path, config: &DataConfig) -> Result<(Pictures, String), Error> {
    // a configured file is used regardless of the split in its name
    if config.split.is_none() && is_table(dir) {
        let found = tables::read(&[dir.to_owned()], dir, config)?;
        return Ok((found, format!("the parquet file {}", dir.display())));
    }
    let of_split = |split: &Option<String>| split.as_ref().map(|split| format!(" (split {split})")).unwrap_or_default();
    match find(dir)?.read(dir, config)? {
        Content::Pictures(found) => {
            let key = match (config.image_column.is_some(), config.label_column.is_some()) {
                (true, _) => Some("image_column"),
                (_, true) => Some("label_column"),
                _ => None,
            };
            if let Some(key) = key {
                let reason =
                    format!("names a column, but {} holds pictures, not parquet files; remove it", dir.display());
                return Err(Error::Config { key, reason });
            }
            let classes = match found.class_names.len() {
                1 => String::new(),
                several => format!(" of {several} classes"),
            };
            let description = format!("the pictures{classes} in {}{}", dir.display(), of_split(&found.split));
            Ok((found, description))
        }
        Content::Tables { files, split, splits } => {
            let count =
                if files.len() == 1 { "a parquet file".to_owned() } else { format!("{} parquet files", files.len()) };
            let found = tables::read(&files, dir, config)?;
            let description = format!("{count} in {}{}", dir.display(), of_split(&split));
            Ok((Pictures { splits: splits.into_iter().map(|split| (split, None)).collect(), ..found }, description))
        }
    }
}

/// Finds the pictures and tables of a folder, an archive or a parquet file.
fn find(dir: &Path) -> Result<Tree, Error> {
    if is_table(dir) {
        Ok(Tree::of_table(dir))
    } else if dir.is_file() && archive::is_archive(dir) {
        archive::find(dir)
    } else {
        folder::find(dir)
    }
}

/// Whether the name is a parquet file's.
fn is_table(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}

/// Makes a set of pictures; `place` names their origin.
pub(crate) fn of_pictures(
    found: Pictures,
    description: String,
    place: &Path,
    config: &DataConfig,
) -> Result<Answer, Error> {
    let Pictures { entries, class_names, notes, unlabelled, .. } = found;
    let set = photos::image_set(entries, class_names, config.transform(), place)?;
    Ok(Answer { notes, unlabelled, ..Answer::of_pictures(set, description) })
}

fn drawn(config: &DataConfig) -> Result<Answer, Error> {
    let (n, names) = (config.drawn_per_class, config.name.class_names());
    let seed = if config.wants_test() { !config.drawn_seed } else { config.drawn_seed }; // no digit is in both splits
    let labels = match &config.classes {
        Some(classes) => Class::labels(classes, &names, |_| true)?,
        None => (0..names.len() as u32).collect(),
    };
    let digits: Vec<u8> = labels.into_iter().filter_map(|label| u8::try_from(label).ok()).collect();
    let description = format!("digits drawn by Kakusan's own code, {n} of each, seed {seed}");
    Ok(Answer::good(draw_digits(&digits, n, seed)?, description))
}
