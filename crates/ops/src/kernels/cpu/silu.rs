//! SiLU, `x * sigmoid(x)`, and its derivative, vector by vector.

use pulp::{Simd, WithSimd};

/// What follows the sums of a convolution: the bias, and SiLU with its derivative.
pub(crate) struct Finish<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) silu: bool,
    /// The results, `[pixels, channels]`.
    pub(crate) y: &'a mut [f32],
    /// SiLU's derivative, where it is wanted.
    pub(crate) derivative: Option<&'a mut [f32]>,
}

impl Finish<'_> {
    /// The bias of the channels from `channel` on.
    #[inline(always)]
    pub(crate) fn bias_vector<S: Simd>(&self, simd: S, channel: usize) -> S::f32s {
        match self.bias {
            Some(bias) => S::as_simd_f32s(&bias[channel..channel + S::F32_LANES]).0[0],
            None => simd.splat_f32s(0.0),
        }
    }

    /// Stores a vector of sums, bias included, at place `at` of the results.
    #[inline(always)]
    pub(crate) fn store<S: Simd>(&mut self, simd: S, at: usize, sum: S::f32s) {
        let range = at..at + S::F32_LANES;
        let y = &mut S::as_mut_simd_f32s(&mut self.y[range.clone()]).0[0];
        if !self.silu {
            *y = sum;
            return;
        }
        let (value, slope) = silu_vector(simd, sum);
        *y = value;
        if let Some(derivative) = &mut self.derivative {
            S::as_mut_simd_f32s(&mut derivative[range]).0[0] = slope;
        }
    }

    /// Finishes results that hold the bare sums of `channels` channels.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(&mut self, simd: S, channels: usize) {
        if let Some(bias) = self.bias {
            for pixel in self.y.chunks_exact_mut(channels) {
                pixel.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
        if self.silu {
            Forward { x: self.y, derivative: self.derivative.as_deref_mut() }.with_simd(simd);
        }
    }
}

/// SiLU in place; the derivative too where one is wanted.
///
/// Loops, not `for_each`: a closure that is not inlined loses the machine's instructions.
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
                for x in x {
                    *x = silu_vector(simd, *x).0;
                }
                if !x_rest.is_empty() {
                    let (y, _) = silu_vector(simd, simd.partial_load_f32s(x_rest));
                    simd.partial_store_f32s(x_rest, y);
                }
            }
            Some(derivative) => {
                let (d, d_rest) = S::as_mut_simd_f32s(derivative);
                for (x, d) in x.iter_mut().zip(d) {
                    (*x, *d) = silu_vector(simd, *x);
                }
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
        for (x, &grad) in x.iter_mut().zip(grad) {
            *x = simd.mul_f32s(silu_vector(simd, *x).1, grad);
        }
        if !x_rest.is_empty() {
            let (_, slope) = silu_vector(simd, simd.partial_load_f32s(x_rest));
            let dx = simd.mul_f32s(slope, simd.partial_load_f32s(grad_rest));
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
/// exp(-86) = 4.5e-38, which vanishes in the 1 that the caller adds.
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
