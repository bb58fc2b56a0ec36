//! The activations other than SiLU, number by number, in f64: few networks use them.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use candle_core::cpu::erf::erfc_f64;
use rayon::prelude::*;

use super::denormals::FlushDenormals;
use super::host::{PIECE, min_tasks};
use crate::op::activation::Activation;

impl Activation {
    /// The value at `x` and the slope.
    fn at(self, x: f64) -> (f64, f64) {
        match self {
            Self::Gelu => {
                let below = 0.5 * erfc_f64(-x * FRAC_1_SQRT_2);
                (x * below, below + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt())
            }
            Self::Mish => {
                let tanh = (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh();
                (x * tanh, tanh + x * (1.0 - tanh * tanh) / (1.0 + (-x).exp()))
            }
            Self::Relu if x <= 0.0 => (0.0, 0.0),
            Self::Relu => (x, 1.0),
        }
    }
}

/// `y = f(x)`
pub(crate) fn forward(f: Activation, x: &[f32], y: &mut [f32]) {
    each(x, y, |x, y| *y = f.at(f64::from(x)).0 as f32);
}

/// From the gradient of the result to that of `x`, in place.
pub(crate) fn backward(f: Activation, x: &[f32], grad: &mut [f32]) {
    each(x, grad, |x, grad| *grad *= f.at(f64::from(x)).1 as f32);
}

fn each(x: &[f32], y: &mut [f32], apply: impl Fn(f32, &mut f32) + Sync) {
    y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).with_min_len(min_tasks()).for_each(|(y, x)| {
        let _flush = FlushDenormals::new();
        y.iter_mut().zip(x).for_each(|(y, &x)| apply(x, y));
    });
}
