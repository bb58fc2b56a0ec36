//! Winograd's method for 5x5 and 3x3 kernels (Lavin and Gray 2015; `F(4x4, 5x5)` and `F(4x4, 3x3)`): a sixth and a
//! quarter of the multiplications.
//!
//! A tile of 4x4 results comes from PxP inputs, P = 8 or 6. Both the tile and the kernel are turned into PxP values of
//! polynomials ([`lines`]); there the convolution is a product, place by place, summed over the channels: 64 or 36
//! small matrix products. The results' values turned back are the results. The gradient of the images is the same with
//! the kernel turned round; the gradient of the weights takes KxK results from the same inputs and 4x4 gradients.
//!
//! Against f64 the results are off by up to 1e-5 of the largest for 5x5 and 4e-6 for 3x3, some times the error of the
//! direct sum. Numbers beyond [`LIMIT`] could overflow on the way, and one NaN would spread over its tile: such
//! images go the direct way.

mod gradient;
mod lines;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::micro::{Panel, tiles, widest};
use super::pass::{Pass, Way};
use super::weights::{Weights, panel};
use crate::kernels::cpu::host::{PIECE, arch, min_tasks};
use crate::kernels::cpu::silu::Finish;
pub(super) use gradient::WeightValues;
use lines::{Image, Places, Rows, Window, input, kernel, output};

/// Results in a row of a tile.
const TILE: usize = 4;

/// Tiles of a group of images, about: their values are to stay in the second level cache.
const GROUP: usize = 48;

/// The same where each group brings the weights into form, which takes as long as about four tiles.
const LARGE_GROUP: usize = 128;

/// Numbers as large as this, infinite ones and NaN are left to the direct way.
const LIMIT: f32 = 1e25;

/// Inputs in a tile's row.
fn points(k: usize) -> usize {
    k + TILE - 1
}

/// Whether the method applies, and saves more than the results beyond the image's edge cost.
pub(super) fn worthwhile(pass: &Pass, lanes: usize) -> bool {
    let &Pass { c, o, k, stride, oh, ow, .. } = pass;
    let count = oh.div_ceil(TILE) * ow.div_ceil(TILE);
    let worth = 2 * points(k) * points(k) * count <= k * k * oh * ow;
    let whole = c.is_multiple_of(lanes) && o.is_multiple_of(lanes);
    (k == 5 || k == 3) && stride == 1 && lanes >= 4 && whole && worth
}

/// The length of padded images that the tiles of `len` results read.
pub(super) fn padded_len(k: usize, len: usize) -> usize {
    len.next_multiple_of(TILE) + k - 1
}

/// Images that are computed together.
pub(super) fn group(pass: &Pass) -> usize {
    (GROUP / Tiles::new(pass, 1).count).max(1)
}

/// The same where the weights are brought into form for each group.
pub(super) fn large_group(pass: &Pass) -> usize {
    (LARGE_GROUP / Tiles::new(pass, 1).count).max(1)
}

/// Rows of the results that are computed together: of a large image some, which are whole tiles.
pub(super) fn band_rows(pass: &Pass) -> usize {
    let tiles = Tiles::new(pass, 1);
    if tiles.count <= LARGE_GROUP { pass.oh } else { (LARGE_GROUP / tiles.columns).max(1) * TILE }
}

/// [`bounded`], by all threads.
pub(super) fn all_bounded(numbers: &[f32]) -> bool {
    numbers.par_chunks(PIECE).with_min_len(min_tasks()).all(bounded)
}

/// Whether all numbers are within the limit.
pub(super) fn bounded(numbers: &[f32]) -> bool {
    arch().dispatch(Bounded(numbers))
}

struct Bounded<'a>(&'a [f32]);

impl WithSimd for Bounded<'_> {
    type Output = bool;

    /// Plain code that the compiler turns into the vectors of `S`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> bool {
        self.0.iter().fold(true, |bounded, number| bounded & (number.abs() < LIMIT))
    }
}

/// The tiles of some images.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    rows: usize,
    columns: usize,
    count: usize,
}

impl Tiles {
    fn new(pass: &Pass, images: usize) -> Self {
        let (rows, columns) = (pass.oh.div_ceil(TILE), pass.ow.div_ceil(TILE));
        Self { rows, columns, count: images * rows * columns }
    }

