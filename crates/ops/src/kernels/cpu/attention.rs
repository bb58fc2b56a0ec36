//! Attention over tokens, block by block: the matrix of all scores is never in memory.

mod narrow;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::denormals::FlushDenormals;
use super::host::{arch, lanes, min_tasks};
use super::matmul::{Left, Panels, Product};
use super::scratch::with_scratch;
use super::silu::exp;
use crate::op::attention::Attention;

/// Queries of a task, and of a block in the backward pass.
const QUERIES: usize = 64;

/// `out = softmax(q kᵀ * scale) v`, as `torch.nn.functional.scaled_dot_product_attention`, by algorithm 1 of
/// FlashAttention (Dao et al. 2022). `log_sums`, `[b, n, heads]`, gets the logarithm of each row's sum of exponentials,
/// for `backward`.
pub(crate) fn forward(s: Attention, [q, k, v]: [&[f32]; 3], out: &mut [f32], log_sums: &mut [f32]) {
    let (c, narrow) = (s.channels(), s.d == narrow::WIDTH);
    let queries = if narrow { narrow::QUERIES } else { QUERIES };
    let images = out.chunks_mut(s.n * c).zip(log_sums.chunks_mut(s.n * s.heads)).enumerate();
    let tasks: Vec<_> = images
        .flat_map(|(image, (out, log_sums))| {
            let blocks = out.chunks_mut(queries * c).zip(log_sums.chunks_mut(queries * s.heads)).enumerate();
            blocks.map(move |(block, (out, log_sums))| (image, block * queries, out, log_sums))
        })
        .collect();
    tasks.into_par_iter().with_min_len(min_tasks()).for_each(|(image, start, out, log_sums)| {
        let _flush = FlushDenormals::new();
        let q = &q[(image * s.n + start) * c..];
        let of_image = image * s.keys * c..(image + 1) * s.keys * c;
        let kv = [&k[of_image.clone()], &v[of_image]];
        if narrow {
            narrow::forward_block(&s, q, kv, out, log_sums);
        } else {
            s.forward_block(q, kv, out, log_sums);
        }
    });
}

/// The gradients of q, k and v, by algorithm 4 of the paper: the scores are recomputed.
pub(crate) fn backward(
    s: Attention,
    [q, k, v]: [&[f32]; 3],
    [out, log_sums]: [&[f32]; 2],
    grad: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let c = s.channels();
    let (queries, keys) = (s.n * c, s.keys * c);
    let inputs = q.par_chunks(queries).zip(k.par_chunks(keys).zip(v.par_chunks(keys)));
    let results = out.par_chunks(queries).zip(log_sums.par_chunks(s.n * s.heads)).zip(grad.par_chunks(queries));
    let gradients = dq.par_chunks_mut(queries).zip(dk.par_chunks_mut(keys).zip(dv.par_chunks_mut(keys)));
    gradients.zip(inputs.zip(results)).with_min_len(min_tasks()).for_each(|(gradients, (inputs, results))| {
        let _flush = FlushDenormals::new();
        let ((dq, (dk, dv)), (q, (k, v)), ((out, log_sums), grad)) = (gradients, inputs, results);
        if s.d == narrow::WIDTH {
            narrow::backward_image(&s, [q, k, v], [out, log_sums], grad, [dq, dk, dv]);
            return;
        }
        for head in 0..s.heads {
            s.head_backward(head, [q, k, v], [out, log_sums], grad, [&mut *dq, &mut *dk, &mut *dv]);
        }
    });
}

impl Attention {
    fn channels(&self) -> usize {
        self.heads * self.d
    }

    /// Keys of a block: as many whole panels as fit into `floats`, within limits.
    fn block(&self, floats: usize) -> usize {
        let most = (floats / self.d).clamp(32, 256) / 32 * 32;
        most.min(self.keys)
    }

