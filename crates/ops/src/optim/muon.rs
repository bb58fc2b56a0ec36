//! The optimiser Muon.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::{check_not_negative, clip};
use crate::linear;

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
    momenta: Vec<Tensor>,
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
        let momenta = params.iter().map(|param| param.as_tensor().zeros_like()).collect::<Result<_>>()?;
        Ok(Self { config, params, momenta })
    }

    /// Moves every parameter against its gradient times `scale`.
    ///
    /// # Errors
    /// A parameter without a gradient in `grads`, or with one of another shape or dtype; then nothing was changed.
    pub fn step_scaled(&mut self, grads: &GradStore, scale: f64) -> Result<()> {
        let grads = clip::gradients("muon", grads, &self.params)?;
        let all = self.params.par_iter().zip(&self.momenta).zip(&grads);
        let moved = all.map(|((param, momentum), grad)| match scale {
            1.0 => self.moved(param, momentum, grad),
            _ => self.moved(param, momentum, &(grad * scale)?),
        });
        let moved: Vec<(Tensor, Tensor)> = moved.collect::<Result<_>>()?;
        for ((param, momentum), (value, mean)) in self.params.iter().zip(&mut self.momenta).zip(moved) {
            param.set(&value)?;
            *momentum = mean;
        }
        Ok(())
    }

    /// A parameter and its mean gradient after a step.
    fn moved(&self, param: &Var, momentum: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
        let MuonConfig { lr, momentum: keep, weight_decay } = self.config;
        let mean = mix(grad, momentum, keep)?;
        let direction = orthogonal(&mix(grad, &mean, keep)?.flatten_from(1)?)?;
        let (rows, columns) = direction.dims2()?;
        let step = (direction * (lr * 0.2 * (rows.max(columns) as f64).sqrt()))?;
        let value = ((param.as_tensor() * (1.0 - lr * weight_decay))? - step.reshape(param.dims())?)?;
        Ok((value, mean))
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

    /// What a checkpoint must hold: the mean gradient (torch's `momentum_buffer`) of each parameter, in the order of
    /// [`Muon::new`].
    pub fn state(&self) -> Vec<Tensor> {
        self.momenta.clone()
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
            buffer.to_device(param.device())?.copy()
        };
        self.momenta = self.params.iter().zip(state).enumerate().map(momentum).collect::<Result<_>>()?;
        Ok(())
    }
}

/// `keep` of `mean`, and of `grad` the rest.
fn mix(grad: &Tensor, mean: &Tensor, keep: f64) -> Result<Tensor> {
    (mean * keep)? + (grad * (1.0 - keep))?
}

/// The coefficients of the odd polynomial that drives singular values to about 1, as fast as five steps can.
const QUINTIC: [f64; 3] = [3.4445, -4.775, 2.0315];

/// The nearest matrix to `matrix` whose singular values are all about 1 (0.7 to 1.2), by five steps of a
/// Newton-Schulz iteration `X ← (a I + b G + c G²) X`, where `G = X Xᵀ`.
///
/// The factors before `X` commute, so that they and `G` are computed alone, which are small, and `X` is multiplied
/// once.
fn orthogonal(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let dtype = if matrix.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let matrix_or_turned = if rows > columns { matrix.t()?.contiguous()? } else { matrix.clone() };
    let wide = matrix_or_turned.to_dtype(dtype)?;
    let norm = wide.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt();
    let x = (wide / norm.max(1e-7))?;
    let [a, b, c] = QUINTIC;
    let identity = (Tensor::eye(rows.min(columns), dtype, matrix.device())? * a)?;
    let mut gram = product(&x, &x)?;
    let mut factors = None;
    for _ in 0..5 {
        let factor = ((&identity + (&gram * b)?)? + (product(&gram, &gram)? * c)?)?;
        gram = product(&product(&factor, &gram)?, &factor)?;
        factors = Some(match factors {
            Some(before) => product(&factor, &before)?,
            None => factor,
        });
    }
    let turned = product(&x.t()?.contiguous()?, &factors.unwrap_or(identity))?;
    if rows > columns { turned } else { turned.t()?.contiguous()? }.to_dtype(matrix.dtype())
}

/// `a bᵀ`. Most of these matrices are symmetric, so that it is `a b`.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rows, columns) = a.dims2()?;
    linear(&a.reshape((rows, columns, 1, 1))?, b, None)?.flatten_from(1)
}