    /// `(number, image, row, column)` of every tile.
    fn iter(self) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let Self { rows, columns, count } = self;
        (0..count).map(move |t| (t, t / (rows * columns), t / columns % rows, t % columns))
    }
}

/// The distance between the planes of two places: a little more than their size, or all would fall on the same lines of
/// the cache.
pub(super) fn plane(size: usize) -> usize {
    size + 16
}

/// Floats for the values of a group of images: of the inputs, and of a panel of the results.
pub(super) fn rooms(pass: &Pass, images: usize) -> [usize; 2] {
    if pass.way != Way::Winograd {
        return [0; 2];
    }
    let (count, places) = (Tiles::new(pass, images).count, points(pass.k).pow(2));
    [places * plane(count * pass.c), places * plane(count * panel(pass))]
}

/// Floats of the values of `kernels` kernels.
pub(super) fn form(k: usize, kernels: usize) -> usize {
    points(k).pow(2) * plane(kernels)
}

/// The values of kernels `[kernels, k, k, width]`, `[places][kernels, width]`.
pub(super) struct Kernels<'a> {
    pub(super) k: usize,
    /// Whole vectors.
    pub(super) width: usize,
    /// Whether each kernel is read from its end.
    pub(super) turned: bool,
    pub(super) kernels: &'a [f32],
    pub(super) to: &'a mut [f32],
    /// Floats from place to place.
    pub(super) plane: usize,
}

impl WithSimd for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.k == 5 { self.run::<S, 8, 5>(simd) } else { self.run::<S, 6, 3>(simd) }
    }
}

impl Kernels<'_> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const K: usize>(self, simd: S) {
        let Self { width, turned, kernels, to, plane, .. } = self;
        let count = kernels.len() / (K * K * width);
        let from = Places::new(K * K * width, [K, K], [K * width, width], width);
        let places = Places::new(to.len(), [P, P], [P * plane, plane], count * width);
        for (i, kernel_of) in kernels.chunks_exact(K * K * width).enumerate() {
            for at in (0..width).step_by(S::F32_LANES) {
                let mut weights = Rows::<_, K, K>::new();
                for ky in 0..K {
                    let mut row = [simd.splat_f32s(0.0); K];
                    for (kx, weight) in row.iter_mut().enumerate() {
                        let (ky, kx) = if turned { (K - 1 - ky, K - 1 - kx) } else { (ky, kx) };
                        // SAFETY: ky and kx are below K, `at` is a vector below the width (whole vectors).
                        *weight = unsafe { from.load(simd, kernel_of, ky, kx, at) };
                    }
                    weights.set(ky, row);
                }
                let mut columns = Rows::<_, K, P>::new();
                for kx in 0..K {
                    // SAFETY: all rows have been set.
                    columns.set(kx, kernel::<S, P, K>(simd, unsafe { weights.column(kx) }));
                }
                for row in 0..P {
                    // SAFETY: all columns have been set.
                    let values = kernel::<S, P, K>(simd, unsafe { columns.column(row) });
                    for (place, value) in values.into_iter().enumerate() {
                        // SAFETY: row and place are below P, and i below the count.
                        unsafe { places.store(simd, to, (row, place), i * width + at, value) };
                    }
                }
            }
        }
    }
}

/// The results of some images, finished.
#[inline(always)]
pub(super) fn results<S: Simd>(
    simd: S,
    pass: &Pass,
    count: usize,
    images: &[f32],
    weights: Weights,
    rooms: [&mut [f32]; 3],
    finish: Finish,
) {
    match pass.k {
        5 => results_by::<S, 8>(simd, pass, count, images, weights, rooms, finish),
        _ => results_by::<S, 6>(simd, pass, count, images, weights, rooms, finish),
    }
}

