//! The layers of diffusers' UNets beside convolution, on features: normalisation, attention, linear layers, sums.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use crate::check::{elements, image_dims, same_dtype};
use crate::kernels::cpu::attention::{self, Attention};
use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::elementwise;
use crate::kernels::cpu::host::with_numbers;
use crate::kernels::cpu::linear::{self, Linear};
use crate::kernels::cpu::norm::{self, GroupNorm};
use crate::kernels::reference as compose;
use crate::network::{Data, Dims, Features, Host, operation};

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

/// Attention of every pixel to every pixel, `softmax(q kᵀ / sqrt(d)) v`, as
/// `torch.nn.functional.scaled_dot_product_attention`; the scores are never in memory as a whole (Dao et al. 2022).
///
/// `q` `[b, heads * d, h, w]`, `k` and `v` of the same batch and channels; head `i` has channels `i * d` to `(i + 1) * d`.
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

/// A linear layer on the channels of every pixel, `weight x + bias`, as `torch.nn.functional.linear` on the last dimension
/// of tokens.
///
/// `x` `[b, i, h, w]` (vectors are images of one pixel), `weight` `[o, i]`, `bias` `[o]`; the result is `[b, o, h, w]`.
///
/// # Errors
/// Shapes or dtypes that do not fit together.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[[[[1f32]], [[2.0]]]], &Device::Cpu)?;
/// let weight = Tensor::new(&[[3f32, 4.0]], &Device::Cpu)?;
/// assert_eq!(kakusan_ops::linear(&x, &weight, None)?.flatten_all()?.to_vec1::<f32>()?, [11.0]);
/// # Ok(())
/// # }
/// ```
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    image_dims("linear", x)?;
    same_dtype("linear", x, weight)?;
    let weights: Vec<&Tensor> = [Some(weight), bias].into_iter().flatten().collect();
    operation("linear", [x], &weights, |[x]| x.linear(weight, bias))
}

impl Features {
    /// [`group_norm`](crate::group_norm) of these features.
    ///
    /// # Errors
    /// As [`group_norm`](crate::group_norm).
    pub fn group_norm(&self, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Self> {
        normalise("group_norm", self, groups, [weight, bias], eps, false)
    }

    /// [`group_norm_silu`](crate::group_norm_silu) of these features.
    ///
    /// # Errors
    /// As [`group_norm`](crate::group_norm).
    pub fn group_norm_silu(&self, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Self> {
        normalise("group_norm_silu", self, groups, [weight, bias], eps, true)
    }

    /// [`attention`](crate::kernels::cpu::attention) of these queries to keys and values.
    ///
    /// # Errors
    /// As [`attention`](crate::kernels::cpu::attention).
    pub fn attention(&self, k: &Self, v: &Self, heads: usize) -> Result<Self> {
        attend(self, k, v, heads)
    }

    /// [`linear`](crate::kernels::cpu::linear) of these features.
    ///
    /// # Errors
    /// As [`linear`](crate::kernels::cpu::linear).
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        multiply(self, weight, bias)
    }

    /// The sum with features of the same sizes.
    ///
    /// # Errors
    /// Features of other sizes, or of another network.
    pub fn add(&self, other: &Self) -> Result<Self> {
        if self.dims() != other.dims() {
            bail!("add: the features are {:?} and {:?}", self.dims(), other.dims())
        }
        let (a, b) = match pair("add", self, other)? {
            Pair::Other(a, b) => return Self::other(a.add(b)?),
            Pair::Host(a, b) => (a, b),
        };
        let mut y = Buffer::new(a.floats.len())?;
        elementwise::add(&a.floats, &b.floats, &mut y);
        let ids = [a.id, b.id];
        let id = ids.iter().any(Option::is_some).then(|| {
            a.tape.record(Box::new(move |grad, gradients| {
                for id in ids.into_iter().flatten() {
                    gradients.add(id, grad.clone())?;
                }
                Ok(())
            }))
        });
        Ok(Self::host(self.sizes(), y, &a.tape, id))
    }

    /// All features times a number.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn scale(&self, factor: f64) -> Result<Self> {
        let x = match self.data() {
            Data::Other(x) => return Self::other(x.affine(factor, 0.0)?),
            Data::Host(x) => x,
        };
        let factor = factor as f32;
        let mut y = Buffer::new(x.floats.len())?;
        elementwise::scale(&x.floats, factor, &mut y);
        let id = x.id.map(|id| {
            x.tape.record(Box::new(move |grad, gradients| {
                let mut dx = Buffer::new(grad.len())?;
                elementwise::scale(&grad, factor, &mut dx);
                gradients.add(id, dx.into())
            }))
        });
        Ok(Self::host(self.sizes(), y, &x.tape, id))
    }

