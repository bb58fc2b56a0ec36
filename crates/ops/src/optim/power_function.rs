//! Averages of weights whose length is chosen after the training.

use candle_core::{Result, bail};

/// The widest and the narrowest [`PowerFunction`].
const WIDTHS: std::ops::RangeInclusive<f64> = 0.001..=0.28;

/// How much each step of a training counts in an average of its weights: a power of the step's time ([Karras et al.
/// 2024](https://arxiv.org/abs/2312.02696), section 3.1). The average is as long as a fraction of the training, and the
/// first weights vanish from it.
///
/// [`Ema::power_function`](crate::Ema::power_function) keeps such an average during a training. From averages of two
/// widths, saved at a few times, [`fit`](Self::fit) gives that of any other width afterwards.
///
/// ```
/// use kakusan_ops::PowerFunction;
///
/// let narrow = PowerFunction::of_width(0.05)?;
/// assert_eq!(narrow.decay(1), 0.0);
/// assert!((narrow.decay(1000) - 0.98218).abs() < 1e-5);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerFunction {
    /// γ: the step at time `t` counts `t^γ`.
    exponent: f64,
}

/// The weights of known averages in the nearest to a wanted one: [`PowerFunction::fit`].
#[derive(Debug, Clone, PartialEq)]
pub struct PowerFunctionFit {
    /// The weight of each known average; their sum is 1.
    pub weights: Vec<f64>,
    /// How far the result is from the wanted average, from 0 to 1: the norm of the difference between the two profiles
    /// (the weight of each time), relative to that of the wanted one.
    pub error: f64,
}

impl PowerFunction {
    /// The function with this width `σ_rel`: the standard deviation of its weights over time, relative to the length of
    /// the training. From 0.001 to 0.28; 0.05 and 0.1 in the paper.
    ///
    /// # Errors
    /// When the width is out of its range.
    pub fn of_width(sigma_rel: f64) -> Result<Self> {
        if !WIDTHS.contains(&sigma_rel) {
            bail!("the width of an average is {sigma_rel}; it must be from {} to {}", WIDTHS.start(), WIDTHS.end())
        }
        // equation 4 falls for exponents from 0 on
        let width = |exponent: f64| ((exponent + 1.0) / (exponent + 3.0)).sqrt() / (exponent + 2.0);
        let (mut low, mut high) = (0.0, 1e4);
        for _ in 0..128 {
            let middle = (low + high) / 2.0;
            if width(middle) > sigma_rel { low = middle } else { high = middle }
        }
        Ok(Self { exponent: low })
    }

    /// How much of the average stays in step `step`, from 1 (equation 2). The first step takes the weights themselves.
    pub fn decay(self, step: u64) -> f64 {
        (1.0 - 1.0 / step.max(1) as f64).powf(self.exponent + 1.0)
    }

    /// The weights by which the averages `known`, each at its time above 0, are added up to come nearest to this one at
    /// time `time`: least squares over the profiles (section 3.2, algorithm 3).
    ///
    /// # Errors
    /// When nothing is known, or two of `known` are the same.
    pub fn fit(self, time: f64, known: &[(f64, Self)]) -> Result<PowerFunctionFit> {
        if known.is_empty() {
            bail!("an average cannot be fitted to none")
        }
        // relative times keep the numbers near 1
        let known: Vec<(f64, Self)> = known.iter().map(|(t, function)| (t / time, *function)).collect();
        let products = |a: &(f64, Self)| known.iter().map(|b| product(*a, *b)).collect::<Vec<_>>();
        let wanted = products(&(1.0, self));
        let Some(weights) = solve(known.iter().map(products).collect(), wanted.clone()) else {
            bail!("two of the averages to fit to are the same")
        };
        let sum: f64 = weights.iter().sum();
        let weights: Vec<f64> = weights.into_iter().map(|weight| weight / sum).collect();
        // |p - Σ xᵢ pᵢ|² / |p|², with the profiles pᵢ
        let norm = product((1.0, self), (1.0, self));
        let mixed: f64 = weights.iter().zip(&wanted).map(|(weight, product)| weight * product).sum();
        let of_result: f64 = known
            .iter()
            .zip(&weights)
            .map(|(a, x)| x * products(a).iter().zip(&weights).map(|(p, y)| p * y).sum::<f64>())
            .sum();
        let error = ((norm - 2.0 * mixed + of_result) / norm).max(0.0).sqrt();
        Ok(PowerFunctionFit { weights, error })
    }
}

/// The inner product of two profiles, each at its time: the integral of `(γ + 1) s^γ / t^(γ + 1)` of both.
fn product((a_time, a): (f64, PowerFunction), (b_time, b): (f64, PowerFunction)) -> f64 {
    // the earlier profile ends first
    let (ratio, exponent) = if a_time < b_time { (a_time / b_time, b.exponent) } else { (b_time / a_time, a.exponent) };
    let (a, b) = (a.exponent + 1.0, b.exponent + 1.0);
    a * b * ratio.powf(exponent) / ((a + b - 1.0) * a_time.max(b_time))
}

/// Solves `a x = b` by elimination; `None` if that has no one solution.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs()))?;
        if a[pivot][k] == 0.0 {
            return None;
        }
        a.swap(k, pivot);
        b.swap(k, pivot);
        let (row, value) = (a[k].clone(), b[k]);
        for i in k + 1..n {
            let factor = a[i][k] / row[k];
            a[i].iter_mut().zip(&row).for_each(|(entry, above)| *entry -= factor * above);
            b[i] -= factor * value;
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k][k];
    }
    b.iter().all(|x| x.is_finite()).then_some(b)
}
