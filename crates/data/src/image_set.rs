//! Sets of images of one size, in memory or read on demand.

use std::{borrow::Cow, collections::BTreeMap, error, fmt, path::PathBuf, sync::Arc};

use kakusan_rng::Generator;

use crate::{BadImage, Class, Error, photos::Photos, raster::Sample};

/// Images of one size with their classes, in a fixed order.
///
/// From bytes in memory, with [`new`](Self::new):
///
/// ```
/// use kakusan_data::ImageSet;
///
/// let names = vec!["dark".to_owned(), "light".to_owned()];
/// let images = ImageSet::new([1, 1, 2], vec![0, 51, 255, 255], vec![0, 1], names)?; // two grey images of 1 x 2 pixels
/// assert_eq!(images.pixels_f32(&[1, 0])?, [1.0, 1.0, 0.0, 0.2]);
/// assert_eq!(images.select(&["light".into()])?.len(), 1);
/// # Ok::<(), kakusan_data::Error>(())
/// ```
///
/// [`from_f32`](Self::from_f32) takes floats in memory, and [`from_reader`](Self::from_reader) takes anything that can
/// be read image by image.
#[derive(Clone, Debug)]
pub struct ImageSet {
    /// Channels, height, width.
    shape: [usize; 3],
    pixels: Pixels,
    labels: Vec<u32>, // [n]
    class_names: Vec<String>,
    /// Of the images of each label, if they are clusters.
    label_means: Arc<Vec<Vec<f32>>>,
    random_flip: bool,
    latents: bool,
}

#[derive(Clone, Debug)]
enum Pixels {
    /// `[n, c, h, w]`
    Bytes(Vec<u8>),
    /// `[n, c, h, w]`
    Floats(Vec<f32>),
    /// Pictures that must be decoded, or cropped at random, at each use.
    Photos(Photos),
    /// Images that a program reads, and the indices of those that belong to this set.
    Reader(Arc<dyn ReadImages>, Vec<usize>),
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bytes(ours), Self::Bytes(theirs)) => ours == theirs,
            (Self::Floats(ours), Self::Floats(theirs)) => ours == theirs,
            (Self::Photos(ours), Self::Photos(theirs)) => ours == theirs,
            (Self::Reader(ours, places), Self::Reader(theirs, others)) => Arc::ptr_eq(ours, theirs) && places == others,
            _ => false,
        }
    }
}

/// Two sets are equal if they hold the same pixels in the same form. Sets of a [`ReadImages`] are equal if they read
/// from the same one.
impl PartialEq for ImageSet {
    fn eq(&self, other: &Self) -> bool {
        let of = |set: &Self| (set.shape, set.random_flip, set.latents);
        of(self) == of(other)
            && (&self.labels, &self.class_names) == (&other.labels, &other.class_names)
            && self.pixels == other.pixels
    }
}

/// Images that a program reads itself: from a database, a custom format, a renderer.
///
/// A [`Loader`](crate::Loader) calls [`read`](Self::read) from several threads in parallel, once per image and epoch.
///
/// ```
/// use kakusan_data::{ImageSet, ReadImages};
///
/// /// Grey squares, each darker than the one before.
/// struct Squares;
///
/// impl ReadImages for Squares {
///     fn len(&self) -> usize {
///         5
///     }
///
///     fn shape(&self) -> [usize; 3] {
///         [1, 2, 2]
///     }
///
///     fn read(&self, i: usize, out: &mut [f32]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///         out.fill(1.0 - i as f32 / 4.0);
///         Ok(())
///     }
/// }
///
/// let images = ImageSet::from_reader(Squares)?;
/// assert_eq!((images.len(), images.shape()), (5, [1, 2, 2]));
/// assert_eq!(images.pixels_f32(&[1])?, [0.75; 4]);
/// # Ok::<(), kakusan_data::Error>(())
/// ```
pub trait ReadImages: Send + Sync {
    /// The number of images. It must not change.
    fn len(&self) -> usize;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Channels, height and width of every image.
    fn shape(&self) -> [usize; 3];

    /// Writes the pixels of image `i` into `out` `[c, h, w]`: numbers from 0 to 1, or any finite numbers if the set
    /// holds latents ([`ImageSet::as_latents`]).
    ///
    /// # Errors
    ///
    /// If the image cannot be read. The set then returns [`Error::BadImage`] with its [`name`](Self::name).
    fn read(&self, i: usize, out: &mut [f32]) -> Result<(), Box<dyn error::Error + Send + Sync>>;

