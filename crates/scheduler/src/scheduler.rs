use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::{Device, Tensor};
use kakusan_rng::Noise;
use serde_json::{Map, Value};

use crate::tensors::{check_same, mix, randn, scale};
use crate::{Error, Family, Process, Result, RunOptions, Steps};

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

    /// What it is, in one line.
    fn summary(&self) -> &str {
        ""
    }

    /// How images are noised in training, and what the model has to predict.
    fn process(&self) -> Process;

    /// The models that it trains and samples: its process's family, or else one that it shares with no other class. A
    /// sampler for models of another class has a process [of their family](Process::of_family).
    fn family(&self) -> Family {
        self.process().family().cloned().unwrap_or_else(|| Family::Own(self.class_name().to_owned()))
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

/// One sampling on its way from noise to images: it counts the steps and holds what the sampler has to remember.
pub trait Run: Debug + Send {
    /// Where the run is.
    fn steps(&self) -> &Steps;

    /// What the model is conditioned on at each call, first to last, as in training: commonly the level.
    fn timesteps(&self) -> &[f32] {
        self.steps().timesteps()
    }

    /// What the model is conditioned on at the next call, or `None` when the run is over.
    fn timestep(&self) -> Option<f32> {
        self.steps().timestep()
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

    /// `(α, σ)` of the sample at the next model call: `α x₀ + σ ε`.
    ///
    /// # Errors
    /// When a run cannot begin in the middle, which is the default, or is over.
    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Err(Error::Unsupported { class_name: "this scheduler".into(), what: "begin with an image".into() })
    }

    /// Brings clean images `[b, c, h, w]` to the level of the next step, to begin there instead of with noise
    /// ([`RunOptions::start`]): `α clean + σ noise`.
    ///
    /// # Errors
    /// When the scheduler cannot, or the run is over, or the shapes differ.
    fn add_noise(&self, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        check_same("the noise", noise, clean)?;
        let (alpha, sigma) = self.alpha_sigma()?;
        mix(alpha, clean, sigma, noise)
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

/// What one sampling step gives: diffusers' `SchedulerOutput`.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// The sample at the next level `[b, c, h, w]`.
    pub prev_sample: Tensor,
    /// The clean images that the model's output implies at this step `[b, c, h, w]`, for previews and guidance.
    pub pred_original_sample: Tensor,
}
