//! The losses that ship with the library.

use std::sync::Arc;

use candle_core::{D, Tensor};

use super::{Guidance, Predicted};
use crate::{Error, Result};

/// Images of one colour: the mean absolute difference between the pixels and it, as in the diffusion course. Pixels are
/// from -1 to 1.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use kakusan_pipeline::{ColourGuidance, Guidance, Predicted};
///
/// let white = Tensor::ones((1, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let loss = ColourGuidance::rgb([255, 0, 255]).loss(&Predicted::new(&white))?; // the green channel is off by 2
/// assert!((loss.to_vec1::<f32>()?[0] - 2.0 / 3.0).abs() < 1e-6);
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ColourGuidance {
    /// The level of each channel, from 0 to 1; one alone is that of all channels.
    levels: Vec<f32>,
}

impl ColourGuidance {
    /// A colour in 256 levels of red, green and blue. A grey one also guides grey images.
    pub fn rgb(colour: [u8; 3]) -> Self {
        Self { levels: colour.map(|level| f32::from(level) / 255.0).to_vec() }
    }

    /// A level from 0 to 1 of all channels.
    pub fn level(level: f32) -> Self {
        Self { levels: vec![level] }
    }

    /// The level of each of `channels`, from -1 to 1; `None` if they do not fit.
    fn of_channels(&self, channels: usize) -> Option<Vec<f32>> {
        let levels = match self.levels.as_slice() {
            levels if levels.len() == channels => levels.to_vec(),
            [first, others @ ..] if others.iter().all(|other| other == first) => vec![*first; channels],
            _ => return None,
        };
        Some(levels.into_iter().map(|level| 2.0 * level - 1.0).collect())
    }
}

impl Guidance for ColourGuidance {
    fn loss(&self, predicted: &Predicted) -> Result<Tensor> {
        let (images, channels) = (predicted.images, predicted.images.dim(1)?);
        let levels = self.of_channels(channels).ok_or_else(|| unfit_colour(channels))?;
        let colour = Tensor::from_vec(levels, (1, channels, 1, 1), images.device())?.to_dtype(images.dtype())?;
        mean_of_pixels(&images.broadcast_sub(&colour)?.abs()?)
    }

    fn check(&self, _: usize, [channels, ..]: [usize; 3]) -> Result<()> {
        check_levels("colour", &self.levels)?;
        self.of_channels(channels).map_or_else(|| Err(unfit_colour(channels)), |_| Ok(()))
    }
}

fn unfit_colour(channels: usize) -> Error {
    Error::Unfit(match channels {
        1 => "the model draws grey images: guide them to a level of grey, such as 0.5, not to a colour".into(),
        _ => format!(
            "the model draws images of {channels} channels: guide them to one level, not to red, green and blue"
        ),
    })
}

/// Images of this brightness: the absolute difference between the mean of all pixels and it, with pixels from -1 to 1.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use kakusan_pipeline::{BrightnessGuidance, Guidance, Predicted};
///
/// let grey = Tensor::zeros((1, 1, 8, 8), DType::F32, &Device::Cpu)?;
/// let loss = BrightnessGuidance::new(1.0).loss(&Predicted::new(&grey))?;
/// assert_eq!(loss.to_vec1::<f32>()?, [1.0]);
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BrightnessGuidance {
    level: f32,
}

impl BrightnessGuidance {
    /// A mean level of the pixels, from 0 to 1. (Grey pictures of this project are drawn as dark ink on white, so that
    /// more of it is darker there.)
    pub fn new(level: f32) -> Self {
        Self { level }
    }
}

impl Guidance for BrightnessGuidance {
    fn loss(&self, predicted: &Predicted) -> Result<Tensor> {
        Ok(mean_of_pixels(predicted.images)?.affine(1.0, 1.0 - 2.0 * f64::from(self.level))?.abs()?)
    }

    fn check(&self, _: usize, _: [usize; 3]) -> Result<()> {
        check_levels("brightness", &[self.level])
    }
}

/// Images that resemble given ones: the mean squared difference of the pixels, from -1 to 1.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use kakusan_pipeline::{Guidance, ImageGuidance, Predicted};
///
/// let black = Tensor::zeros((1, 1, 8, 8), DType::F32, &Device::Cpu)?;
/// let grey = Tensor::zeros((2, 1, 8, 8), DType::F32, &Device::Cpu)?;
/// let loss = ImageGuidance::new(&black)?.loss(&Predicted::new(&grey))?;
/// assert_eq!(loss.to_vec1::<f32>()?, [1.0, 1.0]);
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageGuidance {
    /// `[n, c, h, w]`, pixels from -1 to 1.
    images: Tensor,
}