    /// The class of image `i`, an index into [`class_names`](Self::class_names). It is called once per image.
    fn label(&self, i: usize) -> u32 {
        let _ = i;
        0
    }

    /// The names of the classes, in the order of their labels.
    fn class_names(&self) -> Vec<String> {
        vec!["images".to_owned()]
    }

    /// The name of image `i` in messages, for example its file.
    fn name(&self, i: usize) -> String {
        format!("image {i}")
    }
}

impl fmt::Debug for dyn ReadImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images of {:?}", self.len(), self.shape())
    }
}

/// The random choices for one image in one epoch. The default is not random: a centre crop, not mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chance {
    /// The crop's top and left. Each is reduced modulo the number of possible positions.
    pub(crate) corner: Option<(u32, u32)>,
    /// Mirror the image left to right.
    pub(crate) flip: bool,
}

/// Which parts of [`Chance`] a set uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Augment {
    pub(crate) random_crop: bool,
    pub(crate) random_flip: bool,
}

impl ImageSet {
    /// A set of bytes, 0 to 255. `shape` is the channels, height and width of each image; 1 channel is grey, 3 are RGB,
    /// and any other number can be trained on, but not shown. `pixels` is `[n, c, h, w]`. `labels` is `[n]`; a label is
    /// an index into `class_names`.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSet`] if the counts differ, an image has no pixels, or a label has no name.
    pub fn new(shape: [usize; 3], pixels: Vec<u8>, labels: Vec<u32>, class_names: Vec<String>) -> Result<Self, Error> {
        check_count(shape, labels.len(), pixels.len())?;
        Self::checked(shape, Pixels::Bytes(pixels), labels, class_names)
    }

    /// Like [`new`](Self::new), from floats: pixels from 0 to 1, or latents (see [`as_latents`](Self::as_latents)).
    ///
    /// ```
    /// use kakusan_data::ImageSet;
    ///
    /// // two latents of 4 channels, 2 x 2 each, as an autoencoder gives them
    /// let values: Vec<f32> = (0..32).map(|i| i as f32 / 8.0 - 2.0).collect();
    /// let latents = ImageSet::from_f32([4, 2, 2], values.clone(), vec![0, 0], vec!["faces".to_owned()])?.as_latents();
    /// assert_eq!(latents.pixels_f32(&[1])?, values[16..]);
    /// # Ok::<(), kakusan_data::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if a value is not finite.
    pub fn from_f32(
        shape: [usize; 3],
        pixels: Vec<f32>,
        labels: Vec<u32>,
        class_names: Vec<String>,
    ) -> Result<Self, Error> {
        let size = check_count(shape, labels.len(), pixels.len())?;
        if let Some(at) = pixels.iter().position(|pixel| !pixel.is_finite()) {
            return Err(Error::ImageSet(format!("image {} holds {}, which is not finite", at / size, pixels[at])));
        }
        Self::checked(shape, Pixels::Floats(pixels), labels, class_names)
    }

    /// A set whose images are read each time they are needed. The labels are read now.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSet`] if an image has no pixels, or a label has no name.
    pub fn from_reader(images: impl ReadImages + 'static) -> Result<Self, Error> {
        let (shape, count) = (images.shape(), images.len());
        size_of(shape)?;
        let labels = (0..count).map(|i| images.label(i)).collect();
        let class_names = images.class_names();
        Self::checked(shape, Pixels::Reader(Arc::new(images), (0..count).collect()), labels, class_names)
    }

    /// A set of pictures, one for each label.
    pub(crate) fn of_photos(
        shape: [usize; 3],
        photos: Photos,
        labels: Vec<u32>,
        class_names: Vec<String>,
    ) -> Result<Self, Error> {
        Self::checked(shape, Pixels::Photos(photos), labels, class_names)
    }

    fn checked(shape: [usize; 3], pixels: Pixels, labels: Vec<u32>, class_names: Vec<String>) -> Result<Self, Error> {
        if let Some(&label) = labels.iter().find(|&&label| label as usize >= class_names.len()) {
            return Err(Error::ImageSet(format!(
                "an image has the label {label}, but there are {} classes",
                class_names.len()
            )));
        }
        let label_means = Arc::default();
        Ok(Self { shape, pixels, labels, class_names, label_means, random_flip: false, latents: false })
    }

    /// Sets whether a [`Loader`](crate::Loader) mirrors the images left to right, each with probability 1/2.
    pub fn with_random_flip(mut self, random_flip: bool) -> Self {
        self.random_flip = random_flip;
        self
    }

