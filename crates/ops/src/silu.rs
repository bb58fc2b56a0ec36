//! SiLU, x * sigmoid(x), and its derivative.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};

use crate::check::on_host;
use crate::compose;
use crate::host::{PIECE, arch, build, numbers, piece, with_numbers};

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
    if !on_host("silu", x)? {
        return compose::silu(x);
    }
    x.contiguous()?.apply_op1(Silu)
}

struct Silu;

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let len = layout.shape().elem_count();
        let y = if let CpuStorage::F64(_) = x {
            let x = numbers::<f64>(x, layout)?;
            let ([y], _) = build(len, PIECE, |i, [y]| {
                y.iter_mut().zip(piece(x, i, PIECE)).for_each(|(y, &x)| *y = silu_f64(x).0);
            })?;
            CpuStorage::F64(y)
        } else {
            let x = numbers::<f32>(x, layout)?;
            let ([y], _) = build(len, PIECE, |i, [y]| {
                y.copy_from_slice(piece(x, i, PIECE));
                arch().dispatch(Forward { x: y, derivative: None });
            })?;
            CpuStorage::F32(y)
        };
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let len = x.elem_count();
        let gradient = if x.dtype() == DType::F64 {
            let ([dx], _) = with_numbers::<f64, _>(x, |x| {
                with_numbers::<f64, _>(grad, |grad| {
                    build(len, PIECE, |i, [dx]| {
                        let both = piece(x, i, PIECE).iter().zip(piece(grad, i, PIECE));
                        dx.iter_mut().zip(both).for_each(|(dx, (&x, &grad))| *dx = grad * silu_f64(x).1);
                    })
                })
            })?;
            Tensor::from_vec(dx, x.shape(), x.device())?
        } else {
            let ([dx], _) = with_numbers::<f32, _>(x, |x| {
                with_numbers::<f32, _>(grad, |grad| {
                    build(len, PIECE, |i, [dx]| {
                        dx.copy_from_slice(piece(x, i, PIECE));
                        arch().dispatch(Backward { x: dx, grad: piece(grad, i, PIECE) });
                    })
                })
            })?;
            Tensor::from_vec(dx, x.shape(), x.device())?
        };
        Ok(Some(gradient))
    }
}

/// SiLU and its derivative at `x`.
pub(crate) fn silu_f64(x: f64) -> (f64, f64) {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    (x / (1.0 + (-x).exp()), sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

/// SiLU in place; the derivative beside it where one is wanted.
pub(crate) struct Forward<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) derivative: Option<&'a mut [f32]>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (x, x_rest) = S::as_mut_simd_f32s(self.x);
        match self.derivative {
            None => {
                x.iter_mut().for_each(|x| *x = silu_vector(simd, *x).0);
                if !x_rest.is_empty() {
                    let (y, _) = silu_vector(simd, simd.partial_load_f32s(x_rest));
                    simd.partial_store_f32s(x_rest, y);
                }
            }
            Some(derivative) => {
                let (d, d_rest) = S::as_mut_simd_f32s(derivative);
                x.iter_mut().zip(d).for_each(|(x, d)| (*x, *d) = silu_vector(simd, *x));
                if !x_rest.is_empty() {
                    let (y, d) = silu_vector(simd, simd.partial_load_f32s(x_rest));
                    simd.partial_store_f32s(x_rest, y);
                    simd.partial_store_f32s(d_rest, d);
                }
            }
        }
    }
}

/// From `x` in place to the gradient of it.
pub(crate) struct Backward<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) grad: &'a [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (x, x_rest) = S::as_mut_simd_f32s(self.x);
        let (grad, grad_rest) = S::as_simd_f32s(self.grad);
        x.iter_mut().zip(grad).for_each(|(x, &grad)| *x = simd.mul_f32s(silu_vector(simd, *x).1, grad));
        if !x_rest.is_empty() {
            let (_, d) = silu_vector(simd, simd.partial_load_f32s(x_rest));
            let dx = simd.mul_f32s(d, simd.partial_load_f32s(grad_rest));
            simd.partial_store_f32s(x_rest, dx);
        }
    }
}

/// SiLU and its derivative of one vector.
#[inline(always)]
pub(crate) fn silu_vector<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let one = simd.splat_f32s(1.0);
    let grown = simd.add_f32s(one, exp(simd, simd.sub_f32s(simd.splat_f32s(0.0), x)));
    let sigmoid = simd.div_f32s(one, grown);
    // 1 / inf is 0, and torch's x / inf is -0 or NaN as x is finite or not: x * 0 is the same.
    let y = simd.mul_f32s(x, sigmoid);
    let inner = simd.mul_add_f32s(x, simd.sub_f32s(one, sigmoid), one);
    (y, simd.mul_f32s(sigmoid, inner))
}

/// The exponential, to about one unit in the last place; infinite above 88.72, NaN for NaN. Below -86 it stays at
/// exp(-86) = 4.5e-38, which is nothing beside the 1 that the caller adds.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, with ln 2 in two parts so that r is exact
    let low = simd.max_f32s(simd.splat_f32s(-86.0), simd.min_f32s(simd.splat_f32s(89.0), x));
    let magic = simd.splat_f32s(12_582_912.0); // 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
    let shifted = simd.mul_add_f32s(low, simd.splat_f32s(std::f32::consts::LOG2_E), magic);
    let n = simd.sub_f32s(shifted, magic);
    let r = simd.mul_add_f32s(n, simd.splat_f32s(-0.693_359_4), low);
    let r = simd.mul_add_f32s(n, simd.splat_f32s(2.121_944_4e-4), r);
    // Taylor's series to r^7: its remainder, (ln 2 / 2)^8 / 8!, is 5e-9
    let mut sum = simd.splat_f32s(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = simd.mul_add_f32s(sum, r, simd.splat_f32s(coefficient));
    }
    // 2^(n-1) in the exponent bits, then twice: 2^128 has no f32
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(126));
    let power = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23)));
    let value = simd.mul_f32s(simd.mul_f32s(sum, power), simd.splat_f32s(2.0));
    let value =
        simd.select_f32s(simd.greater_than_f32s(x, simd.splat_f32s(88.722_84)), simd.splat_f32s(f32::INFINITY), value);
    simd.select_f32s(simd.equal_f32s(x, x), value, x)
}