impl ImageGuidance {
    /// Images `[n, c, h, w]` with pixels from 0 to 1, one for each of the batch. If they are fewer, they take turns.
    ///
    /// # Errors
    /// When there are no images.
    pub fn new(images: &Tensor) -> Result<Self> {
        match images.dims() {
            [(1..), _, _, _] => Ok(Self { images: images.affine(2.0, -1.0)?.detach() }),
            other => Err(Error::Unfit(format!("the images to resemble have shape {other:?}, expected [n, c, h, w]"))),
        }
    }
}

impl Guidance for ImageGuidance {
    fn loss(&self, predicted: &Predicted) -> Result<Tensor> {
        let images = predicted.images;
        let wanted = self.images.to_device(images.device())?.to_dtype(images.dtype())?;
        let wanted = take_turns(&wanted, predicted)?;
        mean_of_pixels(&images.broadcast_sub(&wanted)?.sqr()?)
    }

    fn check(&self, batch_size: usize, shape: [usize; 3]) -> Result<()> {
        check_images("the images to resemble", &self.images, batch_size, &shape)
    }
}

/// Another guidance inside of a mask alone: the gradient of its loss reaches only the pixels where the mask is 1.
///
/// ```
/// use std::sync::Arc;
/// # use candle_core::{DType, Device, Tensor};
/// use kakusan_pipeline::{ColourGuidance, Guide, MaskedGuidance};
///
/// let left = Tensor::ones((1, 1, 28, 14), DType::F32, &Device::Cpu)?.pad_with_zeros(3, 0, 14)?;
/// let guide = Guide::new(MaskedGuidance::new(Arc::new(ColourGuidance::level(1.0)), &left)?, 40.0);
/// # Ok::<(), kakusan_pipeline::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MaskedGuidance {
    guidance: Arc<dyn Guidance>,
    /// `[n, 1 or c, h, w]`
    mask: Tensor,
}

impl MaskedGuidance {
    /// `mask` `[n, 1, h, w]` or `[n, c, h, w]` is 1 inside and 0 outside, or anything between. If there are fewer masks
    /// than images, they take turns.
    ///
    /// # Errors
    /// When there is no mask.
    pub fn new(guidance: Arc<dyn Guidance>, mask: &Tensor) -> Result<Self> {
        match mask.dims() {
            [(1..), _, _, _] => Ok(Self { guidance, mask: mask.detach() }),
            other => Err(Error::Unfit(format!("the mask has shape {other:?}, expected [n, 1, h, w]"))),
        }
    }
}

impl Guidance for MaskedGuidance {
    fn loss(&self, predicted: &Predicted) -> Result<Tensor> {
        let images = predicted.images;
        let mask = take_turns(&self.mask.to_device(images.device())?.to_dtype(images.dtype())?, predicted)?;
        let inside = images.broadcast_mul(&mask)?;
        let outside = images.detach().broadcast_mul(&mask.affine(-1.0, 1.0)?)?;
        self.guidance.loss(&Predicted { images: &(inside + outside)?, ..predicted.clone() })
    }

    fn check(&self, batch_size: usize, shape: [usize; 3]) -> Result<()> {
        let [channels, height, width] = shape;
        let of_mask = self.mask.dim(1)?;
        let expected = if of_mask == 1 { [1, height, width] } else { [channels, height, width] };
        check_images("the mask", &self.mask, batch_size, &expected)?;
        self.guidance.check(batch_size, shape)
    }
}

/// The mean over all but the first dimension.
fn mean_of_pixels(x: &Tensor) -> Result<Tensor> {
    Ok(x.flatten_from(1)?.mean(D::Minus1)?)
}

/// Of `given` `[n, ...]` one for each of the predicted images; one alone serves all.
fn take_turns(given: &Tensor, predicted: &Predicted) -> Result<Tensor> {
    let n = given.dim(0)?;
    if n == 1 {
        return Ok(given.clone());
    }
    let indices: Vec<u32> = predicted.part.clone().map(|i| (i % n) as u32).collect();
    Ok(given.index_select(&Tensor::from_vec(indices, predicted.part.len(), given.device())?, 0)?)
}

fn check_images(what: &str, images: &Tensor, batch_size: usize, expected: &[usize; 3]) -> Result<()> {
    let (n, own) = (images.dim(0)?, images.dims().get(1..).unwrap_or_default());
    if own != expected {
        return Err(Error::Unfit(format!("{what}: of shape {own:?} (channels, height, width), expected {expected:?}")));
    }
    if n > batch_size {
        return Err(Error::Unfit(format!("{what}: {n} for {batch_size} images")));
    }
    Ok(())
}

fn check_levels(what: &str, levels: &[f32]) -> Result<()> {
    match levels.iter().find(|level| !(0.0..=1.0).contains(*level)) {
        None => Ok(()),
        Some(level) => Err(Error::Unfit(format!("the {what} has the level {level}; it must be from 0 to 1"))),
    }
}
