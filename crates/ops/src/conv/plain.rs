//! Convolution in f64: the definition, written down. The gradient checks and the tests of the fast path rest on it.

use candle_core::Result;

use super::{ConvShape, Gradients, Wanted};
use crate::host::{build, piece};
use crate::silu::silu_f64;

pub(super) fn forward(
    s: &ConvShape,
    x: &[f64],
    weight: &[f64],
    bias: Option<&[f64]>,
    silu: bool,
    keep: bool,
) -> Result<(Vec<f64>, Option<Vec<f64>>)> {
    let task = |i: usize, y: &mut [f64], derivative: Option<&mut [f64]>| {
        let x = piece(x, i, s.image());
        if let Some(bias) = bias {
            y.chunks_exact_mut(s.oh * s.ow).zip(bias).for_each(|(y, &bias)| y.fill(bias));
        }
        each_product(s, |x_at, weight_at, y_at| y[y_at] += x[x_at] * weight[weight_at]);
        if let Some(derivative) = derivative {
            derivative.iter_mut().zip(&*y).for_each(|(d, &y)| *d = silu_f64(y).1);
        }
        if silu {
            y.iter_mut().for_each(|y| *y = silu_f64(*y).0);
        }
    };
    let len = s.b * s.result();
    if keep {
        let ([y, derivative], _) = build(len, s.result(), |i, [y, derivative]| task(i, y, Some(derivative)))?;
        Ok((y, Some(derivative)))
    } else {
        let ([y], _) = build(len, s.result(), |i, [y]| task(i, y, None))?;
        Ok((y, None))
    }
}

pub(super) fn backward(
    s: &ConvShape,
    wanted: Wanted,
    x: &[f64],
    weight: &[f64],
    grad: &[f64],
    derivative: Option<&[f64]>,
) -> Result<Gradients<f64>> {
    let part = s.part();
    let ([mut dx], parts) = build(s.b * s.image(), part * s.image(), |i, [dx]| {
        let mut dw = vec![0.0; if wanted.weight { weight.len() } else { 0 }];
        let mut db = vec![0.0; if wanted.bias { s.co } else { 0 }];
        for (n, dx) in dx.chunks_exact_mut(s.image()).enumerate() {
            let image = i * part + n;
            let x = piece(x, image, s.image());
            let mut grad = piece(grad, image, s.result()).to_vec();
            if let Some(derivative) = derivative {
                let derivative = piece(derivative, image, s.result());
                grad.iter_mut().zip(derivative).for_each(|(grad, derivative)| *grad *= derivative);
            }
            let channels = grad.chunks_exact(s.oh * s.ow);
            db.iter_mut().zip(channels).for_each(|(sum, channel)| *sum += channel.iter().sum::<f64>());
            if wanted.x {
                each_product(s, |x_at, weight_at, y_at| dx[x_at] += grad[y_at] * weight[weight_at]);
            }
            if wanted.weight {
                each_product(s, |x_at, weight_at, y_at| dw[weight_at] += grad[y_at] * x[x_at]);
            }
        }
        (dw, db)
    })?;
    if !wanted.x {
        dx = Vec::new();
    }
    let mut gradients = Gradients {
        x: dx,
        weight: vec![0.0; if wanted.weight { weight.len() } else { 0 }],
        bias: vec![0.0; if wanted.bias { s.co } else { 0 }],
    };
    for (dw, db) in &parts {
        gradients.weight.iter_mut().zip(dw).for_each(|(sum, part)| *sum += part);
        gradients.bias.iter_mut().zip(db).for_each(|(sum, part)| *sum += part);
    }
    Ok(gradients)
}

/// Calls `visit` with the places of image, weight and result of every product of one image that is not with padding.
fn each_product(s: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let &ConvShape { ci, h, w, co, k, pad, oh, ow, .. } = s;
    for o in 0..co {
        for c in 0..ci {
            for ky in 0..k {
                for y in pad.saturating_sub(ky)..oh.min((h + pad).saturating_sub(ky)) {
                    for kx in 0..k {
                        for x in pad.saturating_sub(kx)..ow.min((w + pad).saturating_sub(kx)) {
                            let weight_at = ((o * ci + c) * k + ky) * k + kx;
                            visit((c * h + y + ky - pad) * w + x + kx - pad, weight_at, (o * oh + y) * ow + x);
                        }
                    }
                }
            }
        }
    }
}
