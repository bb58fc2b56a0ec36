//! Sums and products of features.

use std::sync::Arc;

use candle_core::{Result, bail};

use super::{Op, apply};
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::tape::Targets;

impl Features {
    /// The sum with features of the same sizes.
    ///
    /// # Errors
    /// Features of other sizes, or of another network.
    pub fn add(&self, other: &Self) -> Result<Self> {
        if self.dims() != other.dims() {
            bail!("add: the features are {:?} and {:?}", self.dims(), other.dims())
        }
        apply(Add(self.sizes()), [self, other])
    }

    /// All features times a number.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn scale(&self, factor: f64) -> Result<Self> {
        apply(Scale { factor, dims: self.sizes() }, [self])
    }

    /// The sum with one vector an image, `[b, c, 1, 1]`, at every pixel: how a residual block gets the timestep.
    ///
    /// # Errors
    /// A vector of another batch or number of channels, or of another network.
    pub fn add_vector(&self, vector: &Self) -> Result<Self> {
        let dims @ Dims { b, c, .. } = self.sizes();
        if vector.dims() != [b, c, 1, 1] {
            bail!("add_vector: features {:?} want a vector [{b}, {c}, 1, 1], got {:?}", self.dims(), vector.dims())
        }
        apply(AddVector(dims), [self, vector])
    }

    /// `x * (1 + scale) + shift` at every pixel, `vector` `[b, 2c, 1, 1]` holding first the scales and then the shifts,
    /// as diffusers' `ResnetBlock2D` does under `time_embedding_norm="scale_shift"` (Dhariwal and Nichol 2021,
    /// "AdaGN").
    ///
    /// # Errors
    /// A vector of another batch or number of channels, or of another network.
    pub fn scale_shift(&self, vector: &Self) -> Result<Self> {
        let dims @ Dims { b, c, .. } = self.sizes();
        if vector.dims() != [b, 2 * c, 1, 1] {
            let (got, twice) = (vector.dims(), 2 * c);
            bail!("scale_shift: features {:?} want a vector [{b}, {twice}, 1, 1], got {got:?}", self.dims())
        }
        apply(ScaleShift(dims), [self, vector])
    }
}

/// Of features of these sizes.
struct Add(Dims);

impl Op<2> for Add {
    type Kept<B: Backend> = ();

    fn name(&self) -> &'static str {
        "add"
    }

    fn output(&self) -> Dims {
        self.0
    }

    fn forward<B: Backend>(&self, [a, b]: [Arc<B::Buffer>; 2], _: bool) -> Result<(Arc<B::Buffer>, ())> {
        Ok((Arc::new(B::add(&a, &b)?), ()))
    }

    fn backward<B: Backend>(self, (): (), grad: Arc<B::Buffer>, mut to: Targets<B, 2>) -> Result<()> {
        to.add(0, grad.clone())?;
        to.add(1, grad)
    }
}

struct Scale {
    factor: f64,
    dims: Dims,
}

impl Op<1> for Scale {
    type Kept<B: Backend> = ();

    fn name(&self) -> &'static str {
        "scale"
    }

    fn output(&self) -> Dims {
        self.dims
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, ())> {
        Ok((Arc::new(B::scale(&x, self.factor)?), ()))
    }

    fn backward<B: Backend>(self, (): (), grad: Arc<B::Buffer>, mut to: Targets<B, 1>) -> Result<()> {
        to.add(0, B::scale(&grad, self.factor)?)
    }
}

/// To features of these sizes.
struct AddVector(Dims);

impl Op<2> for AddVector {
    type Kept<B: Backend> = ();

    fn name(&self) -> &'static str {
        "add_vector"
    }

    fn output(&self) -> Dims {
        self.0
    }

    fn forward<B: Backend>(&self, [x, vector]: [Arc<B::Buffer>; 2], _: bool) -> Result<(Arc<B::Buffer>, ())> {
        Ok((Arc::new(B::add_vector(&x, &vector, self.0)?), ()))
    }

    fn backward<B: Backend>(self, (): (), grad: Arc<B::Buffer>, mut to: Targets<B, 2>) -> Result<()> {
        if to.wants(1) {
            to.add(1, B::sum_pixels(&grad, self.0)?)?;
        }
        to.add(0, grad)
    }
}

/// Of features of these sizes.
struct ScaleShift(Dims);

impl Op<2> for ScaleShift {
    type Kept<B: Backend> = [Arc<B::Buffer>; 2];

    fn name(&self) -> &'static str {
        "scale_shift"
    }

    fn output(&self) -> Dims {
        self.0
    }

    fn forward<B: Backend>(&self, inputs: [Arc<B::Buffer>; 2], _: bool) -> Result<(Arc<B::Buffer>, Self::Kept<B>)> {
        let [x, vector] = &inputs;
        Ok((Arc::new(B::scale_shift(x, vector, self.0)?), inputs))
    }

    fn backward<B: Backend>(
        self,
        [x, vector]: Self::Kept<B>,
        grad: Arc<B::Buffer>,
        mut to: Targets<B, 2>,
    ) -> Result<()> {
        let [dx, dvector] = B::scale_shift_backward(&x, &vector, &grad, self.0)?;
        to.add(0, dx)?;
        to.add(1, dvector)
    }
}
