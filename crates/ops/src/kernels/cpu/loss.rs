//! Losses: their means, and their gradients.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::host::{PIECE, build, numbers, piece, with_numbers};
use crate::op::loss::Loss;

/// The mean of a loss over all elements, summed in f64 in a fixed order.
pub(crate) struct Mean(pub(crate) Loss);

impl CustomOp2 for Mean {
    fn name(&self) -> &'static str {
        match self.0 {
            Loss::Squared => "mse_loss",
            Loss::Absolute => "l1_loss",
            Loss::Huber(_) => "huber_loss",
        }
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let mean = mean(self.0, numbers(a, la)?, numbers(b, lb)?)?;
        Ok((CpuStorage::F32(vec![mean as f32]), Shape::from(())))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = f64::from(grad.to_scalar::<f32>()?) / a.elem_count() as f64;
        let gradient = |a: &Tensor, b: &Tensor| {
            if !a.track_op() {
                return Ok(None);
            }
            let gradient = with_numbers(a, |a| with_numbers(b, |b| gradient(self.0, a, b, scale)))?;
            Tensor::from_vec(gradient, a.shape(), a.device()).map(Some)
        };
        Ok((gradient(a, b)?, gradient(b, a)?))
    }
}

fn mean(loss: Loss, a: &[f32], b: &[f32]) -> Result<f64> {
    match loss {
        Loss::Squared => mean_of(a, b, |d| d * d),
        Loss::Absolute => mean_of(a, b, f64::abs),
        Loss::Huber(delta) => mean_of(a, b, |d| {
            let inside = d.clamp(-delta, delta);
            inside * (d - 0.5 * inside)
        }),
    }
}

fn mean_of(a: &[f32], b: &[f32], of: impl Fn(f64) -> f64 + Sync) -> Result<f64> {
    let ([], sums) = build(a.len(), PIECE, |i, []: [&mut [f32]; 0]| {
        let value = |(&a, &b): (&f32, &f32)| of(f64::from(a) - f64::from(b));
        piece(a, i, PIECE).iter().zip(piece(b, i, PIECE)).map(value).sum::<f64>()
    })?;
    Ok(sums.iter().sum::<f64>() / a.len() as f64)
}

/// `scale` times the gradient of the sum over all pairs, for `a`.
fn gradient(loss: Loss, a: &[f32], b: &[f32], scale: f64) -> Result<Vec<f32>> {
    match loss {
        Loss::Squared => slopes(a, b, 2.0 * scale, |d| d),
        Loss::Absolute => slopes(a, b, scale, |d| {
            let sign = if d > 0.0 { 1.0 } else { 0.0 };
            if d < 0.0 { -1.0 } else { sign }
        }),
        Loss::Huber(delta) => {
            let delta = delta as f32;
            slopes(a, b, scale, |d| {
                let d = if d > delta { delta } else { d };
                if d < -delta { -delta } else { d }
            })
        }
    }
}

/// `scale slope(a - b)`
fn slopes(a: &[f32], b: &[f32], scale: f64, slope: impl Fn(f32) -> f32 + Sync) -> Result<Vec<f32>> {
    let scale = scale as f32;
    let ([slopes], _) = build(a.len(), PIECE, |i, [slopes]| {
        let pairs = piece(a, i, PIECE).iter().zip(piece(b, i, PIECE));
        slopes.iter_mut().zip(pairs).for_each(|(d, (&a, &b))| *d = slope(a - b) * scale);
    })?;
    Ok(slopes)
}