    /// The sum with one vector an image, `[b, c, 1, 1]`, at every pixel: how a residual block learns of the timestep.
    ///
    /// # Errors
    /// A vector of another batch or number of channels, or of another network.
    pub fn add_vector(&self, vector: &Self) -> Result<Self> {
        let dims @ Dims { b, c, .. } = self.sizes();
        if vector.dims() != [b, c, 1, 1] {
            bail!("add_vector: features {:?} want a vector [{b}, {c}, 1, 1], got {:?}", self.dims(), vector.dims())
        }
        let (x, v) = match pair("add_vector", self, vector)? {
            Pair::Other(x, v) => return Self::other(x.broadcast_add(v)?),
            Pair::Host(x, v) => (x, v),
        };
        let sizes = [dims.pixels(), c];
        let mut y = Buffer::new(x.floats.len())?;
        elementwise::add_vector(&x.floats, &v.floats, sizes, &mut y);
        let (x_id, v_id) = (x.id, v.id);
        let id = (x_id.is_some() || v_id.is_some()).then(|| {
            x.tape.record(Box::new(move |grad, gradients| {
                if let Some(id) = v_id {
                    let mut sums = Buffer::new(b * c)?;
                    elementwise::sum_pixels(&grad, sizes, &mut sums);
                    gradients.add(id, sums.into())?;
                }
                match x_id {
                    Some(id) => gradients.add(id, grad),
                    None => Ok(()),
                }
            }))
        });
        Ok(Self::host(dims, y, &x.tape, id))
    }

    /// These features' channels and then those of `other`.
    ///
    /// # Errors
    /// Features of another batch, height or width, or of another network.
    pub fn concat(&self, other: &Self) -> Result<Self> {
        let (a_dims, b_dims) = (self.sizes(), other.sizes());
        if (Dims { c: 0, ..a_dims }) != (Dims { c: 0, ..b_dims }) {
            bail!("concat: the features are {:?} and {:?}", self.dims(), other.dims())
        }
        let dims = Dims { c: a_dims.c + b_dims.c, ..a_dims };
        elements("concat", &[dims.b, dims.c, dims.h, dims.w])?;
        let (a, b) = match pair("concat", self, other)? {
            Pair::Other(a, b) => return Self::other(Tensor::cat(&[a, b], 1)?),
            Pair::Host(a, b) => (a, b),
        };
        let sizes = [a_dims.c, b_dims.c];
        let mut y = Buffer::new(dims.count())?;
        elementwise::concat([&a.floats, &b.floats], sizes, &mut y);
        let (ids, pixels) = ([a.id, b.id], dims.b * dims.pixels());
        let id = ids.iter().any(Option::is_some).then(|| {
            a.tape.record(Box::new(move |grad, gradients| {
                let [mut da, mut db] = [Buffer::new(pixels * sizes[0])?, Buffer::new(pixels * sizes[1])?];
                elementwise::split(&grad, sizes, [&mut da, &mut db]);
                for (id, grad) in ids.into_iter().zip([da, db]) {
                    if let Some(id) = id {
                        gradients.add(id, grad.into())?;
                    }
                }
                Ok(())
            }))
        });
        Ok(Self::host(dims, y, &a.tape, id))
    }

    /// The mean of each 2x2 block, as `torch.nn.functional.avg_pool2d(x, 2)`: a last odd row or column is dropped.
    ///
    /// # Errors
    /// Height or width below 2.
    pub fn avg_pool2d(&self) -> Result<Self> {
        let Dims { b, c, h, w } = self.sizes();
        if h < 2 || w < 2 {
            bail!("avg_pool2d: images of {h}x{w} have no 2x2 block")
        }
        let x = match self.data() {
            Data::Other(x) => return Self::other(compose::avg_pool2d(x)?),
            Data::Host(x) => x,
        };
        let halved = Dims { b, c, h: h / 2, w: w / 2 };
        let mut y = Buffer::new(halved.count())?;
        elementwise::avg_pool(&x.floats, [h, w, c], &mut y);
        let (len, id) = (x.floats.len(), x.id);
        let id = id.map(|id| {
            x.tape.record(Box::new(move |grad, gradients| {
                let mut dx = Buffer::new(len)?;
                elementwise::avg_pool_backward(&grad, [h, w, c], &mut dx);
                gradients.add(id, dx.into())
            }))
        });
        Ok(Self::host(halved, y, &x.tape, id))
    }

