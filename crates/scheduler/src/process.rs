use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use kakusan_rng::Noise;

use crate::schedule::Alphas;
use crate::tensors::{check_same, per_image, rand, randn};
use crate::{Error, Family, PredictionType, Result};

/// The training side of a scheduler: how images are noised, and what the model has to predict.
///
/// A **level** is where an image stands on the scheduler's scale of noise: one number an image, on the host. Everything
/// follows from it: the noisy image is `α x₀ + σ ε`, the target another weighted sum of image and noise, and the
/// **conditioning** what the model gets besides the noisy image, commonly the level itself.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use kakusan_rng::Generator;
/// use kakusan_scheduler::{Levels, PredictionType, Process};
///
/// # fn main() -> kakusan_scheduler::Result<()> {
/// // levels from 0 to 1, along a quarter of a circle, and the model predicts the noise
/// let angle = |level: f32| level * std::f32::consts::FRAC_PI_2;
/// let levels = Levels::continuous(|u| u);
/// let process = Process::new(levels, PredictionType::Epsilon, move |level| (angle(level).cos(), angle(level).sin()));
///
/// let clean = Tensor::ones((2, 1, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let draw = process.draw(&clean, &mut Generator::new(0))?;
/// let noisy = process.add_noise(&clean, &draw.noise, &draw.levels)?;
/// let conditioning = process.conditioning(&draw.levels, &Device::Cpu)?; // goes to the model with `noisy`
/// assert_eq!((noisy.dims(), conditioning.dims()), (clean.dims(), &[2][..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Process {
    levels: Levels,
    /// Levels are from 0 to this one, where it is set.
    last: Option<usize>,
    uniform_noise: bool,
    alpha_sigma: OfLevel<(f32, f32)>,
    target: Target,
    model_input: Option<OfLevel<(f32, f32)>>,
    conditioning: Option<OfLevel<f32>>,
    snr: Option<OfLevel<f32>>,
    loss_weight: Option<OfLevel<f32>>,
    pixel_range: PixelRange,
    family: Option<Family>,
    /// ᾱ of each timestep; empty where training has no timesteps of a diffusion.
    alphas: Alphas,
}

type OfLevel<T> = Arc<dyn Fn(f32) -> T + Send + Sync>;

/// The levels that training draws.
#[derive(Clone)]
pub struct Levels(Drawn);

#[derive(Clone)]
enum Drawn {
    Timesteps(usize),
    OneOf(Arc<[f32]>),
    Continuous(OfLevel<f32>),
    Normal { mean: f64, std: f64, level: OfLevel<f32> },
}

/// The weights `(of x₀, of ε)` of what the model has to predict.
#[derive(Clone)]
enum Target {
    Of(PredictionType),
    Weights(OfLevel<(f32, f32)>),
}

/// The noise and the levels drawn for one training batch.
#[derive(Debug, Clone)]
pub struct Draw {
    /// Noise of the batch's shape `[b, c, h, w]`.
    pub noise: Tensor,
    /// The level of each image.
    pub levels: Vec<f32>,
}

impl Levels {
    /// The timesteps 0 to `t - 1`, all equally likely. A level of the process may lie between two of them.
    pub fn timesteps(t: usize) -> Self {
        Self(Drawn::Timesteps(t))
    }

    /// One of these for each image, all equally likely.
    pub fn one_of(levels: impl IntoIterator<Item = f32>) -> Self {
        Self(Drawn::OneOf(levels.into_iter().collect()))
    }

