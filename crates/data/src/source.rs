//! From a configuration to images: the first source that answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use kakusan_hub::Hub;
use serde::{Deserialize, Serialize};

use crate::{
    BadImage, Class, DataConfig, DatasetName, Error, ImageSet, SourceKind, archive, cifar, draw_digits, folder, idx,
    parquet::{self, Classes, Columns},
    photos::{self, Transform},
    tree::{Content, Pictures, Tree},
};

/// A set, and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The images of the classes kept, in the source's order.
    pub images: Arc<ImageSet>,
    /// The source that answered.
    pub source: SourceUsed,
    /// The sources asked before it, and why they did not answer.
    pub skipped: Vec<Skipped>,
    /// The images that were left out because they cannot be decoded (`on_bad_image = "skip"`). Of sets that are not held in memory only
    /// those with a bad header; the others show when their turn comes, in [`Batch::skipped`](crate::Batch::skipped).
    pub bad_images: Vec<BadImage>,
    /// What else is to be said aloud: which split and which folders were taken, and what was left out.
    pub notes: Vec<String>,
    /// Why the images have no classes, where they have none: a model that is told classes cannot learn from them.
    pub unlabelled: Option<String>,
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
/// let config = DataConfig { drawn_per_class: 10, ..DataConfig::new(DatasetName::Mnist).with_classes([1, 8, 4]) };
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
                Some(dir) => Ok(from_dir(dir, config)?),
                None => Err("no folder was named".to_owned()),
            },
            SourceKind::Hub => from_hub(config, hub),
            SourceKind::Drawn => Ok(drawn(config)?),
        };
        match answer {
            Ok(Answer { images, bad_images, description, notes, unlabelled }) => {
                let images = choose(images, config)?.with_random_flip(config.random_flip);
                let source = SourceUsed { kind, description };
                return Ok(Loaded { images: images.into(), source, skipped, bad_images, notes, unlabelled });
            }
            Err(reason) => skipped.push(Skipped { source: kind, reason }),
        }
    }
    Err(Error::NoSource { dataset: config.name, tried: skipped })
}

/// What a source has.
struct Answer {
    images: ImageSet,
    bad_images: Vec<BadImage>,
    description: String,
    notes: Vec<String>,
    unlabelled: Option<String>,
}

impl Answer {
    fn good(images: ImageSet, description: String) -> Self {
        Self { images, bad_images: Vec::new(), description, notes: Vec::new(), unlabelled: None }
    }

    fn of_pictures((images, bad_images): (ImageSet, Vec<BadImage>), description: String) -> Self {
        let description = match bad_images.as_slice() {
            [] => description,
            [first, ..] => format!("{description}, without {} bad ones ({first})", bad_images.len()),
        };
        Self { bad_images, ..Self::good(images, description) }
    }
}

/// The classes that are wanted, in the size and colours that are.
fn choose(images: ImageSet, config: &DataConfig) -> Result<ImageSet, Error> {
    let images = match &config.classes {
        None => images,
        Some(classes) => {
            // all classes are all that there are, also in a folder that lacks some
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
            let files = idx::find(dir, config.name)?;
            let description = format!("the IDX files {} and {}", files.images.display(), files.labels.display());
            Ok(Answer::good(idx::read(&files, names)?, description))
        }
        DatasetName::Cifar10 => {
            let files = cifar::find(dir)?;
            let beside = files.first().and_then(|file| file.parent()).unwrap_or(dir);
            let description = format!("CIFAR-10's binary files in {}", beside.display());
            Ok(Answer::good(cifar::read(&files, names)?, description))
        }
        // a file that is named is meant, whatever split its name tells
        DatasetName::Folder | DatasetName::Hub if config.split.is_none() && is_table(dir) => {
            of_rows(&[dir.to_owned()], dir, format!("the parquet file {}", dir.display()), config)
        }
        DatasetName::Folder | DatasetName::Hub => match find(dir)?.read(dir, config)? {
            Content::Pictures(found) => of_pictures(found, dir, config),
            Content::Tables { files, split } => of_tables(&files, split.as_deref(), dir, config),
        },
    }
}

