//! The optimisers' pass over parameters, gradients and states, in place.
//!
//! candle locks a tensor while an in-place operation writes to it. A thread that waited
//! for others with a parameter locked could take up a job that reads the model, and wait for itself. So the parameters
//! are the tasks of one loop, the largest first; a task locks one parameter and starts no loop.

use std::cell::RefCell;
use std::cmp::Reverse;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Cpu;
use super::denormals::FlushDenormals;
use super::host::{PIECE, arch, numbers, piece, with_numbers};
use crate::kernels::Parameter;
use crate::optim::adam::Factors;
use crate::optim::sgd::SgdConfig;

/// One step of Adam.
pub(crate) fn adam(mut params: Vec<Parameter<Cpu, 2>>, f: &Factors) -> Result<()> {
    params.sort_by_key(|param| Reverse(param.states[0].len()));
    let factors = [f.grad_scale, f.keep, 1.0 - f.beta1, f.beta2, 1.0 - f.beta2, f.correction, f.eps, f.step_size];
    let factors = factors.map(|factor| factor as f32);
    params.into_par_iter().with_max_len(1).try_for_each(|Parameter { var, grad, states: [m, v] }| {
        var.inplace_op2(grad, &AdamInPlace { factors, moments: RefCell::new((m.as_mut_slice(), v.as_mut_slice())) })
    })
}

/// One step of gradient descent.
pub(crate) fn sgd(
    mut params: Vec<(&Var, &Tensor, Option<&mut Vec<f32>>)>,
    config: &SgdConfig,
    scale: f64,
) -> Result<()> {
    params.sort_by_key(|(var, ..)| Reverse(var.elem_count()));
    params.into_par_iter().with_max_len(1).try_for_each(|(var, grad, momentum)| {
        let buffer = momentum.map(Vec::as_mut_slice).unwrap_or_default();
        var.inplace_op2(grad, &SgdInPlace { config: *config, scale, buffer: RefCell::new(buffer) })
    })
}

/// One step of an average. A parameter is locked for one piece at a time: no thread waits for others with it locked.
pub(crate) fn average(params: Vec<(&Var, &mut Vec<f32>)>, rate: f32) -> Result<()> {
    let mut pieces = vec![];
    for (param, shadow) in params {
        pieces.extend(shadow.chunks_mut(PIECE).enumerate().map(|(i, shadow)| (i, shadow, param.as_tensor())));
    }
    pieces.into_par_iter().try_for_each(|(i, shadow, param)| {
        with_numbers(param, |param| {
            let _flush = FlushDenormals::new();
            arch().dispatch(AverageKernel { shadow, param: piece(param, i, PIECE), rate });
            Ok(())
        })
    })
}

/// The sum of the squares of all numbers, in f64 and in an order that depends on the tensors alone.
pub(crate) fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
    let pieces = tensors.iter().flat_map(|tensor| (0..tensor.elem_count().div_ceil(PIECE)).map(move |i| (tensor, i)));
    let sum = |(tensor, i): (&&Tensor, usize)| {
        with_numbers(tensor, |numbers| {
            let _flush = FlushDenormals::new();
            Ok(arch().dispatch(SumOfSquares { numbers: piece(numbers, i, PIECE) }))
        })
    };
    let sums = pieces.collect::<Vec<_>>().into_par_iter().map(sum).collect::<Result<Vec<f64>>>()?;
    Ok(sums.iter().sum())
}

/// One step of one parameter, in place.
struct AdamInPlace<'a> {
    factors: [f32; 8],
    /// An in-place operation of candle writes to one tensor only, so the moments are kept here.
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
}

impl InplaceOp2 for AdamInPlace<'_> {
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
        AdamKernel { param, grad, m, v, factors: self.factors }.run();
        Ok(())
    }
}

struct AdamKernel<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    factors: [f32; 8],
}

impl AdamKernel<'_> {
    fn run(self) {
        let _flush = FlushDenormals::new();
        arch().dispatch(self);
    }
}

impl WithSimd for AdamKernel<'_> {
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
            [*p, *m, *v] = adam_step(simd, factors, *p, g, *m, *v);
        }
        if !param_rest.is_empty() {
            let (p, g) = (simd.partial_load_f32s(param_rest), simd.partial_load_f32s(grad_rest));
            let (m, v) = (simd.partial_load_f32s(m_rest), simd.partial_load_f32s(v_rest));
            let [p, m, v] = adam_step(simd, factors, p, g, m, v);
            simd.partial_store_f32s(param_rest, p);
            simd.partial_store_f32s(m_rest, m);
            simd.partial_store_f32s(v_rest, v);
        }
    }
}

