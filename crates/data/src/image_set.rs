//! Images of one size: as bytes in memory, or as pictures that are decoded when they are asked for.

use std::borrow::Cow;

use crate::{BadImage, Class, Error, photos::Photos, raster::Sample};

/// Images of one size, grey or RGB, with their classes, in the set's own order.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    /// Channels, height, width.
    shape: [usize; 3],
    pixels: Pixels,
    labels: Vec<u32>, // [n]
    class_names: Vec<String>,
    random_flip: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pixels {
    /// `[n, c, h, w]`
    Held(Vec<u8>),
    /// What must be decoded, or cut at random, for each use.
    Photos(Photos),
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
    /// A set from its parts: `shape` is channels (1: grey, 3: RGB), height and width of each image, `pixels` is `[n, c, h, w]`, `labels` is
    /// `[n]`, and a label indexes `class_names`.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSet`] when the counts differ, an image has no pixel or neither 1 nor 3 channels, or a label has no name.
    pub fn new(shape: [usize; 3], pixels: Vec<u8>, labels: Vec<u32>, class_names: Vec<String>) -> Result<Self, Error> {
        let [channels, height, width] = shape;
        let size = channels.checked_mul(height).and_then(|size| size.checked_mul(width)).filter(|&size| size > 0);
        let Some(size) = size.filter(|_| channels == 1 || channels == 3) else {
            return Err(Error::ImageSet(format!("images of {channels} x {height} x {width} pixels cannot be held")));
        };
        if labels.len().checked_mul(size) != Some(pixels.len()) {
            let (n, bytes) = (labels.len(), pixels.len());
            return Err(Error::ImageSet(format!(
                "{n} labels call for {n} images of {channels} x {height} x {width} pixels, but there are {bytes} bytes"
            )));
        }
        Self::checked(shape, Pixels::Held(pixels), labels, class_names)
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
        Ok(Self { shape, pixels, labels, class_names, random_flip: false })
    }

    /// The same set, whose images a [`Loader`](crate::Loader) mirrors left to right with probability one half, or not.
    pub fn with_random_flip(mut self, random_flip: bool) -> Self {
        self.random_flip = random_flip;
        self
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

    /// The pixels of image `i`, `[c, h, w]`: 0 is black, 255 is full; 16 bits become the nearest of 8. What a loader cuts
    /// out at random is cut out of the middle here, and nothing is mirrored. Like a slice, it panics from [`ImageSet::len`] on.
    ///
    /// # Errors
    ///
    /// [`Error::BadImage`] for a picture that cannot be decoded. Images held in memory give none.
    pub fn image(&self, i: usize) -> Result<Cow<'_, [u8]>, Error> {
        match &self.pixels {
            Pixels::Held(pixels) => Ok(Cow::Borrowed(&pixels[i * self.size()..(i + 1) * self.size()])),
            Pixels::Photos(photos) => {
                let mut image = Vec::with_capacity(self.size());
                photos.window(i, self.shape, Chance::default())?.for_each_byte(|pixel| image.push(pixel));
                Ok(Cow::Owned(image))
            }
        }
    }

    /// The pixels of some images as numbers from 0 to 1, `[indices.len(), c, h, w]`: each byte divided by 255, as torchvision's
    /// `ToTensor` does, and 16 bits by 65,535. Nothing is left to chance, as in [`image`](Self::image). Like a
    /// slice, it panics for an index from [`ImageSet::len`] on.
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

    /// The first `count` images that can be decoded, as [`pixels_f32`](Self::pixels_f32); fewer where the set has fewer.
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

    /// Appends image `i` as numbers from 0 to 1.
    fn append_f32(&self, i: usize, chance: Chance, out: &mut Vec<f32>) -> Result<(), Error> {
        match &self.pixels {
            Pixels::Held(_) if chance.flip => {
                let image = self.image(i)?;
                out.extend(image.chunks_exact(self.width()).flat_map(|row| row.iter().rev()).map(|&p| p.to_f32()));
            }
            Pixels::Held(_) => out.extend(self.image(i)?.iter().map(|&pixel| pixel.to_f32())),
            Pixels::Photos(photos) => photos.window(i, self.shape, chance)?.for_each_number(|pixel| out.push(pixel)),
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
            Pixels::Held(pixels) => {
                let mut selected = Vec::with_capacity(kept.len() * self.size());
                for &i in &kept {
                    selected.extend_from_slice(&pixels[i * self.size()..(i + 1) * self.size()]);
                }
                Pixels::Held(selected)
            }
            Pixels::Photos(photos) => Pixels::Photos(photos.select(&kept)),
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

    /// The mean of all images, `[c, h, w]`, from 0 to 1; black for an empty set. Of pictures that are not held decoded, the mean is of
    /// 4,096 of them, evenly spread.
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image), unless the set leaves bad images out.
    pub fn mean_image(&self) -> Result<Vec<f32>, Error> {
        const MOST: usize = 4096;
        let step = if self.is_held() { 1 } else { self.len().div_ceil(MOST).max(1) };
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

    /// Whether all images lie decoded in memory, so that a batch costs next to nothing.
    pub fn is_held(&self) -> bool {
        match &self.pixels {
            Pixels::Held(_) => true,
            Pixels::Photos(photos) => photos.are_held(),
        }
    }

    /// Whether images that turn out to be bad when their turn comes are left out of their batches, which may be left empty.
    pub fn may_skip(&self) -> bool {
        matches!(&self.pixels, Pixels::Photos(photos) if photos.skips_bad() && !photos.are_held())
    }

    /// What a loader draws for each image.
    pub(crate) fn augment(&self) -> Augment {
        let random_crop = matches!(&self.pixels, Pixels::Photos(photos) if photos.random_crop());
        Augment { random_crop, random_flip: self.random_flip }
    }

    /// Bytes of an image.
    fn size(&self) -> usize {
        self.shape.iter().product()
    }
}
