//! The `[data]` table of a configuration.

use std::{num::NonZeroUsize, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Class, DatasetName, Error, OnBadImage, SourceKind, clusters::MOST, loader::PREFETCH, photos::Transform};

/// The splits of the named sets.
const SPLITS: [&str; 2] = ["train", "test"];

/// Which images to train on, where to load them from, and how pictures become images of one size.
///
/// ```
/// use kakusan_data::DataConfig;
///
/// let config: DataConfig = toml::from_str(
///     r#"
///     name = "folder"
///     dir = "photographs"         # a subfolder for each class, or just pictures
///     classes = ["cat", "dog"]    # all if absent
///     resolution = 64             # the shorter side is resized, then 64 x 64 are cut out
///     center_crop = true          # of the middle; at random if not
///     random_flip = true
///     on_bad_image = "skip"
///     "#,
/// )?;
/// config.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The data set.
    pub name: DatasetName,
    /// The classes to keep, by number or by name. All if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<Class>>,
    /// Divides each class into so many clusters of similar images, 2 to 256, by k-means. The model is told the cluster
    /// instead of the class, so it needs as many times the classes (`model.num_class_embeds`), and learns sooner what
    /// whole images look like. Similar clusters begin with similar rows of its class table, but for those that a
    /// pretrained model knows. Samples of a class take its clusters as often as the data has them. None if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<usize>,
    /// The sources, in the order in which they are tried. If empty, all sources that have the set.
    #[serde(default)]
    pub sources: Vec<SourceKind>,
    /// The folder, zip, tar or tar.gz that holds the pictures; or a parquet file, or a folder of parquet files; or the
    /// folder of MNIST's IDX files, of CIFAR-10's binary files, or torchvision's root folder of MNIST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// How many digits of each class to draw: 1 to 60,000. 6,000 make an epoch as long as MNIST's.
    #[serde(default = "drawn_per_class")]
    pub drawn_per_class: usize,
    /// The seed of the drawn digits. It is separate from the training's seed, so that trainings with different seeds
    /// use the same digits.
    #[serde(default)]
    pub drawn_seed: u64,

    /// `name = "hub"`: the data set, as `owner/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// `name = "hub"`: the configuration of the data set; `default` if absent. The diffusers script calls it
    /// `dataset_config_name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_name: Option<String>,
    /// The split to use; `train` if absent. MNIST, Fashion-MNIST and CIFAR-10 have `train` and `test`; the test split
    /// of drawn digits is drawn with another seed. A set of the Hub and a folder have what they have; in a folder a
    /// split is found by its name, or by any of the spellings that `datasets` accepts (`val` is `validation`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Images that are kept out of the training, to measure the loss on them: a share of the set, such as `0.05`, or
    /// another of its splits, such as `"test"`. None if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// Parquet files: the column of images, either structs with `bytes` or plain bytes. If absent, the only such
    /// column, or `image`, or `img`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// Parquet files: the column of labels. If absent, `label`, or the only column that the set declares to hold
    /// classes. `none` reads no labels. Integers are labels from 0. For text and booleans, the distinct values in
    /// sorted order are the classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_column: Option<String>,

    /// The side of the images, 1 to 8192: the shorter side is resized to it (as Pillow does, bilinear with
    /// antialiasing), then a square is cropped. Or `[height, width]`: both sides are resized and nothing is cropped. If
    /// absent, the images keep their size, which must be the same for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// Pictures that are not square: crop the centre instead of a random window in each epoch. Has no effect if
    /// `resolution` is a height and a width.
    #[serde(default, skip_serializing_if = "is_false")]
    pub center_crop: bool,
    /// Mirrors each image left to right with probability 1/2, in each epoch.
    #[serde(default, skip_serializing_if = "is_false")]
    pub random_flip: bool,
    /// For small sets: the probability, from 0 to 1, with which each image is scaled, rotated, stretched, moved and
    /// mirrored, in each epoch ([`Augmentation`](crate::Augmentation)); 0.12 in EDM's trainings on CIFAR-10. The model
    /// is told how an image was changed, so that its samples are not. Mirror images left to right, which every second
    /// image becomes, do not show in the samples either, other than with `random_flip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<f64>,
    /// 1: grey, 3: RGB. If absent, grey if all images are grey, else RGB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// Pictures: the background colour for transparent pixels, as red, green and blue from 0 to 255. White if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<[u8; 3]>,
    /// Pictures: whether a picture that cannot be decoded stops the run, or is left out and reported.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_bad_image: OnBadImage,
    /// Pictures: the largest set, in MiB, that is held in memory, decoded and resized. Larger sets are decoded again in
    /// each epoch. 512 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_mb: Option<u64>,
    /// How many batches are prepared in advance, 1 to 1024. 3 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<usize>,
    /// How many threads prepare batches, 1 to 256. If absent, one, or one per core if images must be decoded. Results
    /// do not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_workers: Option<usize>,
}