    /// `level(u)` for a number `u` drawn uniformly from `[0, 1)` for each image.
    pub fn continuous(level: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Self {
        Self(Drawn::Continuous(Arc::new(level)))
    }

    /// `level(z)` for a number `z` drawn from the normal distribution of this mean and standard deviation for each
    /// image.
    pub fn normal(mean: f64, std: f64, level: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Self {
        Self(Drawn::Normal { mean, std, level: Arc::new(level) })
    }

    fn num_timesteps(&self) -> Option<usize> {
        if let Drawn::Timesteps(t) = self.0 { Some(t) } else { None }
    }

    fn draw(&self, batch: usize, rng: &mut dyn Noise) -> Result<Vec<f32>> {
        Ok(match &self.0 {
            Drawn::Timesteps(t) => {
                rng.randint_tensor(&[batch], 0, *t as i64)?.into_iter().map(|timestep| timestep as f32).collect()
            }
            Drawn::OneOf(levels) => {
                let places = rng.randint_tensor(&[batch], 0, levels.len() as i64)?;
                places.into_iter().map(|i| levels[i as usize]).collect()
            }
            Drawn::Continuous(level) => rng.rand_tensor(&[batch])?.into_iter().map(|u| level(u)).collect(),
            Drawn::Normal { mean, std, level } => {
                rng.normal_tensor(&[batch], *mean, *std)?.into_iter().map(|z| level(z)).collect()
            }
        })
    }
}

impl Process {
    /// The process `α x₀ + σ ε` with the `(α, σ)` of each level, standard normal noise ε, and pixels from -1 to 1. The
    /// model is conditioned on the level.
    pub fn new(
        levels: Levels,
        prediction: PredictionType,
        alpha_sigma: impl Fn(f32) -> (f32, f32) + Send + Sync + 'static,
    ) -> Self {
        Self {
            last: levels.num_timesteps().map(|t| t.saturating_sub(1)),
            levels,
            uniform_noise: false,
            alpha_sigma: Arc::new(alpha_sigma),
            target: Target::Of(prediction),
            model_input: None,
            conditioning: None,
            snr: None,
            loss_weight: None,
            pixel_range: PixelRange::MinusOneToOne,
            family: None,
            alphas: Alphas::default(),
        }
    }

    /// The same with other levels for training to draw. They have to be levels of the process.
    pub fn with_levels(self, levels: Levels) -> Self {
        Self { levels, ..self }
    }

    /// The levels that training draws, if they are finitely many.
    pub fn levels(&self) -> Option<Vec<f32>> {
        match &self.levels.0 {
            Drawn::Timesteps(t) => Some((0..*t).map(|timestep| timestep as f32).collect()),
            Drawn::OneOf(levels) => Some(levels.to_vec()),
            Drawn::Continuous(_) | Drawn::Normal { .. } => None,
        }
    }

    /// The same with the ᾱ of each timestep, which runs go by.
    pub(crate) fn with_alphas(self, alphas: &Alphas) -> Self {
        Self { alphas: alphas.clone(), ..self }
    }

    /// The ᾱ of each timestep.
    pub(crate) fn alphas(&self) -> &Alphas {
        &self.alphas
    }

    /// The same for levels from 0 to `last` alone: others are refused by [`Error::Level`].
    pub fn up_to(self, last: usize) -> Self {
        Self { last: Some(last), ..self }
    }

    /// How many timesteps there are, where these are the levels.
    pub(crate) fn num_timesteps(&self) -> Option<usize> {
        self.levels.num_timesteps()
    }

    /// The same with noise uniform on `[0, 1)`, drawn after the levels as in the tutorial. (Normal noise is drawn
    /// before them, as in diffusers' training scripts.)
    pub fn uniform_noise(self) -> Self {
        Self { uniform_noise: true, ..self }
    }

    /// The same with another target: `p x₀ + q ε` with the `(p, q)` of each level.
    pub fn target_weights(self, weights: impl Fn(f32) -> (f32, f32) + Send + Sync + 'static) -> Self {
        Self { target: Target::Weights(Arc::new(weights)), ..self }
    }

    /// The same with a model that sees `c x + d` of a noisy image `x`, with the `(c, d)` of each level.
    pub fn model_input(self, input: impl Fn(f32) -> (f32, f32) + Send + Sync + 'static) -> Self {
        Self { model_input: Some(Arc::new(input)), ..self }
    }

    /// The same with a model that is conditioned on another number than the level.
    pub fn conditioned_on(self, timestep: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Self {
        Self { conditioning: Some(Arc::new(timestep)), ..self }
    }

    /// The same with a signal-to-noise ratio other than `(α / σ)²`.
    pub fn with_snr(self, snr: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Self {
        Self { snr: Some(Arc::new(snr)), ..self }
    }

    /// The same with a weight in the loss for each level.
    pub fn weighted(self, weight: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Self {
        Self { loss_weight: Some(Arc::new(weight)), ..self }
    }

    /// The same on images of other pixel values.
    pub fn on_pixels(self, pixel_range: PixelRange) -> Self {
        Self { pixel_range, ..self }
    }

    /// The same as the process of a family, whose samplers sample its models.
    pub fn of_family(self, family: Family) -> Self {
        Self { family: Some(family), ..self }
    }

    /// The family, where it is not the scheduler's own.
    pub fn family(&self) -> Option<&Family> {
        self.family.as_ref()
    }

    /// The values that pixels take in the images that are noised.
    pub fn pixel_range(&self) -> PixelRange {
        self.pixel_range
    }

    /// Noise of `shape` `[b, c, h, w]` as training adds it to images: normal, or uniform as in the tutorial.
    ///
    /// # Errors
    /// When `rng` is not for so many images, or the noise cannot be made on `device`.
    pub fn noise(&self, shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
        if self.uniform_noise { rand(shape, device, rng) } else { randn(shape, device, rng) }
    }

    /// Draws the noise and the levels for training on a batch of `clean` images `[b, c, h, w]`.
    ///
    /// # Errors
    /// When `rng` is not for so many images, or the noise cannot be made on the device of `clean`.
    pub fn draw(&self, clean: &Tensor, rng: &mut dyn Noise) -> Result<Draw> {
        let (shape, device) = (clean.dims(), clean.device());
        let batch = clean.dim(0)?;
        if self.uniform_noise {
            let levels = self.levels.draw(batch, rng)?;
            return Ok(Draw { noise: self.noise(shape, device, rng)?, levels });
        }
        let noise = self.noise(shape, device, rng)?;
        Ok(Draw { noise, levels: self.levels.draw(batch, rng)? })
    }

    /// `α clean + σ noise`, image `i` of `[b, c, h, w]` at `levels[i]`.
    ///
    /// # Errors
    /// When the shapes do not belong together, or a level is none of the process.
    pub fn add_noise(&self, clean: &Tensor, noise: &Tensor, levels: &[f32]) -> Result<Tensor> {
        weighted_sum(clean, noise, levels, |level| self.alpha_sigma(level))
    }

    /// What the model has to predict `[b, c, h, w]`: the clean image, the noise, a velocity or a score.
    ///
    /// # Errors
    /// As [`add_noise`](Self::add_noise).
    pub fn target(&self, clean: &Tensor, noise: &Tensor, levels: &[f32]) -> Result<Tensor> {
        weighted_sum(clean, noise, levels, |level| self.target_at(level))
    }

    /// What the model sees of noisy images `[b, c, h, w]`.
    ///
    /// # Errors
    /// As [`add_noise`](Self::add_noise).
    pub fn scale_model_input(&self, noisy: &Tensor, levels: &[f32]) -> Result<Tensor> {
        check_levels(levels, noisy)?;
        let Some(input) = &self.model_input else { return Ok(noisy.clone()) };
        let inputs = levels.iter().map(|&level| self.check(level).map(|level| input(level)));
        let (scales, shifts): (Vec<f32>, Vec<f32>) = inputs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let is_shifted = shifts.iter().any(|&shift| shift != 0.0);
        let scaled = noisy.broadcast_mul(&per_image(scales, noisy)?)?;
        if is_shifted { Ok(scaled.broadcast_add(&per_image(shifts, noisy)?)?) } else { Ok(scaled) }
    }

    /// What the model is conditioned on at each level.
    pub fn timesteps(&self, levels: &[f32]) -> Vec<f32> {
        match &self.conditioning {
            None => levels.to_vec(),
            Some(timestep) => levels.iter().map(|&level| timestep(level)).collect(),
        }
    }

    /// The same `[b]` on the device, as the model takes it.
    ///
    /// # Errors
    /// When the tensor cannot be made there.
    pub fn conditioning(&self, levels: &[f32], device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.timesteps(levels), levels.len(), device)?)
    }

    /// The signal-to-noise ratio of each level, where there is such a thing; losses are weighted by it.
    ///
    /// # Errors
    /// When a level is none of the process.
    pub fn snr(&self, levels: &[f32]) -> Result<Option<Vec<f32>>> {
        let of = |&level: &f32| -> Result<f32> {
            let (alpha, sigma) = self.alpha_sigma(level)?;
            Ok(self.snr.as_ref().map_or_else(|| (alpha / sigma).powi(2), |snr| snr(level)))
        };
        (!self.uniform_noise).then(|| levels.iter().map(of).collect()).transpose()
    }

    /// The weight of each image in the loss; `None` weighs all alike.
    pub fn loss_weight(&self, levels: &[f32]) -> Option<Vec<f32>> {
        self.loss_weight.as_ref().map(|weight| levels.iter().map(|&level| weight(level)).collect())
    }

    /// The clean images `[b, c, h, w]` that a model's output for `noisy` implies, where that output is what
    /// [`target`](Self::target) asks for.
    ///
    /// Solves for them. Where that has no one solution it takes the limit: without noise the noisy image is the clean
    /// one, and a model of images predicts it itself. Noise alone, from a model of noise, tells nothing, and stands for
    /// the middle of the [`pixel_range`](Self::pixel_range).
    ///
    /// # Errors
    /// As [`add_noise`](Self::add_noise).
    pub fn pred_original_sample(&self, model_output: &Tensor, noisy: &Tensor, levels: &[f32]) -> Result<Tensor> {
        check_same("the model's output", model_output, noisy)?;
        check_levels(levels, noisy)?;
        let middle = if self.pixel_range == PixelRange::ZeroToOne { 0.5 } else { 0.0 };
        let solve = |&level: &f32| -> Result<[f32; 4]> {
            Ok(solve_for_clean(self.alpha_sigma(level)?, self.target_at(level)?, middle))
        };
        let solved = levels.iter().map(solve).collect::<Result<Vec<_>>>()?;
        let each = |i: usize| per_image(solved.iter().map(|weights| weights[i]).collect(), noisy);
        let sum = (noisy.broadcast_mul(&each(0)?)? - model_output.broadcast_mul(&each(1)?)?)?;
        Ok(sum.broadcast_div(&each(2)?)?.broadcast_add(&each(3)?)?)
    }

    /// The `(α, σ)` of a level.
    ///
    /// # Errors
    /// When the level is none of the process.
    pub fn alpha_sigma(&self, level: f32) -> Result<(f32, f32)> {
        self.check(level).map(|level| (self.alpha_sigma)(level))
    }

    fn target_at(&self, level: f32) -> Result<(f32, f32)> {
        Ok(match &self.target {
            Target::Of(PredictionType::Epsilon) => (0.0, 1.0),
            Target::Of(PredictionType::Sample) => (1.0, 0.0),
            Target::Of(PredictionType::FlowPrediction) => (-1.0, 1.0),
            Target::Of(PredictionType::VPrediction) => {
                let (alpha, sigma) = self.alpha_sigma(level)?;
                (-sigma, alpha)
            }
            Target::Weights(weights) => weights(self.check(level)?),
        })
    }

    fn check(&self, level: f32) -> Result<f32> {
        match self.last {
            Some(last) if !(0.0..=last as f32).contains(&level) => Err(Error::Level { level, last }),
            _ => Ok(level),
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Process").field("family", &self.family).finish_non_exhaustive()
    }
}

/// The `[u, v, d, m]` of `x0 = (u noisy - v output) / d + m`, where `noisy = a x0 + s n` and `output = p x0 + q n`.
fn solve_for_clean((a, s): (f32, f32), (p, q): (f32, f32), middle: f32) -> [f32; 4] {
    let determinant = a * q - p * s;
    if q == 0.0 && p != 0.0 {
        [0.0, -1.0, p, 0.0]
    } else if s == 0.0 && a != 0.0 {
        [1.0, 0.0, a, 0.0]
    } else if determinant != 0.0 && determinant.is_finite() {
        [q, s, determinant, 0.0]
    } else if a != 0.0 {
        [1.0, 0.0, a, 0.0] // the output says no more than the noisy image
    } else {
        [0.0, 0.0, 1.0, middle]
    }
}

/// `a x + b y`, with the `(a, b)` of each image's own level. Weights that are all 0 or all 1 cost nothing.
fn weighted_sum(x: &Tensor, y: &Tensor, levels: &[f32], weights: impl Fn(f32) -> Result<(f32, f32)>) -> Result<Tensor> {
    check_same("the noise", y, x)?;
    check_levels(levels, x)?;
    let weights = levels.iter().map(|&level| weights(level)).collect::<Result<Vec<_>>>()?;
    let (a, b): (Vec<f32>, Vec<f32>) = weights.into_iter().unzip();
    let all = |weights: &[f32], value: f32| weights.iter().all(|&weight| weight == value);
    let times = |tensor: &Tensor, weights: Vec<f32>| -> Result<Tensor> {
        if all(&weights, 1.0) { Ok(tensor.clone()) } else { Ok(tensor.broadcast_mul(&per_image(weights, x)?)?) }
    };
    if all(&b, 0.0) {
        times(x, a)
    } else if all(&a, 0.0) {
        times(y, b)
    } else {
        Ok((times(x, a)? + times(y, b)?)?)
    }
}

/// Refuses levels that are not one for each image.
fn check_levels(levels: &[f32], images: &Tensor) -> Result<()> {
    let expected = vec![images.dim(0)?];
    if levels.len() == expected[0] {
        return Ok(());
    }
    Err(Error::Shape { what: "the levels", got: vec![levels.len()], expected })
}

/// The values that pixels take in a process's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelRange {
    /// 0 is background, 1 is full ink: the tutorial's.
    ZeroToOne,
    /// diffusers' `Normalize([0.5], [0.5])`.
    MinusOneToOne,
}

impl PixelRange {
    /// From pixels in 0..1 to this range.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn from_unit(self, pixels: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::ZeroToOne => pixels.clone(),
            Self::MinusOneToOne => pixels.affine(2.0, -1.0)?,
        })
    }

    /// From this range to pixels in 0..1, clipped: diffusers' post-processing of a sample. What is not finite becomes
    /// NaN.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn to_unit(self, sample: &Tensor) -> Result<Tensor> {
        let unit = match self {
            Self::ZeroToOne => sample.clone(),
            Self::MinusOneToOne => sample.affine(0.5, 0.5)?,
        };
        let no_number = (sample * 0.0)?; // NaN for an infinity, too, which clipping alone would turn into black or white
        Ok((unit.clamp(0f32, 1f32)? + no_number)?)
    }
}
