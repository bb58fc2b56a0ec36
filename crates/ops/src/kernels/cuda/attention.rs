//! Attention: products by the library, softmax by our kernels, for as many rows of scores at a time as fit a bound.

use candle_core::Result;

use super::buffer::Buffer;
use super::card::{Card, Product, THREADS, WARP, arguments, each, launch};
use crate::op::attention::Attention;

/// Scores in memory at once; few in tests, so that these see more than one piece of them.
const SCORES: usize = if cfg!(test) { 1 << 9 } else { 1 << 26 };

/// Some rows of the scores of some heads.
struct Piece {
    /// Heads, counted over all images.
    heads: usize,
    first_head: usize,
    rows: usize,
    first_row: usize,
}

/// All scores, in pieces: of several heads with all their rows, or of rows of one head.
fn pieces(s: &Attention) -> impl Iterator<Item = Piece> {
    let &Attention { b, n, keys, heads, .. } = s;
    let at_once = (SCORES / (n * keys)).max(1);
    let rows = (SCORES / keys).clamp(1, n);
    (0..b * heads).step_by(at_once).flat_map(move |first_head| {
        let heads = at_once.min(b * heads - first_head);
        (0..n).step_by(rows).map(move |first_row| Piece { heads, first_head, rows: rows.min(n - first_row), first_row })
    })
}

/// `[b, tokens, heads, d] -> [b, heads, tokens, d]`, or back.
struct Swap {
    outer: usize,
    inner: usize,
    d: usize,
}

impl Swap {
    fn run<C: Card>(&self, x: &Buffer<C>) -> Result<Buffer<C>> {
        let y = x.alike()?;
        let sizes = arguments![x, &y, self.outer, self.inner, self.d, y.len()];
        each(x.card(), "swap_middle", y.len(), sizes)?;
        Ok(y)
    }
}

/// Features with each head's tokens together; those of one head lie so already.
enum Heads<'a, C: Card> {
    One(&'a Buffer<C>),
    Many(Buffer<C>),
}

impl<'a, C: Card> Heads<'a, C> {
    fn new(s: &Attention, x: &'a Buffer<C>) -> Result<Self> {
        if s.heads == 1 {
            return Ok(Self::One(x));
        }
        let tokens = x.len() / (s.b * s.heads * s.d).max(1);
        Ok(Self::Many(Swap { outer: tokens, inner: s.heads, d: s.d }.run(x)?))
    }

    fn buffer(&self) -> &Buffer<C> {
        match self {
            Self::One(x) => x,
            Self::Many(x) => x,
        }
    }
}

/// Features out of each head's tokens.
fn together<C: Card>(s: &Attention, x: Buffer<C>) -> Result<Buffer<C>> {
    if s.heads == 1 {
        return Ok(x);
    }
    let tokens = x.len() / (s.b * s.heads * s.d).max(1);
    Swap { outer: s.heads, inner: tokens, d: s.d }.run(&x)
}

impl Piece {
    fn product(&self, [m, n, k]: [usize; 3], transposed: [bool; 2]) -> Product {
        Product { batch: self.heads, m, n, k, transposed, add: false }
    }

    /// Where this piece begins in features `[heads, tokens, d]` with a row for each query.
    fn queries(&self, s: &Attention) -> usize {
        (self.first_head * s.n + self.first_row) * s.d
    }

    /// The same with a row for each key.
    fn keys(&self, s: &Attention) -> usize {
        self.first_head * s.keys * s.d
    }

    fn scores<C: Card>(&self, s: &Attention, q: &Buffer<C>, k: &Buffer<C>) -> Result<Buffer<C>> {
        let scores = Buffer::new(q.card(), self.heads * self.rows * s.keys)?;
        let (q_at, k_at) = (q.address().plus(self.queries(s)), k.address().plus(self.keys(s)));
        q.card().multiply(&self.product([self.rows, s.keys, s.d], [false, true]), q_at, k_at, scores.address())?;
        Ok(scores)
    }
}

/// The result, and for each head and row the logarithm of the sum of exponentials.
pub(crate) fn forward<C: Card>(s: &Attention, [q, k, v]: [&Buffer<C>; 3]) -> Result<(Buffer<C>, Buffer<C>)> {
    let card = q.card();
    let [qh, kh, vh] = [Heads::new(s, q)?, Heads::new(s, k)?, Heads::new(s, v)?];
    let [out, log_sums] = [q.alike()?, Buffer::new(card, s.b * s.heads * s.n)?];
    for piece in pieces(s) {
        let scores = piece.scores(s, qh.buffer(), kh.buffer())?;
        let rows = piece.heads * piece.rows;
        let sums = log_sums.address().plus(piece.first_head * s.n + piece.first_row);
        launch(card, "softmax", rows.div_ceil(THREADS / WARP), arguments![&scores, sums, rows, s.keys, s.scale])?;
        let product = piece.product([piece.rows, s.d, s.keys], [false; 2]);
        let (v_at, out_at) = (vh.buffer().address().plus(piece.keys(s)), out.address().plus(piece.queries(s)));
        card.multiply(&product, scores.address(), v_at, out_at)?;
    }
    Ok((together(s, out)?, log_sums))
}

/// The gradients of `q`, `k` and `v`.
pub(crate) fn backward<C: Card>(
    s: &Attention,
    [q, k, v]: [&Buffer<C>; 3],
    log_sums: &Buffer<C>,
    grad: &Buffer<C>,
) -> Result<[Buffer<C>; 3]> {
    let card = q.card();
    let [qh, kh] = [Heads::new(s, q)?, Heads::new(s, k)?];
    let [vh, gh] = [Heads::new(s, v)?, Heads::new(s, grad)?];
    let [dq, dk, dv] = [q.alike()?, k.alike()?, v.alike()?];
    for piece in pieces(s) {
        let (of_queries, of_keys) = (piece.queries(s), piece.keys(s));
        let by_queries = |x: &Buffer<C>| x.address().plus(of_queries);
        let by_keys = |x: &Buffer<C>| x.address().plus(of_keys);
        let weights = piece.scores(s, qh.buffer(), kh.buffer())?;
        let slopes = weights.alike()?;
        let product = piece.product([piece.rows, s.keys, s.d], [false, true]);
        card.multiply(&product, by_queries(gh.buffer()), by_keys(vh.buffer()), slopes.address())?;
        let rows = piece.heads * piece.rows;
        let sums = log_sums.address().plus(piece.first_head * s.n + piece.first_row);
        let arguments = arguments![&weights, &slopes, sums, rows, s.keys, s.scale];
        launch(card, "softmax_backward", rows.div_ceil(THREADS / WARP), arguments)?;
        let product = piece.product([piece.rows, s.d, s.keys], [false; 2]);
        card.multiply(&product, slopes.address(), by_keys(kh.buffer()), by_queries(&dq))?;
        let over_rows = piece.product([s.keys, s.d, piece.rows], [true, false]);
        let over_rows = Product { add: piece.first_row > 0, ..over_rows };
        card.multiply(&over_rows, slopes.address(), by_queries(qh.buffer()), by_keys(&dk))?;
        card.multiply(&over_rows, weights.address(), by_queries(gh.buffer()), by_keys(&dv))?;
    }
    Ok([together(s, dq)?, together(s, dk)?, together(s, dv)?])
}