    /// All heads of a few queries.
    fn forward_block(&self, q: &[f32], [k, v]: [&[f32]; 2], out: &mut [f32], log_sums: &mut [f32]) {
        let &Self { keys, heads, d, scale, .. } = self;
        let c = self.channels();
        let rows = out.len() / c;
        let block = self.block(1 << 15);
        let width = block.next_multiple_of(lanes());
        let lens = [Panels::new(d, block).len(), Panels::new(block, d).len(), rows * width, rows * d, rows, rows];
        with_scratch(lens, |[k_packed, v_packed, scores, sums, largest, totals]| {
            for head in 0..heads {
                largest[..rows].fill(f32::NEG_INFINITY);
                totals[..rows].fill(0.0);
                for start in (0..keys).step_by(block) {
                    let count = block.min(keys - start);
                    let from = start * c + head * d;
                    // [rows, d] x [d, count] -> [rows, count]
                    let panels = Panels::new(d, count);
                    panels.pack_turned(0, &k[from..], c, k_packed);
                    let left = Left { numbers: &q[head * d..], row: c, step: 1 };
                    let m = rows;
                    Product { left, m, right: k_packed, panels, c: scores, c_row: width, add: false }.run();
                    let [largest, totals] = [&mut largest[..rows], &mut totals[..rows]];
                    let scores = &mut scores[..rows * width];
                    let before = if start > 0 { &mut sums[..rows * d] } else { &mut [] };
                    arch().dispatch(Softmax { scores, width, count, scale, largest, totals, before });
                    // [rows, count] x [count, d] -> [rows, d]
                    let panels = Panels::new(count, d);
                    panels.pack(&v[from..], c, v_packed);
                    let left = Left { numbers: scores, row: width, step: 1 };
                    Product { left, m, right: v_packed, panels, c: sums, c_row: d, add: start > 0 }.run();
                }
                for (row, sums) in sums[..rows * d].chunks_exact(d).enumerate() {
                    let factor = 1.0 / totals[row];
                    let out = &mut out[row * c + head * d..][..d];
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
                    log_sums[row * heads + head] = largest[row] + totals[row].ln();
                }
            }
        });
    }

    /// One head of one image.
    fn head_backward(
        &self,
        head: usize,
        [q, k, v]: [&[f32]; 3],
        [out, log_sums]: [&[f32]; 2],
        grad: &[f32],
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let &Self { n, keys, heads, d, scale, .. } = self;
        let c = self.channels();
        let block = self.block(1 << 14);
        let width = block.next_multiple_of(lanes());
        let queries = QUERIES.min(n);
        let turned = Panels::new(d, block).len();
        let [by_keys, by_queries] = [Panels::new(block, d).len(), Panels::new(queries, d).len()];
        let lens = [n, n, turned, turned, by_keys, by_queries, by_queries, queries * width, queries * width];
        with_scratch(lens, |rooms| {
            let [log_sum, dots, k_turned, v_turned, k_packed, q_packed, grad_packed, scores, slopes] = rooms;
            // of each row: sum of grad * out, which is sum over keys of p * dp
            for row in 0..n {
                let of_row = row * c + head * d..row * c + head * d + d;
                dots[row] = arch().dispatch(Dot { a: &grad[of_row.clone()], b: &out[of_row] });
                log_sum[row] = log_sums[row * heads + head];
            }
            for start in (0..keys).step_by(block) {
                let count = block.min(keys - start);
                let at_keys = start * c + head * d;
                let panels = Panels::new(d, count);
                panels.pack_turned(0, &k[at_keys..], c, k_turned);
                panels.pack_turned(0, &v[at_keys..], c, v_turned);
                let over_keys = Panels::new(count, d);
                over_keys.pack(&k[at_keys..], c, k_packed);
                for row in (0..n).step_by(queries) {
                    let rows = queries.min(n - row);
                    let at = row * c + head * d;
                    // q kᵀ and grad vᵀ: [rows, d] x [d, count] -> [rows, count]
                    let left = Left { numbers: &q[at..], row: c, step: 1 };
                    let right = &*k_turned;
                    Product { left, m: rows, right, panels, c: scores, c_row: width, add: false }.run();
                    let left = Left { numbers: &grad[at..], row: c, step: 1 };
                    let right = &*v_turned;
                    Product { left, m: rows, right, panels, c: slopes, c_row: width, add: false }.run();
                    arch().dispatch(SoftmaxBackward {
                        scores: &mut scores[..rows * width],
                        slopes: &mut slopes[..rows * width],
                        width,
                        scale,
                        log_sums: &log_sum[row..row + rows],
                        dots: &dots[row..row + rows],
                    });
                    // dv = pᵀ grad and dk = dsᵀ q: [count, rows] x [rows, d] -> [count, d]
                    let over_queries = Panels::new(rows, d);
                    over_queries.pack(&grad[at..], c, grad_packed);
                    over_queries.pack(&q[at..], c, q_packed);
                    for (numbers, right, to) in [(&*scores, &*grad_packed, &mut *dv), (&*slopes, &*q_packed, &mut *dk)]
                    {
                        let left = Left { numbers, row: 1, step: width };
                        let (panels, c_row) = (over_queries, c);
                        Product { left, m: count, right, panels, c: &mut to[at_keys..], c_row, add: row > 0 }.run();
                    }
                    // dq = ds k: [rows, count] x [count, d] -> [rows, d]
                    let left = Left { numbers: slopes, row: width, step: 1 };
                    let (right, panels, add) = (&*k_packed, over_keys, start > 0);
                    Product { left, m: rows, right, panels, c: &mut dq[at..], c_row: c, add }.run();
                }
            }
        });
    }
}

