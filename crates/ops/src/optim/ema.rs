//! The moving average of the weights.

use candle_core::{Device, Result, Tensor, Var, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{PIECE, arch, is_f32, piece, with_numbers};
use crate::kernels::reference as compose;

/// The settings of [`Ema`]; names and defaults are diffusers' but for `max_decay`, which it calls `decay`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmaConfig {
    /// The largest decay, in `0..=1`: how much of the average stays in a step, once the average is old.
    pub max_decay: f64,
    /// The least decay once it is not 0 any more, from 0 to `max_decay`.
    pub min_decay: f64,
    /// As many steps, and one more, the average is the parameter itself.
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

/// The exponential moving average of parameters (Polyak and Juditsky 1992), as `diffusers.training_utils.EMAModel`.
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
    config: EmaConfig,
    params: Vec<Var>,
    shadow: Vec<Shadow>,
    steps: u64,
}

/// What [`Ema`] remembers, to be saved and restored: see [`Ema::state`].
#[derive(Debug, Clone)]
pub struct EmaState {
    /// The steps taken (diffusers' `optimization_step`).
    pub steps: u64,
    /// For each parameter, in the order of [`Ema::new`], its average, of the parameter's shape and dtype.
    pub shadow: Vec<Tensor>,
}

#[derive(Debug)]
enum Shadow {
    /// f32 on the CPU.
    Host(Vec<f32>),
    Device(Tensor),
}

impl Shadow {
    /// A copy of `tensor`.
    fn new(tensor: &Tensor) -> Result<Self> {
        if is_f32(tensor) {
            Ok(Self::Host(with_numbers(tensor, |numbers| Ok(numbers.to_vec()))?))
        } else {
            Ok(Self::Device(tensor.copy()?.detach()))
        }
    }
}

impl Ema {
    /// Averages that are the parameters as they are now.
    ///
    /// # Errors
    /// A setting out of its range, a parameter that is not of a floating point type.
    pub fn new(params: Vec<Var>, config: EmaConfig) -> Result<Self> {
        config.check()?;
        if let Some(param) = params.iter().find(|param| !param.dtype().is_float()) {
            bail!("ema: a parameter {:?} is of dtype {:?}, not a floating point type", param.dims(), param.dtype())
        }
        let shadow = params.iter().map(|param| Shadow::new(param)).collect::<Result<_>>()?;
        Ok(Self { config, params, shadow, steps: 0 })
    }

    /// Draws the averages nearer to the parameters, after the optimiser's step; returns the decay that was used.
    ///
    /// # Errors
    /// Those of candle's operations on devices other than the CPU.
    pub fn step(&mut self) -> Result<f64> {
        let decay = self.config.decay(self.steps + 1);
        let rate = 1.0 - decay;
        let mut pieces = vec![];
        for (shadow, param) in self.shadow.iter_mut().zip(&self.params) {
            match shadow {
                Shadow::Host(shadow) => {
                    pieces
                        .extend(shadow.chunks_mut(PIECE).enumerate().map(|(i, shadow)| (i, shadow, param.as_tensor())));
                }
                Shadow::Device(shadow) => *shadow = compose::ema(shadow, &param.as_detached_tensor(), rate)?,
            }
        }
        // A parameter is locked for one piece at a time: nobody waits for others with it locked.
        pieces.into_par_iter().try_for_each(|(i, shadow, param)| {
            with_numbers(param, |param| {
                let _flush = FlushDenormals::new();
                arch().dispatch(Kernel { shadow, param: piece(param, i, PIECE), rate: rate as f32 });
                Ok(())
            })
        })?;
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
        let tensor = |(shadow, param): (&Shadow, &Var)| match shadow {
            Shadow::Host(numbers) => Tensor::from_slice(numbers, param.shape(), &Device::Cpu),
            Shadow::Device(tensor) => Ok(tensor.clone()),
        };
        self.shadow.iter().zip(&self.params).map(tensor).collect()
    }

    /// Writes the averages into `vars`: the parameters themselves, or those of a second model that is to be used with them.
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

    /// Goes on from where [`Ema::state`] was taken.
    ///
    /// # Errors
    /// Averages that do not fit the parameters in number, shape or dtype; then nothing was changed.
    pub fn load_state(&mut self, state: &EmaState) -> Result<()> {
        self.check_fit("an average in the state", state.shadow.iter())?;
        let pairs = state.shadow.iter().zip(&self.params);
        let shadow = pairs.map(|(average, param)| Shadow::new(&average.to_device(param.device())?));
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

struct Kernel<'a> {
    shadow: &'a mut [f32],
    param: &'a [f32],
    rate: f32,
}

impl WithSimd for Kernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rate = simd.splat_f32s(self.rate);
        let (shadow, shadow_rest) = S::as_mut_simd_f32s(self.shadow);
        let (param, param_rest) = S::as_simd_f32s(self.param);
        for (shadow, &param) in shadow.iter_mut().zip(param) {
            *shadow = step(simd, rate, *shadow, param);
        }
        if !shadow_rest.is_empty() {
            let (shadow, param) = (simd.partial_load_f32s(shadow_rest), simd.partial_load_f32s(param_rest));
            simd.partial_store_f32s(shadow_rest, step(simd, rate, shadow, param));
        }
    }
}

/// Rounded after each operation, as torch does it: given torch's parameters the average has torch's bits.
#[inline(always)]
fn step<S: Simd>(s: S, rate: S::f32s, shadow: S::f32s, param: S::f32s) -> S::f32s {
    s.sub_f32s(shadow, s.mul_f32s(rate, s.sub_f32s(shadow, param)))
}
