//! The moving average of the weights.

use candle_core::{Result, Tensor, Var, bail};

use super::power_function::PowerFunction;
use super::state::{State, mutable};
use crate::kernels::{Backend, BackendKind, Work};

/// The settings of [`Ema`]; names and defaults are diffusers' but for `max_decay`, which it calls `decay`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmaConfig {
    /// The largest decay, in `0..=1`: how much of the average stays in a step, once the average is old.
    pub max_decay: f64,
    /// The least decay once it is not 0 any more, from 0 to `max_decay`.
    pub min_decay: f64,
    /// For the first `update_after_step + 1` steps the average equals the parameters.
    pub update_after_step: u64,
    /// Whether the decay grows as `1 - (1 + step / inv_gamma)^-power` instead of `(1 + step) / (10 + step)`.
    pub use_ema_warmup: bool,
    /// How slowly the decay grows in a warm-up, above 0.
    pub inv_gamma: f64,
    /// The power of a warm-up, not negative.
    pub power: f64,
}

impl Default for EmaConfig {
    fn default() -> Self {
        Self {
            max_decay: 0.9999,
            min_decay: 0.0,
            update_after_step: 0,
            use_ema_warmup: false,
            inv_gamma: 1.0,
            power: 2.0 / 3.0,
        }
    }
}

impl EmaConfig {
    /// The decay of step `step`, from 1: `EMAModel.get_decay`.
    pub fn decay(&self, step: u64) -> f64 {
        let step = step.saturating_sub(self.update_after_step).saturating_sub(1) as f64;
        if step == 0.0 {
            return 0.0;
        }
        let decay = if self.use_ema_warmup {
            1.0 - (1.0 + step / self.inv_gamma).powf(-self.power)
        } else {
            (1.0 + step) / (10.0 + step)
        };
        decay.min(self.max_decay).max(self.min_decay)
    }

    fn check(&self) -> Result<()> {
        let Self { max_decay, min_decay, inv_gamma, power, .. } = *self;
        if !(0.0 <= min_decay && min_decay <= max_decay && max_decay <= 1.0) {
            bail!("ema: the decay is to be from {min_decay} to {max_decay}, which does not lie in 0 to 1")
        }
        if !(inv_gamma > 0.0 && inv_gamma.is_finite()) {
            bail!("ema: inv_gamma is {inv_gamma}, it must be a number above 0")
        }
        if !(power >= 0.0 && power.is_finite()) {
            bail!("ema: the power is {power}, it must be a number from 0 on")
        }
        Ok(())
    }
}

/// The exponential moving average of parameters (Polyak and Juditsky 1992), as `diffusers.training_utils.EMAModel`, or
/// with the decay of a [`PowerFunction`].
///
/// On the CPU in f32 a step is one loop over the pieces of all tensors, on all threads.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor, Var};
/// use kakusan_ops::{Ema, EmaConfig};
/// let x = Var::new(&[1f32], &Device::Cpu)?;
/// let mut ema = Ema::new(vec![x.clone()], EmaConfig::default())?;
/// for value in [1f32, 12.0] {
///     x.set(&Tensor::new(&[value], &Device::Cpu)?)?; // the optimiser's step
///     ema.step()?;
/// }
/// let average = ema.shadow()?[0].to_vec1::<f32>()?; // the second step's decay is 2/11: 2/11 of 1 and 9/11 of 12
/// assert!((average[0] - 10.0).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ema {
    decay: Decay,
    params: Vec<Var>,
    shadow: Vec<State>,
    steps: u64,
}

/// What the decay of a step follows from.
#[derive(Debug, Clone, Copy)]
enum Decay {
    Ema(EmaConfig),
    PowerFunction(PowerFunction),
}

impl Decay {
    /// The decay of step `step`, from 1.
    fn at(self, step: u64) -> f64 {
        match self {
            Self::Ema(config) => config.decay(step),
            Self::PowerFunction(function) => function.decay(step),
        }
    }
}

/// What [`Ema`] remembers, to be saved and restored: see [`Ema::state`].
#[derive(Debug, Clone)]
pub struct EmaState {
    /// The steps taken (diffusers' `optimization_step`).
    pub steps: u64,
    /// For each parameter, in the order of [`Ema::new`], its average, of the parameter's shape and dtype.
    pub shadow: Vec<Tensor>,
}

