//! Winograd's transforms in one direction, on vectors of channels.
//!
//! A polynomial product by its values at some points: for kernels of 5 (and gradients of 4 as kernels) the eight points
//! 0, 1, -1, 2, -2, 1/2, -1/2 and infinity; for kernels of 3 the six points 0, 5/8, -5/8, 3/2, -3/2 and infinity, whose
//! rounding errors are less than half of those of 0, 1, -1, 2, -2 (Barabasz et al. 2020 say why; these were searched
//! for). `P` is their number.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::Simd;

/// The points of kernels of 3 other than 0 and infinity: `A`, `-A`, `B` and `-B`. With all their powers they are exact
/// in f32.
const A: f32 = 0.625;
const B: f32 = 1.5;
/// The products of the differences between `A`, or `B`, and the other points.
const NA: f32 = 2.0 * A * A * (A * A - B * B);
const NB: f32 = 2.0 * B * B * (B * B - A * A);

/// Vectors of channels of `rows` x `columns` places, `row` and `column` floats apart, in the innermost loops.
///
/// A transform reads and writes some hundred vectors whose places all follow from two distances: they are checked once.
#[derive(Clone, Copy)]
pub(super) struct Places {
    row: usize,
    column: usize,
    /// The number of rows and columns that [`Places::new`] has checked.
    rows: usize,
    columns: usize,
}

impl Places {
    /// Checks that vectors at all places, from any of `channels` on, lie within `len` floats.
    #[inline(always)]
    pub(super) fn new(len: usize, [rows, columns]: [usize; 2], [row, column]: [usize; 2], channels: usize) -> Self {
        let last = rows.saturating_sub(1) * row + columns.saturating_sub(1) * column;
        assert!(last + channels <= len, "a transform reaches beyond its numbers");
        Self { row, column, rows, columns }
    }

    #[inline(always)]
    fn at<S: Simd>(&self, len: usize, i: usize, j: usize, channel: usize) -> usize {
        let at = i * self.row + j * self.column + channel;
        debug_assert!(i < self.rows && j < self.columns && at + S::F32_LANES <= len);
        at
    }

    /// The vector at a place, its first channel `channel`.
    ///
    /// # Safety
    /// `self` was made for at most `from.len()` floats, `i` and `j` are below its numbers of rows and columns, and
    /// `channel` is at least a vector below its number of channels.
    #[inline(always)]
    pub(super) unsafe fn load<S: Simd>(&self, _: S, from: &[f32], i: usize, j: usize, channel: usize) -> S::f32s {
        let at = self.at::<S>(from.len(), i, j, channel);
        // SAFETY: the caller guarantees that the vector lies within `from`; pulp's vectors are plain floats.
        unsafe { from.as_ptr().add(at).cast::<S::f32s>().read_unaligned() }
    }

    /// Stores a vector at a place.
    ///
    /// # Safety
    /// As [`load`](Self::load), of `to`.
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd>(
        &self,
        _: S,
        to: &mut [f32],
        (i, j): (usize, usize),
        channel: usize,
        v: S::f32s,
    ) {
        let at = self.at::<S>(to.len(), i, j, channel);
        // SAFETY: the caller guarantees that the vector lies within `to`.
        unsafe { to.as_mut_ptr().add(at).cast::<S::f32s>().write_unaligned(v) }
    }
}

/// An image, `[h, w, c]`.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) pixels: &'a [f32],
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
}

/// The `N` x `N` pixels of an image under a tile, zeros where there is no image.
pub(super) struct Window<'a, const N: usize> {
    /// From the first pixel on that is there.
    pixels: &'a [f32],
    places: Places,
    /// The rows and columns that are there.
    rows: Range<usize>,
    columns: Range<usize>,
}

impl<'a, const N: usize> Window<'a, N> {
    /// From row `y` and column `x` on, which may lie before the image.
    #[inline(always)]
    pub(super) fn new(image: Image<'a>, [y, x]: [isize; 2]) -> Self {
        let Image { pixels, h, w, c } = image;
        let inside = |start: isize, len: usize| {
            let first = start.min(0).unsigned_abs().min(N);
            first..len.saturating_add_signed(-start).clamp(first, N)
        };
        let (rows, columns) = (inside(y, h), inside(x, w));
        let first = |start: isize| start.max(0).unsigned_abs();
        let at = if rows.is_empty() || columns.is_empty() { 0 } else { (first(y) * w + first(x)) * c };
        let places = Places::new(pixels.len() - at, [rows.len(), columns.len()], [w * c, c], c);
        Self { pixels: &pixels[at..], places, rows, columns }
    }