#[inline(always)]
fn results_by<S: Simd, const P: usize>(
    simd: S,
    pass: &Pass,
    count: usize,
    images: &[f32],
    weights: Weights,
    [weights_room, values, products]: [&mut [f32]; 3],
    mut finish: Finish,
) {
    let &Pass { c, o, oh, ow, .. } = pass;
    let grid = Tiles::new(pass, count);
    let value_plane = plane(grid.count * c);
    let ([h, w], first) = pass.tiled();
    for (t, image, y, x) in grid.iter() {
        let image = Image { pixels: &images[image * h * w * c..][..h * w * c], h, w, c };
        image_tile::<S, P>(simd, image, at(first, y, x), &mut values[t * c..], value_plane);
    }
    let panel = 2 * S::F32_LANES;
    for first in (0..o).step_by(panel) {
        let width = panel.min(o - first);
        let product_plane = plane(grid.count * width);
        let part = weights.parts(pass);
        for start in (0..c).step_by(part) {
            let inputs = start..c.min(start + part);
            let len = inputs.len();
            // what follows comes from memory meanwhile
            let next = match inputs.end {
                end if end < c => Some((first, width, end..c.min(end + part))),
                _ if first + width < o => Some((first + width, panel.min(o - first - width), 0..c.min(part))),
                _ => None,
            };
            let (form, form_plane) = weights.winograd(pass, (first, width), inputs, weights_room);
            for place in 0..P * P {
                if let Some((first, width, inputs)) = next.clone() {
                    weights.fetch(pass, (first, width), inputs, [place, P * P]);
                }
                let values = &values[place * value_plane + start..];
                let weights = &form[place * form_plane..][..len * width];
                let products = &mut products[place * product_plane..];
                for (at, size) in tiles(grid.count, widest::<S>()) {
                    let sums = &mut products[at * width..][..size * width];
                    let x = &values[at * c..];
                    Panel { x, row: 0, step: c, len, weights, sums, stride: width, first: start == 0 }.run(
                        simd,
                        size,
                        width / S::F32_LANES,
                    );
                }
            }
        }
        let places = Places::new(products.len(), [P, P], [P * product_plane, product_plane], grid.count * width);
        for channel in (0..width).step_by(S::F32_LANES) {
            let bias = finish.bias_vector(simd, first + channel);
            for (t, image, y, x) in grid.iter() {
                let mut rows = Rows::<_, P, TILE>::new();
                for i in 0..P {
                    let mut values = [simd.splat_f32s(0.0); P];
                    for (j, value) in values.iter_mut().enumerate() {
                        // SAFETY: i and j are below P, and the tile's channels below count * width.
                        *value = unsafe { places.load(simd, products, i, j, t * width + channel) };
                    }
                    rows.set(i, output::<S, P, TILE>(simd, values));
                }
                for j in 0..TILE.min(ow - x * TILE) {
                    // SAFETY: all rows have been set.
                    let column = output::<S, P, TILE>(simd, unsafe { rows.column(j) });
                    for (i, &value) in column[..TILE.min(oh - y * TILE)].iter().enumerate() {
                        let pixel = (image * oh + y * TILE + i) * ow + x * TILE + j;
                        finish.store(simd, pixel * o + first + channel, simd.add_f32s(value, bias));
                    }
                }
            }
        }
    }
}

/// The row and the column where a tile begins, if the first one begins at `first`.
fn at([top, left]: [isize; 2], y: usize, x: usize) -> [isize; 2] {
    [top + (y * TILE) as isize, left + (x * TILE) as isize]
}

/// The values of a tile of an image, `plane` floats from place to place.
#[inline(always)]
fn image_tile<S: Simd, const P: usize>(simd: S, image: Image, at: [isize; 2], values: &mut [f32], plane: usize) {
    let from = Window::<P>::new(image, at);
    let to = Places::new(values.len(), [P, P], [P * plane, plane], image.c);
    for channel in (0..image.c).step_by(S::F32_LANES) {
        let mut rows = Rows::<_, P, P>::new();
        for i in 0..P {
            // SAFETY: c is a number of whole vectors.
            rows.set(i, input(simd, unsafe { from.row(simd, i, channel) }));
        }
        for j in 0..P {
            // SAFETY: all rows have been set.
            for (i, value) in input(simd, unsafe { rows.column(j) }).into_iter().enumerate() {
                // SAFETY: i and j are below P; c is a number of whole vectors.
                unsafe { to.store(simd, values, (i, j), channel, value) };
            }
        }
    }
}