    /// Dropout under a `mask` that was drawn with `P(0) = p`: `x * mask / (1 - p)`, as `torch.nn.functional.dropout` in
    /// training.
    ///
    /// The mask is a tensor of zeros and ones of these features' sizes `[b, c, h, w]`, so that all randomness stays with
    /// the caller: `Generator::bernoulli(n, 1 - p)` draws the one that torch would.
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
        let x = match self.data() {
            Data::Other(x) => return Self::other(compose::dropout(x, mask, p)?),
            Data::Host(x) => x,
        };
        // [b, c, h, w] -> [b, h, w, c]
        let mask = mask.permute((0, 2, 3, 1))?.contiguous()?.flatten_all()?.to_vec1::<u8>()?;
        let mut y = Buffer::new(x.floats.len())?;
        elementwise::dropout(&x.floats, &mask, p as f32, &mut y);
        let id = x.id.map(|id| {
            x.tape.record(Box::new(move |grad, gradients| {
                let mut dx = Buffer::new(grad.len())?;
                elementwise::dropout(&grad, &mask, p as f32, &mut dx);
                gradients.add(id, dx.into())
            }))
        });
        Ok(Self::host(self.sizes(), y, &x.tape, id))
    }
}

/// Two features of one network.
enum Pair<'a> {
    Host(&'a Host, &'a Host),
    Other(&'a Tensor, &'a Tensor),
}

fn pair<'a>(op: &str, a: &'a Features, b: &'a Features) -> Result<Pair<'a>> {
    match (a.data(), b.data()) {
        (Data::Host(a), Data::Host(b)) if Arc::ptr_eq(&a.tape, &b.tape) => Ok(Pair::Host(a, b)),
        (Data::Other(a), Data::Other(b)) => Ok(Pair::Other(a, b)),
        _ => bail!("{op}: the features are of different networks"),
    }
}

fn normalise(
    op: &str,
    x: &Features,
    groups: usize,
    [weight, bias]: [&Tensor; 2],
    eps: f64,
    silu: bool,
) -> Result<Features> {
    let dims @ Dims { b, c, .. } = x.sizes();
    if groups == 0 || !c.is_multiple_of(groups) {
        bail!("{op}: {c} channels do not make {groups} groups")
    }
    for (name, tensor) in [("weight", weight), ("bias", bias)] {
        if tensor.dims() != [c] {
            bail!("{op}: expected a {name} [{c}], one for each channel, got {:?}", tensor.dims())
        }
    }
    same_dtype(op, weight, bias)?;
    if !(eps >= 0.0 && eps.is_finite()) {
        bail!("{op}: eps is {eps}, it must be a number from 0 on")
    }
    let x = match x.data() {
        Data::Other(x) => {
            let y = compose::group_norm(x, groups, [weight, bias], eps)?;
            return Features::other(if silu { compose::silu(&y)? } else { y });
        }
        Data::Host(x) => x,
    };
    for weight in [weight, bias] {
        x.tape.check_weight(op, weight)?;
    }
    let s = GroupNorm { b, pixels: dims.pixels(), c, groups, eps, silu };
    let mut y = Buffer::new(dims.count())?;
    let [mut mean, mut rstd] = [Buffer::new(b * groups)?, Buffer::new(b * groups)?];
    with_numbers(weight, |weight| {
        with_numbers(bias, |bias| {
            norm::forward(s, &x.floats, [weight, bias], &mut y, [&mut mean, &mut rstd]);
            Ok(())
        })
    })?;
    let tracked = x.tape.tracks(x.id.is_some(), weight.track_op() || bias.track_op());
    let id = tracked.then(|| {
        let (floats, x_id, weight, bias) = (x.floats.clone(), x.id, weight.clone(), bias.clone());
        x.tape.record(Box::new(move |grad, gradients| {
            let mut dx = Buffer::new(floats.len())?;
            let [mut dweight, mut dbias] = [Buffer::new(c)?, Buffer::new(c)?];
            with_numbers(&weight, |weight| {
                with_numbers(&bias, |bias| {
                    let (stats, of_weights) = ([&*mean, &*rstd], [&mut *dweight, &mut *dbias]);
                    norm::backward(s, &floats, stats, [weight, bias], &grad, &mut dx, of_weights);
                    Ok(())
                })
            })?;
            for (tensor, grad) in [(weight, dweight), (bias, dbias)] {
                if tensor.track_op() {
                    gradients.add_weight(&tensor, grad);
                }
            }
            match x_id {
                Some(id) => gradients.add(id, dx.into()),
                None => Ok(()),
            }
        }))
    });
    Ok(Features::host(dims, y, &x.tape, id))
}

