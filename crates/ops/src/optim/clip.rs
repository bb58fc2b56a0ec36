//! The norm of all gradients, and clipping by it.

use std::collections::HashSet;

use candle_core::backprop::GradStore;
use candle_core::{Result, Storage, Tensor, Var, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{PIECE, arch, is_f32, piece, with_numbers};
use crate::kernels::reference as compose;

/// The Euclidean norm of the gradients of `vars`, taken as one vector: `torch.nn.utils.get_total_norm`.
///
/// On the CPU in f32 one pass that reads, on all threads. The sum is taken in f64, in an order that neither the number of
/// threads nor the vectors change, and does not overflow where torch's, in f32, would (from 1.8e19 on).
///
/// # Errors
/// A variable without a gradient, or with one of another shape or dtype.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Var};
/// let x = Var::new(&[3f32, -4.0], &Device::Cpu)?;
/// let grads = (x.sqr()?.sum_all()? / 2.0)?.backward()?; // the gradient is x
/// assert_eq!(kakusan_ops::grad_norm(&grads, &[x])?, 5.0);
/// # Ok(())
/// # }
/// ```
pub fn grad_norm(grads: &GradStore, vars: &[Var]) -> Result<f64> {
    norm(&gradients("grad_norm", grads, vars)?)
}

/// What gradients of this norm are multiplied by so that their norm is `max_norm` at most: torch's
/// `max_norm / (norm + 1e-6)`, 1 where that is above. NaN for a norm that is NaN, 0 for an infinite one.
///
/// # Errors
/// A `max_norm` that is negative or NaN. It may be infinite: nothing is clipped.
pub fn clip_factor(norm: f64, max_norm: f64) -> Result<f64> {
    if max_norm.is_nan() || max_norm < 0.0 {
        bail!("clip_grad_norm: the largest norm is {max_norm}, it must be a number from 0 on")
    }
    let factor = max_norm / (norm + 1e-6);
    Ok(if factor > 1.0 { 1.0 } else { factor }) // `min` would make 1 of NaN
}

/// Scales the gradients of `vars` so that their norm is `max_norm` at most, and returns the norm before:
/// `torch.nn.utils.clip_grad_norm_`. [`Adam::step_clipped`](crate::Adam::step_clipped) does the same without a pass that
/// rewrites the gradients.
///
/// A norm that is not finite is returned, and the gradients are scaled as torch does: NaN makes all of them NaN, infinity
/// makes 0 of those that are finite and NaN of the others.
///
/// # Errors
/// As [`grad_norm`] and [`clip_factor`]; then nothing was changed.
pub fn clip_grad_norm(grads: &mut GradStore, vars: &[Var], max_norm: f64) -> Result<f64> {
    let before = gradients("clip_grad_norm", grads, vars)?;
    let norm = norm(&before)?;
    let factor = clip_factor(norm, max_norm)?;
    if factor != 1.0 {
        let clipped = before.iter().map(|grad| grad.affine(factor, 0.0)).collect::<Result<Vec<_>>>()?;
        for (var, grad) in vars.iter().zip(clipped) {
            grads.insert(var, grad);
        }
    }
    Ok(norm)
}

/// The gradients of `vars`, contiguous and apart from the variables themselves.
pub(crate) fn gradients(op: &str, grads: &GradStore, vars: &[Var]) -> Result<Vec<Tensor>> {
    let variables: HashSet<usize> = vars.iter().map(|var| storage_of(var)).collect();
    let gradient = |(i, var): (usize, &Var)| match grads.get(var) {
        Some(grad) if grad.dims() != var.dims() || grad.dtype() != var.dtype() => {
            let (dims, dtype, expected, as_dtype) = (grad.dims(), grad.dtype(), var.dims(), var.dtype());
            bail!("{op}: parameter {i} is {expected:?} {as_dtype:?}, its gradient {dims:?} {dtype:?}")
        }
        // put there by hand: it must not change while parameters are written
        Some(grad) if variables.contains(&storage_of(grad)) => grad.copy().map(|copy| copy.detach())?.contiguous(),
        Some(grad) => grad.detach().contiguous(),
        None => bail!("{op}: parameter {i}, {:?}, has no gradient: the loss does not depend on it", var.dims()),
    };
    vars.iter().enumerate().map(gradient).collect()
}

/// Where a tensor's memory is kept; the same for tensors that share it.
fn storage_of(tensor: &Tensor) -> usize {
    std::ptr::from_ref::<Storage>(&tensor.storage_and_layout().0).addr()
}

/// The norm of contiguous gradients.
pub(crate) fn norm(grads: &[Tensor]) -> Result<f64> {
    let (host, other): (Vec<_>, Vec<_>) = grads.iter().partition(|grad| is_f32(grad));
    let pieces = host.iter().flat_map(|grad| (0..grad.elem_count().div_ceil(PIECE)).map(move |i| (grad, i)));
    let sum = |(grad, i): (&&Tensor, usize)| {
        with_numbers(grad, |numbers| {
            let _flush = FlushDenormals::new();
            Ok(arch().dispatch(SumOfSquares { numbers: piece(numbers, i, PIECE) }))
        })
    };
    let sums = pieces.collect::<Vec<_>>().into_par_iter().map(sum).collect::<Result<Vec<f64>>>()?;
    Ok((sums.iter().sum::<f64>() + compose::sum_of_squares(&other)?).sqrt())
}

struct SumOfSquares<'a> {
    numbers: &'a [f32],
}

impl WithSimd for SumOfSquares<'_> {
    type Output = f64;

    /// Plain code that the compiler turns into the vectors of `S`; as many sums as the widest need, so that all machines
    /// add in one order.
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
