//! The norm of all gradients, and clipping by it.

use std::collections::HashSet;

use candle_core::backprop::GradStore;
use candle_core::{Result, Storage, Tensor, Var, bail};

use crate::kernels::{Backend, BackendKind, Work};

/// The Euclidean norm of the gradients of `vars`, taken as one vector: `torch.nn.utils.get_total_norm`.
///
/// On the CPU in f32 one pass that reads, on all threads. The sum is taken in f64, in an order that neither the number
/// of threads nor the vectors change, and does not overflow where torch's, in f32, would (from 1.8e19 on).
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
/// `torch.nn.utils.clip_grad_norm_`. [`Adam::step_clipped`](crate::Adam::step_clipped) does the same without a pass
/// that rewrites the gradients.
///
/// A norm that is not finite is returned, and the gradients are scaled as torch does: NaN makes all of them NaN,
/// infinity makes 0 of those that are finite and NaN of the others.
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

/// The gradients of `vars`, contiguous, in memory that no variable shares.
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
    let mut sum = 0.0;
    for &backend in BackendKind::ALL {
        let own: Vec<_> = grads.iter().filter(|grad| BackendKind::of(grad) == backend).collect();
        if !own.is_empty() {
            sum += backend.run(SumOfSquares(&own))?;
        }
    }
    Ok(sum.sqrt())
}

struct SumOfSquares<'a>(&'a [&'a Tensor]);

impl Work for SumOfSquares<'_> {
    type Output = Result<f64>;

    fn on<B: Backend>(self) -> Result<f64> {
        B::sum_of_squares(self.0)
    }
}