fn attend(q: &Features, k: &Features, v: &Features, heads: usize) -> Result<Features> {
    let (q_dims, k_dims) = (q.sizes(), k.sizes());
    if heads == 0 || !q_dims.c.is_multiple_of(heads) {
        bail!("attention: {} channels do not make {heads} heads", q_dims.c)
    }
    if v.sizes() != k_dims || (k_dims.b, k_dims.c) != (q_dims.b, q_dims.c) {
        bail!("attention: queries {:?}, keys {:?} and values {:?} do not fit together", q.dims(), k.dims(), v.dims())
    }
    let d = q_dims.c / heads;
    let (q, k, v) = match (pair("attention", q, k)?, pair("attention", q, v)?) {
        (Pair::Host(q, k), Pair::Host(_, v)) => (q, k, v),
        (Pair::Other(q, k), Pair::Other(_, v)) => return Features::other(compose::attention([q, k, v], heads)?),
        _ => bail!("attention: the features are of different networks"),
    };
    let scale = 1.0 / (d as f32).sqrt();
    let s = Attention { b: q_dims.b, n: q_dims.pixels(), keys: k_dims.pixels(), heads, d, scale };
    let mut out = Buffer::new(q_dims.count())?;
    let mut log_sums = Buffer::new(s.b * s.n * heads)?;
    attention::forward(s, [&q.floats, &k.floats, &v.floats], &mut out, &mut log_sums);
    let out = Arc::new(out);
    let ids = [q.id, k.id, v.id];
    let id = ids.iter().any(Option::is_some).then(|| {
        let (inputs, out) = ([q, k, v].map(|x| x.floats.clone()), out.clone());
        q.tape.record(Box::new(move |grad, gradients| {
            let mut of_inputs =
                [Buffer::new(inputs[0].len())?, Buffer::new(inputs[1].len())?, Buffer::new(inputs[2].len())?];
            let [q, k, v] = [&*inputs[0], &*inputs[1], &*inputs[2]];
            let [dq, dk, dv] = &mut of_inputs;
            attention::backward(s, [q, k, v], [&out, &log_sums], &grad, [dq, dk, dv]);
            for (id, grad) in ids.into_iter().zip(of_inputs) {
                if let Some(id) = id {
                    gradients.add(id, grad.into())?;
                }
            }
            Ok(())
        }))
    });
    Ok(Features::host(q_dims, out, &q.tape, id))
}

fn multiply(x: &Features, weight: &Tensor, bias: Option<&Tensor>) -> Result<Features> {
    let dims = x.sizes();
    let (i, o) = match *weight.dims() {
        [o, i] if o > 0 && i == dims.c => (i, o),
        _ => bail!("linear: expected a weight [out channels, {}], got {:?}", dims.c, weight.dims()),
    };
    if let Some(bias) = bias {
        same_dtype("linear", weight, bias)?;
        if bias.dims() != [o] {
            bail!("linear: expected a bias [{o}], one for each output channel, got {:?}", bias.dims())
        }
    }
    let x = match x.data() {
        Data::Other(x) => return Features::other(compose::linear(x, weight, bias)?),
        Data::Host(x) => x,
    };
    for weight in [Some(weight), bias].into_iter().flatten() {
        x.tape.check_weight("linear", weight)?;
    }
    let of = Dims { c: o, ..dims };
    elements("linear", &[of.b, of.c, of.h, of.w])?;
    let s = Linear { m: dims.b * dims.pixels(), i, o };
    let mut y = Buffer::new(of.count())?;
    with_numbers(weight, |weight| match bias {
        Some(bias) => with_numbers(bias, |bias| {
            linear::forward(s, &x.floats, weight, Some(bias), &mut y);
            Ok(())
        }),
        None => {
            linear::forward(s, &x.floats, weight, None, &mut y);
            Ok(())
        }
    })?;
    let tracked = x.tape.tracks(x.id.is_some(), weight.track_op() || bias.is_some_and(Tensor::track_op));
    let id = tracked.then(|| {
        let (floats, x_id, weight, bias) = (x.floats.clone(), x.id, weight.clone(), bias.cloned());
        x.tape.record(Box::new(move |grad, gradients| {
            if let Some(bias) = bias.filter(Tensor::track_op) {
                let mut db = Buffer::new(o)?;
                linear::bias_gradient(s, &grad, &mut db);
                gradients.add_weight(&bias, db);
            }
            if weight.track_op() {
                let mut dw = Buffer::new(o * i)?;
                linear::weight_gradient(s, &floats, &grad, &mut dw);
                gradients.add_weight(&weight, dw);
            }
            let Some(id) = x_id else { return Ok(()) };
            let mut dx = Buffer::new(floats.len())?;
            with_numbers(&weight, |weight| {
                linear::input_gradient(s, weight, &grad, &mut dx);
                Ok(())
            })?;
            gradients.add(id, dx.into())
        }))
    });
    Ok(Features::host(of, y, &x.tape, id))
}
