//! The optimiser Adam.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashSet;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Result, Tensor, Var, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{arch, is_f32, numbers, with_numbers};
use crate::kernels::reference as compose;
use crate::optim::clip;

/// The settings of [`Adam`]; the defaults are torch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// The learning rate, not negative.
    pub lr: f64,
    /// How slowly the means of the gradient and of its square forget, each in `0..1`.
    pub betas: (f64, f64),
    /// Added to the divisor, not negative.
    pub eps: f64,
    /// How much of itself a parameter loses in a step, times the learning rate, not negative: decoupled from the
    /// gradient (Loshchilov and Hutter 2019, algorithm 2), as `torch.optim.AdamW`, whose default is 0.01. 0 is plain Adam.
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
        if is_f32(m) {
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
    /// A setting out of its range, a parameter that is not of a floating point type or that comes twice.
    pub fn new(params: Vec<Var>, config: AdamConfig) -> Result<Self> {
        let AdamConfig { lr, betas: (beta1, beta2), eps, weight_decay } = config;
        if !((0.0..1.0).contains(&beta1) && (0.0..1.0).contains(&beta2)) {
            bail!("adam: the betas are {beta1} and {beta2}, each must be at least 0 and below 1")
        }
        for (name, value) in [("the learning rate", lr), ("eps", eps), ("the weight decay", weight_decay)] {
            check_not_negative(name, value)?;
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
            Moments::new(&zeros, &zeros)
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

    /// As [`step`](Self::step) on gradients clipped by their norm, as `torch.nn.utils.clip_grad_norm_(.., max_norm)` does
    /// before it: all of them times [`clip_factor`](crate::clip_factor). Returns the norm before clipping.
    ///
    /// A norm that is not finite is returned too, and the step was taken as torch takes it: NaN gets into every
    /// parameter, an infinite gradient makes its own parameter NaN and lets the others stand still. Who would rather not
    /// step asks [`grad_norm`](crate::grad_norm) first and then calls [`step_scaled`](Self::step_scaled): the same two
    /// passes.
    ///
    /// # Errors
    /// As [`step`](Self::step), and a `max_norm` that is negative or NaN; then nothing was changed.
    pub fn step_clipped(&mut self, grads: &GradStore, max_norm: f64) -> Result<f64> {
        let grads = clip::gradients("adam", grads, &self.params)?;
        let norm = clip::norm(&grads)?;
        self.advance(&grads, clip::clip_factor(norm, max_norm)?)?;
        Ok(norm)
    }

    /// As [`step`](Self::step) on gradients times `scale`; that costs no pass of its own.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_scaled(&mut self, grads: &GradStore, scale: f64) -> Result<()> {
        self.advance(&clip::gradients("adam", grads, &self.params)?, scale)
    }

    fn advance(&mut self, grads: &[Tensor], grad_scale: f64) -> Result<()> {
        let factors = Factors::new(&self.config, self.steps + 1, grad_scale);
        let mut host = Vec::new();
        for ((param, moments), grad) in self.params.iter().zip(&mut self.moments).zip(grads) {
            match moments {
                Moments::Host { m, v } => host.push(Task { param, grad, m, v }),
                Moments::Device { m, v } => {
                    let [param_after, m_after, v_after] = compose::adam([param, m, v], grad, &factors)?;
                    param.set(&param_after.detach())?;
                    (*m, *v) = (m_after.detach(), v_after.detach());
                }
            }
        }
        step_all(host, &factors)?;
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
        check_not_negative("the learning rate", lr)?;
        self.config.lr = lr;
        Ok(())
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

fn check_not_negative(name: &str, value: f64) -> Result<()> {
    if !(value >= 0.0 && value.is_finite()) {
        bail!("adam: {name} is {value}, it must be a number from 0 on")
    }
    Ok(())
}

/// The scalars of one step.
#[derive(Debug)]
pub(crate) struct Factors {
    /// Gradients are taken times this.
    pub(crate) grad_scale: f64,
    /// What weight decay leaves of a parameter.
    pub(crate) keep: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    /// The root of what the mean of squares lacks, having begun at 0.
    pub(crate) correction: f64,
    pub(crate) eps: f64,
    /// The learning rate over what the mean of gradients lacks.
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

/// One parameter's part of a step.
struct Task<'a> {
    param: &'a Var,
    grad: &'a Tensor,
    m: &'a mut [f32],
    v: &'a mut [f32],
}

/// Steps all parameters that lie in f32 on the CPU.
///
/// candle lends a tensor for writing to one in-place operation at a time, and locks it meanwhile. A thread that waited for
/// others with a parameter locked could take up a job that reads the model, and wait for itself. So the parameters are
/// the tasks of one loop, whole, the largest first; a task locks one and starts no loop in turn.
fn step_all(mut tasks: Vec<Task>, factors: &Factors) -> Result<()> {
    tasks.sort_by_key(|task| Reverse(task.m.len()));
    tasks.into_par_iter().with_max_len(1).try_for_each(|task| task.run(factors))
}

impl Task<'_> {
    fn run(self, factors: &Factors) -> Result<()> {
        let Self { param, grad, m, v } = self;
        let f = factors;
        let factors = [f.grad_scale, f.keep, 1.0 - f.beta1, f.beta2, 1.0 - f.beta2, f.correction, f.eps, f.step_size];
        let factors = factors.map(|factor| factor as f32);
        param.inplace_op2(grad, &InPlace { factors, moments: RefCell::new((m, v)) })
    }
}

/// One step of one parameter, in place.
struct InPlace<'a> {
    factors: [f32; 8],
    /// candle hands an in-place operation one tensor to write to; the moments come along here.
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
}

impl InplaceOp2 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, param: &mut CpuStorage, lp: &Layout, grad: &CpuStorage, lg: &Layout) -> Result<()> {
        let grad = numbers::<f32>(grad, lg)?;
        let (CpuStorage::F32(param), Some((start, end))) = (param, lp.contiguous_offsets()) else {
            bail!("adam: a parameter {:?} is strided or no longer f32", lp.shape())
        };
        let param = &mut param[start..end];
        let (m, v) = &mut *self.moments.borrow_mut();
        Kernel { param, grad, m, v, factors: self.factors }.run();
        Ok(())
    }
}

struct Kernel<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    factors: [f32; 8],
}

impl Kernel<'_> {
    fn run(self) {
        let _flush = FlushDenormals::new();
        arch().dispatch(self);
    }
}

impl WithSimd for Kernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut factors = [simd.splat_f32s(0.0); 8];
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
fn step<S: Simd>(s: S, factors: [S::f32s; 8], p: S::f32s, g: S::f32s, m: S::f32s, v: S::f32s) -> [S::f32s; 3] {
    let [grad_scale, keep, rate1, keep2, rate2, correction, eps, step_size] = factors;
    let g = s.mul_f32s(g, grad_scale);
    let m = s.mul_add_f32s(s.sub_f32s(g, m), rate1, m);
    let v = s.mul_add_f32s(s.mul_f32s(rate2, g), g, s.mul_f32s(v, keep2));
    let divisor = s.add_f32s(s.div_f32s(s.sqrt_f32s(v), correction), eps);
    let p = s.mul_f32s(p, keep);
    [s.sub_f32s(p, s.mul_f32s(step_size, s.div_f32s(m, divisor))), m, v]
}
