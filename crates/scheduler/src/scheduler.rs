use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::{DType, Device, Tensor};
use kakusan_rng::{Generator, Noise};
use serde_json::{Map, Value};

use crate::tensors::{check_same, levels_of, mix, per_image, randn, scale};
use crate::{Error, Family, Result, RunOptions, Steps};

/// When and how much noise: diffusers' `SchedulerMixin`, with the training side made explicit.
///
/// Object-safe, immutable and free of hidden randomness: the same generator state gives the same numbers. A downstream
/// crate implements it, [registers](crate::Registry::register) its class name, and trains, samples, saves and loads
/// with it; [`conformance::check`](crate::conformance::check) says whether it keeps the contract.
pub trait Scheduler: Debug + Send + Sync {
    /// diffusers' `_class_name`, e.g. `DDPMScheduler`.
    fn class_name(&self) -> &str;

    /// The configuration, without `_class_name`: what `scheduler_config.json` holds and what the registered
    /// constructor builds an equal scheduler from.
    ///
    /// As in diffusers, a key `_use_default_values` may list the keys that were not set, so that another class built from
    /// this configuration takes its own default for them ([`Registry::from_config`](crate::Registry::from_config)); it is
    /// not saved. An implementation need not write it: the registry knows what a scheduler was built from and adds the
    /// list. A scheduler built without the registry hands on every key that it does not list.
    fn config(&self) -> Map<String, Value>;

    /// The models that it trains and samples. The default is a family of its own: a model that was trained with this class
    /// is sampled with this class. A sampler for models of another class names their family, such as
    /// `Family::Diffusion(PredictionType::Epsilon)`.
    fn family(&self) -> Family {
        Family::Own(self.class_name().to_owned())
    }

    /// What it is, in one line.
    fn summary(&self) -> &str {
        ""
    }

    /// The values that pixels take in the images this scheduler works on. diffusers' schedulers use -1 to 1.
    fn pixel_range(&self) -> PixelRange {
        PixelRange::MinusOneToOne
    }

    /// Draws the noise and the levels for training on a batch of `clean` images `[b, c, h, w]`.
    ///
    /// # Errors
    /// When the tensors cannot be made on the device of `clean`.
    fn draw(&self, clean: &Tensor, rng: &mut Generator) -> Result<Draw>;