/// A vector of parameters, of their gradients and of the moments: the parameters and the moments after the step.
#[inline(always)]
fn adam_step<S: Simd>(s: S, factors: [S::f32s; 8], p: S::f32s, g: S::f32s, m: S::f32s, v: S::f32s) -> [S::f32s; 3] {
    let [grad_scale, keep, rate1, keep2, rate2, correction, eps, step_size] = factors;
    let g = s.mul_f32s(g, grad_scale);
    let m = s.mul_add_f32s(s.sub_f32s(g, m), rate1, m);
    let v = s.mul_add_f32s(s.mul_f32s(rate2, g), g, s.mul_f32s(v, keep2));
    let divisor = s.add_f32s(s.div_f32s(s.sqrt_f32s(v), correction), eps);
    let p = s.mul_f32s(p, keep);
    [s.sub_f32s(p, s.mul_f32s(step_size, s.div_f32s(m, divisor))), m, v]
}

/// One step of one parameter, in place.
struct SgdInPlace<'a> {
    config: SgdConfig,
    scale: f64,
    /// An in-place operation of candle writes to one tensor only, so the momentum is kept here; empty without one.
    buffer: RefCell<&'a mut [f32]>,
}

impl InplaceOp2 for SgdInPlace<'_> {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn cpu_fwd(&self, param: &mut CpuStorage, lp: &Layout, grad: &CpuStorage, lg: &Layout) -> Result<()> {
        let grad = numbers::<f32>(grad, lg)?;
        let (CpuStorage::F32(param), Some((start, end))) = (param, lp.contiguous_offsets()) else {
            bail!("sgd: a parameter {:?} is strided or no longer f32", lp.shape())
        };
        let SgdConfig { lr, momentum, weight_decay } = self.config;
        let factors = [self.scale, weight_decay, momentum, lr].map(|factor| factor as f32);
        SgdKernel { param: &mut param[start..end], grad, buffer: &mut self.buffer.borrow_mut(), factors }.run();
        Ok(())
    }
}

struct SgdKernel<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    /// Empty without momentum.
    buffer: &'a mut [f32],
    factors: [f32; 4],
}

impl SgdKernel<'_> {
    fn run(self) {
        let _flush = FlushDenormals::new();
        arch().dispatch(self);
    }
}

impl WithSimd for SgdKernel<'_> {
    type Output = ();

    /// Plain code that the compiler turns into the vectors of `S`; memory is what it waits for.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let [scale, weight_decay, momentum, lr] = self.factors;
        let pairs = self.param.iter_mut().zip(self.grad);
        if self.buffer.is_empty() {
            pairs.for_each(|(p, &g)| *p -= lr * (g * scale + weight_decay * *p));
        } else {
            pairs.zip(self.buffer).for_each(|((p, &g), buffer)| {
                *buffer = momentum * *buffer + (g * scale + weight_decay * *p);
                *p -= lr * *buffer;
            });
        }
    }
}

struct AverageKernel<'a> {
    shadow: &'a mut [f32],
    param: &'a [f32],
    rate: f32,
}

impl WithSimd for AverageKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rate = simd.splat_f32s(self.rate);
        let (shadow, shadow_rest) = S::as_mut_simd_f32s(self.shadow);
        let (param, param_rest) = S::as_simd_f32s(self.param);
        for (shadow, &param) in shadow.iter_mut().zip(param) {
            *shadow = average_step(simd, rate, *shadow, param);
        }
        if !shadow_rest.is_empty() {
            let (shadow, param) = (simd.partial_load_f32s(shadow_rest), simd.partial_load_f32s(param_rest));
            simd.partial_store_f32s(shadow_rest, average_step(simd, rate, shadow, param));
        }
    }
}

/// Rounded after each operation, as torch does it: given torch's parameters the average has torch's bits.
#[inline(always)]
fn average_step<S: Simd>(s: S, rate: S::f32s, shadow: S::f32s, param: S::f32s) -> S::f32s {
    s.sub_f32s(shadow, s.mul_f32s(rate, s.sub_f32s(shadow, param)))
}

pub(super) struct SumOfSquares<'a> {
    pub(super) numbers: &'a [f32],
}

impl WithSimd for SumOfSquares<'_> {
    type Output = f64;

    /// Plain code that the compiler turns into the vectors of `S`; as many sums as the widest need, so that all
    /// machines add in one order.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        const LANES: usize = 32;
        let square = |x: f32| f64::from(x) * f64::from(x);
        let (rows, rest) = self.numbers.as_chunks::<LANES>();
        let mut sums = [0f64; LANES];
        for row in rows {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += square(x);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&x| square(x)).sum::<f64>()
    }
}
