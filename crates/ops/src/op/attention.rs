//! Attention.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::{Op, apply};
use crate::check::same_dtype;
use crate::features::{Dims, Features};
use crate::kernels::Backend;
use crate::network::operation;
use crate::tape::Targets;

/// Attention of every pixel to every pixel, `softmax(q kᵀ / sqrt(d)) v`, as
/// `torch.nn.functional.scaled_dot_product_attention`; the scores are never in memory as a whole (Dao et al. 2022).
///
/// `q` `[b, heads * d, h, w]`, `k` and `v` of the same batch and channels; head `i` has channels `i * d` to `(i + 1) *
/// d`.
///
/// # Errors
/// Shapes or dtypes that do not fit together, channels that are no multiple of `heads`.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// let q = Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu)?;
/// let v = Tensor::arange(0f32, 16.0, &Device::Cpu)?.reshape((1, 4, 2, 2))?;
/// // queries of zero attend to all pixels alike
/// let y = kakusan_ops::attention(&q, &q, &v, 2)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?[..5], [1.5, 1.5, 1.5, 1.5, 5.5]);
/// # Ok(())
/// # }
/// ```
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    same_dtype("attention", q, k)?;
    same_dtype("attention", q, v)?;
    operation("attention", [q, k, v], &[], |[q, k, v]| q.attention(&k, &v, heads))
}

impl Features {
    /// [`attention`](crate::attention) of these queries to keys and values.
    ///
    /// # Errors
    /// As [`attention`](crate::attention).
    pub fn attention(&self, k: &Self, v: &Self, heads: usize) -> Result<Self> {
        apply(Attend::new([self, k, v], heads)?, [self, k, v])
    }
}

/// Queries `[b, n, heads * d]` on keys and values `[b, keys, heads * d]`, head `h` in columns `h * d` to `(h + 1) * d`
/// as in diffusers' `Attention`. No size is 0 but for `b`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) b: usize,
    pub(crate) n: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) d: usize,
    /// Of the scores; torch's default is `1 / sqrt(d)`. Positive.
    pub(crate) scale: f32,
}

struct Attend {
    /// Of the queries, and so of the result.
    dims: Dims,
    s: Attention,
}

impl Attend {
    fn new([q, k, v]: [&Features; 3], heads: usize) -> Result<Self> {
        let (dims, keys) = (q.sizes(), k.sizes());
        if heads == 0 || !dims.c.is_multiple_of(heads) {
            bail!("attention: {} channels do not make {heads} heads", dims.c)
        }
        if v.sizes() != keys || (keys.b, keys.c) != (dims.b, dims.c) {
            let [q, k, v] = [q, k, v].map(Features::dims);
            bail!("attention: queries {q:?}, keys {k:?} and values {v:?} do not fit together")
        }
        let d = dims.c / heads;
        let scale = 1.0 / (d as f32).sqrt();
        Ok(Self { dims, s: Attention { b: dims.b, n: dims.pixels(), keys: keys.pixels(), heads, d, scale } })
    }
}

impl Op<3> for Attend {
    /// The inputs, the result, and what the kernel saved.
    type Kept<B: Backend> = ([Arc<B::Buffer>; 3], Arc<B::Buffer>, B::Saved);

    fn name(&self) -> &'static str {
        "attention"
    }

    fn output(&self) -> Dims {
        self.dims
    }

    fn forward<B: Backend>(&self, inputs: [Arc<B::Buffer>; 3], _: bool) -> Result<(Arc<B::Buffer>, Self::Kept<B>)> {
        let (y, saved) = B::attention(&self.s, inputs.each_ref().map(|input| &**input))?;
        let y = Arc::new(y);
        Ok((y.clone(), (inputs, y, saved)))
    }

    fn backward<B: Backend>(
        self,
        (inputs, y, saved): Self::Kept<B>,
        grad: Arc<B::Buffer>,
        mut to: Targets<B, 3>,
    ) -> Result<()> {
        let of_inputs = B::attention_backward(&self.s, inputs.each_ref().map(|input| &**input), &y, &saved, &grad)?;
        of_inputs.into_iter().enumerate().try_for_each(|(i, grad)| to.add(i, grad))
    }
}