/// What a folder, an archive or a parquet file holds.
fn find(dir: &Path) -> Result<Tree, Error> {
    if is_table(dir) {
        Ok(Tree::of_table(dir))
    } else if dir.is_file() && archive::is_archive(dir) {
        archive::find(dir)
    } else {
        folder::find(dir)
    }
}

/// Whether this is a parquet file by its name.
fn is_table(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}

fn of_pictures(found: Pictures, dir: &Path, config: &DataConfig) -> Result<Answer, Error> {
    let Pictures { entries, class_names, split, notes, unlabelled } = found;
    let key = match (config.image_column.is_some(), config.label_column.is_some()) {
        (true, _) => Some("image_column"),
        (_, true) => Some("label_column"),
        _ => None,
    };
    if let Some(key) = key {
        let reason = format!(
            "names a column, but {} holds pictures and no parquet file that is read; take it out",
            dir.display()
        );
        return Err(Error::Config { key, reason });
    }
    let classes = match class_names.len() {
        1 => String::new(),
        several => format!(" of {several} classes"),
    };
    let split = split.map(|split| format!(" (split {split})")).unwrap_or_default();
    let description = format!("the pictures{classes} in {}{split}", dir.display());
    let set = photos::image_set(entries, class_names, config.transform(), dir)?;
    Ok(Answer { notes, unlabelled, ..Answer::of_pictures(set, description) })
}

/// Rows of parquet files that lie in a folder.
fn of_tables(files: &[PathBuf], split: Option<&str>, dir: &Path, config: &DataConfig) -> Result<Answer, Error> {
    let split = split.map(|split| format!(" (split {split})")).unwrap_or_default();
    let count = if files.len() == 1 { "a parquet file".to_owned() } else { format!("{} parquet files", files.len()) };
    of_rows(files, dir, format!("{count} in {}{split}", dir.display()), config)
}

/// The images and labels of parquet files.
fn of_rows(files: &[PathBuf], place: &Path, description: String, config: &DataConfig) -> Result<Answer, Error> {
    let columns = Columns { image: config.image_column.as_deref(), label: config.label_column.as_deref() };
    let transform = config.transform();
    let classes = config.classes.as_deref().map_or(Classes::Any, Classes::Some);
    let rows = parquet::read(files, columns, classes, transform.cache_bytes)?;
    let set = photos::image_set(rows.entries, rows.class_names, transform, place)?;
    Ok(Answer { unlabelled: rows.unlabelled, ..Answer::of_pictures(set, description) })
}

fn drawn(config: &DataConfig) -> Result<Answer, Error> {
    let (n, seed, names) = (config.drawn_per_class, config.drawn_seed, config.name.class_names());
    let labels = match &config.classes {
        Some(classes) => Class::labels(classes, &names, |_| true)?,
        None => (0..names.len() as u32).collect(),
    };
    let digits: Vec<u8> = labels.into_iter().filter_map(|label| u8::try_from(label).ok()).collect();
    let description = format!("digits drawn by Kakusan's own code, {n} of each, seed {seed}");
    Ok(Answer::good(draw_digits(&digits, n, seed)?, description))
}

/// The Hub itself keeps every data set as parquet, on a branch of this name.
const REVISION: &str = "refs/convert/parquet";
/// More than the pictures' files of a set that is known by name take.
const KNOWN_BYTES: u64 = 1 << 30;

