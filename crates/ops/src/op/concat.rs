//! The channels of two features, one after the other.

use std::sync::Arc;

use candle_core::{Result, bail};

use super::{Op, apply};
use crate::check::elements;
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::tape::Targets;

impl Features {
    /// These features' channels and then those of `other`.
    ///
    /// # Errors
    /// Features of another batch, height or width, or of another network.
    pub fn concat(&self, other: &Self) -> Result<Self> {
        let (a, b) = (self.sizes(), other.sizes());
        if (Dims { c: 0, ..a }) != (Dims { c: 0, ..b }) {
            bail!("concat: the features are {:?} and {:?}", self.dims(), other.dims())
        }
        elements("concat", &[a.b, a.c + b.c, a.h, a.w])?;
        apply(Concat([a, b]), [self, other])
    }
}

/// Of features of these sizes.
struct Concat([Dims; 2]);

impl Op<2> for Concat {
    type Kept<B: Backend> = ();

    fn name(&self) -> &'static str {
        "concat"
    }

    fn output(&self) -> Dims {
        let [a, b] = self.0;
        Dims { c: a.c + b.c, ..a }
    }

    fn forward<B: Backend>(&self, [a, b]: [Arc<B::Buffer>; 2], _: bool) -> Result<(Arc<B::Buffer>, ())> {
        Ok((Arc::new(B::concat(&a, &b, self.0)?), ()))
    }

    fn backward<B: Backend>(self, (): (), grad: Arc<B::Buffer>, mut to: Targets<B, 2>) -> Result<()> {
        let [da, db] = B::split(&grad, self.0)?;
        to.add(0, da)?;
        to.add(1, db)
    }
}
