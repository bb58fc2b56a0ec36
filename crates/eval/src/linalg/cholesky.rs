//! Cholesky's factor of a covariance, which may be singular.

use rayon::prelude::*;

/// Rows below which one thread does all of a step's work.
const SPLIT: usize = 256;

/// `l` `[n, rank]` with `l lᵀ = a`, for a positive semidefinite `a` `[n, n]`, and the rank.
///
/// The largest remaining variance is the next pivot (diagonal pivoting). What remains at the end is rounding: the
/// variance that is left is below `n` times the precision of the largest one.
pub(crate) fn cholesky(a: &[f64], n: usize) -> (Vec<f64>, usize) {
    let mut left: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    let largest = left.iter().copied().fold(0.0, f64::max);
    let negligible = largest * f64::EPSILON * n as f64;
    let (mut l, mut taken, mut rank) = (vec![0.0; n * n], vec![false; n], 0);
    while rank < n {
        let candidates = (0..n).filter(|&i| !taken[i]);
        let Some(pivot) = candidates.max_by(|&i, &j| left[i].total_cmp(&left[j]).then(j.cmp(&i))) else { break };
        if left[pivot] <= negligible || left[pivot].is_nan() {
            break;
        }
        taken[pivot] = true;
        let root = left[pivot].sqrt();
        let of_pivot = l[pivot * n..pivot * n + rank].to_vec();
        let step = |(i, (row, left)): (usize, (&mut [f64], &mut f64))| {
            if i == pivot {
                row[rank] = root;
            } else if !taken[i] {
                let known: f64 = dot(&row[..rank], &of_pivot);
                row[rank] = (a[i * n + pivot] - known) / root;
                *left -= row[rank] * row[rank];
            }
        };
        if n - rank < SPLIT {
            l.chunks_exact_mut(n).zip(&mut left).enumerate().for_each(step);
        } else {
            l.par_chunks_exact_mut(n).zip(&mut left).enumerate().with_min_len(32).for_each(step);
        }
        rank += 1;
    }
    let factor = l.chunks_exact(n.max(1)).flat_map(|row| row[..rank].iter().copied()).collect();
    (factor, rank)
}

/// The scalar product, in eight sums.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::super::gram;
    use super::*;

    #[test]
    fn a_factor_of_full_and_of_low_rank() {
        for (n, rank) in [(1, 1), (5, 5), (40, 12), (300, 290), (6, 0)] {
            let x: Vec<f64> = (0..n * rank).map(|i| ((i * i * 31 + i * 17) % 97) as f64 / 97.0 - 0.5).collect();
            let a = if rank == 0 { vec![0.0; n * n] } else { gram(&x, &x, rank) };
            let (l, found) = cholesky(&a, n);
            assert!(found <= rank, "{found} of {rank}");
            let again = if found == 0 { vec![0.0; n * n] } else { gram(&l, &l, found) };
            let worst = a.iter().zip(&again).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-11, "{n} {rank}: {worst}");
        }
    }
}
