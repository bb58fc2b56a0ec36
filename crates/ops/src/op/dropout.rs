//! Dropout.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use super::{Op, apply};
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::tape::Targets;

impl Features {
    /// Dropout under a `mask` that was drawn with `P(0) = p`: `x * mask / (1 - p)`, as `torch.nn.functional.dropout` in
    /// training.
    ///
    /// The mask is a tensor of zeros and ones of these features' sizes `[b, c, h, w]`, so that all randomness stays
    /// with the caller: `Generator::bernoulli(n, 1 - p)` draws the one that torch would.
    ///
    /// # Errors
    /// A mask of other sizes or dtype than u8, a `p` outside 0..=1.
    pub fn dropout(&self, mask: &Tensor, p: f64) -> Result<Self> {
        if mask.dims() != self.dims() || mask.dtype() != DType::U8 {
            let (got, dtype) = (mask.dims(), mask.dtype());
            bail!("dropout: features {:?} want such a mask of dtype U8, got {got:?} {dtype:?}", self.dims())
        }
        if !(0.0..=1.0).contains(&p) {
            bail!("dropout: p is {p}, it must be between 0 and 1")
        }
        apply(Dropout { mask: mask.clone(), p, dims: self.sizes() }, [self])
    }
}

struct Dropout {
    mask: Tensor,
    p: f64,
    dims: Dims,
}

impl Op<1> for Dropout {
    /// The mask in the order of the features.
    type Kept<B: Backend> = Tensor;

    fn name(&self) -> &'static str {
        "dropout"
    }

    fn output(&self) -> Dims {
        self.dims
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, Tensor)> {
        let mask = B::mask(&self.mask, &x)?;
        Ok((Arc::new(B::dropout(&x, &mask, self.p)?), mask))
    }

    fn backward<B: Backend>(self, mask: Tensor, grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        to.add(0, B::dropout(&grad, &mask, self.p)?)
    }
}
