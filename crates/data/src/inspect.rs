//! Looks at a set before a training: at each image as it is in its file. Bad images are collected, not only the first.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
};

#[cfg(feature = "hub")]
use kakusan_hub::Hub;
use rayon::prelude::*;

use crate::{
    BadImage, DataConfig, DatasetName, Error, ImageSet, Loaded, Mode, Resolution, Skipped, SourceKind, SourceUsed,
    image_set::Chance,
    load,
    photos::{Photo, Window},
    raster::{self, MAX_FILE_BYTES, Picture, Raster, Sample},
    source,
    tree::Pictures,
};

/// What a set holds, image by image, before pictures become images of one size.
///
/// ```
/// use std::ops::ControlFlow;
/// use kakusan_data::{DataConfig, DatasetName, inspect};
///
/// let config = DataConfig { drawn_per_class: 5, ..DataConfig::new(DatasetName::Mnist).with_classes([1, 8]) };
/// let set = inspect(&config, &mut |_, _| ControlFlow::Continue(()))?;
/// assert_eq!((set.images.len(), set.bad.len()), (10, 0));
/// assert_eq!((set.images[0].width, set.images[0].height), (28, 28));
/// assert_eq!(set.thumbnail(0, 14)?.len(), 3 * 14 * 14);
/// # Ok::<(), kakusan_data::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The source that has the set.
    pub source: SourceUsed,
    /// The sources that were tried before, and why each could not provide the set.
    pub skipped: Vec<Skipped>,
    /// The names of the classes, in the order of their labels.
    pub class_names: Vec<String>,
    /// All splits that there are, with their numbers of pictures where they can be told without reading the other
    /// splits. Empty for a set that is not divided.
    pub splits: Vec<(String, Option<usize>)>,
    /// Remarks for the user, as [`Loaded::notes`].
    pub notes: Vec<String>,
    /// The reason if the images have no classes.
    pub unlabelled: Option<String>,
    /// The images that can be decoded, in the source's order.
    pub images: Vec<Inspected>,
    /// All images that cannot, in the same order.
    pub bad: Vec<BadImage>,
    /// The number of images in the set: those above, and more if the inspection was stopped.
    pub total: usize,
    pictures: Source,
    background: [u8; 3],
    moments: Moments,
}

/// An image as it is in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspected {
    /// Its class, an index into [`Inspection::class_names`].
    pub label: u32,
    /// The width in pixels, of the picture in upright position.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// The channels of the file.
    pub mode: Mode,
    /// Whether a pixel is transparent, at least in part.
    pub is_transparent: bool,
    /// Whether all of its pixels are grey, whatever the channels of its file.
    pub is_grey: bool,
    /// The place among all images, also bad ones.
    place: usize,
    /// A hash of the size and the pixels.
    fingerprint: u64,
}

/// Where the pixels come from.
#[derive(Debug)]
enum Source {
    Photos(Vec<Photo>),
    Set(Arc<ImageSet>),
}

/// Sums over images of means over their pixels: of the values, of their squares, of how many are black or white.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    values: [f64; 3],
    squares: [f64; 3],
    extremes: f64,
}

