//! Attention of heads with [`WIDTH`] channels, which is diffusers' default.
//!
//! Matrix products with so few columns, or so short a reduction, leave most of the machine idle. Here the numbers of a
//! vector belong to as many queries: a channel of a key or a value is a scalar for all of them, a query's channels and
//! sums stay in registers, and nothing is summed across a vector.

use std::f32::consts::{LN_2, LOG2_E};

use pulp::{Simd, WithSimd};

use crate::kernels::cpu::elementwise::scale_in_place;
use crate::kernels::cpu::host::{arch, lanes};
use crate::kernels::cpu::matmul::{Left, Panels, Product};
use crate::kernels::cpu::scratch::with_scratch;
use crate::kernels::cpu::transpose::transpose;
use crate::op::attention::Attention;

/// Channels of a head.
pub(super) const WIDTH: usize = 8;

/// Queries of a task.
pub(super) const QUERIES: usize = 112;

/// Keys whose probabilities and slopes are held until they are multiplied: rows of a product, seven at a time.
const KEYS: usize = 28;

/// A key and its value, in one line of the cache.
type Pair = [f32; 2 * WIDTH];

/// All heads of a few queries of an image, as [`super::forward`].
pub(super) fn forward_block(s: &Attention, q: &[f32], kv: [&[f32]; 2], out: &mut [f32], log_sums: &mut [f32]) {
    let blocks = Blocks::new(out.len() / s.channels());
    let lens = [blocks.len(s.channels()), s.keys * 2 * WIDTH, s.keys * blocks.lanes];
    with_scratch(lens, |[turned, pairs, scores]| {
        blocks.turn(q, s.channels(), turned);
        for head in 0..s.heads {
            let pairs = pair(s, head, kv, pairs);
            arch().dispatch(Forward { s, blocks, head, turned, pairs, scores, log_sums });
        }
        blocks.turn_back(turned, s.channels(), out);
    });
}

/// All heads of an image, as [`super::backward`].
pub(super) fn backward_image(
    s: &Attention,
    [q, k, v]: [&[f32]; 3],
    [out, log_sums]: [&[f32]; 2],
    grad: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let (c, blocks, over_queries) = (s.channels(), Blocks::new(s.n), Panels::new(s.n, WIDTH));
    let (len, by_query, held) = (blocks.len(c), blocks.len(s.heads), KEYS * blocks.len(1));
    let packed = over_queries.len();
    let lens = [len, len, len, by_query, by_query, s.keys * 2 * WIDTH, packed, packed, held, held];
    with_scratch(lens, |rooms| {
        let [q_turned, grad_turned, turned, sums, dots, pairs, q_packed, grad_packed, shares, slopes] = rooms;
        blocks.turn(q, c, q_turned);
        blocks.turn(grad, c, grad_turned);
        blocks.turn(out, c, turned);
        blocks.turn(log_sums, s.heads, sums);
        // sum of grad * out, which is sum over keys of p * dp
        arch().dispatch(Dots { grad: &grad_turned[..len], out: &turned[..len], dots });
        let dq_turned = &mut turned[..len];
        dq_turned.fill(0.0);
        for head in 0..s.heads {
            let pairs = pair(s, head, [k, v], pairs);
            over_queries.pack(&q[head * WIDTH..], c, q_packed);
            over_queries.pack(&grad[head * WIDTH..], c, grad_packed);
            for (start, pairs) in (0..).step_by(KEYS).zip(pairs.chunks(KEYS)) {
                arch().dispatch(Backward {
                    s,
                    blocks,
                    head,
                    pairs,
                    inputs: [q_turned, grad_turned, sums, dots],
                    dq: dq_turned,
                    shares,
                    slopes,
                });
                // dv = pᵀ grad and dk = dsᵀ q: [keys, n] x [n, d] -> [keys, d]
                let (at, panels) = (start * c + head * WIDTH, over_queries);
                for (numbers, right, to) in [(&*shares, &*grad_packed, &mut *dv), (&*slopes, &*q_packed, &mut *dk)] {
                    let left = Left { numbers, row: blocks.len(1), step: 1 };
                    Product { left, m: pairs.len(), right, panels, c: &mut to[at..], c_row: c, add: false }.run();
                }
            }
        }
        scale_in_place(dq_turned, s.scale);
        scale_in_place(dk, s.scale);
        blocks.turn_back(dq_turned, c, dq);
    });
}

/// Queries by the vector: rows `[queries, width]` turned into blocks `[width, lanes]`. What is behind the last query
/// has no meaning.
#[derive(Clone, Copy)]
struct Blocks {
    queries: usize,
    lanes: usize,
}

impl Blocks {
    fn new(queries: usize) -> Self {
        Self { queries, lanes: lanes() }
    }

