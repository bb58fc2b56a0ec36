//! Logarithm, sine and cosine in `f32` as torch's AVX2 kernels compute them, rounding for rounding.
//!
//! The polynomials are from Stephen Moshier's Cephes library; the branch-free form with fused multiply-adds is that of
//! avx_mathfun (Giovanni Garberoglio, after Julien Pommier's sse_mathfun; zlib licence), which torch uses. This is an
//! independent implementation with their constants and their order of rounding.

// The constants have exactly Cephes' digits: some are close to well-known numbers, but deliberately not equal to them.
#![allow(clippy::excessive_precision, clippy::approx_constant)]

/// ln(x) for normal x > 0.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    // x = m * 2^e with m in [0.5, 1), then in [sqrt(0.5), sqrt(2)); the polynomial takes m - 1
    let bits = x.to_bits() as i32;
    let e = ((bits >> 23) - 126) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff | 0x3f00_0000) as u32);
    let small = m < 0.707_106_781_186_547_524;
    let e = if small { e - 1.0 } else { e };
    let x = (m - 1.0) + if small { m } else { 0.0 };

    let z = x * x;
    let mut y = 7.037_683_629_2e-2_f32;
    for p in [
        -1.151_461_031_0e-1,
        1.167_699_874_0e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ] {
        y = y.mul_add(x, p);
    }
    let y = (y * x).mul_add(z, e * -2.121_944_40e-4);
    let y = (-z).mul_add(0.5, y);
    e.mul_add(0.693_359_375, x + y)
}

/// (sin(x), cos(x)) for 0 <= x <= 2 pi, the range that the Box-Muller transform needs.
#[inline(always)]
pub(crate) fn sin_cos(x: f32) -> (f32, f32) {
    // the octant j, then x - j * pi/4, with pi/4 subtracted in three parts of decreasing size
    let j = ((x * 1.273_239_544_735_16) as i32 + 1) & !1;
    let y = j as f32;
    let x = y.mul_add(-0.785_156_25, x);
    let x = y.mul_add(-2.418_756_484_985_351_562_5e-4, x);
    let x = y.mul_add(-3.774_894_977_445_941_08e-8, x);

    let z = x * x;
    let c = 2.443_315_711_809_948e-5_f32;
    let c = c.mul_add(z, -1.388_731_625_493_765e-3);
    let c = c.mul_add(z, 4.166_664_568_298_827e-2) * z;
    let c = c.mul_add(z, -(z * 0.5)) + 1.0;
    let s = -1.951_529_589_1e-4_f32;
    let s = s.mul_add(z, 8.332_160_873_6e-3);
    let s = s.mul_add(z, -1.666_665_461_1e-1) * z;
    let s = s.mul_add(x, x);

    let (sin, cos) = if j & 2 == 0 { (s, c) } else { (c, s) };
    let sin = if j & 4 == 0 { sin } else { -sin };
    let cos = if (j - 2) & 4 == 0 { -cos } else { cos };
    (sin, cos)
}