/// The exponential where it is not nothing: 0 below -86, where `exp` stays as it is.
#[inline(always)]
fn exp_or_zero<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_f32s(x, simd.splat_f32s(-86.0)), zero, exp(simd, x))
}

/// The places in the widest vector.
const PLACES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

/// From scores to exponentials of `score * scale` less the largest so far; what was summed before is made to fit.
struct Softmax<'a> {
    scores: &'a mut [f32],
    width: usize,
    /// Keys in a row; what is behind them is made 0.
    count: usize,
    scale: f32,
    largest: &'a mut [f32],
    totals: &'a mut [f32],
    /// Sums of earlier blocks, if there are any.
    before: &'a mut [f32],
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { scores, width, count, scale, largest, totals, before } = self;
        let d = before.len() / largest.len();
        let scales = simd.splat_f32s(scale);
        // of the last vector of a row, what are scores
        let places = simd.partial_load_f32s(&PLACES[..S::F32_LANES]);
        let inside = simd.less_than_f32s(places, simd.splat_f32s(((count - 1) % S::F32_LANES + 1) as f32));
        let vectors = count.div_ceil(S::F32_LANES);
        // in two loops, so that one row need not wait for another's maximum
        let rows = scores.chunks_exact_mut(width).zip(largest.iter_mut().zip(&mut *totals));
        for (row, (scores, (largest, total))) in rows.enumerate() {
            let scores = &mut S::as_mut_simd_f32s(scores).0[..vectors];
            let mut most = simd.splat_f32s(f32::NEG_INFINITY);
            if let Some(last) = scores.last_mut() {
                *last = simd.select_f32s(inside, *last, most);
            }
            for &mut score in scores {
                most = simd.max_f32s(score, most);
            }
            let most = largest.max(simd.reduce_max_f32s(most) * scale);
            if !before.is_empty() && most != *largest {
                let shrink = (*largest - most).exp();
                *total *= shrink;
                before[row * d..][..d].iter_mut().for_each(|sum| *sum *= shrink);
            }
            *largest = most;
        }
        let rows = scores.chunks_exact_mut(width).zip(largest.iter().zip(totals));
        for (scores, (&largest, total)) in rows {
            // where all scores are -inf, -inf - -inf would be NaN for good, and a later block may hold others
            let base = simd.splat_f32s(if largest == f32::NEG_INFINITY { 0.0 } else { -largest });
            let mut sum = simd.splat_f32s(0.0);
            for score in &mut S::as_mut_simd_f32s(scores).0[..vectors] {
                *score = exp_or_zero(simd, simd.mul_add_f32s(*score, scales, base));
                sum = simd.add_f32s(sum, *score);
            }
            *total += simd.reduce_sum_f32s(sum);
        }
    }
}

