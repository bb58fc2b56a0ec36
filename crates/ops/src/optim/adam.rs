//! The optimiser Adam.

use std::collections::HashSet;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};

use super::state::{State, mutable};
use super::{check_not_negative, clip};
use crate::kernels::{Backend, BackendKind, Parameter, Work};

/// The settings of [`Adam`]; the defaults are torch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// The learning rate, not negative.
    pub lr: f64,
    /// The decay rates of the running means of the gradient and of its square, each in `0..1`.
    pub betas: (f64, f64),
    /// Added to the divisor, not negative.
    pub eps: f64,
    /// Decoupled weight decay, not negative: each step subtracts this times the learning rate times the parameter
    /// (Loshchilov and Hutter 2019, algorithm 2), as `torch.optim.AdamW`, whose default is 0.01. 0 is plain Adam.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Adam (Kingma and Ba 2015, algorithm 1), as `torch.optim.Adam` without weight decay, `torch.optim.AdamW` with it.
///
/// On the CPU in f32 a step is one pass over parameters, gradients and moments, in place and on all threads; clipping
/// by the norm ([`Adam::step_clipped`]) adds a pass that reads the gradients.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Var};
/// use kakusan_ops::{Adam, AdamConfig, mse_loss};
/// let x = Var::new(&[1f32, -1.0], &Device::Cpu)?;
/// let mut adam = Adam::new(vec![x.clone()], AdamConfig { lr: 0.1, ..Default::default() })?;
/// let loss = mse_loss(&x, &x.zeros_like()?)?;
/// adam.step(&loss.backward()?)?;
/// let [a, b] = [0, 1].map(|i| x.get(i).and_then(|x| x.to_scalar::<f32>()));
/// assert!((a? - 0.9).abs() < 1e-6 && (b? + 0.9).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    params: Vec<Var>,
    /// The running means of each parameter's gradient and of its square.
    moments: Vec<[State; 2]>,
    steps: u64,
}

/// What [`Adam`] remembers, to be saved and restored: see [`Adam::state`].
#[derive(Debug, Clone)]
pub struct AdamState {
    /// The steps taken.
    pub steps: u64,
    /// For each parameter, in the order of [`Adam::new`], the running means of its gradient (torch's `exp_avg`) and of
    /// the gradient's square (`exp_avg_sq`), both of the parameter's shape and dtype.
    pub moments: Vec<(Tensor, Tensor)>,
}

impl Adam {
    /// An optimiser of `params` that has taken no step.
    ///
    /// # Errors
    /// A setting out of its range, a parameter that is not of a floating point type or that comes twice.
    pub fn new(params: Vec<Var>, config: AdamConfig) -> Result<Self> {
        let AdamConfig { lr, betas: (beta1, beta2), eps, weight_decay } = config;
        if !((0.0..1.0).contains(&beta1) && (0.0..1.0).contains(&beta2)) {
            bail!("adam: the betas are {beta1} and {beta2}, each must be at least 0 and below 1")
        }
        for (name, value) in [("the learning rate", lr), ("eps", eps), ("the weight decay", weight_decay)] {
            check_not_negative("adam", name, value)?;
        }
        let mut seen = HashSet::new();
        let moments = |(i, param): (usize, &Var)| {
            if !param.dtype().is_float() {
                bail!("adam: a parameter {:?} is of dtype {:?}, not a floating point type", param.dims(), param.dtype())
            }
            if !seen.insert(param.id()) {
                bail!("adam: parameter {i}, {:?}, was given before: it would move twice a step", param.dims())
            }
            let zeros = param.as_tensor().zeros_like()?;
            Ok([State::new(&zeros)?, State::new(&zeros)?])
        };
        let moments = params.iter().enumerate().map(moments).collect::<Result<_>>()?;
        Ok(Self { config, params, moments, steps: 0 })
    }

    /// Moves every parameter against its gradient.
    ///
    /// # Errors
    /// A parameter without a gradient in `grads` (the loss does not depend on it: leave it out of [`Adam::new`]), or
    /// with one of another shape or dtype; then nothing was changed.
    pub fn step(&mut self, grads: &GradStore) -> Result<()> {
        self.step_scaled(grads, 1.0)
    }

    /// As [`step`](Self::step) on gradients clipped by their norm, as `torch.nn.utils.clip_grad_norm_(.., max_norm)`
    /// does before it: all of them times [`clip_factor`](crate::clip_factor). Returns the norm before clipping.
    ///
    /// A norm that is not finite is returned too, and the step was taken as torch takes it: NaN gets into every
    /// parameter, an infinite gradient makes its own parameter NaN and leaves the others as they are. To skip such a
    /// step, call [`grad_norm`](crate::grad_norm) first, then [`step_scaled`](Self::step_scaled): the same two passes.
    ///
    /// # Errors
    /// As [`step`](Self::step), and a `max_norm` that is negative or NaN; then nothing was changed.
    pub fn step_clipped(&mut self, grads: &GradStore, max_norm: f64) -> Result<f64> {
        let grads = clip::gradients("adam", grads, &self.params)?;
        let norm = clip::norm(&grads)?;
        self.advance(&grads, clip::clip_factor(norm, max_norm)?)?;
        Ok(norm)
    }