/// Reads every image of the configured set: its size, its mode, its pixels, or why it cannot be decoded. Pixels are not
/// kept; in memory are, as for a training, the files of a tar.gz, and those of parquet files that fit into
/// [`DataConfig::cache_mb`]. `validation`, `resolution` and `channels` have no effect.
///
/// `watch` is called from time to time with the number of images that were read and of all; it can stop the inspection.
///
/// # Errors
///
/// As [`load`], except for images that cannot be decoded.
pub fn inspect(
    config: &DataConfig,
    watch: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Inspection, Error> {
    let found = find(config, load, |_| Err("the program does not use the Hub".to_owned()))?;
    Ok(found.read(watch))
}

/// Like [`inspect`], but includes the Hub.
///
/// # Errors
///
/// As [`inspect`].
#[cfg(feature = "hub")]
pub fn inspect_with_hub(
    config: &DataConfig,
    hub: &Hub,
    watch: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Inspection, Error> {
    let load = |config: &DataConfig| crate::load_with_hub(config, hub);
    Ok(find(config, load, |config| crate::hub::find_pictures(config, hub))?.read(watch))
}

/// Finds the set; its images are not read yet.
fn find(
    config: &DataConfig,
    load: impl FnOnce(&DataConfig) -> Result<Loaded, Error>,
    ask_hub: impl FnOnce(&DataConfig) -> Result<(Pictures, String), String>,
) -> Result<Found, Error> {
    config.check()?;
    let background = config.transform().background;
    let none = |source: SourceKind, reason: String| Error::NoSource {
        dataset: config.name,
        tried: vec![Skipped { source, reason }],
    };
    let (kind, (pictures, description)) = match (config.name, &config.dir) {
        (DatasetName::Folder, Some(dir)) => (SourceKind::Dir, source::find_pictures(dir, config)?),
        (DatasetName::Folder, None) => return Err(none(SourceKind::Dir, "no folder was named".to_owned())),
        (DatasetName::Hub, _) => (SourceKind::Hub, ask_hub(config).map_err(|reason| none(SourceKind::Hub, reason))?),
        _ => {
            let loaded = load(&DataConfig { validation: None, resolution: None, channels: None, ..config.clone() })?;
            let Loaded { images, source, skipped, notes, unlabelled, .. } = loaded;
            let splits = ["train", "test"].map(|split| (split.to_owned(), None)).to_vec();
            let (class_names, labels) = (images.class_names().to_vec(), images.labels().to_vec());
            let pictures = Source::Set(images);
            return Ok(Found { source, skipped, class_names, splits, notes, unlabelled, labels, pictures, background });
        }
    };
    let Pictures { entries, class_names, notes, unlabelled, splits, .. } = pictures;
    let (labels, photos) = entries.into_iter().map(|entry| (entry.label, entry.photo)).unzip();
    let (source, pictures) = (SourceUsed { kind: Some(kind), description }, Source::Photos(photos));
    Ok(Found { source, skipped: vec![], class_names, splits, notes, unlabelled, labels, pictures, background })
}

/// A set whose images are not read yet.
struct Found {
    source: SourceUsed,
    skipped: Vec<Skipped>,
    class_names: Vec<String>,
    splits: Vec<(String, Option<usize>)>,
    notes: Vec<String>,
    unlabelled: Option<String>,
    labels: Vec<u32>,
    pictures: Source,
    background: [u8; 3],
}

impl Found {
    fn read(self, watch: &mut dyn FnMut(usize, usize) -> ControlFlow<()>) -> Inspection {
        const AT_ONCE: usize = 64;
        let Self { source, skipped, class_names, splits, notes, unlabelled, labels, pictures, background } = self;
        let total = labels.len();
        let (mut images, mut bad, mut moments) = (Vec::with_capacity(total), Vec::new(), Moments::default());
        for start in (0..total).step_by(AT_ONCE) {
            if watch(start, total).is_break() {
                break;
            }
            let places = start..total.min(start + AT_ONCE);
            let read = |place: usize| -> Result<(Inspected, Moments), String> {
                let (picture, mode, is_transparent) = pictures.picture(place, background)?;
                let (width, height) = picture.width_and_height();
                let (moments, is_grey, fingerprint) = match &picture {
                    Picture::Eight(raster) => measure(raster),
                    Picture::Sixteen(raster) => measure(raster),
                };
                let label = labels[place];
                let image = Inspected { label, width, height, mode, is_transparent, is_grey, place, fingerprint };
                Ok((image, moments))
            };
            let some: Vec<_> = places.clone().into_par_iter().map(read).collect();
            for (place, read) in places.zip(some) {
                match read {
                    Ok((image, of_image)) => {
                        images.push(image);
                        moments.add(&of_image);
                    }
                    Err(reason) => bad.push(pictures.bad(place, reason)),
                }
            }
            if start + AT_ONCE >= total {
                let _ = watch(total, total); // there is nothing left to stop
            }
        }
        Inspection {
            source,
            skipped,
            class_names,
            splits,
            notes,
            unlabelled,
            images,
            bad,
            total,
            pictures,
            background,
            moments,
        }
    }
}

impl Source {
    /// An image in RGB, its mode, and whether it has a transparent pixel.
    fn picture(&self, place: usize, background: [u8; 3]) -> Result<(Picture, Mode, bool), String> {
        match self {
            Self::Photos(photos) => raster::look(&photos[place].bytes(MAX_FILE_BYTES)?, background),
            Self::Set(set) => {
                let planes = set.image(place).map_err(|error| error.to_string())?;
                let raster = Raster::of_planes(&planes, set.shape()).with_channels(3);
                Ok((Picture::Eight(raster), Mode::of_bytes(set.channels()), false))
            }
        }
    }

    fn bad(&self, place: usize, reason: String) -> BadImage {
        match self {
            Self::Photos(photos) => photos[place].bad(reason),
            Self::Set(_) => BadImage { path: PathBuf::from(format!("image {place}")), row: None, reason },
        }
    }

    fn name(&self, place: usize) -> String {
        match self {
            Self::Photos(photos) => photos[place].name(),
            Self::Set(_) => format!("image {place}"),
        }
    }
}

impl Moments {
    fn add(&mut self, other: &Self) {
        for channel in 0..3 {
            self.values[channel] += other.values[channel];
            self.squares[channel] += other.squares[channel];
        }
        self.extremes += other.extremes;
    }
}

/// The moments of an RGB picture, whether all of its pixels are grey, and its hash.
fn measure<T: Sample + Hash>(raster: &Raster<T>) -> (Moments, bool, u64) {
    let (mut sums, mut squares, mut extremes, mut is_grey) = ([0u64; 3], [0u64; 3], 0u64, true);
    let pixels = raster.pixels.as_chunks::<3>().0;
    for pixel in pixels {
        let values = pixel.map(|value| u64::from(Into::<u32>::into(value)));
        for (channel, value) in values.into_iter().enumerate() {
            sums[channel] += value;
            squares[channel] += value * value; // at most 2^27 pixels of 16 bits: 2^59
        }
        is_grey &= values[0] == values[1] && values[1] == values[2];
        extremes += u64::from(values == [0; 3] || values == [u64::from(T::FULL); 3]);
    }
    let (count, full) = (pixels.len().max(1) as f64, f64::from(T::FULL));
    let moments = Moments {
        values: sums.map(|sum| sum as f64 / (count * full)),
        squares: squares.map(|sum| sum as f64 / (count * full * full)),
        extremes: extremes as f64 / count,
    };
    let mut hash = DefaultHasher::new();
    (raster.width, raster.height, &raster.pixels).hash(&mut hash);
    (moments, is_grey, hash.finish())
}

impl Inspection {
    /// The number of images of each class, in the order of the class names, without bad ones.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for image in &self.images {
            counts[image.label as usize] += 1;
        }
        counts
    }

    /// The location of image `i` of [`images`](Self::images). Panics if there is no such image.
    pub fn name(&self, i: usize) -> String {
        self.pictures.name(self.images[i].place)
    }

    /// Image `i` of [`images`](Self::images), resized and cropped at the centre as for a training: RGB from 0 to 1,
    /// `[3, h, w]`. Panics if there is no such image.
    ///
    /// # Errors
    ///
    /// [`Error::BadImage`] if it cannot be read any more.
    pub fn thumbnail(&self, i: usize, resolution: impl Into<Resolution>) -> Result<Vec<f32>, Error> {
        let (place, resolution) = (self.images[i].place, resolution.into());
        let (width, height) = resolution.width_and_height();
        let cut = || -> Result<Vec<f32>, String> {
            let picture = self.pictures.picture(place, self.background)?.0.resized(resolution);
            let mut pixels = Vec::with_capacity(3 * height * width);
            let window = Window::of(Cow::Owned(picture), [3, height, width], Chance::default())?;
            window.for_each_number(|pixel| pixels.push(pixel));
            Ok(pixels)
        };
        cut().map_err(|reason| Error::BadImage(self.pictures.bad(place, reason)))
    }

    /// The mean and the standard deviation of the pixels, from 0 to 1, for each channel: one if all images are grey,
    /// otherwise red, green and blue. Each image counts alike, however large it is; transparent pixels are blended with
    /// the background. Without images, not a number.
    pub fn mean_and_std(&self) -> Vec<(f64, f64)> {
        let (count, channels) = (self.images.len() as f64, if self.is_grey() { 1 } else { 3 });
        let of = |channel: usize| {
            let mean = self.moments.values[channel] / count;
            (mean, (self.moments.squares[channel] / count - mean * mean).max(0.0).sqrt())
        };
        (0..channels).map(of).collect()
    }

    /// The share of the pixels that are black or white, from 0 to 1; each image counts alike.
    pub fn black_or_white(&self) -> f64 {
        self.moments.extremes / self.images.len() as f64
    }

    /// Whether all images are grey, whatever the channels of their files.
    pub fn is_grey(&self) -> bool {
        self.images.iter().all(|image| image.is_grey)
    }

    /// Groups of images with the same size and pixels, as indices into [`images`](Self::images), in order.
    pub fn duplicates(&self) -> Vec<Vec<usize>> {
        let mut groups: HashMap<u64, Vec<usize>> = HashMap::with_capacity(self.images.len());
        for (i, image) in self.images.iter().enumerate() {
            groups.entry(image.fingerprint).or_default().push(i);
        }
        let mut groups: Vec<Vec<usize>> = groups.into_values().filter(|group| group.len() > 1).collect();
        groups.sort_unstable();
        groups
    }
}
