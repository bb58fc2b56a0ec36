//! Features of images, and the networks that compute them.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use kakusan_data::ImageSet;
use kakusan_pipeline::{Error, Result};
use rayon::prelude::*;

/// The most bytes of the features of one set.
const MAX_BYTES: usize = 8 << 30;

/// Features of some images: a row of `dim` numbers each.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    dim: usize,
    /// `[n, dim]`
    values: Vec<f32>,
}

impl Features {
    /// Features `[n, dim]`.
    ///
    /// # Errors
    /// When `values` are not whole rows, or one is not finite.
    pub fn new(dim: usize, values: Vec<f32>) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(Error::Unfit(format!("{} numbers are no rows of {dim} features", values.len())));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let reason = format!("the features of image {} are not finite, so nothing can be measured", at / dim);
            return Err(Error::NotFinite(reason));
        }
        Ok(Self { dim, values })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The numbers of each image.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All numbers `[n, dim]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The features of image `i`. Panics if `i` is not below [`len`](Self::len).
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// The features of every image in turn.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }

    /// The features of some of the images. Panics if an index is not below [`len`](Self::len).
    pub fn select(&self, indices: &[usize]) -> Self {
        Self { dim: self.dim, values: indices.iter().flat_map(|&i| self.row(i)).copied().collect() }
    }
}

/// A network whose features are compared.
pub trait FeatureNetwork: Send + Sync {
    /// What the result calls it.
    fn name(&self) -> &str;

    /// The number of features of an image.
    fn dim(&self) -> usize;

    /// Images that are computed at a time.
    fn batch_size(&self) -> usize;

    /// The features of `images` `[n, c, h, w]`, pixels from 0 to 1: `[n, dim]`; and for a classifier the probability
    /// of each class, `[n, classes]`.
    ///
    /// # Errors
    /// When the images do not fit the network.
    fn features(&self, images: &Tensor) -> Result<(Tensor, Option<Tensor>)>;
}

/// What a network says of some images.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// The features.
    pub features: Features,
    /// For a classifier, each image's most likely class and its probability.
    pub classes: Option<Vec<(u32, f32)>>,
}

/// Pixels of some images, as they would be saved: `[n, c, h, w]` from 0 to 1, in 256 levels.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    shape: [usize; 3],
    values: Vec<u8>,
}

impl Pixels {
    /// No images of a shape `[c, h, w]` yet.
    pub fn none(shape: [usize; 3]) -> Self {
        Self { shape, values: vec![] }
    }

    /// Adds images `[n, c, h, w]`: pixels from 0 to 1 are rounded to 256 levels, as a saved picture has them.
    ///
    /// # Errors
    /// When the images have another shape, or a pixel is NaN, as those of a model that diverged.
    pub fn add(&mut self, images: &Tensor) -> Result<()> {
        let (n, c, h, w) = images.dims4()?;
        if [c, h, w] != self.shape {
            return Err(Error::Unfit(format!("the images are {:?}, expected {:?}", [c, h, w], self.shape)));
        }
        let values =
            images.to_device(&Device::Cpu)?.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bad = values.chunks_exact((c * h * w).max(1)).filter(|image| image.iter().any(|x| !x.is_finite())).count();
        if bad > 0 {
            return Err(Error::NotFinite(format!(
                "{bad} of {n} images hold numbers that are not finite, so they cannot be measured: the model's weights \
                 have diverged in training, or do not fit the scheduler"
            )));
        }
        self.values.extend(values.iter().map(|x| (x.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8));
        Ok(())
    }

    /// Channels, height and width of each image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.values.len() / self.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The pixels of some images, from 0 to 1. Panics if an index is not below [`len`](Self::len).
    pub fn pixels_f32(&self, indices: &[usize]) -> Vec<f32> {
        let size = self.size();
        let images = indices.iter().flat_map(|&i| &self.values[i * size..(i + 1) * size]);
        images.map(|&pixel| f32::from(pixel) / 255.0).collect()
    }

    fn size(&self) -> usize {
        self.shape.iter().product::<usize>().max(1)
    }
}

/// Images that a network is shown.
pub trait Images: Sync {
    /// Channels, height and width of each image.
    fn shape(&self) -> [usize; 3];

    /// Their number.
    fn count(&self) -> usize;

    /// The pixels of image `i` from 0 to 1, or `None` if it cannot be decoded and the set leaves such images out.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn read(&self, i: usize) -> Result<Option<Vec<f32>>>;
}

impl Images for Pixels {
    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn read(&self, i: usize) -> Result<Option<Vec<f32>>> {
        Ok(Some(self.pixels_f32(&[i])))
    }
}

impl Images for ImageSet {
    fn shape(&self) -> [usize; 3] {
        ImageSet::shape(self)
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn read(&self, i: usize) -> Result<Option<Vec<f32>>> {
        match self.pixels_f32(&[i]) {
            Err(kakusan_data::Error::BadImage(_)) if self.may_skip() => Ok(None),
            pixels => Ok(Some(pixels?)),
        }
    }
}

/// Computes the features of the images with these indices, and returns the indices of those that could be read.
/// `watch` is told how many images are done.
///
/// # Errors
/// When an image cannot be read or does not fit the network, when there is not enough memory for the features, and
/// when `watch` breaks.
pub fn embed(
    network: &dyn FeatureNetwork,
    images: &dyn Images,
    indices: &[usize],
    watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<(Vec<usize>, Embedding)> {
    let dim = network.dim();
    if indices.len().saturating_mul(dim).saturating_mul(4) > MAX_BYTES {
        let (count, limit) = (indices.len(), MAX_BYTES >> 30);
        return Err(Error::Unfit(format!(
            "{count} images of {dim} features need more than {limit} GiB of memory; compare fewer images"
        )));
    }
    let [c, h, w] = images.shape();
    let (mut kept, mut values, mut classes) = (vec![], Vec::with_capacity(indices.len() * dim), None);
    for (number, batch) in indices.chunks(network.batch_size().max(1)).enumerate() {
        let read = |&i: &usize| Ok(images.read(i)?.map(|pixels| (i, pixels)));
        let read = batch.par_iter().map(read).collect::<Result<Vec<_>>>()?;
        let (read, pixels): (Vec<usize>, Vec<Vec<f32>>) = read.into_iter().flatten().unzip();
        if !read.is_empty() {
            let batch = Tensor::from_vec(pixels.concat(), (read.len(), c, h, w), &Device::Cpu)?;
            let (features, probabilities) = network.features(&batch)?;
            values.extend(features.flatten_all()?.to_vec1::<f32>()?);
            if let Some(probabilities) = probabilities {
                let rows = probabilities.to_vec2::<f32>()?;
                classes.get_or_insert_with(Vec::new).extend(rows.iter().map(|row| most_likely(row)));
            }
            kept.extend(read);
        }
        let done = (number * network.batch_size().max(1) + batch.len()).min(indices.len());
        if watch(done).is_break() {
            return Err(Error::Unfit("stopped before the end".to_owned()));
        }
    }
    Ok((kept, Embedding { features: Features::new(dim, values)?, classes }))
}

/// The first of the most likely classes.
fn most_likely(probabilities: &[f32]) -> (u32, f32) {
    let all = (0u32..).zip(probabilities.iter().copied());
    all.fold((0, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best })
}
