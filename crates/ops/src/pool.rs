//! Max pooling.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType};

use crate::check::{image_dims, on_host};
use crate::compose;
use crate::host::{build, numbers, piece, with_numbers};

/// The maximum of each 2x2 block: `[b, c, h, w] -> [b, c, h / 2, w / 2]`, as `torch.nn.functional.max_pool2d(x, 2)`.
///
/// A last odd row or column is dropped. The gradient goes to the maximum alone, to the first in reading order where
/// several are equal. NaN counts as the largest. (candle's own gradient is a quarter of the right one.)
///
/// # Errors
/// An input that is not `[b, c, h, w]` with `h` and `w` at least 2, or of an unsupported dtype.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{Device, Tensor};
/// let x = Tensor::arange(0f32, 12.0, &Device::Cpu)?.reshape((1, 1, 3, 4))?;
/// assert_eq!(kakusan_ops::max_pool2d(&x)?.flatten_all()?.to_vec1::<f32>()?, [5.0, 7.0]);
/// # Ok(())
/// # }
/// ```
pub fn max_pool2d(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = image_dims("max_pool2d", x)?;
    if h < 2 || w < 2 {
        candle_core::bail!("max_pool2d: images of {h}x{w} have no 2x2 block")
    }
    if !on_host("max_pool2d", x)? {
        return compose::max_pool2d(x);
    }
    x.contiguous()?.apply_op1(MaxPool { planes: (b, c), h, w })
}

struct MaxPool {
    planes: (usize, usize),
    h: usize,
    w: usize,
}

impl MaxPool {
    fn forward<T: WithDType>(&self, x: &[T]) -> Result<Vec<T>> {
        let (half_h, half_w) = (self.h / 2, self.w / 2);
        let planes = self.planes_per_task();
        let len = self.planes.0 * self.planes.1 * half_h * half_w;
        let ([y], _) = build(len, planes * half_h * half_w, |i, [y]| {
            let x = piece(x, i, planes * self.h * self.w).chunks_exact(self.h * self.w);
            for (x, y) in x.zip(y.chunks_exact_mut(half_h * half_w)) {
                let rows = x.chunks_exact(2 * self.w).zip(y.chunks_exact_mut(half_w));
                for (x, y) in rows {
                    let (top, bottom) = x.split_at(self.w);
                    let blocks = top.as_chunks::<2>().0.iter().zip(bottom.as_chunks::<2>().0);
                    for (y, (&[a, b], &[c, d])) in y.iter_mut().zip(blocks) {
                        *y = larger(larger(a, b), larger(c, d));
                    }
                }
            }
        })?;
        Ok(y)
    }

    fn backward<T: WithDType>(&self, x: &[T], grad: &[T]) -> Result<Vec<T>> {
        let (half_h, half_w) = (self.h / 2, self.w / 2);
        let planes = self.planes_per_task();
        let ([dx], _) = build(x.len(), planes * self.h * self.w, |i, [dx]| {
            let x = piece(x, i, planes * self.h * self.w).chunks_exact(self.h * self.w);
            let grad = piece(grad, i, planes * half_h * half_w).chunks_exact(half_h * half_w);
            for (dx, (x, grad)) in dx.chunks_exact_mut(self.h * self.w).zip(x.zip(grad)) {
                let rows =
                    dx.chunks_exact_mut(2 * self.w).zip(x.chunks_exact(2 * self.w)).zip(grad.chunks_exact(half_w));
                for ((dx, x), grad) in rows {
                    let (dx_top, dx_bottom) = dx.split_at_mut(self.w);
                    let (top, bottom) = x.split_at(self.w);
                    let dx = dx_top.as_chunks_mut::<2>().0.iter_mut().zip(dx_bottom.as_chunks_mut::<2>().0);
                    let x = top.as_chunks::<2>().0.iter().zip(bottom.as_chunks::<2>().0);
                    for (((dx_top, dx_bottom), (top, bottom)), &grad) in dx.zip(x).zip(grad) {
                        // by index, not by branch: the maximum is anywhere
                        let columns = [usize::from(beats(top[1], top[0])), usize::from(beats(bottom[1], bottom[0]))];
                        let row = usize::from(beats(bottom[columns[1]], top[columns[0]]));
                        [dx_top, dx_bottom][row][columns[row]] = grad;
                    }
                }
            }
        })?;
        Ok(dx)
    }

    /// Planes of one task: about as many numbers as other elementwise passes take.
    fn planes_per_task(&self) -> usize {
        (crate::host::PIECE / (self.h * self.w)).max(1)
    }
}

/// Whether `later` takes the maximum from `sooner`: torch's rule, in which NaN always does.
fn beats<T: WithDType>(later: T, sooner: T) -> bool {
    // NaN is what does not equal itself
    #[expect(clippy::eq_op)]
    let nan = later != later;
    later > sooner || nan
}

fn larger<T: WithDType>(sooner: T, later: T) -> T {
    if beats(later, sooner) { later } else { sooner }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from((self.planes.0, self.planes.1, self.h / 2, self.w / 2));
        let y = if let CpuStorage::F64(_) = x {
            CpuStorage::F64(self.forward(numbers(x, layout)?)?)
        } else {
            CpuStorage::F32(self.forward(numbers(x, layout)?)?)
        };
        Ok((y, shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let dx = if x.dtype() == DType::F64 {
            let dx = with_numbers::<f64, _>(x, |x| with_numbers(grad, |grad| self.backward(x, grad)))?;
            Tensor::from_vec(dx, x.shape(), x.device())
        } else {
            let dx = with_numbers::<f32, _>(x, |x| with_numbers(grad, |grad| self.backward(x, grad)))?;
            Tensor::from_vec(dx, x.shape(), x.device())
        };
        Ok(Some(dx?))
    }
}
