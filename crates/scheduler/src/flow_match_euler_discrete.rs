use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{Flow, MOST_STEPS, check_count, check_descending, check_flow_levels, stretched_to};
use crate::tensors::{check_same, mix, noise_like};
use crate::{
    Error, Process, Result, Run, RunOptions, Schedule, Scheduler, SigmaConfig, StepOutput, Steps, Supports,
    TimeShiftType,
};

/// Euler's method along the straight paths of a flow (Liu et al. 2022; Esser et al. 2024): diffusers'
/// `FlowMatchEulerDiscreteScheduler`.
///
/// With `use_dynamic_shifting` a run has to be told [`RunOptions::mu`], for which there is [`mu`](Self::mu). Noise levels
/// asked for by hand are shifted as all are; like everywhere here, the last of them is where the last step leads, commonly
/// 0 (diffusers' `sigmas` leave it out). Timesteps asked for by hand are told to the model as they are, while the noise
/// levels that belong to them are shifted, as in diffusers.
///
/// With `invert_sigmas` noise levels count up from the noise to the image. (diffusers' `scale_noise` and
/// `stochastic_sampling` then still take them for shares of noise, and mix up the two; here they are the image's.)
///
/// ```
/// use kakusan_scheduler::{FlowMatchEulerDiscreteConfig, FlowMatchEulerDiscreteScheduler, RunOptions, Scheduler};
///
/// let config = FlowMatchEulerDiscreteConfig { use_dynamic_shifting: true, ..Default::default() };
/// let scheduler = FlowMatchEulerDiscreteScheduler::new(config)?;
/// let mu = scheduler.mu(4096); // for images of 64 x 64 patches
/// assert_eq!(scheduler.run_with(&RunOptions { mu, ..RunOptions::steps(4) })?.timesteps().len(), 4);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct FlowMatchEulerDiscreteScheduler {
    config: FlowMatchEulerDiscreteConfig,
}

/// The configuration of [`FlowMatchEulerDiscreteScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowMatchEulerDiscreteConfig {
    /// T: the model is told `T σ`.
    pub num_train_timesteps: usize,
    /// By how much noise levels are shifted up, without dynamic shifting.
    pub shift: f64,
    /// Whether they are shifted by [`RunOptions::mu`] instead, which larger images have more of.
    pub use_dynamic_shifting: bool,
    /// μ of an image of `base_image_seq_len` patches.
    pub base_shift: Option<f64>,
    /// μ of an image of `max_image_seq_len` patches.
    pub max_shift: Option<f64>,
    /// A small image.
    pub base_image_seq_len: usize,
    /// A large image.
    pub max_image_seq_len: usize,
    /// Whether noise levels count from the noise to the image.
    pub invert_sigmas: bool,
    /// The noise level before the last step, to which the schedule is stretched; 0 is no stretching.
    pub shift_terminal: Option<f64>,
    /// Noise levels spaced otherwise.
    #[serde(flatten)]
    pub sigma: SigmaConfig,
    /// How μ shifts noise levels.
    pub time_shift_type: TimeShiftType,
    /// Whether each step goes to the image and back to the next noise level with new noise.
    pub stochastic_sampling: bool,
}

impl Default for FlowMatchEulerDiscreteConfig {
    /// diffusers': 1000 timesteps, not shifted.
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: Some(0.5),
            max_shift: Some(1.15),
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            invert_sigmas: false,
            shift_terminal: None,
            sigma: SigmaConfig::default(),
            time_shift_type: TimeShiftType::Exponential,
            stochastic_sampling: false,
        }
    }
}

impl FlowMatchEulerDiscreteScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "FlowMatchEulerDiscreteScheduler";

    /// Takes the configuration.
    ///
    /// # Errors
    /// When a value is out of its range, or values contradict each other.
    pub fn new(config: FlowMatchEulerDiscreteConfig) -> Result<Self> {
        let scheduler = Self { config };
        let Self { config } = &scheduler;
        scheduler.flow(config.shift).check(Self::CLASS_NAME)?;
        config.sigma.check(Self::CLASS_NAME, [None, None])?;
        let refuse = |reason: String| Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        if let Some(terminal) = config.shift_terminal.filter(|terminal| !(0.0..1.0).contains(terminal)) {
            return refuse(format!("shift_terminal is {terminal}; it must be a noise level of at least 0 and below 1"));
        }
        for (key, shift) in [("base_shift", config.base_shift), ("max_shift", config.max_shift)] {
            if let Some(shift) = shift.filter(|shift| !shift.is_finite()) {
                return refuse(format!("{key} is {shift}; it must be a finite number"));
            }
        }
        Ok(scheduler)
    }

    /// μ for images that the model sees as so many patches: in proportion between `base_shift` and `max_shift`, and beyond
    /// them; what diffusers' pipelines pass as [`RunOptions::mu`]. `None` where the configuration lacks the two, or they are
    /// for images of one size.
    pub fn mu(&self, image_seq_len: usize) -> Option<f64> {
        let FlowMatchEulerDiscreteConfig { base_image_seq_len: base, max_image_seq_len: max, .. } = self.config;
        let (base_shift, max_shift) = (self.config.base_shift?, self.config.max_shift?);
        let share = (image_seq_len as f64 - base as f64) / (max as f64 - base as f64);
        (max != base).then_some(base_shift + share * (max_shift - base_shift))
    }

    fn flow(&self, shift: f64) -> Flow {
        Flow { num_train_timesteps: self.config.num_train_timesteps, shift, inverted: self.config.invert_sigmas }
    }

    /// The shift of a run.
    fn shift(&self, mu: Option<f64>) -> Result<f64> {
        if !self.config.use_dynamic_shifting {
            return Ok(self.config.shift);
        }
        let Some(mu) = mu else {
            let what = "sample without `mu` while use_dynamic_shifting is true: set RunOptions::mu, for which there is \
                        FlowMatchEulerDiscreteScheduler::mu, or build it with use_dynamic_shifting false";
            return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what: what.into() });
        };
        let (shift, expected) = match self.config.time_shift_type {
            TimeShiftType::Exponential => (mu.exp(), "it must be a number, and its exponential neither 0 nor infinite"),
            TimeShiftType::Linear => (mu, "it must be a number above 0"),
        };
        match shift.is_finite() && shift > 0.0 {
            true => Ok(shift),
            false => Err(Error::OptionValue { option: "mu", value: mu, expected }),
        }
    }

    /// The levels that the model is told, and the noise levels between which the steps lead, one more.
    fn schedule(&self, options: &RunOptions) -> Result<(Vec<f32>, Vec<f32>)> {
        let config = &self.config;
        let t = config.num_train_timesteps as f64;
        let flow = self.flow(self.shift(options.mu)?);
        let (mut sigmas, last): (Vec<f64>, f64) = match &options.schedule {
            Schedule::Steps(n) => {
                let n = check_count(Self::CLASS_NAME, *n)?;
                // the range of training is shifted by `shift` alone
                let training = self.flow(if config.use_dynamic_shifting { 1.0 } else { config.shift });
                (training.spaced(n), 0.0)
            }
            Schedule::Timesteps(timesteps) => {
                check_flow_levels(Self::CLASS_NAME, timesteps, t)?;
                (timesteps.iter().map(|timestep| timestep / t).collect(), 0.0)
            }
            Schedule::Sigmas(sigmas) => {
                check_descending(Self::CLASS_NAME, sigmas)?;
                check_flow_levels(Self::CLASS_NAME, sigmas, 1.0)?;
                (sigmas[..sigmas.len() - 1].to_vec(), sigmas[sigmas.len() - 1])
            }
        };
        sigmas.iter_mut().for_each(|sigma| *sigma = flow.shifted(*sigma));
        let n = sigmas.len();
        if let Some(terminal) = config.shift_terminal.filter(|terminal| *terminal > 0.0) {
            let Some(longer) = stretched_to(&sigmas, terminal) else {
                let reason = format!("shift_terminal is {terminal}, but its only step begins at 1; more would do");
                return Err(Error::Steps { class_name: Self::CLASS_NAME.into(), steps: n, reason });
            };
            sigmas = longer;
        }
        if let Some(conversion) = config.sigma.conversion() {
            if sigmas[n - 1] <= 0.0 {
                let what = "space noise levels down to 0 by use_*_sigmas: leave out the last, or these";
                return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what: what.into() });
            }
            sigmas = conversion.sigmas([sigmas[0], sigmas[n - 1]], n);
        }
        sigmas.push(flow.shifted(last));
        let count_up = |sigma: f32| if config.invert_sigmas { 1.0 - sigma } else { sigma };
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| count_up(sigma as f32)).collect();
        let levels = match &options.schedule {
            Schedule::Timesteps(timesteps) if !config.invert_sigmas => timesteps.iter().map(|&t| t as f32).collect(),
            _ => sigmas[..n].iter().map(|&sigma| flow.level(sigma)).collect(),
        };
        Ok((levels, sigmas))
    }
}

impl Scheduler for FlowMatchEulerDiscreteScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Euler's method for flows: straight from noise to image (Esser et al. 2024)"
    }

    fn process(&self) -> Process {
        // dynamic shifting is of sampling alone
        self.flow(if self.config.use_dynamic_shifting { 1.0 } else { self.config.shift }).process()
    }

    /// At least 2 with `shift_terminal`: a step that begins at 1 cannot be stretched.
    fn inference_steps(&self) -> RangeInclusive<usize> {
        let stretched = self.config.shift_terminal.is_some_and(|terminal| terminal > 0.0);
        if stretched { 2..=MOST_STEPS } else { 1..=MOST_STEPS }
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let takes = [Supports::Timesteps, Supports::Sigmas, Supports::Mu];
        let takes = if self.config.use_dynamic_shifting { &takes[..] } else { &takes[..2] };
        options.only(Self::CLASS_NAME, takes)?;
        let (levels, sigmas) = self.schedule(options)?;
        let steps = Steps::new(Self::CLASS_NAME, levels, options.start)?;
        let stochastic = self.config.stochastic_sampling;
        Ok(Box::new(FlowMatchEulerDiscreteRun { flow: self.flow(1.0), stochastic, steps, sigmas }))
    }
}

/// A sampling by [`FlowMatchEulerDiscreteScheduler`]; it remembers nothing but where it is.
#[derive(Debug)]
struct FlowMatchEulerDiscreteRun {
    flow: Flow,
    stochastic: bool,
    steps: Steps,
    sigmas: Vec<f32>,
}

impl Run for FlowMatchEulerDiscreteRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.flow.alpha_sigma(self.sigmas[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let i = self.steps.index()?;
        let (sigma, next_sigma) = (self.sigmas[i], self.sigmas[i + 1]);
        let x0 = self.flow.original_sample(model_output, sample, sigma)?;
        let prev_sample = match self.stochastic {
            true => {
                let (of_x0, of_noise) = self.flow.alpha_sigma(next_sigma);
                mix(of_x0, &x0, of_noise, &noise_like(sample, rng)?)?
            }
            false => mix(1.0, sample, next_sigma - sigma, model_output)?,
        };
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
