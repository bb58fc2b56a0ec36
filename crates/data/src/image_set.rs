//! Grey images in memory, as bytes.

use crate::{Error, config::known_classes};

/// Grey images of one size with their classes, in the set's own order.
///
/// ```
/// use kakusan_data::ImageSet;
///
/// let names = vec!["dark".to_owned(), "light".to_owned()];
/// let images = ImageSet::new(1, 2, vec![0, 51, 255, 255], vec![0, 1], names)?; // two images of 1 x 2 pixels
/// assert_eq!(images.pixels_f32(&[1, 0]), [1.0, 1.0, 0.0, 0.2]);
/// assert_eq!(images.select(&[1])?.len(), 1);
/// # Ok::<(), kakusan_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    height: usize,
    width: usize,
    pixels: Vec<u8>, // [n, h, w]
    labels: Vec<u8>, // [n]
    class_names: Vec<String>,
}

impl ImageSet {
    /// A set from its parts: `pixels` is `[n, height, width]`, `labels` is `[n]`, and a label indexes `class_names`.
    ///
    /// # Errors
    ///
    /// [`Error::ImageSet`] when the counts differ, an image has no pixel, or a label has no name.
    pub fn new(
        height: usize,
        width: usize,
        pixels: Vec<u8>,
        labels: Vec<u8>,
        class_names: Vec<String>,
    ) -> Result<Self, Error> {
        let size = height.checked_mul(width).filter(|&size| size > 0);
        let Some(size) = size else {
            return Err(Error::ImageSet(format!("images of {height} x {width} pixels cannot be held")));
        };
        if labels.len().checked_mul(size) != Some(pixels.len()) {
            let (n, bytes) = (labels.len(), pixels.len());
            return Err(Error::ImageSet(format!(
                "{n} labels call for {n} images of {height} x {width} pixels, but there are {bytes} pixels"
            )));
        }
        if let Some(&label) = labels.iter().find(|&&label| usize::from(label) >= class_names.len()) {
            return Err(Error::ImageSet(format!(
                "an image has the label {label}, but there are {} classes",
                class_names.len()
            )));
        }
        Ok(Self { height, width, pixels, labels, class_names })
    }

    /// Height of an image, in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width of an image, in pixels.
    pub fn width(&self) -> usize {
        self.width
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
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// What the classes are called, in the order of their labels; also those of which the set holds no image.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The pixels of image `i`, `[h, w]`: 0 is black, 255 is white. Like a slice, it panics from [`ImageSet::len`] on.
    pub fn image(&self, i: usize) -> &[u8] {
        let size = self.height * self.width;
        &self.pixels[i * size..(i + 1) * size]
    }

    /// The class of image `i`. Like a slice, it panics from [`ImageSet::len`] on.
    pub fn label(&self, i: usize) -> u8 {
        self.labels[i]
    }

    /// The pixels of some images as numbers from 0 to 1, `[indices.len(), h, w]`: each byte divided by 255, as torchvision's
    /// `ToTensor` does. Like a slice, it panics for an index from [`ImageSet::len`] on.
    pub fn pixels_f32(&self, indices: &[usize]) -> Vec<f32> {
        let mut out = Vec::with_capacity(indices.len() * self.height * self.width);
        for &i in indices {
            out.extend(self.image(i).iter().map(|&pixel| f32::from(pixel) / 255.0));
        }
        out
    }

    /// The images of some classes, in the set's order. Labels and class names stay what they are.
    ///
    /// # Errors
    ///
    /// For no class at all, a class named twice, and a class of which the set holds no image.
    pub fn select(&self, classes: &[u8]) -> Result<Self, Error> {
        if classes.is_empty() {
            return Err(Error::EmptySelection);
        }
        let counts = self.class_counts();
        let mut keep = [false; 256];
        for &class in classes {
            if counts.get(usize::from(class)).is_none_or(|&count| count == 0) {
                let held = (0..=u8::MAX).zip(&counts).filter(|(_, count)| **count > 0).map(|(class, _)| class);
                return Err(Error::UnknownClass { class, known: known_classes(held, &self.class_names) });
            }
            if std::mem::replace(&mut keep[usize::from(class)], true) {
                return Err(Error::DuplicateClass { class });
            }
        }
        let kept = (0..self.len()).filter(|&i| keep[usize::from(self.labels[i])]);
        let total: usize = classes.iter().map(|&class| counts[usize::from(class)]).sum();
        let mut pixels = Vec::with_capacity(total * self.height * self.width);
        let mut labels = Vec::with_capacity(total);
        for i in kept {
            pixels.extend_from_slice(self.image(i));
            labels.push(self.labels[i]);
        }
        Self::new(self.height, self.width, pixels, labels, self.class_names.clone())
    }

    /// The number of images of each class, in the order of the class names.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for &label in &self.labels {
            counts[usize::from(label)] += 1;
        }
        counts
    }

    /// The mean of all images, `[h, w]`, from 0 to 1; black for an empty set.
    pub fn mean_image(&self) -> Vec<f32> {
        let size = self.height * self.width;
        let mut sums = vec![0u64; size];
        for image in self.pixels.chunks_exact(size) {
            for (sum, &pixel) in sums.iter_mut().zip(image) {
                *sum += u64::from(pixel);
            }
        }
        let scale = 255.0 * self.len().max(1) as f64;
        sums.into_iter().map(|sum| (sum as f64 / scale) as f32).collect()
    }
}
