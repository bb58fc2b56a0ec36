//! Stochastic gradient descent.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};

use super::state::{State, mutable};
use super::{check_not_negative, clip};
use crate::kernels::{Backend, BackendKind, Work};

/// The settings of [`Sgd`]; names and defaults are torch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// The learning rate, not negative.
    pub lr: f64,
    /// The factor of the last step in this one, not negative; 0 keeps no state.
    pub momentum: f64,
    /// Times the parameter, added to its gradient; not negative.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, weight_decay: 0.0 }
    }
}

/// Gradient descent, with Polyak's momentum where it is set, as `torch.optim.SGD`.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Var};
/// use kakusan_ops::{Sgd, SgdConfig, mse_loss};
/// let x = Var::new(&[1f32, -1.0], &Device::Cpu)?;
/// let mut sgd = Sgd::new(vec![x.clone()], SgdConfig { lr: 0.5, ..Default::default() })?;
/// sgd.step_scaled(&mse_loss(&x, &x.zeros_like()?)?.backward()?, 1.0)?; // the gradient is x
/// assert_eq!(x.to_vec1::<f32>()?, [0.5, -0.5]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    params: Vec<Var>,
    /// Empty without momentum.
    momenta: Vec<State>,
}

impl Sgd {
    /// An optimiser of `params` that has taken no step.
    ///
    /// # Errors
    /// A setting out of its range, a parameter that is not of a floating point type.
    pub fn new(params: Vec<Var>, config: SgdConfig) -> Result<Self> {
        let SgdConfig { lr, momentum, weight_decay } = config;
        for (name, value) in [("the learning rate", lr), ("momentum", momentum), ("the weight decay", weight_decay)] {
            check_not_negative("sgd", name, value)?;
        }
        if let Some(param) = params.iter().find(|param| !param.dtype().is_float()) {
            bail!("sgd: a parameter {:?} is of dtype {:?}, not a floating point type", param.dims(), param.dtype())
        }
        let remembers = if momentum == 0.0 { &[] } else { params.as_slice() };
        let momenta = remembers.iter().map(|param| State::new(&param.as_tensor().zeros_like()?));
        let momenta = momenta.collect::<Result<_>>()?;
        Ok(Self { config, params, momenta })
    }

    /// Moves every parameter against its gradient times `scale`.
    ///
    /// # Errors
    /// A parameter without a gradient in `grads`, or with one of another shape or dtype; then nothing was changed.
    pub fn step_scaled(&mut self, grads: &GradStore, scale: f64) -> Result<()> {
        let grads = clip::gradients("sgd", grads, &self.params)?;
        let Self { params, momenta, config } = self;
        for &backend in BackendKind::ALL {
            backend.run(Pass { backend, params, grads: &grads, momenta, config, scale })?;
        }
        Ok(())
    }

    /// Sets the learning rate of the next step, as torch's schedulers do between steps.
    ///
    /// # Errors
    /// A rate that is negative or not finite; the one before stays.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_not_negative("sgd", "the learning rate", lr)?;
        self.config.lr = lr;
        Ok(())
    }

    /// Whether it keeps a momentum for each parameter.
    pub fn has_momentum(&self) -> bool {
        self.config.momentum != 0.0
    }

    /// A copy of what a checkpoint must hold: the momentum (torch's `momentum_buffer`) of each parameter in the order
    /// of [`Sgd::new`], nothing without momentum.
    ///
    /// # Errors
    /// Those of candle's copies.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        self.momenta.iter().zip(&self.params).map(|(momentum, param)| momentum.tensor(param)).collect()
    }

    /// Restores what [`Sgd::state`] returned.
    ///
    /// # Errors
    /// A state that does not fit the parameters in number, shape or dtype; then nothing was changed.
    pub fn load_state(&mut self, state: &[Tensor]) -> Result<()> {
        if state.len() != self.momenta.len() {
            bail!("sgd: a state of {} momenta, expected {}", state.len(), self.momenta.len())
        }
        let momentum = |(i, (param, buffer)): (usize, (&Var, &Tensor))| {
            if buffer.dims() != param.dims() || buffer.dtype() != param.dtype() {
                let (dims, dtype, expected, as_dtype) = (buffer.dims(), buffer.dtype(), param.dims(), param.dtype());
                bail!("sgd: parameter {i} is {expected:?} {as_dtype:?}, its momentum in the state {dims:?} {dtype:?}")
            }
            State::new(&buffer.to_device(param.device())?)
        };
        self.momenta = self.params.iter().zip(state).enumerate().map(momentum).collect::<Result<_>>()?;
        Ok(())
    }
}

/// The step of the parameters of one backend.
struct Pass<'a> {
    backend: BackendKind,
    params: &'a [Var],
    grads: &'a [Tensor],
    momenta: &'a mut [State],
    config: &'a SgdConfig,
    scale: f64,
}

impl Work for Pass<'_> {
    type Output = Result<()>;

    fn on<B: Backend>(self) -> Result<()> {
        let Self { backend, params, grads, momenta, config, scale } = self;
        let mut momenta = momenta.iter_mut();
        let all = params.iter().zip(grads).map(|(var, grad)| (var, grad, momenta.next().and_then(mutable::<B>)));
        B::sgd(all.filter(|(var, ..)| BackendKind::of(var) == backend).collect(), config, scale)
    }
}
