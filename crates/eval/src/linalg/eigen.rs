//! The eigenvalues of a symmetric matrix: Householder's reduction to a tridiagonal one, then implicit QR steps with
//! Wilkinson's shift (Golub and Van Loan, Matrix Computations, 8.3).

use rayon::prelude::*;

use super::cholesky::dot;

/// Rows below which one thread does all of a step's work.
const SPLIT: usize = 256;
/// QR steps for one eigenvalue at most; about two are usual.
const MOST_STEPS: usize = 100;

/// The eigenvalues of the symmetric `a` `[n, n]`, ascending; `None` if `a` holds a number that is not finite.
pub(crate) fn symmetric_eigenvalues(a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    let (mut diagonal, mut beside) = tridiagonal(a, n);
    if diagonal.iter().chain(&beside).any(|value| !value.is_finite()) {
        return None;
    }
    diagonalise(&mut diagonal, &mut beside)?;
    diagonal.sort_by(f64::total_cmp);
    Some(diagonal)
}

/// A tridiagonal matrix with the eigenvalues of `a`: its diagonal, and the numbers beside it.
///
/// A step reflects the column below the diagonal onto its first entry by `1 - v vᵀ` (`v` of length √2), so that the
/// rest changes by `-(v wᵀ + w vᵀ)`. The change is applied when the next step reads the rest, in one pass over memory.
fn tridiagonal(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n {
        let changed = |i: usize, j: usize| a[i * n + j] - v[i] * w[j] - w[i] * v[j];
        diagonal.push(changed(k, k));
        let mut column: Vec<f64> = (k + 1..n).map(|i| changed(i, k)).collect();
        let Some(&first) = column.first() else { break };
        let below = column[1..].iter().map(|x| x.abs()).fold(0.0, f64::max);
        if below == 0.0 {
            column.fill(0.0); // nothing to reflect
            beside.push(first);
        } else {
            let scale = below.max(first.abs());
            let norm = scale * column.iter().map(|x| (x / scale) * (x / scale)).sum::<f64>().sqrt();
            let end = if first > 0.0 { -norm } else { norm };
            beside.push(end);
            column[0] -= end;
            // |column|² is 2 norm (norm + |first|); v has half of it as 1
            let length = (norm * (norm + first.abs())).sqrt();
            column.iter_mut().for_each(|x| *x /= length);
        }
        let (old_v, old_w) = (std::mem::replace(&mut v, vec![0.0; n]), std::mem::replace(&mut w, vec![0.0; n]));
        v[k + 1..].copy_from_slice(&column);
        let rest = k + 1;
        let pass = |(i, (row, product)): (usize, (&mut [f64], &mut f64))| {
            let (row, by_v, by_w) = (&mut row[rest..], old_w[rest + i], old_v[rest + i]);
            for ((x, v), w) in row.iter_mut().zip(&old_v[rest..]).zip(&old_w[rest..]) {
                *x -= by_v * v + by_w * w;
            }
            *product = dot(row, &v[rest..]);
        };
        let mut product = vec![0.0; n - rest];
        let rows = &mut a[rest * n..];
        if n - rest < SPLIT {
            rows.chunks_exact_mut(n).zip(&mut product).enumerate().for_each(pass);
        } else {
            rows.par_chunks_exact_mut(n).zip(&mut product).enumerate().with_min_len(16).for_each(pass);
        }
        // w = A v - ½ (vᵀ A v) v
        let half = dot(&product, &column) / 2.0;
        for ((w, product), v) in w[rest..].iter_mut().zip(product).zip(&column) {
            *w = product - half * v;
        }
    }
    (diagonal, beside)
}

/// Leaves the eigenvalues in `d`, of the matrix with the diagonal `d` and `e` beside it. `None` if a number does not
/// converge.
fn diagonalise(d: &mut [f64], e: &mut [f64]) -> Option<()> {
    let mut end = d.len();
    let mut steps = 0;
    while end > 1 {
        let negligible = |d: &[f64], e: &[f64], i: usize| e[i].abs() <= f64::EPSILON * (d[i].abs() + d[i + 1].abs());
        if negligible(d, e, end - 2) {
            (end, steps) = (end - 1, 0);
            continue;
        }
        steps += 1;
        if steps > MOST_STEPS {
            return None;
        }
        let start = (0..end - 2).rev().find(|&i| negligible(d, e, i)).map_or(0, |i| i + 1);
        qr_step(&mut d[start..end], &mut e[start..end - 1]);
    }
    Some(())
}

/// One implicit QR step with Wilkinson's shift, of at least two rows: the number beside the last eigenvalue shrinks.
fn qr_step(d: &mut [f64], e: &mut [f64]) {
    let last = d.len() - 1;
    let half = (d[last - 1] - d[last]) / 2.0;
    let root = half.hypot(e[last - 1]);
    let shift = d[last] - e[last - 1] * (e[last - 1] / (half + if half < 0.0 { -root } else { root }));
    let (mut x, mut z) = (d[0] - shift, e[0]);
    for k in 0..last {
        let length = x.hypot(z);
        let (c, s) = if length == 0.0 { (1.0, 0.0) } else { (x / length, z / length) };
        if k > 0 {
            e[k - 1] = length;
        }
        let (a, b, beside) = (d[k], d[k + 1], e[k]);
        d[k] = c * c * a + 2.0 * c * s * beside + s * s * b;
        d[k + 1] = s * s * a - 2.0 * c * s * beside + c * c * b;
        e[k] = c * s * (b - a) + (c * c - s * s) * beside;
        x = e[k];
        if k + 1 < last {
            z = s * e[k + 1];
            e[k + 1] *= c;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_eigenvalues() {
        // the second difference of n points: 2 - 2 cos(k π / (n + 1)), in any order of the points
        for n in [1, 2, 3, 10, 64, 401] {
            let place: Vec<usize> = (0..n).map(|i| (i * 7) % n).collect();
            let place = if n % 7 == 0 { (0..n).collect() } else { place };
            let mut a = vec![0.0; n * n];
            for i in 0..n {
                a[place[i] * n + place[i]] = 2.0;
                if i + 1 < n {
                    a[place[i] * n + place[i + 1]] = -1.0;
                    a[place[i + 1] * n + place[i]] = -1.0;
                }
            }
            let values = symmetric_eigenvalues(a, n).unwrap();
            for (k, value) in values.into_iter().enumerate() {
                let expected = 2.0 - 2.0 * (std::f64::consts::PI * (k + 1) as f64 / (n + 1) as f64).cos();
                assert!((value - expected).abs() < 1e-12, "{k} of {n}: {value}, not {expected}");
            }
        }
    }

    #[test]
    fn zeros_repeated_values_and_nan() {
        assert_eq!(symmetric_eigenvalues(vec![], 0), Some(vec![]));
        assert_eq!(symmetric_eigenvalues(vec![0.0; 9], 3), Some(vec![0.0; 3]));
        let identity = (0..16).map(|i| f64::from(u8::from(i % 5 == 0))).collect();
        assert_eq!(symmetric_eigenvalues(identity, 4), Some(vec![1.0; 4]));
        assert_eq!(symmetric_eigenvalues(vec![1.0, f64::NAN, f64::NAN, 1.0], 2), None);
    }
}
