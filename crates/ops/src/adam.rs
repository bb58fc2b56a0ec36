//! The optimiser Adam.

use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, Var, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::compose;
use crate::denormals::FlushDenormals;
use crate::host::{PIECE, arch, numbers, with_numbers};

/// The settings of [`Adam`]; the defaults are torch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// The learning rate, not negative.
    pub lr: f64,
    /// How slowly the means of the gradient and of its square forget, each in `0..1`.
    pub betas: (f64, f64),
    /// Added to the divisor, not negative.
    pub eps: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8 }
    }
}

/// Adam (Kingma and Ba 2015, algorithm 1), as `torch.optim.Adam` without weight decay.
///
/// On the CPU in f32 a step is one pass over parameter, gradient and moments, in place and on all threads.
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
    moments: Vec<Moments>,
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

#[derive(Debug)]
enum Moments {
    /// f32 on the CPU.
    Host {
        m: Vec<f32>,
        v: Vec<f32>,
    },
    Device {
        m: Tensor,
        v: Tensor,
    },
}

impl Moments {
    fn new(m: &Tensor, v: &Tensor) -> Result<Self> {
        if m.device().is_cpu() && m.dtype() == DType::F32 {
            let read = |tensor| with_numbers::<f32, _>(tensor, |numbers| Ok(numbers.to_vec()));
            Ok(Self::Host { m: read(m)?, v: read(v)? })
        } else {
            Ok(Self::Device { m: m.detach(), v: v.detach() })
        }
    }
}

impl Adam {
    /// An optimiser of `params` that has taken no step.
    ///
    /// # Errors
    /// A setting out of its range, a parameter that is not of a floating point type.
    pub fn new(params: Vec<Var>, config: AdamConfig) -> Result<Self> {
        let AdamConfig { lr, betas: (beta1, beta2), eps } = config;
        if !(lr >= 0.0 && lr.is_finite()) {
            bail!("adam: the learning rate is {lr}, it must be a number from 0 on")
        }
        if !((0.0..1.0).contains(&beta1) && (0.0..1.0).contains(&beta2)) {
            bail!("adam: the betas are {beta1} and {beta2}, each must be at least 0 and below 1")
        }
        if !(eps >= 0.0 && eps.is_finite()) {
            bail!("adam: eps is {eps}, it must be a number from 0 on")
        }
        let moments = |param: &Var| {
            if !param.dtype().is_float() {
                bail!("adam: a parameter {:?} is of dtype {:?}, not a floating point type", param.dims(), param.dtype())
            }
            let zeros = param.as_tensor().zeros_like()?;
            Moments::new(&zeros, &zeros)
        };
        let moments = params.iter().map(moments).collect::<Result<_>>()?;
        Ok(Self { config, params, moments, steps: 0 })
    }

    /// Moves every parameter against its gradient.
    ///
    /// # Errors
    /// A parameter without a gradient in `grads` (the loss does not depend on it: leave it out of [`Adam::new`]); then
    /// nothing was changed.
    pub fn step(&mut self, grads: &GradStore) -> Result<()> {
        let gradient = |(i, param): (usize, &Var)| match grads.get(param) {
            Some(grad) if grad.dims() == param.dims() && grad.dtype() == param.dtype() => grad.contiguous(),
            Some(grad) => bail!("adam: parameter {i} is {:?}, its gradient {:?}", param.dims(), grad.dims()),
            None => bail!("adam: parameter {i}, {:?}, has no gradient: the loss does not depend on it", param.dims()),
        };
        let grads = self.params.iter().enumerate().map(gradient).collect::<Result<Vec<_>>>()?;
        self.steps += 1;
        let AdamConfig { lr, betas: (beta1, beta2), eps } = self.config;
        let steps = self.steps as f64;
        let step_size = lr / (1.0 - beta1.powf(steps));
        let correction = (1.0 - beta2.powf(steps)).sqrt();
        for ((param, moments), grad) in self.params.iter().zip(&mut self.moments).zip(&grads) {
            match moments {
                Moments::Host { m, v } => {
                    let factors = [1.0 - beta1, beta2, 1.0 - beta2, correction, eps, step_size];
                    let factors = factors.map(|factor| factor as f32);
                    param.inplace_op2(grad, &Step { factors, moments: RefCell::new((m, v)) })?;
                }
                Moments::Device { m, v } => {
                    let scalars = [step_size, correction, eps];
                    let (param_after, m_after, v_after) = {
                        let [p, m, v] = compose::adam([param, m, v], &grad.detach(), [beta1, beta2], scalars)?;
                        (p.detach(), m.detach(), v.detach())
                    };
                    param.set(&param_after)?;
                    (*m, *v) = (m_after, v_after);
                }
            }
        }
        Ok(())
    }

