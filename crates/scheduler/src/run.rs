use std::fmt::{self, Debug};

use candle_core::{Device, Tensor};
use kakusan_rng::Noise;

use crate::schedule::Alphas;
use crate::tensors::{check_same, mix, randn, scale, split_variance};
use crate::{Error, PredictionType, Result};

/// One sampling on its way from noise to images: it counts the steps and holds what the sampler has to remember.
pub trait Run: Debug + Send + Sync {
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
        Err(begins_with_no_image(""))
    }

    /// `(α, σ)` of the sample at every model call, first to last; `None` where a run does not know it, which is the
    /// default.
    fn alpha_sigmas(&self) -> Option<Vec<(f32, f32)>> {
        None
    }

    /// Brings clean images `[b, c, h, w]` to the level of the next step, to begin there instead of with noise
    /// ([`RunOptions::start`](crate::RunOptions::start)): `α clean + σ noise`.
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

    /// The clean images that the model's output for `sample` (unscaled) implies at the next call, as the step will
    /// give them ([`StepOutput::pred_original_sample`]), without going it. Guidance by a loss needs it: candle
    /// differentiates it by both arguments. Of noise that a step adds before it predicts (churn) it knows nothing.
    ///
    /// # Errors
    /// When a run cannot tell, which is the default, or is over; when the shapes differ.
    fn pred_original_sample(&self, _model_output: &Tensor, _sample: &Tensor) -> Result<Tensor> {
        Err(Error::unsupported("tell the image that a model's output implies before its step"))
    }

    /// Goes one step: from `sample` (unscaled) and the model's output for it to the sample of the next, lower level.
    ///
    /// # Errors
    /// When the run is over or the shapes differ.
    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput>;
}

fn begins_with_no_image(at: &str) -> Error {
    Error::Unsupported { class_name: "this scheduler".into(), what: format!("begin with an image{at}") }
}

/// What one sampling step gives: diffusers' `SchedulerOutput`.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// The sample at the next level `[b, c, h, w]`.
    pub prev_sample: Tensor,
    /// The clean images that the model's output implies at this step `[b, c, h, w]`, for previews and guidance.
    pub pred_original_sample: Tensor,
}

/// Where a run is: what the model is conditioned on at each call, and which call comes next.
#[derive(Debug, Clone)]
pub struct Steps {
    timesteps: Vec<f32>,
    next: usize,
}

impl Steps {
    /// A run over `timesteps` that leaves out the first `start` of them.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn new(timesteps: Vec<f32>, start: usize) -> Result<Self> {
        Self::with_calls(timesteps, 1, start)
    }

    /// A run that calls the model `calls` times in each step, or less often in the last, and leaves out the first
    /// `start` steps.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn with_calls(timesteps: Vec<f32>, calls: usize, start: usize) -> Result<Self> {
        let steps = timesteps.len().div_ceil(calls.max(1));
        if start < steps {
            return Ok(Self { timesteps, next: start * calls });
        }
        Err(Error::steps(
            steps,
            match steps {
                0 => "at least one is needed".into(),
                _ => format!("{start} of them are to be left out, and at least one has to be done"),
            },
        ))
    }

    /// What the model is conditioned on at every call, first to last, those left out included.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// What the model is conditioned on at the next call, or `None` when the run is over.
    pub fn timestep(&self) -> Option<f32> {
        self.timesteps.get(self.next).copied()
    }

    /// Which model call comes next, counted from 0.
    ///
    /// # Errors
    /// [`Error::RunIsOver`] after the last.
    pub fn index(&self) -> Result<usize> {
        let steps = self.timesteps.len();
        if self.next < steps { Ok(self.next) } else { Err(Error::RunIsOver { steps }) }
    }

    /// Goes on to the next model call.
    pub fn advance(&mut self) {
        self.next += 1;
    }
}

