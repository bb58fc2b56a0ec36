//! Winograd's method for 5x5 kernels (Lavin and Gray 2015, with `F(4x4, 5x5)`): a sixth of the multiplications.
//!
//! A tile of 4x4 results comes from 8x8 inputs. Both the tile and the kernel are turned into 8x8 values, polynomials at
//! the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity in either direction; there the convolution is a product, place by
//! place, summed over the channels: 64 small matrix products. The results' values turned back are the results. The
//! gradient of the images is the same with the kernel turned round; the gradient of the weights takes 5x5 results from
//! the same 8x8 inputs and 4x4 gradients (`F(5x5, 4x4)`).
//!
//! Against f64 the results are off by up to 1e-5 of the largest, some times the error of the direct sum. Numbers beyond
//! [`LIMIT`] could overflow on the way, and one NaN would spread over its tile: such images go the direct way.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::ConvShape;
use super::direct::WeightSums;
use super::micro::{Outer, Panel, Strides, tiles, widest};
use super::pass::{Pass, Way};
use crate::host::arch;
use crate::scratch::Aligned;

/// Results in a tile's row, inputs in it, and places of a tile.
const TILE: usize = 4;
const POINTS: usize = 8;
const PLACES: usize = POINTS * POINTS;
const KERNEL: usize = 5;

/// Tiles of a group of images, about: their values are to stay in the second level cache.
const GROUP: usize = 48;

/// Numbers as large as this, infinite ones and NaN are left to the direct way.
const LIMIT: f32 = 1e25;

/// Whether the method applies and makes up for the results that its tiles compute in vain.
pub(super) fn pays(s: &ConvShape, lanes: usize) -> bool {
    let tiles = |h: usize, w: usize| h.div_ceil(TILE) * w.div_ceil(TILE);
    let worth = |h: usize, w: usize| 2 * PLACES * tiles(h, w) <= KERNEL * KERNEL * h * w;
    let whole = s.ci.is_multiple_of(lanes) && s.co.is_multiple_of(lanes);
    s.k == KERNEL && lanes >= 4 && whole && worth(s.h, s.w) && worth(s.oh, s.ow)
}

/// The length that the tiles of `len` results cover, and the length of the inputs that they read.
pub(super) fn reach(len: usize) -> (usize, usize) {
    let covered = len.next_multiple_of(TILE);
    (covered, covered + POINTS - TILE)
}

/// Images that are computed together.
pub(super) fn group(pass: &Pass) -> usize {
    (GROUP / Tiles::new(pass, 1).count).max(1)
}

/// Whether all numbers are within the limit.
#[inline(always)]
pub(super) fn tame(numbers: &[f32]) -> bool {
    numbers.iter().fold(true, |tame, number| tame & (number.abs() < LIMIT))
}

/// The tiles of some images.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    images: usize,
    rows: usize,
    columns: usize,
    count: usize,
}

impl Tiles {
    fn new(pass: &Pass, images: usize) -> Self {
        let (rows, columns) = (pass.oh.div_ceil(TILE), pass.ow.div_ceil(TILE));
        Self { images, rows, columns, count: images * rows * columns }
    }

    /// `(number, image, row, column)` of every tile.
    fn iter(self) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let Self { rows, columns, count, .. } = self;
        (0..count).map(move |t| (t, t / (rows * columns), t / columns % rows, t % columns))
    }
}

/// The distance between the planes of two places: a little more than their size, or all would fall on the same lines of
/// the cache.
fn plane(size: usize) -> usize {
    size + 16
}

/// Floats for the values of a group: of the inputs and of the results.
pub(super) fn values(pass: &Pass, images: usize) -> [usize; 2] {
    if pass.way != Way::Winograd {
        return [0; 2];
    }
    let count = Tiles::new(pass, images).count;
    [PLACES * plane(count * pass.c), PLACES * plane(count * pass.o)]
}

/// Floats for the values of the weights' gradient.
pub(super) fn weight_values(s: &ConvShape) -> usize {
    PLACES * plane(s.ci * s.co)
}

#[inline(always)]
fn load<S: Simd>(_: S, from: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&from[at..at + S::F32_LANES]).0[0]
}

#[inline(always)]
fn store<S: Simd>(_: S, to: &mut [f32], at: usize, vector: S::f32s) {
    S::as_mut_simd_f32s(&mut to[at..at + S::F32_LANES]).0[0] = vector;
}

