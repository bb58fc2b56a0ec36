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
    let at = |i: usize| match i < n / 2 {
        true => step.mul_add(i as f32, start),
        false => (-step).mul_add((n - 1 - i) as f32, end),
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