/// Where a run calls the model, and what its samples are there.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// What the model is conditioned on at each call.
    pub(crate) timesteps: Vec<f32>,
    /// The noise levels between which the steps lead, where the method works with such.
    pub(crate) sigmas: Vec<f32>,
    /// `(α, σ)` of the sample at each call; none where a run cannot begin with images.
    pub(crate) alpha_sigma: Vec<(f32, f32)>,
    /// By what the sample is scaled for the model at each call; nothing is where it is empty.
    pub(crate) c_in: Vec<f32>,
    /// The standard deviation of the noise that the run begins with.
    pub(crate) init_noise_sigma: f32,
    /// Model calls in a step; the last may have fewer.
    pub(crate) calls: usize,
    /// Whether the model predicts the variance, too, in a second half of its channels.
    pub(crate) learned_variance: bool,
}

impl Plan {
    /// A step from each of these timesteps.
    pub(crate) fn new(timesteps: Vec<f32>) -> Self {
        Self {
            timesteps,
            sigmas: vec![],
            alpha_sigma: vec![],
            c_in: vec![],
            init_noise_sigma: 1.0,
            calls: 1,
            learned_variance: false,
        }
    }

    /// A step from each of these timesteps of a variance preserving process.
    pub(crate) fn preserving(timesteps: Vec<f32>, alphas: &Alphas) -> Self {
        let alpha_sigma = timesteps.iter().map(|&t| alphas.alpha_sigma(t)).collect();
        Self { alpha_sigma, ..Self::new(timesteps) }
    }

    /// Steps between the noise levels `sigmas`, each with one model call, of samples that `alpha_sigma` says.
    pub(crate) fn between(timesteps: Vec<f32>, sigmas: Vec<f32>, alpha_sigma: impl Fn(f32) -> (f32, f32)) -> Self {
        let alpha_sigma = sigmas.iter().take(timesteps.len()).map(|&sigma| alpha_sigma(sigma)).collect();
        Self { sigmas, alpha_sigma, ..Self::new(timesteps) }
    }

    /// Steps between `sigmas` of samples `x₀ + σ ε`, with model calls at the noise levels `calls`, where the model sees
    /// the sample scaled by `c_in`.
    pub(crate) fn exploding(timesteps: Vec<f32>, sigmas: Vec<f32>, calls: &[f32], c_in: impl Fn(f32) -> f32) -> Self {
        let alpha_sigma = calls.iter().map(|&sigma| (1.0, sigma)).collect();
        let c_in = calls.iter().map(|&sigma| c_in(sigma)).collect();
        Self { sigmas, alpha_sigma, c_in, ..Self::new(timesteps) }
    }
}

/// A model call of a run: the sample, and the model's output for it.
pub(crate) struct Call<'a> {
    pub(crate) plan: &'a Plan,
    /// Which call, from 0.
    pub(crate) i: usize,
    pub(crate) sample: &'a Tensor,
    pub(crate) output: Tensor,
    /// What the model predicts of the variance, where it does.
    pub(crate) variance: Option<Tensor>,
}

impl<'a> Call<'a> {
    /// The call that comes next.
    fn of(plan: &'a Plan, steps: &Steps, model_output: &Tensor, sample: &'a Tensor) -> Result<Self> {
        let (output, variance) = split_variance(plan.learned_variance, model_output, sample)?;
        Ok(Self { plan, i: steps.index()?, sample, output, variance })
    }

    /// What the model was conditioned on.
    pub(crate) fn timestep(&self) -> f32 {
        self.plan.timesteps[self.i]
    }

    /// What it is conditioned on at the next call.
    pub(crate) fn next_timestep(&self) -> Option<f32> {
        self.plan.timesteps.get(self.i + 1).copied()
    }

    /// `(α, σ)` of the sample.
    pub(crate) fn alpha_sigma(&self) -> (f32, f32) {
        self.plan.alpha_sigma[self.i]
    }