// The vector code has no closures: one that is not inlined loses the machine's instructions.

/// `N` vectors, `stride` floats apart.
#[inline(always)]
fn line<S: Simd, const N: usize>(simd: S, from: &[f32], stride: usize) -> [S::f32s; N] {
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (i, vector) in vectors.iter_mut().enumerate() {
        *vector = load(simd, from, i * stride);
    }
    vectors
}

/// Column `j` of some rows.
#[inline(always)]
fn column<V: Copy, const R: usize, const C: usize>(rows: &[[V; C]; R], j: usize) -> [V; R] {
    let mut column = [rows[0][0]; R];
    for (value, row) in column.iter_mut().zip(rows) {
        *value = row[j];
    }
    column
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

/// The values of 8 inputs, up to the constant divisors that the kernel's values take on themselves.
#[inline(always)]
fn input<S: Simd>(s: S, d: [S::f32s; 8]) -> [S::f32s; 8] {
    let even1 = fma(s, -4.25, d[4], s.add_f32s(d[2], d[6]));
    let odd1 = fma(s, -4.25, d[3], s.add_f32s(d[1], d[5]));
    let even2 = fma(s, -1.25, d[4], fma(s, 0.25, d[2], d[6]));
    let odd2 = fma(s, -2.5, d[3], fma(s, 2.0, d[5], scale(s, 0.5, d[1])));
    let even3 = fma(s, -5.0, d[4], fma(s, 4.0, d[2], d[6]));
    let odd3 = fma(s, -2.5, d[3], fma(s, 2.0, d[1], scale(s, 0.5, d[5])));
    [
        fma(s, 5.25, s.sub_f32s(d[2], d[4]), s.sub_f32s(d[6], d[0])),
        s.add_f32s(even1, odd1),
        s.sub_f32s(even1, odd1),
        s.add_f32s(even2, odd2),
        s.sub_f32s(even2, odd2),
        s.add_f32s(even3, odd3),
        s.sub_f32s(even3, odd3),
        fma(s, 5.25, s.sub_f32s(d[3], d[5]), s.sub_f32s(d[7], d[1])),
    ]
}

/// The values of a kernel of 4 or 5.
#[inline(always)]
fn kernel<S: Simd, const K: usize>(s: S, g: [S::f32s; K]) -> [S::f32s; 8] {
    let fifth = if K == 5 { g[K - 1] } else { s.splat_f32s(0.0) };
    let even1 = scale(s, -2.0 / 9.0, s.add_f32s(fifth, s.add_f32s(g[0], g[2])));
    let odd1 = s.add_f32s(g[1], g[3]);
    let even2 = scale(s, 1.0 / 90.0, fma(s, 16.0, fifth, fma(s, 4.0, g[2], g[0])));
    let odd2 = fma(s, 4.0, g[3], g[1]);
    let even3 = scale(s, 2.0 / 45.0, fma(s, 16.0, g[0], fma(s, 4.0, g[2], fifth)));
    let odd3 = fma(s, 4.0, g[1], g[3]);
    [
        s.sub_f32s(s.splat_f32s(0.0), g[0]),
        fma(s, -2.0 / 9.0, odd1, even1),
        fma(s, 2.0 / 9.0, odd1, even1),
        fma(s, 1.0 / 45.0, odd2, even2),
        fma(s, -1.0 / 45.0, odd2, even2),
        fma(s, 4.0 / 45.0, odd3, even3),
        fma(s, -4.0 / 45.0, odd3, even3),
        g[K - 1],
    ]
}

/// 4 or 5 results from their 8 values.
#[inline(always)]
fn output<S: Simd, const M: usize>(s: S, v: [S::f32s; 8]) -> [S::f32s; M] {
    let (even1, odd1) = (s.add_f32s(v[1], v[2]), s.sub_f32s(v[1], v[2]));
    let (even2, odd2) = (s.add_f32s(v[3], v[4]), s.sub_f32s(v[3], v[4]));
    let (even3, odd3) = (s.add_f32s(v[5], v[6]), s.sub_f32s(v[5], v[6]));
    let mut y = [v[7]; M];
    y[0] = s.add_f32s(s.add_f32s(v[0], even1), s.add_f32s(even2, even3));
    y[1] = fma(s, 2.0, odd2, fma(s, 0.5, odd3, odd1));
    y[2] = fma(s, 4.0, even2, fma(s, 0.25, even3, even1));
    y[3] = fma(s, 8.0, odd2, fma(s, 0.125, odd3, odd1));
    if M == 5 {
        y[M - 1] = fma(s, 16.0, even2, fma(s, 0.0625, even3, even1));
    }
    y[M - 1] = s.add_f32s(y[M - 1], v[7]);
    y
}

/// The weights' values, `[places][panels][c, channels]`, from the direct way's `[panels][k, k, c, channels]`.
pub(super) fn weights(pass: &Pass, direct: &[f32]) -> Aligned {
    let plane = plane(pass.c * pass.o);
    let mut values = Aligned::zeros(PLACES * plane);
    values.get_mut().par_chunks_mut(POINTS * plane).enumerate().for_each(|(row, values)| {
        arch().dispatch(WeightRow { pass, row, direct, values, plane });
    });
    values
}

/// One of the eight rows of places.
struct WeightRow<'a> {
    pass: &'a Pass,
    row: usize,
    direct: &'a [f32],
    values: &'a mut [f32],
    plane: usize,
}