    /// As [`step`](Self::step) on gradients times `scale`; without another pass over them.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_scaled(&mut self, grads: &GradStore, scale: f64) -> Result<()> {
        self.advance(&clip::gradients("adam", grads, &self.params)?, scale)
    }

    fn advance(&mut self, grads: &[Tensor], grad_scale: f64) -> Result<()> {
        let factors = Factors::new(&self.config, self.steps + 1, grad_scale);
        let Self { params, moments, .. } = self;
        for &backend in BackendKind::ALL {
            backend.run(Pass { params, grads, moments, factors: &factors })?;
        }
        self.steps += 1;
        Ok(())
    }

    /// The learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.config.lr
    }

    /// Sets the learning rate of the next step, as torch's schedulers do between steps.
    ///
    /// # Errors
    /// A rate that is negative or not finite; the one before stays.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_not_negative("adam", "the learning rate", lr)?;
        self.config.lr = lr;
        Ok(())
    }

    /// A copy of what a checkpoint must hold.
    ///
    /// # Errors
    /// Those of candle's copies.
    pub fn state(&self) -> Result<AdamState> {
        let moments = self.params.iter().zip(&self.moments);
        let moments = moments.map(|(param, [m, v])| Ok((m.tensor(param)?, v.tensor(param)?)));
        Ok(AdamState { steps: self.steps, moments: moments.collect::<Result<_>>()? })
    }

    /// Restores what [`Adam::state`] returned.
    ///
    /// # Errors
    /// Moments that do not fit the parameters in number, shape or dtype; then nothing was changed.
    pub fn load_state(&mut self, state: &AdamState) -> Result<()> {
        if state.moments.len() != self.params.len() {
            bail!("adam: a state of {} parameters, expected {}", state.moments.len(), self.params.len())
        }
        let moments = |(i, (param, (m, v))): (usize, (&Var, &(Tensor, Tensor)))| {
            for moment in [m, v] {
                if moment.dims() != param.dims() || moment.dtype() != param.dtype() {
                    let (dims, dtype) = (moment.dims(), moment.dtype());
                    let (expected, as_dtype) = (param.dims(), param.dtype());
                    bail!(
                        "adam: parameter {i} is {expected:?} {as_dtype:?}, its moment in the state {dims:?} {dtype:?}"
                    )
                }
            }
            let moment = |moment: &Tensor| State::new(&moment.to_device(param.device())?);
            Ok([moment(m)?, moment(v)?])
        };
        let pairs = self.params.iter().zip(&state.moments);
        self.moments = pairs.enumerate().map(moments).collect::<Result<_>>()?;
        self.steps = state.steps;
        Ok(())
    }
}

/// The scalars of one step.
#[derive(Debug)]
pub(crate) struct Factors {
    /// Gradients are multiplied by this.
    pub(crate) grad_scale: f64,
    /// The factor that weight decay leaves of a parameter.
    pub(crate) keep: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    /// √(1 − β₂ᵗ): bias correction of the second moment.
    pub(crate) correction: f64,
    pub(crate) eps: f64,
    /// The learning rate over 1 − β₁ᵗ: bias correction of the first moment.
    pub(crate) step_size: f64,
}

impl Factors {
    /// Those of step `step`, from 1.
    pub(crate) fn new(config: &AdamConfig, step: u64, grad_scale: f64) -> Self {
        let AdamConfig { lr, betas: (beta1, beta2), eps, weight_decay } = *config;
        Self {
            grad_scale,
            keep: 1.0 - lr * weight_decay,
            beta1,
            beta2,
            correction: (1.0 - beta2.powf(step as f64)).sqrt(),
            eps,
            step_size: lr / (1.0 - beta1.powf(step as f64)),
        }
    }
}

/// The step of the parameters of one backend.
struct Pass<'a> {
    params: &'a [Var],
    grads: &'a [Tensor],
    moments: &'a mut [[State; 2]],
    factors: &'a Factors,
}

impl Work for Pass<'_> {
    type Output = Result<()>;

    fn on<B: Backend>(self) -> Result<()> {
        let Self { params, grads, moments, factors } = self;
        let all = params.iter().zip(grads).zip(moments);
        let own = all.filter_map(|((var, grad), [m, v])| {
            Some(Parameter { var, grad, states: [mutable::<B>(m)?, mutable::<B>(v)?] })
        });
        B::adam(own.collect(), factors)
    }
}
