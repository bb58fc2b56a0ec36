//! The activations beside SiLU that diffusers knows. Networks in use have SiLU, which has kernels of its own; these are
//! computed number by number, in f64.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use candle_core::Result;
use candle_core::cpu::erf::erfc_f64;
use rayon::prelude::*;

use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{PIECE, grain};
use crate::kernels::reference as compose;
use crate::network::{Data, Features};

/// An activation of diffusers' `act_fn`, for [`Features::activate`].
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// use kakusan_ops::{Activation, network};
/// let x = Tensor::new(&[[[[-1f32, 2.0]]]], &Device::Cpu)?;
/// let y = network([&x], |[x]| x.activate(Activation::Relu))?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [0.0, 2.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * P(normal < x)` (Hendrycks and Gimpel 2016), as `torch.nn.GELU()`.
    Gelu,
    /// `x * tanh(ln(1 + exp(x)))` (Misra 2019), as `torch.nn.Mish()`.
    Mish,
    /// `max(x, 0)`, as `torch.nn.ReLU()`; its slope at 0 is 0.
    Relu,
}

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

impl Features {
    /// An activation of these features.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn activate(&self, activation: Activation) -> Result<Self> {
        let x = match self.data() {
            Data::Other(x) => return Self::other(compose::activate(x, activation)?),
            Data::Host(x) => x,
        };
        let mut y = Buffer::new(x.floats.len())?;
        each(&x.floats, &mut y, |x, y| *y = activation.at(f64::from(x)).0 as f32);
        let id = x.id.map(|id| {
            let floats = x.floats.clone();
            x.tape.record(Box::new(move |grad, gradients| {
                let mut dx = crate::tape::owned(grad)?;
                each(&floats, &mut dx, |x, dx| *dx *= activation.at(f64::from(x)).1 as f32);
                gradients.add(id, dx.into())
            }))
        });
        Ok(Self::host(self.sizes(), y, &x.tape, id))
    }
}

fn each(x: &[f32], y: &mut [f32], apply: impl Fn(f32, &mut f32) + Sync) {
    y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).with_min_len(grain()).for_each(|(y, x)| {
        let _flush = FlushDenormals::new();
        y.iter_mut().zip(x).for_each(|(y, &x)| apply(x, y));
    });
}