impl Ema {
    /// Averages that are the parameters as they are now.
    ///
    /// # Errors
    /// A setting out of its range, a parameter that is not of a floating point type.
    pub fn new(params: Vec<Var>, config: EmaConfig) -> Result<Self> {
        config.check()?;
        Self::with_decay(params, Decay::Ema(config))
    }

    /// Averages in which each step counts as the function says.
    ///
    /// # Errors
    /// A parameter that is not of a floating point type.
    pub fn power_function(params: Vec<Var>, function: PowerFunction) -> Result<Self> {
        Self::with_decay(params, Decay::PowerFunction(function))
    }

    fn with_decay(params: Vec<Var>, decay: Decay) -> Result<Self> {
        if let Some(param) = params.iter().find(|param| !param.dtype().is_float()) {
            bail!("ema: a parameter {:?} is of dtype {:?}, not a floating point type", param.dims(), param.dtype())
        }
        let shadow = params.iter().map(|param| State::new(param)).collect::<Result<_>>()?;
        Ok(Self { decay, params, shadow, steps: 0 })
    }

    /// Moves the averages towards the parameters, after the optimiser's step; returns the decay that was used.
    ///
    /// # Errors
    /// Those of candle's operations on devices other than the CPU.
    pub fn step(&mut self) -> Result<f64> {
        let decay = self.decay.at(self.steps + 1);
        let Self { params, shadow, .. } = self;
        for &backend in BackendKind::ALL {
            backend.run(Pass { params, shadow, rate: 1.0 - decay })?;
        }
        self.steps += 1;
        Ok(decay)
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Copies of the averages, in the order of the parameters.
    ///
    /// # Errors
    /// Those of candle's copies.
    pub fn shadow(&self) -> Result<Vec<Tensor>> {
        self.shadow.iter().zip(&self.params).map(|(shadow, param)| shadow.tensor(param)).collect()
    }

    /// Writes the averages into `vars`: the parameters themselves, or those of a second model that is to be used with
    /// them.
    ///
    /// # Errors
    /// Variables that do not fit the parameters in number, shape or dtype; then nothing was changed.
    pub fn copy_to(&self, vars: &[Var]) -> Result<()> {
        self.check_fit("a variable to copy to", vars.iter().map(|var| var.as_tensor()))?;
        for (var, average) in vars.iter().zip(self.shadow()?) {
            var.set(&average.to_device(var.device())?)?;
        }
        Ok(())
    }

    /// A copy of what a checkpoint must hold.
    ///
    /// # Errors
    /// Those of candle's copies.
    pub fn state(&self) -> Result<EmaState> {
        Ok(EmaState { steps: self.steps, shadow: self.shadow()? })
    }

    /// Restores what [`Ema::state`] returned.
    ///
    /// # Errors
    /// Averages that do not fit the parameters in number, shape or dtype; then nothing was changed.
    pub fn load_state(&mut self, state: &EmaState) -> Result<()> {
        self.check_fit("an average in the state", state.shadow.iter())?;
        let pairs = state.shadow.iter().zip(&self.params);
        let shadow = pairs.map(|(average, param)| State::new(&average.to_device(param.device())?));
        self.shadow = shadow.collect::<Result<_>>()?;
        self.steps = state.steps;
        Ok(())
    }

    /// Whether `tensors` are as many as the parameters and each like its own.
    fn check_fit<'a>(&self, what: &str, tensors: impl ExactSizeIterator<Item = &'a Tensor>) -> Result<()> {
        if tensors.len() != self.params.len() {
            bail!("ema: {what} for each of {} parameters is needed, got {}", self.params.len(), tensors.len())
        }
        for (i, (param, tensor)) in self.params.iter().zip(tensors).enumerate() {
            if tensor.dims() != param.dims() || tensor.dtype() != param.dtype() {
                let (dims, dtype) = (tensor.dims(), tensor.dtype());
                let (expected, as_dtype) = (param.dims(), param.dtype());
                bail!("ema: parameter {i} is {expected:?} {as_dtype:?}, {what} {dims:?} {dtype:?}")
            }
        }
        Ok(())
    }
}

/// The step of the averages of one backend.
struct Pass<'a> {
    params: &'a [Var],
    shadow: &'a mut [State],
    rate: f64,
}

impl Work for Pass<'_> {
    type Output = Result<()>;

    fn on<B: Backend>(self) -> Result<()> {
        let all = self.params.iter().zip(self.shadow);
        B::average(all.filter_map(|(var, shadow)| Some((var, mutable::<B>(shadow)?))).collect(), self.rate)
    }
}
