//! SiLU, x * sigmoid(x), and its derivative.

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::elementwise;
use crate::kernels::reference as compose;
use crate::network::{Data, Features, elementwise as each_element};

/// SiLU, elementwise: `x / (1 + exp(-x))`, as `torch.nn.functional.silu`.
///
/// f32 and f64 on the CPU, whatever candle computes with elsewhere. Infinities and NaN come out as in torch:
/// `silu(inf) = inf`, `silu(-inf) = NaN`.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[0f32, 1.0, -100.0], &Device::Cpu)?;
/// assert_eq!(kakusan_ops::silu(&x)?.to_vec1::<f32>()?, [0.0, 0.731_058_6, 0.0]);
/// # Ok(())
/// # }
/// ```
pub fn silu(x: &Tensor) -> Result<Tensor> {
    each_element("silu", x, |x| x.silu())
}

impl Features {
    /// [`silu`](crate::silu) of these features.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn silu(&self) -> Result<Self> {
        let x = match self.data() {
            Data::Other(x) => return Self::other(compose::silu(x)?),
            Data::Host(x) => x,
        };
        let mut y = Buffer::new(x.floats.len())?;
        elementwise::silu(&x.floats, &mut y);
        let id = x.id.map(|id| {
            let floats = x.floats.clone();
            x.tape.record(Box::new(move |grad, gradients| {
                let mut dx = Buffer::new(grad.len())?;
                elementwise::silu_backward(&floats, &grad, &mut dx);
                gradients.add(id, dx.into())
            }))
        });
        Ok(Self::host(self.sizes(), y, &x.tape, id))
    }
}
