//! What the processor could do at most: fused multiply-adds on all threads, without any memory. Of a card, what its
//! vendor's product of two large matrices reaches.

use std::hint::black_box;

use kakusan::candle::{Device, Tensor};
use pulp::{Arch, Simd, WithSimd};

use crate::{Result, Work};

pub(crate) const NAME: &str = "peak";

const ROUNDS: usize = 1_000_000;
/// Sums in flight. A multiply-add takes four cycles and two can begin in each, so eight would do; with two factors
/// beside them, sixteen registers hold fourteen.
const SUMS: usize = 14;
/// Rows and columns of the matrices on a card.
const SIDE: usize = 8192;

/// The arithmetic in one repetition.
pub(crate) fn flops(avx2: bool, device: &Device) -> f64 {
    if !device.is_cpu() {
        return 2.0 * (SIDE as f64).powi(3);
    }
    let lanes = dispatch(avx2, Lanes);
    (rayon::current_num_threads() * ROUNDS * SUMS * lanes * 2) as f64
}

pub(crate) fn work(avx2: bool, device: &Device) -> Result<Work> {
    if !device.is_cpu() {
        let matrix = Tensor::full(1e-3f32, (SIDE, SIDE), device)?.contiguous()?;
        return Ok(Box::new(move || Ok(matrix.matmul(&matrix).map(drop)?)));
    }
    Ok(Box::new(move || {
        rayon::broadcast(|_| black_box(dispatch(avx2, MultiplyAdd)));
        Ok(())
    }))
}

fn dispatch<W: WithSimd>(avx2: bool, work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if let (true, Some(simd)) = (avx2, pulp::x86::V3::try_new()) {
        return Simd::vectorize(simd, work);
    }
    Arch::new().dispatch(work)
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

struct MultiplyAdd;

impl WithSimd for MultiplyAdd {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> f32 {
        let (factor, addend) = (s.splat_f32s(black_box(0.999)), s.splat_f32s(black_box(0.001)));
        let mut sums = [s.splat_f32s(1.0); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = s.mul_add_f32s(*sum, factor, addend);
            }
        }
        sums.iter().map(|&sum| s.reduce_sum_f32s(sum)).sum()
    }
}
