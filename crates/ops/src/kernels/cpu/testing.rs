//! What the tests of kernels share: noise, the distance from a plain computation in f64, and runs on several threads.

use kakusan_rng::Generator;

/// Channel counts: below, at, between and above whole vectors.
pub(crate) const CHANNELS: [usize; 9] = [1, 3, 4, 8, 17, 32, 48, 64, 130];

/// Normal noise from a seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
    Generator::new(seed).randn_f64(len).into_iter().map(|x| x as f32).collect()
}

pub(crate) fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The largest difference over the largest number of `expected`, or over 1 where that is less; infinite where one is
/// NaN.
pub(crate) fn error(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(1f64, |scale, x| scale.max(x.abs()));
    let differences = got.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - b).abs() / scale);
    differences.fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) })
}

/// Runs `kernel` on this machine's threads, and asserts that 1, 2, 3 and 7 threads give the same bits.
pub(crate) fn on_threads<const N: usize>(kernel: impl Fn() -> [Vec<f32>; N] + Sync) -> [Vec<f32>; N] {
    let bits = |results: &[Vec<f32>; N]| results.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    let results = kernel();
    for threads in [1, 2, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        assert!(pool.is_ok_and(|pool| bits(&pool.install(&kernel)) == bits(&results)), "{threads} threads differ");
    }
    results
}

/// SiLU and its derivative at `x`.
pub(crate) fn silu_f64(x: f64) -> (f64, f64) {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
}