/// The images that are kept out of the training.
///
/// ```
/// use kakusan_data::{DataConfig, Validation};
///
/// let config: DataConfig = toml::from_str("name = 'mnist'\nvalidation = 'test'")?;
/// assert_eq!(config.validation, Some(Validation::Split("test".into())));
/// let config: DataConfig = toml::from_str("name = 'mnist'\nvalidation = 0.05")?;
/// assert_eq!(config.validation, Some(Validation::Share(0.05)));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a share of the images between 0 and 1, or the name of a split")]
pub enum Validation {
    /// A share of the images, above 0 and below 1. It is drawn at random, and is the same in every run.
    Share(f64),
    /// All images of another split.
    Split(String),
}

/// The size that pictures are resized to, as the argument of torchvision's `Resize`.
///
/// ```
/// use kakusan_data::{DataConfig, Resolution};
///
/// let config: DataConfig = toml::from_str("name = 'folder'\nresolution = [48, 64]")?;
/// assert_eq!(config.resolution, Some(Resolution::Both([48, 64]))); // height, width
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected one side of a square, or [height, width], in whole numbers")]
pub enum Resolution {
    /// The shorter side is resized to this many pixels, the other in proportion. Then a square of this side is cropped.
    Shorter(usize),
    /// Height and width are resized to these numbers of pixels; the aspect ratio may change.
    Both([usize; 2]),
}

impl Resolution {
    /// The width and height of the images.
    pub(crate) fn width_and_height(self) -> (usize, usize) {
        match self {
            Self::Shorter(side) => (side, side),
            Self::Both([height, width]) => (width, height),
        }
    }
}

impl From<usize> for Resolution {
    fn from(side: usize) -> Self {
        Self::Shorter(side)
    }
}

impl From<[usize; 2]> for Resolution {
    fn from(height_and_width: [usize; 2]) -> Self {
        Self::Both(height_and_width)
    }
}

