//! Images of one size: in memory, or read when they are needed.

use std::{borrow::Cow, error, fmt, path::PathBuf, sync::Arc};

use crate::{BadImage, Class, Error, photos::Photos, raster::Sample};

/// Images of one size with their classes, in the set's own order.
///
/// From bytes in memory, [`new`](Self::new):
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
/// From floats in memory, [`from_f32`](Self::from_f32), and from anything that can be read image by image,
/// [`from_reader`](Self::from_reader).
#[derive(Clone, Debug)]
pub struct ImageSet {
    /// Channels, height, width.
    shape: [usize; 3],
    pixels: Pixels,
    labels: Vec<u32>, // [n]
    class_names: Vec<String>,
    random_flip: bool,
    latents: bool,
}

#[derive(Clone, Debug)]
enum Pixels {
    /// `[n, c, h, w]`
    Bytes(Vec<u8>),
    /// `[n, c, h, w]`
    Floats(Vec<f32>),
    /// What must be decoded, or cut at random, for each use.
    Photos(Photos),
    /// What a program reads: the images at these places.
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

/// Sets are equal that hold the same pixels in the same form; those of a [`ReadImages`], that read from the same one.
impl PartialEq for ImageSet {
    fn eq(&self, other: &Self) -> bool {
        let of = |set: &Self| (set.shape, set.random_flip, set.latents);
        of(self) == of(other)
            && (&self.labels, &self.class_names) == (&other.labels, &other.class_names)
            && self.pixels == other.pixels
    }
}

/// Images that a program reads itself: from a database, a format of its own, a renderer.
///
/// A [`Loader`](crate::Loader) calls [`read`](Self::read) from several threads at once, for every image once an epoch.
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
    /// The number of images. It stays the same.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Channels, height and width of every image.
    fn shape(&self) -> [usize; 3];

    /// Writes the pixels of image `i` into `out` `[c, h, w]`: from 0 to 1, or any finite numbers if the set is one of
    /// latents ([`ImageSet::as_latents`]).
    ///
    /// # Errors
    ///
    /// When the image cannot be read; the set then gives [`Error::BadImage`] with its [`name`](Self::name).
    fn read(&self, i: usize, out: &mut [f32]) -> Result<(), Box<dyn error::Error + Send + Sync>>;

    /// The class of image `i`, an index of [`class_names`](Self::class_names). It is asked for once.
    fn label(&self, i: usize) -> u32 {
        let _ = i;
        0
    }

    /// What the classes are called, in the order of their labels.
    fn class_names(&self) -> Vec<String> {
        vec!["images".to_owned()]
    }

    /// What image `i` is called in a message, such as its file.
    fn name(&self, i: usize) -> String {
        format!("image {i}")
    }
}

impl fmt::Debug for dyn ReadImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images of {:?}", self.len(), self.shape())
    }
}

/// What chance decides of one image in one epoch. The default is no chance: the middle, not mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chance {
    /// Where a window is cut out: top and left, before the remainder by the room that there is.
    pub(crate) corner: Option<(u32, u32)>,
    /// Mirrored left to right.
    pub(crate) flip: bool,
}

/// Which of the two kinds of [`Chance`] a set takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Augment {
    pub(crate) random_crop: bool,
    pub(crate) random_flip: bool,
}

impl ImageSet {
    /// A set of bytes, 0 to 255: `shape` is channels (1: grey, 3: RGB; others can be trained on, but not shown), height
    /// and width of each image, `pixels` is `[n, c, h, w]`, `labels` is `[n]`, and a label indexes `class_names`.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSet`] when the counts differ, an image has no pixel, or a label has no name.
    pub fn new(shape: [usize; 3], pixels: Vec<u8>, labels: Vec<u32>, class_names: Vec<String>) -> Result<Self, Error> {
        check_count(shape, labels.len(), pixels.len())?;
        Self::checked(shape, Pixels::Bytes(pixels), labels, class_names)
    }

    /// As [`new`](Self::new), from floats: pixels from 0 to 1, or latents (see [`as_latents`](Self::as_latents)).
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
    /// As [`new`](Self::new), and when a value is not finite.
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

    /// A set whose images are read each time that they are needed. The labels are read now.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSet`] when an image has no pixel, or a label has no name.
    pub fn from_reader(images: impl ReadImages + 'static) -> Result<Self, Error> {
        let (shape, count) = (images.shape(), images.len());
        size_of(shape)?;
        let labels = (0..count).map(|i| images.label(i)).collect();
        let class_names = images.class_names();
        Self::checked(shape, Pixels::Reader(Arc::new(images), (0..count).collect()), labels, class_names)
    }