impl WithSimd for WeightRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { pass: &Pass { c, o, .. }, row, direct, values, plane } = self;
        let panel = 2 * S::F32_LANES;
        for first in (0..o).step_by(panel) {
            let width = panel.min(o - first);
            let direct = &direct[KERNEL * KERNEL * c * first..];
            for at in (0..c * width).step_by(S::F32_LANES) {
                let mut columns = [simd.splat_f32s(0.0); KERNEL];
                for (kx, value) in columns.iter_mut().enumerate() {
                    let weights = line::<S, KERNEL>(simd, &direct[kx * c * width + at..], KERNEL * c * width);
                    *value = kernel(simd, weights)[row];
                }
                for (place, value) in kernel(simd, columns).into_iter().enumerate() {
                    store(simd, values, place * plane + c * first + at, value);
                }
            }
        }
    }
}

/// The values of all 8x8 tiles of padded images, `[places][tiles, c]`.
#[inline(always)]
fn images<S: Simd>(simd: S, pass: &Pass, tiles: Tiles, padded: &[f32], values: &mut [f32]) {
    let (c, row, plane) = (pass.c, pass.row(), plane(tiles.count * pass.c));
    for (t, image, y, x) in tiles.iter() {
        let tile = &padded[image * pass.padded() + y * TILE * row + x * TILE * c..];
        for channel in (0..c).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); POINTS]; POINTS];
            for (i, values) in rows.iter_mut().enumerate() {
                *values = input(simd, line(simd, &tile[i * row + channel..], c));
            }
            for j in 0..POINTS {
                for (i, value) in input(simd, column(&rows, j)).into_iter().enumerate() {
                    store(simd, values, (i * POINTS + j) * plane + t * c + channel, value);
                }
            }
        }
    }
}

/// The values of all 4x4 tiles of the results' gradients as kernels, `[places][tiles, c]`; `back` is the pass that they
/// were padded for.
#[inline(always)]
fn gradients<S: Simd>(simd: S, back: &Pass, tiles: Tiles, padded: &[f32], values: &mut [f32]) {
    let (c, row, plane) = (back.c, back.row(), plane(tiles.count * back.c));
    for (t, image, y, x) in tiles.iter() {
        let tile = &padded[image * back.padded() + (back.pad + y * TILE) * row + (back.pad + x * TILE) * c..];
        for channel in (0..c).step_by(S::F32_LANES) {
            let mut rows = [[simd.splat_f32s(0.0); POINTS]; TILE];
            for (i, values) in rows.iter_mut().enumerate() {
                *values = kernel::<S, TILE>(simd, line(simd, &tile[i * row + channel..], c));
            }
            for j in 0..POINTS {
                for (i, value) in kernel(simd, column(&rows, j)).into_iter().enumerate() {
                    store(simd, values, (i * POINTS + j) * plane + t * c + channel, value);
                }
            }
        }
    }
}

