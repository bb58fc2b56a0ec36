//! Upsampling by nearest neighbour, alone and with a skip connection.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::check::{elements, image_dims, same_dtype};
use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::grain_of;
use crate::kernels::reference as compose;
use crate::network::{Data, Dims, Features, operation};

/// Every pixel twice in both directions: `[b, c, h, w] -> [b, c, 2h, 2w]`, as
/// `torch.nn.functional.interpolate(x, scale_factor=2)`.
///
/// The gradient of a pixel is the sum over its block. (candle's own overwrites what the input had gathered elsewhere.)
///
/// # Errors
/// An input that is not `[b, c, h, w]`, of an unsupported dtype, or too large.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::new(&[[[[1f32, 2.0]]]], &Device::Cpu)?;
/// assert_eq!(kakusan_ops::upsample_nearest2d(&x)?.flatten_all()?.to_vec1::<f32>()?, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
/// # Ok(())
/// # }
/// ```
pub fn upsample_nearest2d(x: &Tensor) -> Result<Tensor> {
    check("upsample_nearest2d", x)?;
    operation("upsample_nearest2d", [x], &[], |[x]| x.upsample_nearest2d())
}

/// [`upsample_nearest2d`] of `x` plus `skip`, `[b, c, 2h, 2w]`: what the upward half of a U-Net does at every level.
///
/// One pass over memory instead of two, and in the backward pass one large gradient less to add up.
///
/// # Errors
/// As [`upsample_nearest2d`]; a `skip` of another shape or dtype.
pub fn upsample_add(x: &Tensor, skip: &Tensor) -> Result<Tensor> {
    let doubled = check("upsample_add", x)?;
    same_dtype("upsample_add", x, skip)?;
    check_skip(x.dims(), doubled, skip.dims())?;
    operation("upsample_add", [x, skip], &[], |[x, skip]| x.upsample_add(&skip))
}

/// The dimensions of the result.
fn check(op: &str, x: &Tensor) -> Result<[usize; 4]> {
    let (b, c, h, w) = image_dims(op, x)?;
    elements(op, &[b, c, h, w, 4])?;
    Ok([b, c, 2 * h, 2 * w])
}

fn check_skip(x: &[usize], doubled: [usize; 4], skip: &[usize]) -> Result<()> {
    if skip != doubled {
        bail!("upsample_add: images {x:?} double to {doubled:?}, the skip has {skip:?}")
    }
    Ok(())
}

impl Features {
    /// [`upsample_nearest2d`](crate::upsample_nearest2d) of these features.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn upsample_nearest2d(&self) -> Result<Self> {
        upsample("upsample_nearest2d", self, None)
    }

    /// [`upsample_add`](crate::upsample_add) of these features and `skip`.
    ///
    /// # Errors
    /// As [`upsample_add`](crate::upsample_add).
    pub fn upsample_add(&self, skip: &Self) -> Result<Self> {
        let [b, c, h, w] = self.dims();
        check_skip(&self.dims(), [b, c, 2 * h, 2 * w], &skip.dims())?;
        upsample("upsample_add", self, Some(skip))
    }
}

fn upsample(op: &str, x: &Features, skip: Option<&Features>) -> Result<Features> {
    let dims @ Dims { b, c, h, w } = x.sizes();
    elements(op, &[b, c, h, w, 4])?;
    let doubled = Dims { h: 2 * h, w: 2 * w, ..dims };
    let (x, skip) = match (x.data(), skip.map(Features::data)) {
        (Data::Host(x), None) => (x, None),
        (Data::Host(x), Some(Data::Host(skip))) => (x, Some(skip)),
        (Data::Other(x), None) => return Features::other(compose::upsample_nearest2d(x)?),
        (Data::Other(x), Some(Data::Other(skip))) => {
            return Features::other(compose::upsample_nearest2d(x)?.add(skip)?);
        }
        _ => bail!("{op}: the features are of different networks"),
    };
    let mut y = Buffer::new(doubled.count())?;
    let row = w * c;
    // two rows of the result come from one of the input
    let rows = y.par_chunks_mut(4 * row).zip(x.floats.par_chunks(row)).enumerate().with_min_len(grain_of(4 * row));
    rows.for_each(|(i, (y, x))| {
        let (top, bottom) = y.split_at_mut(2 * row);
        match skip {
            None => {
                for (y, x) in top.chunks_exact_mut(2 * c).zip(x.chunks_exact(c)) {
                    y[..c].copy_from_slice(x);
                    y[c..].copy_from_slice(x);
                }
                bottom.copy_from_slice(top);
            }
            Some(skip) => {
                let skip = &skip.floats[i * 4 * row..][..4 * row];
                for (y, skip) in [top, bottom].into_iter().zip(skip.chunks_exact(2 * row)) {
                    for ((y, skip), x) in y.chunks_exact_mut(2 * c).zip(skip.chunks_exact(2 * c)).zip(x.chunks_exact(c))
                    {
                        for (y, skip) in y.chunks_exact_mut(c).zip(skip.chunks_exact(c)) {
                            y.iter_mut().zip(skip).zip(x).for_each(|((y, skip), x)| *y = x + skip);
                        }
                    }
                }
            }
        }
    });
    let (x_id, skip_id) = (x.id, skip.and_then(|skip| skip.id));
    let id = (x_id.is_some() || skip_id.is_some()).then(|| {
        x.tape.record(Box::new(move |grad, gradients| {
            if let Some(id) = x_id {
                gradients.add(id, Arc::new(backward(dims, &grad)?))?;
            }
            match skip_id {
                Some(id) => gradients.add(id, grad),
                None => Ok(()),
            }
        }))
    });
    Ok(Features::host(doubled, y, &x.tape, id))
}

/// The sum over each 2x2 block.
fn backward(dims: Dims, grad: &[f32]) -> Result<Buffer> {
    let (c, row) = (dims.c, dims.w * dims.c);
    let mut dx = Buffer::new(dims.count())?;
    dx.par_chunks_mut(row).zip(grad.par_chunks(4 * row)).with_min_len(grain_of(4 * row)).for_each(|(dx, grad)| {
        let _flush = FlushDenormals::new();
        let (top, bottom) = grad.split_at(2 * row);
        let blocks = top.chunks_exact(2 * c).zip(bottom.chunks_exact(2 * c));
        for (dx, (top, bottom)) in dx.chunks_exact_mut(c).zip(blocks) {
            let (a, b) = top.split_at(c);
            let (c, d) = bottom.split_at(c);
            for (i, dx) in dx.iter_mut().enumerate() {
                *dx = (a[i] + b[i]) + (c[i] + d[i]);
            }
        }
    });
    Ok(dx)
}