/// From scores to `p = exp(score * scale - log_sum)`, and from the gradients `slopes` of p to those of the scores.
struct SoftmaxBackward<'a> {
    scores: &'a mut [f32],
    slopes: &'a mut [f32],
    width: usize,
    scale: f32,
    log_sums: &'a [f32],
    dots: &'a [f32],
}

impl WithSimd for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { scores, slopes, width, scale, log_sums, dots } = self;
        let scale = simd.splat_f32s(scale);
        let rows = scores.chunks_exact_mut(width).zip(slopes.chunks_exact_mut(width));
        for ((scores, slopes), (&log_sum, &dot)) in rows.zip(log_sums.iter().zip(dots)) {
            let (log_sum, dot) = (simd.splat_f32s(-log_sum), simd.splat_f32s(dot));
            let both = S::as_mut_simd_f32s(scores).0.iter_mut().zip(S::as_mut_simd_f32s(slopes).0);
            for (score, slope) in both {
                *score = exp_or_zero(simd, simd.mul_add_f32s(*score, scale, log_sum));
                *slope = simd.mul_f32s(simd.mul_f32s(*score, simd.sub_f32s(*slope, dot)), scale);
            }
        }
    }
}

/// `sum of a * b`
struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(self.a), S::as_simd_f32s(self.b));
        let mut sum = simd.mul_f32s(simd.partial_load_f32s(a_rest), simd.partial_load_f32s(b_rest));
        for (&a, &b) in a.iter().zip(b) {
            sum = simd.mul_add_f32s(a, b, sum);
        }
        simd.reduce_sum_f32s(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{error, f64s, noise, on_threads};

    fn run(s: Attention, [q, k, v, grad]: [&[f32]; 4]) -> [Vec<f32>; 5] {
        let mut results = [q.len(), s.b * s.n * s.heads, q.len(), k.len(), v.len()].map(|len| vec![f32::NAN; len]);
        let [out, log_sums, dq, dk, dv] = &mut results;
        forward(s, [q, k, v], out, log_sums);
        backward(s, [q, k, v], [out, log_sums], grad, [dq, dk, dv]);
        results
    }

    /// The plain computation.
    fn plain(s: Attention, args: [&[f32]; 4]) -> [Vec<f64>; 5] {
        let [q, k, v, grad] = args.map(f64s);
        let (c, d, scale) = (s.channels(), s.d, f64::from(s.scale));
        let mut results = [q.len(), s.b * s.n * s.heads, q.len(), k.len(), v.len()].map(|len| vec![0.0; len]);
        let [out, log_sums, dq, dk, dv] = &mut results;
        for (image, head, row) in
            (0..s.b).flat_map(|image| (0..s.heads).flat_map(move |head| (0..s.n).map(move |row| (image, head, row))))
        {
            let query = (image * s.n + row) * c + head * d;
            let key = |j: usize| (image * s.keys + j) * c + head * d;
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let scores: Vec<f64> = (0..s.keys).map(|j| dot(&q[query..][..d], &k[key(j)..][..d]) * scale).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            log_sums[(image * s.n + row) * s.heads + head] = largest + total.ln();
            let p: Vec<f64> = scores.iter().map(|score| (score - largest).exp() / total).collect();
            let dp: Vec<f64> = (0..s.keys).map(|j| dot(&grad[query..][..d], &v[key(j)..][..d])).collect();
            let mean = dot(&p, &dp);
            for j in 0..s.keys {
                let ds = p[j] * (dp[j] - mean) * scale;
                for at in 0..d {
                    out[query + at] += p[j] * v[key(j) + at];
                    dv[key(j) + at] += p[j] * grad[query + at];
                    dq[query + at] += ds * k[key(j) + at];
                    dk[key(j) + at] += ds * q[query + at];
                }
            }
        }
        results
    }

    fn worst(s: Attention, sharp: f32) -> [f64; 5] {
        let len = s.b * s.channels();
        let q: Vec<f32> = noise(1, len * s.n).iter().map(|x| x * sharp).collect();
        let args = [q, noise(2, len * s.keys), noise(3, len * s.keys), noise(4, len * s.n)];
        let args = args.each_ref().map(Vec::as_slice);
        let results = on_threads(|| run(s, args));
        let expected = plain(s, args);
        std::array::from_fn(|i| error(&results[i], &expected[i]))
    }

    #[test]
    fn values_and_gradients_of_all_sizes() {
        let mut largest = [0f64; 5];
        for (b, n, keys, heads, d) in [
            (1, 1, 1, 1, 1),
            (2, 3, 3, 2, 5),
            (3, 49, 49, 8, 8),
            (2, 64, 64, 1, 64),
            (1, 65, 65, 3, 17),
            (2, 81, 77, 2, 40),
            (1, 256, 256, 1, 32),
            (1, 150, 300, 1, 130),
            (1, 70, 130, 1, 512),
            (1, 600, 600, 2, 16),
            (2, 16, 16, 32, 8),
            (2, 196, 196, 8, 8),
            (1, 130, 77, 3, 8),
        ] {
            let s = Attention { b, n, keys, heads, d, scale: 1.0 / (d as f32).sqrt() };
            let errors = worst(s, 1.0);
            assert!(errors.iter().all(|&error| error < 2e-6), "{s:?}: {errors:?}");
            (0..5).for_each(|i| largest[i] = largest[i].max(errors[i]));
        }
    }

    #[test]
    fn sharp_rows_keep_their_digits() {
        let s = Attention { b: 1, n: 300, keys: 300, heads: 2, d: 20, scale: 0.25 };
        let errors = worst(s, 30.0);
        // an f32 score of 100 has an error of 4e-6
        assert!(errors.iter().all(|&error| error < 4e-5), "{errors:?}");
    }

    #[test]
    fn rows_without_a_finite_score_are_nan_as_in_torch() {
        let s = Attention { b: 1, n: 3, keys: 300, heads: 1, d: 2, scale: 0.5 };
        let k: Vec<f32> = noise(2, 600).iter().map(|x| x.abs() + 0.1).collect();
        let (v, grad) = (noise(3, 600), noise(4, 6));
        for bad in [f32::NEG_INFINITY, f32::INFINITY, f32::NAN] {
            let [out, _, dq, dk, dv] = run(s, [&[1.0, 2.0, bad, 1.0, 0.5, 0.5], &k, &v, &grad]);
            for (row, both) in out.chunks(2).zip(dq.chunks(2)).enumerate() {
                assert!(both.0.iter().chain(both.1).all(|x| x.is_nan() == (row == 1)), "{bad}: row {row}");
            }
            assert!(dk.iter().chain(&dv).all(|x| x.is_nan()));
        }
    }

    #[test]
    fn keys_at_minus_infinity_take_no_part() {
        // the whole first block of keys, and some of the others
        let s = Attention { b: 1, n: 2, keys: 600, heads: 1, d: 1, scale: 1.0 };
        let out_of_it = |j: usize| j < 300 || j.is_multiple_of(3);
        let k: Vec<f32> = (0..600).map(|j| if out_of_it(j) { f32::NEG_INFINITY } else { (j % 7) as f32 }).collect();
        let v = noise(3, 600);
        let (mut out, mut log_sums) = ([0.0; 2], [0.0; 2]);
        forward(s, [&[1.0, 0.5], &k, &v], &mut out, &mut log_sums);
        for (row, q) in [1.0, 0.5].into_iter().enumerate() {
            let (mut sum, mut total) = (0.0, 0.0);
            for j in (0..600).filter(|&j| !out_of_it(j)) {
                let p = (q * (j % 7) as f64).exp();
                (sum, total) = (sum + p * f64::from(v[j]), total + p);
            }
            assert!((f64::from(out[row]) - sum / total).abs() < 1e-6);
            assert!((f64::from(log_sums[row]) - total.ln()).abs() < 2e-6);
        }
    }
}