/// The set from the Hub, or the reason why not.
fn from_hub(config: &DataConfig, hub: &Hub) -> Result<Answer, String> {
    let known = |repo, config_name, image, shape| (repo, config_name, "train", Some((image, shape)));
    let (repo, config_name, split, known) = match config.name {
        DatasetName::Mnist => known("ylecun/mnist", "mnist", "image", [1, 28, 28]),
        DatasetName::FashionMnist => known("zalando-datasets/fashion_mnist", "fashion_mnist", "image", [1, 28, 28]),
        DatasetName::Cifar10 => known("uoft-cs/cifar10", "plain_text", "img", [3, 32, 32]),
        DatasetName::Folder | DatasetName::Hub => (
            config.repo.as_deref().unwrap_or_default(),
            config.config_name.as_deref().unwrap_or("default"),
            config.split.as_deref().unwrap_or("train"),
            None,
        ),
    };
    let files = files_on_hub(hub, repo, config_name, split)?;
    let description = match known {
        Some(_) => format!("the Hub's data set {repo}"),
        None => format!("the Hub's data set {repo} ({config_name}, {split}; {} files)", files.len()),
    };
    let read = |files: &[PathBuf]| -> Result<Answer, Error> {
        let Some((image, shape)) = known else {
            return of_rows(files, Path::new(repo), description, config);
        };
        let (columns, names) = (Columns { image: Some(image), label: Some("label") }, config.name.class_names());
        let rows = parquet::read(files, columns, Classes::Known(&names), KNOWN_BYTES)?;
        let (images, _) = photos::image_set(rows.entries, names, Transform::none(shape[0]), Path::new(repo))?;
        match images.shape() == shape {
            true => Ok(Answer::good(images, description)),
            false => Err(Error::Images {
                path: repo.into(),
                reason: format!("holds images of {:?} (channels, height, width); expected {shape:?}", images.shape()),
            }),
        }
    };
    read(&files).map_err(|error| error.to_string())
}

/// The files of a split, all that there are, as they are at one commit.
fn files_on_hub(hub: &Hub, repo: &str, config: &str, split: &str) -> Result<Vec<PathBuf>, String> {
    let snapshot = |split: &str| {
        let part = |number| format!("{config}/{split}/{number:04}.parquet");
        hub.dataset_snapshot(repo, REVISION, &part)
    };
    let whole = snapshot(split).map_err(|error| match error {
        // a server that lists nothing was asked for the first file
        kakusan_hub::Error::NotFound { .. } if snapshot(&partial(split)).is_ok() => {
            format!("{repo} has no split \"{split}\" of \"{config}\"; there is {}", part_of(split))
        }
        error => error.to_string(),
    })?;
    let mut files: Vec<&str> = whole.files().iter().map(String::as_str).collect();
    files.retain(|file| place(file) == Some((config, split)));
    files.sort_unstable();
    if files.is_empty() {
        return Err(lacks(whole.files(), repo, config, split));
    }
    let paths = whole.fetch_all(&files).and_then(|paths| whole.keep().map(|()| paths));
    paths.map_err(|error| error.to_string())
}

/// The configuration and the split that a file belongs to.
fn place(file: &str) -> Option<(&str, &str)> {
    let (config, rest) = file.split_once('/')?;
    let (split, name) = rest.split_once('/')?;
    (name.ends_with(".parquet") && !name.contains('/')).then_some((config, split))
}

/// What the Hub calls a split of which it has converted the beginning alone.
fn partial(split: &str) -> String {
    format!("partial-{split}")
}

fn part_of(split: &str) -> String {
    let partial = partial(split);
    format!("\"{partial}\", the beginning of it, as much as the Hub converts of a large set: set split = \"{partial}\"")
}

/// What there is in the place of a split that is not there.
fn lacks(files: &[String], repo: &str, config: &str, split: &str) -> String {
    const MOST: usize = 20;
    let mut places: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (config, split) in files.iter().filter_map(|file| place(file)) {
        places.entry(config).or_default().insert(split);
    }
    let splits = |splits: &BTreeSet<&str>| splits.iter().copied().collect::<Vec<_>>().join(", ");
    match places.get(config) {
        _ if places.is_empty() => format!("{repo} has no parquet files at {REVISION}"),
        Some(found) if found.contains(partial(split).as_str()) => {
            format!("{repo} has no split \"{split}\" of \"{config}\"; there is {}", part_of(split))
        }
        Some(found) => format!("{repo} has no split \"{split}\" of \"{config}\"; `split` is one of {}", splits(found)),
        None => {
            let known = places.iter().take(MOST).map(|(config, found)| format!("{config} ({})", splits(found)));
            let more = if places.len() > MOST { ", …" } else { "" };
            let known = known.collect::<Vec<_>>().join(", ");
            format!(
                "{repo} has no configuration \"{config}\"; `config_name` is one of these (with their splits): {known}{more}"
            )
        }
    }
}