fn drawn_per_class() -> usize {
    6_000
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_default(value: &OnBadImage) -> bool {
    *value == OnBadImage::default()
}

impl DataConfig {
    /// The data set of the Hub that this is, whichever source provides it; `None` for a folder.
    pub fn hub_repo(&self) -> Option<&str> {
        match self.name {
            DatasetName::Mnist => Some("ylecun/mnist"),
            DatasetName::FashionMnist => Some("zalando-datasets/fashion_mnist"),
            DatasetName::Cifar10 => Some("uoft-cs/cifar10"),
            DatasetName::Hub => self.repo.as_deref(),
            DatasetName::Folder => None,
        }
    }

    /// All images of a set, from any source that has it.
    ///
    /// ```
    /// use kakusan_data::{DataConfig, DatasetName};
    ///
    /// let config = DataConfig::new(DatasetName::Mnist).with_classes([1, 8, 4]);
    /// config.check()?;
    /// # Ok::<(), kakusan_data::Error>(())
    /// ```
    pub fn new(name: DatasetName) -> Self {
        Self {
            name,
            classes: None,
            clusters: None,
            sources: Vec::new(),
            dir: None,
            drawn_per_class: drawn_per_class(),
            drawn_seed: 0,
            repo: None,
            config_name: None,
            split: None,
            validation: None,
            image_column: None,
            label_column: None,
            resolution: None,
            center_crop: false,
            random_flip: false,
            augment: None,
            channels: None,
            background: None,
            on_bad_image: OnBadImage::default(),
            cache_mb: None,
            prefetch: None,
            num_workers: None,
        }
    }

    /// Keeps only these classes, given by number or by name.
    pub fn with_classes<C: Into<Class>>(mut self, classes: impl IntoIterator<Item = C>) -> Self {
        self.classes = Some(classes.into_iter().map(Into::into).collect());
        self
    }

    /// Checks that the configuration is valid.
    ///
    /// # Errors
    ///
    /// If no class is named, a class is known not to be in the set, a class or source is named twice, a source does not
    /// have the set, a folder is named that no source would read, a value is out of range, or a key has no effect.
    pub fn check(&self) -> Result<(), Error> {
        let names = self.name.class_names();
        match &self.classes {
            Some(classes) if classes.is_empty() => return Err(Error::EmptySelection),
            Some(classes) if !names.is_empty() => drop(Class::labels(classes, &names, |_| true)?),
            _ => {}
        }
        self.check_sources()?;
        self.check_pictures()?;
        in_range("drawn_per_class", Some(self.drawn_per_class), 1, 60_000)?;
        for side in self.resolution.map_or([None; 2], |resolution| {
            let (width, height) = resolution.width_and_height();
            [Some(height), Some(width)]
        }) {
            in_range("resolution", side, 1, 8192)?;
        }
        in_range("prefetch", self.prefetch, 1, 1024)?;
        in_range("num_workers", self.num_workers, 1, 256)?;
        in_range("clusters", self.clusters, 2, MOST)?;
        if let Some(p) = self.augment.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return wrong("augment", format!("is {p}; a probability above 0, up to 1, is expected"));
        }
        match self.channels {
            Some(channels) if channels != 1 && channels != 3 => {
                wrong("channels", format!("is {channels}; it must be 1 (grey) or 3 (RGB)"))
            }
            _ => Ok(()),
        }
    }

    fn check_sources(&self) -> Result<(), Error> {
        for (i, source) in self.sources.iter().enumerate() {
            if self.sources[..i].contains(source) {
                return wrong("sources", format!("names \"{source}\" twice; name it once"));
            }
            if !self.name.sources().contains(source) {
                let known: Vec<String> = self.name.sources().iter().map(|source| format!("\"{source}\"")).collect();
                let reason = match source {
                    SourceKind::Drawn => format!("only digits can be drawn, not {}", self.name),
                    _ => format!("{} comes only from {}", self.name, known.join(" or ")),
                };
                return wrong("sources", format!("has \"{source}\", but {reason}; remove it"));
            }
        }
        if self.dir.is_some() && !self.sources_or_all().contains(&SourceKind::Dir) {
            let remedy = match self.name {
                DatasetName::Hub => "a set of the Hub is never read from a folder; name the set \"folder\" instead",
                _ => "`sources` lacks \"dir\", so it would not be read; add \"dir\" to `sources`",
            };
            return wrong("dir", format!("names a folder, but {remedy}"));
        }
        Ok(())
    }

    /// Checks the keys that apply only to sets of pictures, or only to sets of the Hub.
    fn check_pictures(&self) -> Result<(), Error> {
        let of_the_hub = [("repo", self.repo.is_some()), ("config_name", self.config_name.is_some())];
        let of_pictures = [
            ("image_column", self.image_column.is_some()),
            ("label_column", self.label_column.is_some()),
            ("center_crop", self.center_crop),
            ("background", self.background.is_some()),
            ("on_bad_image", self.on_bad_image != OnBadImage::default()),
            ("cache_mb", self.cache_mb.is_some()),
        ];
        let useless = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, given)| *given).map(|(key, _)| *key);
        if self.name != DatasetName::Hub
            && let Some(key) = useless(&of_the_hub)
        {
            return wrong(key, format!("is for the set \"hub\"; {} does not use it: remove it", self.name));
        }
        if !self.name.is_pictures()
            && let Some(key) = useless(&of_pictures)
        {
            return wrong(key, format!("is for sets of pictures; {} does not use it: remove it", self.name));
        }
        if self.name == DatasetName::Hub && self.repo.is_none() {
            return wrong("repo", "is missing; name the data set, e.g. repo = \"owner/name\"".to_owned());
        }
        if let Some(split) = self.split.as_deref().filter(|split| !self.name.is_pictures() && !SPLITS.contains(split)) {
            return wrong("split", format!("is \"{split}\", but {} has the splits train and test", self.name));
        }
        match &self.validation {
            Some(Validation::Share(share)) if !(*share > 0.0 && *share < 1.0) => {
                return wrong("validation", format!("is {share}; a share of the images is above 0 and below 1"));
            }
            Some(Validation::Split(split)) if Some(split.as_str()) == self.split.as_deref().or(Some(SPLITS[0])) => {
                let remedy = "it needs other images: name another split, or a share such as 0.05";
                return wrong("validation", format!("is \"{split}\", the split to train on; {remedy}"));
            }
            Some(Validation::Split(split)) if !self.name.is_pictures() && !SPLITS.contains(&split.as_str()) => {
                return wrong("validation", format!("is \"{split}\", but {} has the splits train and test", self.name));
            }
            _ => {}
        }
        if self.center_crop && self.resolution.is_none() {
            return wrong("center_crop", "has no effect without `resolution`; set that too".to_owned());
        }
        Ok(())
    }

    /// The same set's split `split`.
    pub fn with_split(mut self, split: impl Into<String>) -> Self {
        self.split = Some(split.into());
        self
    }

    /// Whether the test split of a named set is asked for.
    pub(crate) fn wants_test(&self) -> bool {
        self.split.as_deref() == Some(SPLITS[1])
    }

    /// The sources, in the order in which they are tried.
    pub fn sources_or_all(&self) -> Vec<SourceKind> {
        if self.sources.is_empty() { self.name.sources().to_vec() } else { self.sources.clone() }
    }

    /// The value for [`Loader::prefetch`](crate::Loader::prefetch).
    pub fn prefetch(&self) -> NonZeroUsize {
        self.prefetch.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN.saturating_add(PREFETCH - 1))
    }

    pub(crate) fn transform(&self) -> Transform {
        Transform {
            resolution: self.resolution,
            center_crop: self.center_crop,
            channels: self.channels,
            background: self.background.unwrap_or([255; 3]),
            on_bad_image: self.on_bad_image,
            cache_bytes: self.cache_mb.unwrap_or(512).saturating_mul(1 << 20),
        }
    }
}

fn in_range(key: &'static str, value: Option<usize>, least: usize, most: usize) -> Result<(), Error> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            wrong(key, format!("is {value}; it must be from {least} to {most}"))
        }
        _ => Ok(()),
    }
}

fn wrong(key: &'static str, reason: String) -> Result<(), Error> {
    Err(Error::Config { key, reason })
}