    /// A vector of channels of each pixel in row `i`.
    ///
    /// # Safety
    /// `channel` is at least a vector below the image's number of channels.
    #[inline(always)]
    pub(super) unsafe fn row<S: Simd>(&self, simd: S, i: usize, channel: usize) -> [S::f32s; N] {
        let mut row = [simd.splat_f32s(0.0); N];
        if !self.rows.contains(&i) {
            return row;
        }
        let i = i - self.rows.start;
        if self.columns.len() == N {
            for (j, pixel) in row.iter_mut().enumerate() {
                // SAFETY: rows and columns are those of the places; the caller guarantees the channel.
                *pixel = unsafe { self.places.load(simd, self.pixels, i, j, channel) };
            }
        } else {
            for (j, pixel) in row.iter_mut().enumerate() {
                if self.columns.contains(&j) {
                    // SAFETY: as above.
                    *pixel = unsafe { self.places.load(simd, self.pixels, i, j - self.columns.start, channel) };
                }
            }
        }
        row
    }
}

// The vector code has no closures: one that is not inlined loses the machine's instructions.

/// The `R` rows of a tile, `C` vectors each. They begin with nothing, for zeros would be written to memory first.
pub(super) struct Rows<V, const R: usize, const C: usize>([[MaybeUninit<V>; C]; R]);

impl<V: Copy, const R: usize, const C: usize> Rows<V, R, C> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self([const { [const { MaybeUninit::uninit() }; C] }; R])
    }

    #[inline(always)]
    pub(super) fn set(&mut self, i: usize, row: [V; C]) {
        for (to, value) in self.0[i].iter_mut().zip(row) {
            to.write(value);
        }
    }

    /// Column `j`.
    ///
    /// # Safety
    /// All rows have been set.
    #[inline(always)]
    pub(super) unsafe fn column(&self, j: usize) -> [V; R] {
        // SAFETY: the caller has set all rows.
        let mut column = [unsafe { self.0[0][j].assume_init() }; R];
        for (value, row) in column.iter_mut().zip(&self.0) {
            // SAFETY: as above.
            *value = unsafe { row[j].assume_init() };
        }
        column
    }
}

#[inline(always)]
fn scale<S: Simd>(simd: S, factor: f32, a: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), a)
}

/// `a * factor + b`
#[inline(always)]
fn fma<S: Simd>(simd: S, factor: f32, a: S::f32s, b: S::f32s) -> S::f32s {
    simd.mul_add_f32s(simd.splat_f32s(factor), a, b)
}

/// The values of `P` inputs, up to the constant divisors that the kernel's values take on themselves.
#[inline(always)]
pub(super) fn input<S: Simd, const P: usize>(s: S, d: [S::f32s; P]) -> [S::f32s; P] {
    let mut values = d;
    if P == 8 {
        let even1 = fma(s, -4.25, d[4], s.add_f32s(d[2], d[P - 2]));
        let odd1 = fma(s, -4.25, d[3], s.add_f32s(d[1], d[5]));
        let even2 = fma(s, -1.25, d[4], fma(s, 0.25, d[2], d[P - 2]));
        let odd2 = fma(s, -2.5, d[3], fma(s, 2.0, d[5], scale(s, 0.5, d[1])));
        let even3 = fma(s, -5.0, d[4], fma(s, 4.0, d[2], d[P - 2]));
        let odd3 = fma(s, -2.5, d[3], fma(s, 2.0, d[1], scale(s, 0.5, d[5])));
        values[0] = fma(s, 5.25, s.sub_f32s(d[2], d[4]), s.sub_f32s(d[P - 2], d[0]));
        values[1] = s.add_f32s(even1, odd1);
        values[2] = s.sub_f32s(even1, odd1);
        values[3] = s.add_f32s(even2, odd2);
        values[4] = s.sub_f32s(even2, odd2);
        values[5] = s.add_f32s(even3, odd3);
        values[P - 2] = s.sub_f32s(even3, odd3);
        values[P - 1] = fma(s, 5.25, s.sub_f32s(d[3], d[5]), s.sub_f32s(d[P - 1], d[1]));
    } else {
        let (even1, odd1) = (fma(s, -B * B, d[2], d[4]), fma(s, -B * B, d[1], d[3]));
        let (even2, odd2) = (fma(s, -A * A, d[2], d[4]), fma(s, -A * A, d[1], d[3]));
        values[0] = fma(s, A * A * B * B, d[0], fma(s, -(A * A + B * B), d[2], d[4]));
        values[1] = fma(s, A, odd1, even1);
        values[2] = fma(s, -A, odd1, even1);
        values[3] = fma(s, B, odd2, even2);
        values[4] = fma(s, -B, odd2, even2);
        values[5] = fma(s, A * A * B * B, d[1], fma(s, -(A * A + B * B), d[3], d[5]));
    }
    values
}

