use serde::Serializer;

/// Writes a whole number without a point, as diffusers does of defaults that are integers in Python.
pub(crate) fn serialize_whole<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match *value as i64 {
        whole if whole as f64 == *value => serializer.serialize_i64(whole),
        _ => serializer.serialize_f64(*value),
    }
}

/// `torch.linspace` in f32, bit for bit: from both ends to the middle, with fused multiply-adds.
pub(crate) fn linspace_f32(start: f32, end: f32, n: usize) -> Vec<f32> {
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n - 1) as f32;
    let at = |i: usize| {
        if i < n / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((n - 1 - i) as f32, end) }
    };
    (0..n).map(at).collect()
}

/// `numpy.linspace` in f64, bit for bit.
pub(crate) fn linspace_f64(start: f64, end: f64, n: usize) -> Vec<f64> {
    let step = (end - start) / (n.max(2) - 1) as f64;
    let mut values: Vec<f64> = (0..n).map(|i| i as f64 * step + start).collect();
    if let [_, .., last] = values.as_mut_slice() {
        *last = end;
    }
    values
}

/// `numpy.arange(start, 0, -step)` in f64, bit for bit: its numbers are multiples of the difference of the first two,
/// and by rounding there may be one more, next to 0.
pub(crate) fn arange_down(start: f64, step: f64) -> Vec<f64> {
    let count = (start / step).ceil() as usize;
    let difference = (start - step) - start;
    (0..count).map(|i| start + i as f64 * difference).collect()
}

/// numpy's logarithm in f32, bit for bit: a rational function of the mantissa between sqrt(1/2) and sqrt(2), within 2
/// ulp. (A noise level of training is, by this, exactly at its timestep or next to it, which shows where timesteps are
/// cut off.)
pub(crate) fn ln_f32(x: f32) -> f32 {
    const P: [f32; 5] = [1.0, 2.1126776, 1.4800006, 0.38088378, 0.025899792];
    const Q: [f32; 6] = [1.0, 2.6126776, 2.453006, 0.9864943, 0.15464763, 0.0058750953];
    if !(x.is_normal() && x > 0.0) {
        return x.ln();
    }
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    let mut mantissa = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000); // from 1/2 to 1
    if mantissa <= std::f32::consts::FRAC_1_SQRT_2 {
        mantissa *= 2.0;
        exponent -= 1;
    }
    let y = mantissa - 1.0;
    let polynomial = |c: &[f32]| c.iter().rev().fold(0f32, |sum, c| sum.mul_add(y, *c));
    let ratio = polynomial(&P) * y / polynomial(&Q);
    (exponent as f32).mul_add(std::f32::consts::LN_2, ratio)
}

/// The weights of the last one to four derivatives, the newest first, in a step of the linear multistep method (Adams
/// and Bashforth) of that order.
pub(crate) fn adams_bashforth(order: usize) -> &'static [f32] {
    match order {
        1 => &[1.0],
        2 => &[3.0 / 2.0, -1.0 / 2.0],
        3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    }
}

/// The coefficients, the constant first, of the polynomial that is 1 at node `k` and 0 at the others (Lagrange).
pub(crate) fn lagrange(nodes: &[f64], k: usize) -> Vec<f64> {
    let mut polynomial = vec![1.0];
    for (_, other) in nodes.iter().enumerate().filter(|(j, _)| *j != k) {
        // times (u - other) / (node - other)
        let raised = [0.0].iter().chain(&polynomial);
        let lowered = polynomial.iter().map(|a| -a * other).chain([0.0]);
        polynomial = raised.zip(lowered).map(|(a, b)| (a + b) / (nodes[k] - other)).collect();
    }
    polynomial
}

/// The solution of the linear equations `a x = b`, by elimination with the largest pivot.
pub(crate) fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap_or(k);
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
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy's own, of which the last is not the nearest number.
    #[test]
    fn logarithms_are_numpys() {
        let logs = [
            (0.0012, -6.725434),
            (0.29, -1.2378744),
            (1.0, 0.0),
            (1.5, 0.4054651),
            (157.40727, 5.0588365),
            (20291.3, 9.917948),
            (0.70710677, -0.3465736),
        ];
        logs.into_iter().for_each(|(x, log): (f32, f32)| assert_eq!(ln_f32(x).to_bits(), log.to_bits(), "{x}"));
        assert_eq!((ln_f32(0.0), ln_f32(f32::INFINITY)), (f32::NEG_INFINITY, f32::INFINITY));
        assert!(ln_f32(-1.0).is_nan() && ln_f32(f32::NAN).is_nan());
        assert_ne!(ln_f32(0.70710677), 0.70710677f32.ln());
    }

    #[test]
    fn numpys_arange_has_one_more_where_it_rounds_so() {
        let counts = |t: usize| (1..=t).filter(move |&n| arange_down(t as f64, t as f64 / n as f64).len() > n);
        assert_eq!(counts(1000).take(3).collect::<Vec<_>>(), [61, 103, 121]);
    }
}