    /// A set of pictures, as many as `labels`.
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
        Ok(Self { shape, pixels, labels, class_names, random_flip: false, latents: false })
    }

    /// The same set, whose images a [`Loader`](crate::Loader) mirrors left to right with probability one half, or not.
    pub fn with_random_flip(mut self, random_flip: bool) -> Self {
        self.random_flip = random_flip;
        self
    }

    /// The same set as latents: its numbers are trained on as they are. Pixels, from 0 to 1, are brought into the range
    /// that the scheduler wants, mostly -1 to 1.
    pub fn as_latents(mut self) -> Self {
        self.latents = true;
        self
    }

    /// Whether the numbers are [latents](Self::as_latents) rather than pixels.
    pub fn are_latents(&self) -> bool {
        self.latents
    }

    /// Channels of an image: 1 is grey, 3 is red, green and blue.
    pub fn channels(&self) -> usize {
        self.shape[0]
    }

    /// Height of an image, in pixels.
    pub fn height(&self) -> usize {
        self.shape[1]
    }

    /// Width of an image, in pixels.
    pub fn width(&self) -> usize {
        self.shape[2]
    }

    /// Channels, height and width of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The class of every image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// What the classes are called, in the order of their labels; also those of which the set holds no image.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The class of image `i`. Like a slice, it panics from [`ImageSet::len`] on.
    pub fn label(&self, i: usize) -> u32 {
        self.labels[i]
    }

    /// The pixels of image `i`, `[c, h, w]`: 0 is black, 255 is full; 16 bits become the nearest of 8. What a loader
    /// cuts out at random is cut out of the middle here, and nothing is mirrored. Floats become the nearest of 256
    /// levels. Like a slice, it panics from [`ImageSet::len`] on.
    ///
    /// # Errors
    ///
    /// [`Error::BadImage`] for a picture that cannot be decoded. Images held in memory give none.
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

    /// The pixels of some images as numbers from 0 to 1, `[indices.len(), c, h, w]`: each byte divided by 255, as
    /// torchvision's `ToTensor` does, and 16 bits by 65,535. Nothing is left to chance, as in [`image`](Self::image).
    /// Like a slice, it panics for an index from [`ImageSet::len`] on.
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

    /// The first `count` images that can be decoded, as [`pixels_f32`](Self::pixels_f32); fewer where the set has
    /// fewer.
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image), unless the set leaves bad images out.
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
                photos.window(i, self.shape, chance)?.for_each_number(|pixel| out.push(pixel)); // mirrored already
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

    /// Appends image `i`; a bad one is left out and handed back where the set leaves such out, and an error elsewhere.
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

    /// The images of some classes, in the set's order. Labels and class names stay what they are.
    ///
    /// # Errors
    ///
    /// For no class at all, a class named twice, and a class of which the set holds no image.
    pub fn select(&self, classes: &[Class]) -> Result<Self, Error> {
        let counts = self.class_counts();
        let labels = Class::labels(classes, &self.class_names, |label| counts[label as usize] > 0)?;
        let mut keep = vec![false; self.class_names.len()];
        for label in labels {
            keep[label as usize] = true;
        }
        let kept: Vec<usize> = (0..self.len()).filter(|&i| keep[self.labels[i] as usize]).collect();
        let pixels = match &self.pixels {
            Pixels::Bytes(pixels) => Pixels::Bytes(taken(pixels, self.size(), &kept)),
            Pixels::Floats(pixels) => Pixels::Floats(taken(pixels, self.size(), &kept)),
            Pixels::Photos(photos) => Pixels::Photos(photos.select(&kept)),
            Pixels::Reader(images, places) => Pixels::Reader(images.clone(), kept.iter().map(|&i| places[i]).collect()),
        };
        let labels = kept.iter().map(|&i| self.labels[i]).collect();
        Ok(Self { pixels, labels, class_names: self.class_names.clone(), ..*self })
    }

    /// The number of images of each class, in the order of the class names.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// The classes that the set holds images of, in the order of their labels, and how many of each.
    pub fn counts_by_class(&self) -> Vec<(String, usize)> {
        let all = self.class_names.iter().cloned().zip(self.class_counts());
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// The mean of all images, `[c, h, w]`, from 0 to 1; black for an empty set. Of images that are not held decoded,
    /// the mean is of 4,096 of them, evenly spread.
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image), unless the set leaves bad images out.
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

    /// The mean of every image at `step` from the one before.
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

    /// Whether all images lie decoded in memory, so that a batch costs next to nothing.
    pub fn is_held(&self) -> bool {
        match &self.pixels {
            Pixels::Bytes(_) | Pixels::Floats(_) => true,
            Pixels::Photos(photos) => photos.are_held(),
            Pixels::Reader(..) => false,
        }
    }

    /// Whether images that turn out to be bad when their turn comes are left out of their batches, which may be left
    /// empty.
    pub fn may_skip(&self) -> bool {
        matches!(&self.pixels, Pixels::Photos(photos) if photos.skips_bad() && !photos.are_held())
    }

    /// What a loader draws for each image.
    pub(crate) fn augment(&self) -> Augment {
        let random_crop = matches!(&self.pixels, Pixels::Photos(photos) if photos.random_crop());
        Augment { random_crop, random_flip: self.random_flip }
    }

    /// Numbers in an image.
    fn size(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Numbers in an image of this shape, of which there are some.
fn size_of([channels, height, width]: [usize; 3]) -> Result<usize, Error> {
    let size = channels.checked_mul(height).and_then(|size| size.checked_mul(width)).filter(|&size| size > 0);
    size.ok_or_else(|| Error::ImageSet(format!("images of {channels} x {height} x {width} pixels cannot be held")))
}

/// Makes sure that `numbers` are those of `n` images of this shape, and gives how many one has.
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

/// The images at `places`, of `size` numbers each.
fn taken<T: Copy>(pixels: &[T], size: usize, places: &[usize]) -> Vec<T> {
    let mut taken = Vec::with_capacity(places.len() * size);
    for &i in places {
        taken.extend_from_slice(&pixels[i * size..(i + 1) * size]);
    }
    taken
}