    /// Floats of all blocks of rows of `width`.
    fn len(&self, width: usize) -> usize {
        self.queries.next_multiple_of(self.lanes) * width
    }

    /// Where each block begins, of rows of `width`, and how many queries it has.
    fn parts(self, width: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.queries).step_by(self.lanes).map(move |at| (at * width, self.lanes.min(self.queries - at)))
    }

    fn turn(&self, rows: &[f32], width: usize, turned: &mut [f32]) {
        for (at, count) in self.parts(width) {
            transpose(&rows[at..], width, &mut turned[at..], self.lanes, count, width);
        }
    }

    fn turn_back(&self, turned: &[f32], width: usize, rows: &mut [f32]) {
        for (at, count) in self.parts(width) {
            transpose(&turned[at..], self.lanes, &mut rows[at..], width, width, count);
        }
    }
}

/// The keys and values of a head, side by side.
fn pair<'a>(s: &Attention, head: usize, [k, v]: [&[f32]; 2], pairs: &'a mut [f32]) -> &'a [Pair] {
    let pairs = &mut pairs.as_chunks_mut().0[..s.keys];
    let rows = k.chunks_exact(s.channels()).zip(v.chunks_exact(s.channels()));
    for (pair, (k, v)) in pairs.iter_mut().zip(rows) {
        let pair: &mut Pair = pair;
        let (key, value) = pair.split_at_mut(WIDTH);
        key.copy_from_slice(&k[head * WIDTH..][..WIDTH]);
        value.copy_from_slice(&v[head * WIDTH..][..WIDTH]);
    }
    pairs
}

/// The vectors of a head's channels in block `block`.
#[inline(always)]
fn channels<S: Simd>(_: S, s: &Attention, turned: &[f32], block: usize, head: usize) -> [S::f32s; WIDTH] {
    let at = (block * s.channels() + head * WIDTH) * S::F32_LANES;
    let vectors = S::as_simd_f32s(&turned[at..][..WIDTH * S::F32_LANES]).0;
    let mut channels = [vectors[0]; WIDTH];
    channels.copy_from_slice(vectors);
    channels
}

#[inline(always)]
fn set_channels<S: Simd>(_: S, s: &Attention, turned: &mut [f32], block: usize, head: usize, of: [S::f32s; WIDTH]) {
    let at = (block * s.channels() + head * WIDTH) * S::F32_LANES;
    S::as_mut_simd_f32s(&mut turned[at..][..WIDTH * S::F32_LANES]).0.copy_from_slice(&of);
}

/// `sum over d of a[d] * b[d]`, in two chains.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[S::f32s; WIDTH], b: &[f32; WIDTH]) -> S::f32s {
    let mut even = simd.mul_f32s(a[0], simd.splat_f32s(b[0]));
    let mut odd = simd.mul_f32s(a[1], simd.splat_f32s(b[1]));
    for d in (2..WIDTH).step_by(2) {
        even = simd.mul_add_e_f32s(a[d], simd.splat_f32s(b[d]), even);
        odd = simd.mul_add_e_f32s(a[d + 1], simd.splat_f32s(b[d + 1]), odd);
    }
    simd.add_f32s(even, odd)
}

/// `sums[d] += x * b[d]`
#[inline(always)]
fn add_product<S: Simd>(simd: S, sums: &mut [S::f32s; WIDTH], x: S::f32s, b: &[f32; WIDTH]) {
    for d in 0..WIDTH {
        sums[d] = simd.mul_add_e_f32s(x, simd.splat_f32s(b[d]), sums[d]);
    }
}

/// `2^x` for `x` of at most about 0, to about one unit in the last place; 0 below -126, NaN for NaN.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let least = simd.splat_f32s(-127.0);
    let x = simd.select_f32s(simd.less_than_f32s(x, least), least, x);
    // 1.5 * 2^23 and the bias of an exponent: adding it rounds to an integer, whose exponent the low bits then hold
    let magic = simd.splat_f32s(12_582_912.0 + 127.0);
    let shifted = simd.add_f32s(x, magic);
    let r = simd.sub_f32s(x, simd.sub_f32s(shifted, magic));
    // by Chebyshev's points in -1/2..1/2: off by 2.5e-9
    let mut sum = simd.splat_f32s(1.546_144_5e-4);
    for coefficient in [1.340_042_8e-3, 9.618_057e-3, 5.550_327e-2, 0.240_226_5, LN_2, 1.0] {
        sum = simd.mul_add_e_f32s(sum, r, simd.splat_f32s(coefficient));
    }
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.mul_f32s(sum, simd.transmute_f32s_u32s(power))
}

/// The two halves of a pair.
#[inline(always)]
fn halves(pair: &Pair) -> [&[f32; WIDTH]; 2] {
    let (halves, _) = pair.as_chunks::<WIDTH>();
    [&halves[0], &halves[1]]
}