    /// The clean image that the model's output implies.
    pub(crate) fn x0(&self, prediction: PredictionType) -> Result<Tensor> {
        let (alpha, sigma) = self.alpha_sigma();
        prediction.original_sample(&self.output, self.sample, alpha, sigma)
    }

    /// The noise that the model's output implies.
    pub(crate) fn epsilon(&self, prediction: PredictionType) -> Result<Tensor> {
        let (alpha, sigma) = self.alpha_sigma();
        prediction.epsilon(&self.output, self.sample, alpha, sigma)
    }

    /// `(α, σ)` of the sample of the next call.
    pub(crate) fn next_alpha_sigma(&self) -> Option<(f32, f32)> {
        self.plan.alpha_sigma.get(self.i + 1).copied()
    }

    /// σ of the sample, and of that of the next call: 0 after the last.
    pub(crate) fn noise_levels(&self) -> (f32, f32) {
        (self.alpha_sigma().1, self.next_alpha_sigma().map_or(0.0, |(_, sigma)| sigma))
    }

    /// The noise levels between which the step leads.
    pub(crate) fn sigmas(&self) -> (f32, f32) {
        let step = self.i / self.plan.calls;
        (self.plan.sigmas[step], self.plan.sigmas[step + 1])
    }
}

/// A run of a method of this crate: its plan, the clean image that a model call implies, and the step from there to the
/// next call, which holds what the method has to remember.
pub(crate) struct Sampling<P, F> {
    plan: Plan,
    steps: Steps,
    predict: P,
    step: F,
}

impl<P, F> Sampling<P, F>
where
    P: Fn(&Call) -> Result<Tensor> + Send + Sync + 'static,
    F: FnMut(&Call, Tensor, &mut dyn Noise) -> Result<StepOutput> + Send + Sync + 'static,
{
    /// Begins after the first `start` steps. `step` gets what `predict` gives for its call.
    pub(crate) fn begin(plan: Plan, start: usize, predict: P, step: F) -> Result<Box<dyn Run>> {
        let steps = Steps::with_calls(plan.timesteps.clone(), plan.calls, start)?;
        Ok(Box::new(Self { plan, steps, predict, step }))
    }
}

impl<P, F> Debug for Sampling<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Sampling").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl<P, F> Run for Sampling<P, F>
where
    P: Fn(&Call) -> Result<Tensor> + Send + Sync,
    F: FnMut(&Call, Tensor, &mut dyn Noise) -> Result<StepOutput> + Send + Sync,
{
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        (!self.plan.sigmas.is_empty()).then_some(&self.plan.sigmas)
    }

    fn init_noise_sigma(&self) -> f32 {
        self.plan.init_noise_sigma
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        let i = self.steps.index()?;
        match self.plan.alpha_sigma.get(i) {
            Some(&(alpha, sigma)) if !alpha.is_nan() => Ok((alpha, sigma)),
            _ => Err(begins_with_no_image(&format!(" at timestep {}", self.plan.timesteps[i]))),
        }
    }

    fn alpha_sigmas(&self) -> Option<Vec<(f32, f32)>> {
        let known = &self.plan.alpha_sigma;
        // one of them may be that of the images, where the last step leads
        let of_calls = known.get(..self.plan.timesteps.len())?;
        of_calls.iter().all(|(alpha, _)| !alpha.is_nan()).then(|| of_calls.to_vec())
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        let i = self.steps.index()?;
        self.plan.c_in.get(i).map_or_else(|| Ok(sample.clone()), |&c_in| scale(sample, c_in))
    }

    fn pred_original_sample(&self, model_output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        (self.predict)(&Call::of(&self.plan, &self.steps, model_output, sample)?)
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        let call = Call::of(&self.plan, &self.steps, model_output, sample)?;
        let x0 = (self.predict)(&call)?;
        let stepped = (self.step)(&call, x0, rng)?;
        self.steps.advance();
        Ok(stepped)
    }
}
