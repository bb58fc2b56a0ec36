//! Group normalisation, alone and with SiLU.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{Op, apply};
use crate::check::same_dtype;
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::network::operation;
use crate::tape::Targets;

/// Group normalisation (Wu and He 2018), as `torch.nn.functional.group_norm(x, groups, weight, bias, eps)`.
///
/// `x` `[b, c, h, w]`, `weight` and `bias` `[c]`, `c` a multiple of `groups`.
///
/// # Errors
/// Shapes or dtypes that do not fit together, an `eps` that is negative or not finite.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// let x = Tensor::new(&[[[[1f32, 3.0]], [[2.0, 2.0]]]], &Device::Cpu)?;
/// let (weight, bias) = (Tensor::ones(2, DType::F32, &Device::Cpu)?, Tensor::zeros(2, DType::F32, &Device::Cpu)?);
/// let y = kakusan_ops::group_norm(&x, 2, &weight, &bias, 0.0)?.narrow(1, 0, 1)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [-1.0, 1.0]);
/// # Ok(())
/// # }
/// ```
pub fn group_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    same_dtype("group_norm", x, weight)?;
    operation("group_norm", [x], &[weight, bias], |[x]| x.group_norm(groups, weight, bias, eps))
}

/// [`silu`](crate::silu) of [`group_norm`] in one pass over memory.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_silu(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    same_dtype("group_norm_silu", x, weight)?;
    operation("group_norm_silu", [x], &[weight, bias], |[x]| x.group_norm_silu(groups, weight, bias, eps))
}

impl Features {
    /// [`group_norm`](crate::group_norm) of these features.
    ///
    /// # Errors
    /// As [`group_norm`](crate::group_norm).
    pub fn group_norm(&self, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Self> {
        apply(Normalise::new("group_norm", self.sizes(), groups, [weight, bias], eps, false)?, [self])
    }

    /// [`group_norm_silu`](crate::group_norm_silu) of these features.
    ///
    /// # Errors
    /// As [`group_norm`](crate::group_norm).
    pub fn group_norm_silu(&self, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Self> {
        apply(Normalise::new("group_norm_silu", self.sizes(), groups, [weight, bias], eps, true)?, [self])
    }
}

/// Features `[b, pixels, c]` in `groups` groups of `c / groups` channels; no size is 0 but for `b`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupNorm {
    pub(crate) b: usize,
    pub(crate) pixels: usize,
    pub(crate) c: usize,
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    /// Whether SiLU follows.
    pub(crate) silu: bool,
}

struct Normalise {
    name: &'static str,
    dims: Dims,
    s: GroupNorm,
    /// The factor and the summand of each channel.
    weights: [Tensor; 2],
}

impl Normalise {
    fn new(name: &'static str, dims: Dims, groups: usize, weights: [&Tensor; 2], eps: f64, silu: bool) -> Result<Self> {
        let Dims { b, c, .. } = dims;
        if groups == 0 || !c.is_multiple_of(groups) {
            bail!("{name}: {c} channels do not make {groups} groups")
        }
        for (which, tensor) in ["weight", "bias"].iter().zip(weights) {
            if tensor.dims() != [c] {
                bail!("{name}: expected a {which} [{c}], one for each channel, got {:?}", tensor.dims())
            }
        }
        same_dtype(name, weights[0], weights[1])?;
        if !(eps >= 0.0 && eps.is_finite()) {
            bail!("{name}: eps is {eps}, it must be a number from 0 on")
        }
        let s = GroupNorm { b, pixels: dims.pixels(), c, groups, eps, silu };
        Ok(Self { name, dims, s, weights: weights.map(Tensor::clone) })
    }
}

impl Op<1> for Normalise {
    type Kept<B: Backend> = (Arc<B::Buffer>, B::Saved);

    fn name(&self) -> &'static str {
        self.name
    }

    fn output(&self) -> Dims {
        self.dims
    }

    fn weights(&self) -> Vec<&Tensor> {
        self.weights.iter().collect()
    }

    fn forward<B: Backend>(&self, [x]: [Arc<B::Buffer>; 1], _: bool) -> Result<(Arc<B::Buffer>, Self::Kept<B>)> {
        let (y, saved) = B::group_norm(&self.s, &x, self.weights.each_ref())?;
        Ok((Arc::new(y), (x, saved)))
    }

    fn backward<B: Backend>(
        self,
        (x, saved): Self::Kept<B>,
        grad: Arc<B::Buffer>,
        mut to: Targets<B, 1>,
    ) -> Result<()> {
        let [weight, bias] = &self.weights;
        let [dx, dweight, dbias] = B::group_norm_backward(&self.s, &x, &saved, [weight, bias], &grad)?;
        to.add_weight(weight, || Ok(dweight))?;
        to.add_weight(bias, || Ok(dbias))?;
        to.add(0, dx)
    }
}