    /// Marks the numbers as latents, which are trained on as they are. Pixels, in contrast, are from 0 to 1 and are
    /// mapped to the range that the scheduler expects, usually -1 to 1.
    pub fn as_latents(mut self) -> Self {
        self.latents = true;
        self
    }

    /// Whether the numbers are [latents](Self::as_latents) and not pixels.
    pub fn are_latents(&self) -> bool {
        self.latents
    }

    /// The number of channels of an image: 1 is grey, 3 are red, green and blue.
    pub fn channels(&self) -> usize {
        self.shape[0]
    }

    /// The height of an image, in pixels.
    pub fn height(&self) -> usize {
        self.shape[1]
    }

    /// The width of an image, in pixels.
    pub fn width(&self) -> usize {
        self.shape[2]
    }

    /// The channels, height and width of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The class of every image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The names of the classes, in the order of their labels. Includes classes without images in this set.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The class of image `i`. Panics if `i` is not below [`ImageSet::len`].
    pub fn label(&self, i: usize) -> u32 {
        self.labels[i]
    }

    /// The pixels of image `i`, `[c, h, w]`: 0 is black, 255 is full intensity. 16-bit values and floats are rounded to
    /// the nearest byte. Where a loader crops at random, this takes the centre; nothing is mirrored. Panics if
    /// `i` is not below [`ImageSet::len`].
    ///
    /// # Errors
    ///
    /// [`Error::BadImage`] if the picture cannot be decoded. Images held in memory never fail.
    pub fn image(&self, i: usize) -> Result<Cow<'_, [u8]>, Error> {
        match &self.pixels {
            Pixels::Bytes(pixels) => Ok(Cow::Borrowed(&pixels[i * self.size()..(i + 1) * self.size()])),
            Pixels::Floats(_) | Pixels::Reader(..) => {
                let mut image = Vec::with_capacity(self.size());
                self.append_f32(i, Chance::default(), &mut image)?;
                Ok(Cow::Owned(image.into_iter().map(|pixel| (pixel * 255.0).round() as u8).collect()))
            }
            Pixels::Photos(photos) => {
                let mut image = Vec::with_capacity(self.size());
                photos.window(i, self.shape, Chance::default())?.for_each_byte(|pixel| image.push(pixel));
                Ok(Cow::Owned(image))
            }
        }
    }

    /// The pixels of some images as numbers from 0 to 1, `[indices.len(), c, h, w]`: bytes are divided by 255, as
    /// torchvision's `ToTensor` does, and 16-bit values by 65,535. Nothing is random, as in [`image`](Self::image).
    /// Panics if an index is not below [`ImageSet::len`].
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image).
    pub fn pixels_f32(&self, indices: &[usize]) -> Result<Vec<f32>, Error> {
        let mut out = Vec::with_capacity(indices.len() * self.size());
        for &i in indices {
            self.append_f32(i, Chance::default(), &mut out)?;
        }
        Ok(out)
    }

    /// The first `count` images that can be decoded, in the form of [`pixels_f32`](Self::pixels_f32). Fewer if the set
    /// does not have as many.
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image), unless the set skips bad images.
    pub fn first_pixels_f32(&self, count: usize) -> Result<Vec<f32>, Error> {
        let mut out = Vec::with_capacity(count.min(self.len()) * self.size());
        for i in 0..self.len() {
            if out.len() >= count * self.size() {
                break;
            }
            self.append_unless_bad(i, Chance::default(), &mut out)?;
        }
        Ok(out)
    }

    /// Appends image `i` as numbers.
    fn append_f32(&self, i: usize, chance: Chance, out: &mut Vec<f32>) -> Result<(), Error> {
        let (begin, size) = (out.len(), self.size());
        match &self.pixels {
            Pixels::Photos(photos) => {
                photos.window(i, self.shape, chance)?.for_each_number(|pixel| out.push(pixel)); // already mirrored
                return Ok(());
            }
            Pixels::Bytes(pixels) => out.extend(pixels[i * size..(i + 1) * size].iter().map(|&pixel| pixel.to_f32())),
            Pixels::Floats(pixels) => out.extend_from_slice(&pixels[i * size..(i + 1) * size]),
            Pixels::Reader(images, places) => {
                out.resize(begin + size, 0.0);
                let read = images.read(places[i], &mut out[begin..]).map_err(|error| error.to_string());
                let not_finite = |pixels: &[f32]| pixels.iter().find(|pixel| !pixel.is_finite()).copied();
                let checked = read.and_then(|()| match not_finite(&out[begin..]) {
                    Some(pixel) => Err(format!("holds {pixel}, which is not finite")),
                    None => Ok(()),
                });
                if let Err(reason) = checked {
                    out.truncate(begin);
                    let path = PathBuf::from(images.name(places[i]));
                    return Err(Error::BadImage(BadImage { path, row: None, reason }));
                }
            }
        }
        if chance.flip {
            out[begin..].chunks_exact_mut(self.width()).for_each(<[f32]>::reverse);
        }
        Ok(())
    }

    /// Appends image `i`. If the image is bad and the set skips bad images, it is not appended but returned.
    pub(crate) fn append_unless_bad(
        &self,
        i: usize,
        chance: Chance,
        out: &mut Vec<f32>,
    ) -> Result<Option<BadImage>, Error> {
        match (self.append_f32(i, chance, out), &self.pixels) {
            (Err(Error::BadImage(bad)), Pixels::Photos(photos)) if photos.skips_bad() => Ok(Some(bad)),
            (result, _) => result.map(|()| None),
        }
    }

    /// The images of some classes, in the set's order. Labels and class names do not change.
    ///
    /// # Errors
    ///
    /// If no class is given, a class is named twice, or the set has no image of a class.
    pub fn select(&self, classes: &[Class]) -> Result<Self, Error> {
        let counts = self.class_counts();
        let labels = Class::labels(classes, &self.class_names, |label| counts[label as usize] > 0)?;
        let mut keep = vec![false; self.class_names.len()];
        for label in labels {
            keep[label as usize] = true;
        }
        let kept: Vec<usize> = (0..self.len()).filter(|&i| keep[self.labels[i] as usize]).collect();
        Ok(self.subset(&kept))
    }

    /// The set without a share of its images, and those: at least one, chosen at random and always the same.
    pub(crate) fn hold_out(&self, share: f64) -> Result<(Self, Self), Error> {
        let count = ((self.len() as f64 * share).round() as usize).max(1);
        if count >= self.len() {
            let reason = format!("is {share}, which of {} images leaves none to train on", self.len());
            return Err(Error::Config { key: "validation", reason });
        }
        let mut held_out = vec![false; self.len()];
        for i in Generator::new(0).randperm(self.len()).into_iter().take(count) {
            held_out[i] = true;
        }
        let those = |wanted: bool| -> Vec<usize> { (0..self.len()).filter(|&i| held_out[i] == wanted).collect() };
        Ok((self.subset(&those(false)), self.subset(&those(true))))
    }

    /// The same images in clusters, with the mean of each.
    pub(crate) fn with_labels(self, labels: Vec<u32>, class_names: Vec<String>, means: Vec<Vec<f32>>) -> Self {
        Self { labels, class_names, label_means: means.into(), ..self }
    }

    /// The mean image of each label, reduced to at most 16 blocks of pixels a side, of which it has the sums, if the
    /// labels are those of [clusters](crate::DataConfig::clusters). The mean of a label without images is empty.
    pub fn label_means(&self) -> Option<&[Vec<f32>]> {
        (!self.label_means.is_empty()).then_some(self.label_means.as_slice())
    }

    /// The images at these places, in this order.
    fn subset(&self, kept: &[usize]) -> Self {
        let pixels = match &self.pixels {
            Pixels::Bytes(pixels) => Pixels::Bytes(taken(pixels, self.size(), kept)),
            Pixels::Floats(pixels) => Pixels::Floats(taken(pixels, self.size(), kept)),
            Pixels::Photos(photos) => Pixels::Photos(photos.select(kept)),
            Pixels::Reader(images, places) => Pixels::Reader(images.clone(), kept.iter().map(|&i| places[i]).collect()),
        };
        let labels = kept.iter().map(|&i| self.labels[i]).collect();
        let (class_names, label_means) = (self.class_names.clone(), self.label_means.clone());
        Self { pixels, labels, class_names, label_means, ..*self }
    }

    /// The number of images of each class, in the order of the class names.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// The classes with at least one image, in the order of their labels, and how many images each has. Labels of one
    /// name that follow one another, such as those of [clusters](crate::DataConfig::clusters), are one class.
    pub fn counts_by_class(&self) -> Vec<(String, usize)> {
        let mut classes: Vec<(String, usize)> = vec![];
        for (name, count) in self.class_names.iter().zip(self.class_counts()).filter(|(_, count)| *count > 0) {
            match classes.last_mut().filter(|(last, _)| last == name) {
                Some((_, images)) => *images += count,
                None => classes.push((name.clone(), count)),
            }
        }
        classes
    }

    /// The names of the labels that images have.
    pub fn names_by_label(&self) -> BTreeMap<u32, String> {
        let all = (0..).zip(self.class_names.iter().cloned()).zip(self.class_counts());
        all.filter(|(_, count)| *count > 0).map(|(class, _)| class).collect()
    }

    /// The labels that images have, and how many images each has.
    pub fn counts_by_label(&self) -> BTreeMap<u32, u64> {
        (0..).zip(self.class_counts()).filter(|(_, count)| *count > 0).map(|(label, n)| (label, n as u64)).collect()
    }

    /// The mean of all images, `[c, h, w]`, from 0 to 1; black for an empty set. If the images are not held in memory
    /// decoded, the mean is taken over 4,096 of them, evenly spaced.
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image), unless the set skips bad images.
    pub fn mean_image(&self) -> Result<Vec<f32>, Error> {
        const MOST: usize = 4096;
        let step = if self.is_held() { 1 } else { self.len().div_ceil(MOST).max(1) };
        if matches!(self.pixels, Pixels::Floats(_) | Pixels::Reader(..)) {
            return self.mean_of_floats(step);
        }
        let mut sums = vec![0u64; self.size()];
        let mut count = 0;
        for i in (0..self.len()).step_by(step) {
            let image = match (self.image(i), &self.pixels) {
                (Err(Error::BadImage(_)), Pixels::Photos(photos)) if photos.skips_bad() => continue,
                (image, _) => image?,
            };
            count += 1;
            for (sum, &pixel) in sums.iter_mut().zip(image.iter()) {
                *sum += u64::from(pixel);
            }
        }
        let scale = 255.0 * f64::from(count.max(1));
        Ok(sums.into_iter().map(|sum| (sum as f64 / scale) as f32).collect())
    }

    /// The mean of every `step`-th image.
    fn mean_of_floats(&self, step: usize) -> Result<Vec<f32>, Error> {
        let (mut sums, mut image, mut count) = (vec![0f64; self.size()], Vec::with_capacity(self.size()), 0);
        for i in (0..self.len()).step_by(step) {
            image.clear();
            self.append_f32(i, Chance::default(), &mut image)?;
            count += 1;
            sums.iter_mut().zip(&image).for_each(|(sum, &pixel)| *sum += f64::from(pixel));
        }
        Ok(sums.into_iter().map(|sum| (sum / f64::from(count.max(1))) as f32).collect())
    }

    /// Whether all images are decoded in memory, so that a batch costs almost nothing.
    pub fn is_held(&self) -> bool {
        match &self.pixels {
            Pixels::Bytes(_) | Pixels::Floats(_) => true,
            Pixels::Photos(photos) => photos.are_held(),
            Pixels::Reader(..) => false,
        }
    }

    /// Whether batches skip images that turn out to be bad when they are decoded. A batch may then be empty.
    pub fn may_skip(&self) -> bool {
        matches!(&self.pixels, Pixels::Photos(photos) if photos.skips_bad() && !photos.are_held())
    }

    /// The random choices that a loader makes for each image.
    pub(crate) fn augment(&self) -> Augment {
        let random_crop = matches!(&self.pixels, Pixels::Photos(photos) if photos.random_crop());
        Augment { random_crop, random_flip: self.random_flip }
    }

    /// The numbers of an image.
    fn size(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The number of values of an image of this shape; an error if there are none.
fn size_of([channels, height, width]: [usize; 3]) -> Result<usize, Error> {
    let size = channels.checked_mul(height).and_then(|size| size.checked_mul(width)).filter(|&size| size > 0);
    size.ok_or_else(|| Error::ImageSet(format!("images of {channels} x {height} x {width} pixels cannot be held")))
}

/// Checks that `numbers` is the number of values of `n` images of this shape, and returns the values per image.
fn check_count(shape: [usize; 3], n: usize, numbers: usize) -> Result<usize, Error> {
    let size = size_of(shape)?;
    if n.checked_mul(size) == Some(numbers) {
        return Ok(size);
    }
    let [channels, height, width] = shape;
    Err(Error::ImageSet(format!(
        "{n} labels need {n} images of {channels} x {height} x {width} pixels, but there are {numbers} numbers"
    )))
}

/// The images at the indices `places`, of `size` values each.
fn taken<T: Copy>(pixels: &[T], size: usize, places: &[usize]) -> Vec<T> {
    let mut taken = Vec::with_capacity(places.len() * size);
    for &i in places {
        taken.extend_from_slice(&pixels[i * size..(i + 1) * size]);
    }
    taken
}