    /// The learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.config.lr
    }

    /// Sets the learning rate of the next step.
    pub fn set_learning_rate(&mut self, lr: f64) {
        self.config.lr = lr;
    }

    /// A copy of what a checkpoint must hold.
    ///
    /// # Errors
    /// Those of candle's copies.
    pub fn state(&self) -> Result<AdamState> {
        let moments = self.params.iter().zip(&self.moments).map(|(param, moments)| match moments {
            Moments::Host { m, v } => {
                let tensor = |numbers: &[f32]| Tensor::from_slice(numbers, param.shape(), &Device::Cpu);
                Ok((tensor(m)?, tensor(v)?))
            }
            Moments::Device { m, v } => Ok((m.clone(), v.clone())),
        });
        Ok(AdamState { steps: self.steps, moments: moments.collect::<Result<_>>()? })
    }

    /// Goes on from where [`Adam::state`] was taken.
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
            Moments::new(&m.to_device(param.device())?, &v.to_device(param.device())?)
        };
        let pairs = self.params.iter().zip(&state.moments);
        self.moments = pairs.enumerate().map(moments).collect::<Result<_>>()?;
        self.steps = state.steps;
        Ok(())
    }
}

/// One step of one parameter, in place.
struct Step<'a> {
    factors: [f32; 6],
    /// candle hands an in-place operation one tensor to write to; the moments come along here.
    moments: RefCell<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
}

impl InplaceOp2 for Step<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, param: &mut CpuStorage, lp: &Layout, grad: &CpuStorage, lg: &Layout) -> Result<()> {
        let grad = numbers::<f32>(grad, lg)?;
        let (CpuStorage::F32(param), Some((start, end))) = (param, lp.contiguous_offsets()) else {
            bail!("adam: a parameter {:?} is strided or no longer f32", lp.shape())
        };
        let (m, v) = &mut *self.moments.borrow_mut();
        let pieces = param[start..end].par_chunks_mut(PIECE).zip(grad.par_chunks(PIECE));
        let pieces = pieces.zip(m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE)));
        let factors = self.factors;
        pieces.for_each(|((param, grad), (m, v))| {
            let _flush = FlushDenormals::new();
            arch().dispatch(Kernel { param, grad, m, v, factors });
        });
        Ok(())
    }
}

struct Kernel<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    factors: [f32; 6],
}

impl WithSimd for Kernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut factors = [simd.splat_f32s(0.0); 6];
        for (vector, factor) in factors.iter_mut().zip(self.factors) {
            *vector = simd.splat_f32s(factor);
        }
        let (param, param_rest) = S::as_mut_simd_f32s(self.param);
        let (grad, grad_rest) = S::as_simd_f32s(self.grad);
        let (m, m_rest) = S::as_mut_simd_f32s(self.m);
        let (v, v_rest) = S::as_mut_simd_f32s(self.v);
        for (((p, &g), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
            [*p, *m, *v] = step(simd, factors, *p, g, *m, *v);
        }
        if !param_rest.is_empty() {
            let (p, g) = (simd.partial_load_f32s(param_rest), simd.partial_load_f32s(grad_rest));
            let (m, v) = (simd.partial_load_f32s(m_rest), simd.partial_load_f32s(v_rest));
            let [p, m, v] = step(simd, factors, p, g, m, v);
            simd.partial_store_f32s(param_rest, p);
            simd.partial_store_f32s(m_rest, m);
            simd.partial_store_f32s(v_rest, v);
        }
    }
}

/// A vector of parameters, of their gradients and of the moments: the parameters and the moments after the step.
#[inline(always)]
fn step<S: Simd>(s: S, factors: [S::f32s; 6], p: S::f32s, g: S::f32s, m: S::f32s, v: S::f32s) -> [S::f32s; 3] {
    let [rate1, keep2, rate2, correction, eps, step_size] = factors;
    let m = s.mul_add_f32s(s.sub_f32s(g, m), rate1, m);
    let v = s.mul_add_f32s(s.mul_f32s(rate2, g), g, s.mul_f32s(v, keep2));
    let divisor = s.add_f32s(s.div_f32s(s.sqrt_f32s(v), correction), eps);
    [s.sub_f32s(p, s.mul_f32s(step_size, s.div_f32s(m, divisor))), m, v]
}