/// One head: from queries to results, in place.
struct Forward<'a> {
    s: &'a Attention,
    blocks: Blocks,
    head: usize,
    turned: &'a mut [f32],
    pairs: &'a [Pair],
    scores: &'a mut [f32],
    log_sums: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { s, blocks, head, turned, pairs, scores, log_sums } = self;
        let scores = &mut S::as_mut_simd_f32s(scores).0[..pairs.len()];
        let scale = simd.splat_f32s(s.scale * LOG2_E);
        for (block, (at, count)) in blocks.parts(s.heads).enumerate() {
            let q = channels(simd, s, turned, block, head);
            let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
            for (score, pair) in scores.iter_mut().zip(pairs) {
                *score = dot(simd, &q, halves(pair)[0]);
                largest = simd.max_f32s(largest, *score);
            }
            let (mut total, mut sums) = (simd.splat_f32s(0.0), [simd.splat_f32s(0.0); WIDTH]);
            for (score, pair) in scores.iter().zip(pairs) {
                let share = exp2(simd, simd.mul_f32s(simd.sub_f32s(*score, largest), scale));
                total = simd.add_f32s(total, share);
                add_product(simd, &mut sums, share, halves(pair)[1]);
            }
            let factor = simd.div_f32s(simd.splat_f32s(1.0), total);
            for sum in &mut sums {
                *sum = simd.mul_f32s(*sum, factor);
            }
            set_channels(simd, s, turned, block, head, sums);
            let mut of_queries = [[0.0; 16]; 2];
            for (numbers, vector) in of_queries.iter_mut().zip([largest, total]) {
                S::as_mut_simd_f32s(numbers).0[0] = vector;
            }
            let [largest, totals] = of_queries;
            for (i, log_sums) in log_sums[at..].chunks_exact_mut(s.heads).take(count).enumerate() {
                log_sums[head] = largest[i] * s.scale + totals[i].ln();
            }
        }
    }
}

/// `dots[query, head] = sum of a head's channels of grad * out`, all turned.
struct Dots<'a> {
    grad: &'a [f32],
    out: &'a [f32],
    dots: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (grad, out) = (S::as_simd_f32s(self.grad).0, S::as_simd_f32s(self.out).0);
        let heads = grad.chunks_exact(WIDTH).zip(out.chunks_exact(WIDTH));
        for (dot, (grad, out)) in S::as_mut_simd_f32s(self.dots).0.iter_mut().zip(heads) {
            let mut sum = simd.splat_f32s(0.0);
            for (&grad, &out) in grad.iter().zip(out) {
                sum = simd.mul_add_e_f32s(grad, out, sum);
            }
            *dot = sum;
        }
    }
}

/// One head and some keys: each query's shares of the keys and the slopes of the scores, `[keys, queries]`, and the
/// keys' part of the queries' gradients.
struct Backward<'a> {
    s: &'a Attention,
    blocks: Blocks,
    head: usize,
    pairs: &'a [Pair],
    /// Queries, gradients, logarithms of sums and dots, all turned.
    inputs: [&'a [f32]; 4],
    dq: &'a mut [f32],
    shares: &'a mut [f32],
    slopes: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { s, blocks, head, pairs, inputs: [q, grad, sums, dots], dq, shares, slopes } = self;
        let row = blocks.len(1) / S::F32_LANES;
        let (scale, log2_e) = (simd.splat_f32s(s.scale), simd.splat_f32s(LOG2_E));
        let (sums, dots) = (S::as_simd_f32s(sums).0, S::as_simd_f32s(dots).0);
        let (shares, slopes) = (S::as_mut_simd_f32s(shares).0, S::as_mut_simd_f32s(slopes).0);
        for block in 0..row {
            let [q, grad, mut dq_of] = [q, grad, &*dq].map(|turned| channels(simd, s, turned, block, head));
            let at = block * s.heads + head;
            let (log_sum, mean) = (simd.neg_f32s(sums[at]), dots[at]);
            let places = shares[block..].iter_mut().step_by(row).zip(slopes[block..].iter_mut().step_by(row));
            for (pair, (to_share, to_slope)) in pairs.iter().zip(places) {
                let [key, value] = halves(pair);
                let log_share = simd.mul_add_e_f32s(dot(simd, &q, key), scale, log_sum);
                let share = exp2(simd, simd.mul_f32s(log_share, log2_e));
                let slope = simd.mul_f32s(share, simd.sub_f32s(dot(simd, &grad, value), mean));
                add_product(simd, &mut dq_of, slope, key);
                (*to_share, *to_slope) = (share, slope);
            }
            set_channels(simd, s, dq, block, head, dq_of);
        }
    }
}