/// The sums of a pass over padded images, `[panels, n, pixels, channels]`.
#[inline(always)]
pub(super) fn sums<S: Simd>(
    simd: S,
    pass: &Pass,
    count: usize,
    padded: &[f32],
    weights: &[f32],
    [values, products]: [&mut [f32]; 2],
    sums: &mut [f32],
) {
    let &Pass { c, o, oh, ow, .. } = pass;
    let grid = Tiles::new(pass, count);
    images(simd, pass, grid, padded, values);
    let panel = 2 * S::F32_LANES;
    let product_plane = plane(grid.count * o);
    for place in 0..PLACES {
        let values = &values[place * plane(grid.count * c)..];
        for first in (0..o).step_by(panel) {
            let width = panel.min(o - first);
            let weights = &weights[place * plane(c * o) + c * first..][..c * width];
            let products = &mut products[place * product_plane + grid.count * first..];
            for (at, size) in tiles(grid.count, widest::<S>()) {
                let sums = &mut products[at * width..][..size * width];
                Panel { x: &values[at * c..], row: 0, step: c, len: c, weights, sums, first: true }.run(
                    simd,
                    size,
                    width / S::F32_LANES,
                );
            }
        }
    }
    for first in (0..o).step_by(panel) {
        let width = panel.min(o - first);
        let sums = &mut sums[grid.images * oh * ow * first..][..grid.images * oh * ow * width];
        for (t, image, y, x) in grid.iter() {
            for channel in (0..width).step_by(S::F32_LANES) {
                let at = grid.count * first + t * width + channel;
                let mut rows = [[simd.splat_f32s(0.0); TILE]; POINTS];
                for (i, rows) in rows.iter_mut().enumerate() {
                    let values = &products[i * POINTS * product_plane + at..];
                    *rows = output(simd, line(simd, values, product_plane));
                }
                for j in 0..TILE.min(ow - x * TILE) {
                    let column: [S::f32s; TILE] = output(simd, column(&rows, j));
                    for (i, &value) in column[..TILE.min(oh - y * TILE)].iter().enumerate() {
                        let pixel = (image * oh + y * TILE + i) * ow + x * TILE + j;
                        store(simd, sums, pixel * width + channel, value);
                    }
                }
            }
        }
    }
}

/// Adds the values of the weights' gradient, `[places][ci, co]`, over some images.
#[inline(always)]
pub(super) fn add_weights<S: Simd>(
    simd: S,
    forward: &Pass,
    back: &Pass,
    count: usize,
    [x, grad]: [&[f32]; 2],
    [x_values, grad_values]: [&mut [f32]; 2],
    sums: &mut [f32],
) {
    let (ci, co) = (forward.c, forward.o);
    let grid = Tiles::new(forward, count);
    images(simd, forward, grid, x, x_values);
    gradients(simd, back, grid, grad, grad_values);
    for place in 0..PLACES {
        let x = &x_values[place * plane(grid.count * ci)..];
        let grad = &grad_values[place * plane(grid.count * co)..];
        let sums = &mut sums[place * plane(ci * co)..];
        let strides = |pixel: usize| Strides { image: 0, row: 0, pixel };
        for (first, vectors) in tiles(co / S::F32_LANES, 2) {
            let vector = first * S::F32_LANES;
            for (scalar, size) in tiles(ci, widest::<S>()) {
                Outer {
                    a: &x[scalar..],
                    a_strides: strides(ci),
                    b: &grad[vector..],
                    b_strides: strides(co),
                    pixels: [1, 1, grid.count],
                    sums: &mut sums[scalar * co + vector..],
                    stride: co,
                }
                .run(simd, size, vectors);
            }
        }
    }
}

/// Turns the values of the weights' gradient back and adds them to the direct way's sums.
#[inline(always)]
pub(super) fn finish_weights<S: Simd>(simd: S, layout: &WeightSums, forward: &Pass, values: &[f32], sums: &mut [f32]) {
    let (ci, co) = (forward.c, forward.o);
    let plane = plane(ci * co);
    for at in (0..ci * co).step_by(S::F32_LANES) {
        let mut rows = [[simd.splat_f32s(0.0); KERNEL]; POINTS];
        for (i, rows) in rows.iter_mut().enumerate() {
            *rows = output(simd, line(simd, &values[i * POINTS * plane + at..], plane));
        }
        for kx in 0..KERNEL {
            let column: [S::f32s; KERNEL] = output(simd, column(&rows, kx));
            for (ky, value) in column.into_iter().enumerate() {
                let place = layout.place(ky, kx * ci + at / co, at % co);
                store(simd, sums, place, simd.add_f32s(load(simd, sums, place), value));
            }
        }
    }
}
