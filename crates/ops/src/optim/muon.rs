//! The optimiser Muon.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};

use super::state::{State, mutable};
use super::{check_not_negative, clip};
use crate::kernels::{Backend, BackendKind, Parameter, Work};

/// The settings of [`Muon`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MuonConfig {
    /// The learning rate, not negative. It suits where Adam's does: see [`Muon`].
    pub lr: f64,
    /// How much of the mean gradient a step keeps, in `0..1`.
    pub momentum: f64,
    /// Decoupled weight decay, not negative: each step subtracts this times the learning rate times the parameter.
    pub weight_decay: f64,
}

impl Default for MuonConfig {
    /// A learning rate of 1e-3; momentum and weight decay as in `torch.optim.Muon`.
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.95, weight_decay: 0.1 }
    }
}

/// Muon (Jordan et al. 2024): the mean gradient of a matrix is replaced by the nearest matrix whose singular values are
/// all about 1, so that a step moves in all directions alike. It is `torch.optim.Muon` with Nesterov's momentum and
/// `adjust_lr_fn = "match_rms_adamw"`, but in f32 where torch computes in bfloat16.
///
/// It is for the hidden layers' matrices and convolutions `[out, in, height, width]`, which are taken as matrices of
/// `out` rows. Biases, scales, embeddings, and the first and last layers are better left to [`Adam`](crate::Adam). A
/// step is as long as one of Adam (root mean square 0.2 times the learning rate; Liu et al. 2025, equation 4), so that
/// both can share a learning rate.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor, Var};
/// use kakusan_ops::{Muon, MuonConfig, mse_loss};
/// let x = Var::new(&[[3f32, 0.0], [0.0, 0.1]], &Device::Cpu)?;
/// let mut muon = Muon::new(vec![x.clone()], MuonConfig { lr: 0.1, weight_decay: 0.0, ..Default::default() })?;
/// muon.step_scaled(&mse_loss(&x, &x.zeros_like()?)?.backward()?, 1.0)?;
/// // both entries move by about 0.2 √2 times the learning rate, although one gradient is thirty times the other
/// let moved = (Tensor::new(&[[3f32, 0.0], [0.0, 0.1]], &Device::Cpu)? - x.as_tensor())?.to_vec2::<f32>()?;
/// assert!([moved[0][0], moved[1][1]].iter().all(|by| (0.015..0.04).contains(by)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Muon {
    config: MuonConfig,
    params: Vec<Var>,
    /// The mean gradient of each parameter.
    momenta: Vec<State>,
}

impl Muon {
    /// An optimiser of `params` that has taken no step.
    ///
    /// # Errors
    /// A setting out of its range, a parameter that is not of a floating point type, or has one dimension or none.
    pub fn new(params: Vec<Var>, config: MuonConfig) -> Result<Self> {
        let MuonConfig { lr, momentum, weight_decay } = config;
        check_not_negative("muon", "the learning rate", lr)?;
        check_not_negative("muon", "the weight decay", weight_decay)?;
        if !(0.0..1.0).contains(&momentum) {
            bail!("muon: momentum is {momentum}, it must be at least 0 and below 1")
        }
        for param in &params {
            if !param.dtype().is_float() {
                bail!("muon: a parameter {:?} is of dtype {:?}, not a floating point type", param.dims(), param.dtype())
            }
            if param.rank() < 2 {
                bail!("muon: a parameter is {:?}, expected a matrix or a convolution's weight", param.dims())
            }
        }
        let momenta = params.iter().map(|param| State::new(&param.as_tensor().zeros_like()?));
        let momenta = momenta.collect::<Result<_>>()?;
        Ok(Self { config, params, momenta })
    }

    /// Moves every parameter against its gradient times `scale`.
    ///
    /// # Errors
    /// A parameter without a gradient in `grads`, or with one of another shape or dtype; then nothing was changed.
    pub fn step_scaled(&mut self, grads: &GradStore, scale: f64) -> Result<()> {
        let grads = clip::gradients("muon", grads, &self.params)?;
        let Self { params, momenta, config } = self;
        for backend in BackendKind::ALL {
            backend.run(Pass { params, grads: &grads, momenta, config, scale })?;
        }
        Ok(())
    }

    /// Sets the learning rate of the next step, as torch's schedulers do between steps.
    ///
    /// # Errors
    /// A rate that is negative or not finite; the one before stays.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_not_negative("muon", "the learning rate", lr)?;
        self.config.lr = lr;
        Ok(())
    }

    /// A copy of what a checkpoint must hold: the mean gradient (torch's `momentum_buffer`) of each parameter, in the
    /// order of [`Muon::new`].
    ///
    /// # Errors
    /// Those of candle's copies.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        self.momenta.iter().zip(&self.params).map(|(momentum, param)| momentum.tensor(param)).collect()
    }

    /// Restores what [`Muon::state`] returned.
    ///
    /// # Errors
    /// A state that does not fit the parameters in number, shape or dtype; then nothing was changed.
    pub fn load_state(&mut self, state: &[Tensor]) -> Result<()> {
        if state.len() != self.params.len() {
            bail!("muon: a state of {} parameters, expected {}", state.len(), self.params.len())
        }
        let momentum = |(i, (param, buffer)): (usize, (&Var, &Tensor))| {
            if buffer.dims() != param.dims() || buffer.dtype() != param.dtype() {
                let (dims, dtype, expected, as_dtype) = (buffer.dims(), buffer.dtype(), param.dims(), param.dtype());
                bail!("muon: parameter {i} is {expected:?} {as_dtype:?}, its momentum in the state {dims:?} {dtype:?}")
            }
            State::new(&buffer.to_device(param.device())?)
        };
        self.momenta = self.params.iter().zip(state).enumerate().map(momentum).collect::<Result<_>>()?;
        Ok(())
    }
}

/// The coefficients of the odd polynomial that drives singular values to about 1, as fast as five steps can.
pub(crate) const QUINTIC: [f64; 3] = [3.4445, -4.775, 2.0315];

/// What a direction whose singular values are about 1 is multiplied by.
pub(crate) fn step_size(config: &MuonConfig, [rows, columns]: [usize; 2]) -> f64 {
    config.lr * 0.2 * (rows.max(columns) as f64).sqrt()
}

/// The step of the parameters of one backend.
struct Pass<'a> {
    params: &'a [Var],
    grads: &'a [Tensor],
    momenta: &'a mut [State],
    config: &'a MuonConfig,
    scale: f64,
}

impl Work for Pass<'_> {
    type Output = Result<()>;

    fn on<B: Backend>(self) -> Result<()> {
        let Self { params, grads, momenta, config, scale } = self;
        let all = params.iter().zip(grads).zip(momenta);
        let own =
            all.filter_map(|((var, grad), momentum)| Some(Parameter { var, grad, states: [mutable::<B>(momentum)?] }));
        B::muon(own.collect(), config, scale)
    }
}