/// The values of a kernel of `K`: 4 or 5 at eight points, 3 or 4 at six.
#[inline(always)]
pub(super) fn kernel<S: Simd, const P: usize, const K: usize>(s: S, g: [S::f32s; K]) -> [S::f32s; P] {
    let zero = s.splat_f32s(0.0);
    let mut values = [zero; P];
    if P == 8 {
        let fifth = if K == 5 { g[K - 1] } else { zero };
        let fourth = if K >= 4 { g[3 % K] } else { zero };
        let even1 = scale(s, -2.0 / 9.0, s.add_f32s(fifth, s.add_f32s(g[0], g[2])));
        let odd1 = s.add_f32s(g[1], fourth);
        let even2 = scale(s, 1.0 / 90.0, fma(s, 16.0, fifth, fma(s, 4.0, g[2], g[0])));
        let odd2 = fma(s, 4.0, fourth, g[1]);
        let even3 = scale(s, 2.0 / 45.0, fma(s, 16.0, g[0], fma(s, 4.0, g[2], fifth)));
        let odd3 = fma(s, 4.0, g[1], fourth);
        values[0] = s.sub_f32s(zero, g[0]);
        values[1] = fma(s, -2.0 / 9.0, odd1, even1);
        values[2] = fma(s, 2.0 / 9.0, odd1, even1);
        values[3] = fma(s, 1.0 / 45.0, odd2, even2);
        values[4] = fma(s, -1.0 / 45.0, odd2, even2);
        values[5] = fma(s, 4.0 / 45.0, odd3, even3);
        values[P - 2] = fma(s, -4.0 / 45.0, odd3, even3);
    } else {
        let fourth = if K == 4 { g[K - 1] } else { zero };
        let even1 = scale(s, 1.0 / NA, fma(s, A * A, g[2], g[0]));
        let odd1 = fma(s, A * A, fourth, g[1]);
        let even2 = scale(s, 1.0 / NB, fma(s, B * B, g[2], g[0]));
        let odd2 = fma(s, B * B, fourth, g[1]);
        values[0] = scale(s, 1.0 / (A * A * B * B), g[0]);
        values[1] = fma(s, A / NA, odd1, even1);
        values[2] = fma(s, -A / NA, odd1, even1);
        values[3] = fma(s, B / NB, odd2, even2);
        values[4] = fma(s, -B / NB, odd2, even2);
    }
    values[P - 1] = g[K - 1];
    values
}

/// `M` results from their values: 4 or 5 of eight, 3 or 4 of six.
#[inline(always)]
pub(super) fn output<S: Simd, const P: usize, const M: usize>(s: S, v: [S::f32s; P]) -> [S::f32s; M] {
    let (even1, odd1) = (s.add_f32s(v[1], v[2]), s.sub_f32s(v[1], v[2]));
    let (even2, odd2) = (s.add_f32s(v[3], v[4]), s.sub_f32s(v[3], v[4]));
    let mut y = [s.splat_f32s(0.0); M];
    y[0] = s.add_f32s(v[0], s.add_f32s(even1, even2));
    if P == 8 {
        let (even3, odd3) = (s.add_f32s(v[5], v[P - 2]), s.sub_f32s(v[5], v[P - 2]));
        y[0] = s.add_f32s(y[0], even3);
        y[1] = fma(s, 0.5, odd3, fma(s, 2.0, odd2, odd1));
        y[2] = fma(s, 0.25, even3, fma(s, 4.0, even2, even1));
        y[3 % M] = fma(s, 0.125, odd3, fma(s, 8.0, odd2, odd1));
        if M > 4 {
            y[4 % M] = fma(s, 0.0625, even3, fma(s, 16.0, even2, even1));
        }
    } else {
        y[1] = fma(s, B, odd2, scale(s, A, odd1));
        y[2] = fma(s, B * B, even2, scale(s, A * A, even1));
        if M > 3 {
            y[3 % M] = fma(s, B * B * B, odd2, scale(s, A * A * A, odd1));
        }
    }
    y[M - 1] = s.add_f32s(y[M - 1], v[P - 1]);
    y
}