    /// Corrupts `clean` `[b, c, h, w]` with `noise` of the same shape, image `i` at `levels[i]`.
    ///
    /// # Errors
    /// When the shapes do not belong together.
    fn add_noise(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor>;

    /// What the model has to predict `[b, c, h, w]`: the clean image, the noise or a velocity.
    ///
    /// # Errors
    /// When the shapes do not belong together.
    fn target(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor>;

    /// The clean images `[b, c, h, w]` that a model's output for `noisy` implies, where that output is what
    /// [`target`](Self::target) asks for.
    ///
    /// The default solves for them, given that `noisy` and the target are weighted sums of image and noise. Where that has
    /// no one solution it takes the limit: without noise the noisy image is the clean one, and a model of images says it
    /// itself. Noise alone, from a model of noise, tells nothing, and stands for the middle of the
    /// [`pixel_range`](Self::pixel_range).
    ///
    /// # Errors
    /// When the shapes do not belong together.
    fn pred_original_sample(&self, model_output: &Tensor, noisy: &Tensor, levels: &Tensor) -> Result<Tensor> {
        check_same("the model's output", model_output, noisy)?;
        let batch = levels_of(levels, noisy)?.len();
        let ones = Tensor::ones((batch, 1, 1, 1), DType::F32, noisy.device())?;
        let zeros = ones.zeros_like()?;
        let shares = |shares: Tensor| -> Result<Vec<f32>> { Ok(shares.flatten_all()?.to_vec1()?) };
        // noisy = a x0 + s n, output = p x0 + q n
        let (a, s) = (self.add_noise(&ones, &zeros, levels)?, self.add_noise(&zeros, &ones, levels)?);
        let (p, q) = (self.target(&ones, &zeros, levels)?, self.target(&zeros, &ones, levels)?);
        let (a, s, p, q) = (shares(a)?, shares(s)?, shares(p)?, shares(q)?);
        let middle = if self.pixel_range() == PixelRange::ZeroToOne { 0.5 } else { 0.0 };
        let solved: Vec<[f32; 4]> = (0..batch).map(|i| solve_for_clean([a[i], s[i]], [p[i], q[i]], middle)).collect();
        let each = |i: usize| per_image(solved.iter().map(|weights| weights[i]).collect(), noisy);
        let sum = (noisy.broadcast_mul(&each(0)?)? - model_output.broadcast_mul(&each(1)?)?)?;
        Ok(sum.broadcast_div(&each(2)?)?.broadcast_add(&each(3)?)?)
    }

    /// The weight of each image in the loss `[b]`; `None`, the default, weighs all alike.
    ///
    /// # Errors
    /// When `levels` is not of shape `[b]`.
    fn loss_weight(&self, _levels: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// What the model sees of images corrupted by [`add_noise`](Self::add_noise); the default leaves them as they are.
    ///
    /// # Errors
    /// When `levels` is not of shape `[b]`.
    fn scale_model_input(&self, noisy: &Tensor, _levels: &Tensor) -> Result<Tensor> {
        Ok(noisy.clone())
    }

    /// What the model is told of `levels` `[b]`; the default is the levels themselves.
    ///
    /// # Errors
    /// When the tensor library fails.
    fn timesteps(&self, levels: &Tensor) -> Result<Tensor> {
        Ok(levels.clone())
    }

    /// The signal-to-noise ratio of each level `[b]`, where there is such a thing; losses are weighted by it.
    ///
    /// # Errors
    /// When `levels` are not this scheduler's.
    fn snr(&self, _levels: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// How many steps a run can have, from the fewest to the most; the default knows no bounds but that one is needed.
    ///
    /// A scheduler that cannot do with few, or with many, says so here, and refuses others by [`Error::Steps`].
    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    /// Begins a sampling.
    ///
    /// # Errors
    /// When the scheduler cannot sample in so many steps ([`inference_steps`](Self::inference_steps)), of which zero are
    /// always refused; when it has no use for an
    /// option that is set ([`RunOptions::only`]).
    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>>;

    /// Begins a sampling of `num_inference_steps` steps.
    ///
    /// # Errors
    /// As [`run_with`](Self::run_with).
    fn run(&self, num_inference_steps: usize) -> Result<Box<dyn Run>> {
        self.run_with(&RunOptions::steps(num_inference_steps))
    }
}

/// The `[u, v, d, m]` of `x0 = (u noisy - v output) / d + m`, where `noisy = a x0 + s n` and `output = p x0 + q n`.
fn solve_for_clean([a, s]: [f32; 2], [p, q]: [f32; 2], middle: f32) -> [f32; 4] {
    let determinant = a * q - p * s;
    match () {
        () if q == 0.0 && p != 0.0 => [0.0, -1.0, p, 0.0],
        () if s == 0.0 && a != 0.0 => [1.0, 0.0, a, 0.0],
        () if determinant != 0.0 && determinant.is_finite() => [q, s, determinant, 0.0],
        () if a != 0.0 => [1.0, 0.0, a, 0.0], // the output says no more than the noisy image
        () => [0.0, 0.0, 1.0, middle],
    }
}

/// One sampling on its way from noise to images: it counts the steps and holds what the sampler has to remember.
pub trait Run: Debug + Send {
    /// Where the run is.
    fn steps(&self) -> &Steps;

    /// The level of each model call, first to last: what the model is conditioned on, as in training.
    fn timesteps(&self) -> &[f32] {
        self.steps().timesteps()
    }

    /// The level of the next model call, or `None` when the run is over.
    fn level(&self) -> Option<f32> {
        self.steps().level()
    }

    /// The noise levels σ between which the steps lead, first to last, where the sampler works with such.
    fn sigmas(&self) -> Option<&[f32]> {
        None
    }

    /// The standard deviation of the noise that the run begins with.
    fn init_noise_sigma(&self) -> f32 {
        1.0
    }

    /// Pure noise of `shape` `[b, c, h, w]` to begin with; the default is normal noise times
    /// [`init_noise_sigma`](Self::init_noise_sigma).
    ///
    /// # Errors
    /// When the tensor cannot be made on `device`, or `rng` is not for so many images.
    fn initial_noise(&self, shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
        let noise = randn(shape, device, rng)?;
        if self.init_noise_sigma() == 1.0 { Ok(noise) } else { scale(&noise, self.init_noise_sigma()) }
    }

    /// How much of the image and how much of the noise there is in a sample at the next model call, `a` and `b` of
    /// `a clean + b noise`.
    ///
    /// # Errors
    /// When a run cannot begin in the middle, which is the default, or is over.
    fn shares(&self) -> Result<(f32, f32)> {
        Err(Error::Unsupported { class_name: "this scheduler".into(), what: "begin with an image".into() })
    }

    /// Brings clean images `[b, c, h, w]` to the level of the next step, to begin there instead of with noise
    /// ([`RunOptions::start`]): the sum of both by their [`shares`](Self::shares).
    ///
    /// # Errors
    /// When the scheduler cannot, or the run is over, or the shapes differ.
    fn add_noise(&self, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        check_same("the noise", noise, clean)?;
        let (of_clean, of_noise) = self.shares()?;
        mix(of_clean, clean, of_noise, noise)
    }

    /// Scales the sample to what the model wants to see at this step; the default leaves it as it is.
    ///
    /// # Errors
    /// When the run is over.
    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        Ok(sample.clone())
    }

    /// Goes one step: from `sample` (unscaled) and the model's output for it to the sample of the next, lower level.
    ///
    /// # Errors
    /// When the run is over or the shapes differ.
    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput>;
}

/// The noise and the levels drawn for one training batch.
#[derive(Debug, Clone)]
pub struct Draw {
    /// Noise of the batch's shape `[b, c, h, w]`.
    pub noise: Tensor,
    /// One level an image `[b]`, f32: the amount of [`LinearMixScheduler`](crate::LinearMixScheduler), the timestep of
    /// diffusers' schedulers.
    pub levels: Tensor,
}

/// What one sampling step gives: diffusers' `SchedulerOutput`.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// The sample at the next level `[b, c, h, w]`.
    pub prev_sample: Tensor,
    /// The clean images that the model's output implies at this step `[b, c, h, w]`, for previews and guidance.
    pub pred_original_sample: Tensor,
}

/// The values that a scheduler's images take.
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

    /// From this range to pixels in 0..1, clipped: diffusers' post-processing of a sample. What is not finite becomes NaN.
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
