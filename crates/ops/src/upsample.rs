//! Upsampling by nearest neighbour, alone and with a skip connection.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::check::{elements, image_dims, on_host, same_dtype};
use crate::compose;
use crate::host::{PIECE, build, numbers, piece, with_numbers};

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
    let upsample = Upsample::new("upsample_nearest2d", x)?;
    if !on_host(upsample.op, x)? {
        return compose::upsample_nearest2d(x);
    }
    x.contiguous()?.apply_op1(upsample)
}

/// [`upsample_nearest2d`] of `x` plus `skip`, `[b, c, 2h, 2w]`: what the upward half of a U-Net does at every level.
///
/// One pass over memory instead of two, and in the backward pass one large gradient less to add up.
///
/// # Errors
/// As [`upsample_nearest2d`]; a `skip` of another shape or dtype.
pub fn upsample_add(x: &Tensor, skip: &Tensor) -> Result<Tensor> {
    let upsample = Upsample::new("upsample_add", x)?;
    same_dtype(upsample.op, x, skip)?;
    if skip.dims() != upsample.result() {
        bail!("upsample_add: images {:?} double to {:?}, the skip has {:?}", x.dims(), upsample.result(), skip.dims())
    }
    if !on_host(upsample.op, x)? {
        return compose::upsample_nearest2d(x)?.add(skip);
    }
    x.contiguous()?.apply_op2(&skip.contiguous()?, upsample)
}

struct Upsample {
    op: &'static str,
    dims: [usize; 4],
}

impl Upsample {
    fn new(op: &'static str, x: &Tensor) -> Result<Self> {
        let (b, c, h, w) = image_dims(op, x)?;
        elements(op, &[b, c, h, w, 4])?;
        Ok(Self { op, dims: [b, c, h, w] })
    }

    fn result(&self) -> [usize; 4] {
        let [b, c, h, w] = self.dims;
        [b, c, 2 * h, 2 * w]
    }

    fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// Rows of the input that one task takes.
    fn rows(&self) -> usize {
        (PIECE / (4 * self.dims[3])).max(1)
    }

    fn forward<T: WithDType>(&self, x: &[T], skip: Option<&[T]>) -> Result<Vec<T>> {
        let (w, rows) = (self.dims[3], self.rows());
        let ([y], _) = build(4 * self.count(), rows * 4 * w, |i, [y]| {
            let x = piece(x, i, rows * w);
            match skip {
                None => {
                    for (x, y) in x.chunks_exact(w).zip(y.chunks_exact_mut(4 * w)) {
                        let (top, bottom) = y.split_at_mut(2 * w);
                        top.as_chunks_mut().0.iter_mut().zip(x).for_each(|(y, &x)| *y = [x, x]);
                        bottom.copy_from_slice(top);
                    }
                }
                Some(skip) => {
                    let skip = piece(skip, i, rows * 4 * w).chunks_exact(2 * w);
                    for ((y, skip), at) in y.chunks_exact_mut(2 * w).zip(skip).zip(0..) {
                        let x = &x[at / 2 * w..][..w];
                        let skip = skip.as_chunks().0;
                        for ((y, &x), &[a, b]) in y.as_chunks_mut().0.iter_mut().zip(x).zip(skip) {
                            *y = [x + a, x + b];
                        }
                    }
                }
            }
        })?;
        Ok(y)
    }

    fn backward<T: WithDType>(&self, grad: &[T]) -> Result<Vec<T>> {
        let (w, rows) = (self.dims[3], self.rows());
        let ([dx], _) = build(self.count(), rows * w, |i, [dx]| {
            let grad = piece(grad, i, rows * 4 * w).chunks_exact(4 * w);
            for (dx, grad) in dx.chunks_exact_mut(w).zip(grad) {
                let (top, bottom) = grad.split_at(2 * w);
                let blocks = top.as_chunks().0.iter().zip(bottom.as_chunks().0);
                dx.iter_mut().zip(blocks).for_each(|(dx, (&[a, b], &[c, d]))| *dx = (a + b) + (c + d));
            }
        })?;
        Ok(dx)
    }

    fn gradient(&self, x: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        let dx = if x.dtype() == DType::F64 {
            Tensor::from_vec(with_numbers::<f64, _>(grad, |grad| self.backward(grad))?, x.shape(), x.device())
        } else {
            Tensor::from_vec(with_numbers::<f32, _>(grad, |grad| self.backward(grad))?, x.shape(), x.device())
        };
        Ok(Some(dx?))
    }
}

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = if let CpuStorage::F64(_) = x {
            CpuStorage::F64(self.forward(numbers(x, layout)?, None)?)
        } else {
            CpuStorage::F32(self.forward(numbers(x, layout)?, None)?)
        };
        Ok((y, Shape::from(self.result().to_vec())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.gradient(x, grad)
    }
}

impl CustomOp2 for Upsample {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, skip: &CpuStorage, ls: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = if let CpuStorage::F64(_) = x {
            CpuStorage::F64(self.forward(numbers(x, lx)?, Some(numbers(skip, ls)?))?)
        } else {
            CpuStorage::F32(self.forward(numbers(x, lx)?, Some(numbers(skip, ls)?))?)
        };
        Ok((y, Shape::from(self.result().to_vec())))
    }

    fn bwd(&self, x: &Tensor, skip: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.gradient(x, grad)?, skip.track_op().then(|| grad.clone())))
    }
}
