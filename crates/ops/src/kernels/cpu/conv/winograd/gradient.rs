//! The gradient of the weights: KxK results of a tile's inputs and the 4x4 gradients of its results.

use candle_core::Result;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::lines::{Image, Places, Rows, Window, kernel, output};
use super::{GROUP, TILE, Tiles, at, group, image_tile, plane, points};
use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::conv::micro::{Outer, Strides, tiles, widest};
use crate::kernels::cpu::conv::pass::Pass;
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::host::{arch, lanes, min_tasks};
use crate::kernels::cpu::scratch::with_scratch;
use crate::kernels::cpu::transpose::transpose;

/// Where the sums of all channels have so many floats, they would go through memory, once for each group of images and
/// to be turned back. Few tiles are multiplied block by block of channels instead.
const LARGE_SUMS: usize = 1 << 18;
const FEW_TILES: usize = 4 * GROUP;

/// Channels of the images, and vectors of channels of the results, of such a block. Its sums at all places stay in the
/// second level cache.
const BLOCK: [usize; 2] = [28, 2];

/// The gradient of the weights `[co, ci, k, k]` from groups of images and their results' gradients.
pub(in super::super) struct WeightValues {
    forward: Pass,
    /// Of one image: its tiles, and floats from place to place of images and gradients.
    tiles: Tiles,
    x_plane: usize,
    grad_plane: usize,
    /// Images of a group.
    group: usize,
    /// Whether that is all, and their products are computed block by block.
    in_blocks: bool,
    sums: Sums,
}

enum Sums {
    Nothing,
    /// `[places][ci, co]`, of all groups so far.
    Places(Buffer),
    /// The gradient, of the only group.
    Weight(Buffer),
}

impl WeightValues {
    /// For so many images in all.
    pub(in super::super) fn new(forward: &Pass, images: usize) -> Self {
        let tiles = Tiles::new(forward, 1);
        let large = points(forward.k).pow(2) * forward.c * forward.o >= LARGE_SUMS;
        let in_blocks = large && images * tiles.count <= FEW_TILES;
        Self {
            forward: *forward,
            tiles,
            x_plane: tiles.count * forward.c,
            grad_plane: tiles.count * forward.o,
            group: if in_blocks { images } else { group(forward).min(images) },
            in_blocks,
            sums: Sums::Nothing,
        }
    }

    /// Images that are added together: the same ones on any number of threads.
    pub(in super::super) fn group(&self) -> usize {
        self.group
    }

    /// Floats of the values of one image, and of one image's gradients.
    pub(in super::super) fn image(&self) -> [usize; 2] {
        let places = points(self.forward.k).pow(2);
        [places * self.x_plane, places * self.grad_plane]
    }

    /// Turns an image and its result's gradient into values.
    pub(in super::super) fn values(&self, image: (&[f32], &[f32]), values: (&mut [f32], &mut [f32])) {
        arch().dispatch(Values { of: self, image, values });
    }

    /// Adds the products of the values of a group of `count` images.
    pub(in super::super) fn add(&mut self, count: usize, x: &[f32], grad: &[f32]) -> Result<()> {
        let &Self { forward: Pass { c, o, k, .. }, x_plane, grad_plane, .. } = &*self;
        let [x_image, grad_image] = self.image();
        let pixels = [count, 1, self.tiles.count];
        let products = Products { channels: [c, o], pixels, x, x_image, x_plane, grad, grad_image, grad_plane };
        let (places, plane) = (points(k).pow(2), plane(c * o));
        let (mut sums, add) = match std::mem::replace(&mut self.sums, Sums::Nothing) {
            Sums::Places(sums) => (sums, true),
            _ if self.in_blocks => {
                self.sums = Sums::Weight(products.weight(k)?);
                return Ok(());
            }
            _ => (Buffer::new(places * plane)?, false),
        };
        sums.par_chunks_mut(plane).enumerate().with_min_len(min_tasks()).for_each(|(place, sums)| {
            let _flush = FlushDenormals::new();
            let sums = &mut sums[..c * o];
            arch().dispatch(PlaceProduct { products, place, at: [0, 0], size: [c, o], sums, add });
        });
        self.sums = Sums::Places(sums);
        Ok(())
    }

    /// What was added, turned back: `[co, ci, k, k]`.
    pub(in super::super) fn finish(self) -> Result<Buffer> {
        let Pass { c, o, k, .. } = self.forward;
        let sums = match self.sums {
            Sums::Nothing => return Buffer::zeros(o * c * k * k),
            Sums::Weight(weight) => return Ok(weight),
            Sums::Places(sums) => sums,
        };
        let mut weight = Buffer::new(o * c * k * k)?;
        let block = lanes(); // of output channels: one vector
        weight.par_chunks_mut(block * c * k * k).enumerate().with_min_len(min_tasks()).for_each(|(i, weight)| {
            let _flush = FlushDenormals::new();
            let (sums, plane) = (&sums[i * block..], plane(c * o));
            arch().dispatch(TurnBack { k, sums, plane, row: o, inputs: c, weight, per_output: c * k * k });
        });
        Ok(weight)
    }
}

struct Values<'a> {
    of: &'a WeightValues,
    image: (&'a [f32], &'a [f32]),
    values: (&'a mut [f32], &'a mut [f32]),
}

impl WithSimd for Values<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.of.forward.k == 5 { self.run::<S, 8>(simd) } else { self.run::<S, 6>(simd) }
    }
}

impl Values<'_> {
    #[inline(always)]
    fn run<S: Simd, const P: usize>(self, simd: S) {
        let Self { of, image: (x, grad), values: (x_values, grad_values) } = self;
        let Pass { c, o, oh, ow, .. } = of.forward;
        let ([h, w], first) = of.forward.tiled();
        let (image, grad) = (Image { pixels: x, h, w, c }, Image { pixels: grad, h: oh, w: ow, c: o });
        for (t, _, y, x) in of.tiles.iter() {
            image_tile::<S, P>(simd, image, at(first, y, x), &mut x_values[t * c..], of.x_plane);
            gradient_tile::<S, P>(simd, grad, at([0, 0], y, x), &mut grad_values[t * o..], of.grad_plane);
        }
    }
}

/// The values of images and of their results' gradients, to be multiplied place by place.
#[derive(Clone, Copy)]
struct Products<'a> {
    /// Of the images, and of the gradients.
    channels: [usize; 2],
    /// Images, and the tiles of one as rows and columns.
    pixels: [usize; 3],
    x: &'a [f32],
    x_image: usize,
    x_plane: usize,
    grad: &'a [f32],
    grad_image: usize,
    grad_plane: usize,
}

impl Products<'_> {
    /// The gradient of the weights, block by block.
    fn weight(self, k: usize) -> Result<Buffer> {
        let [c, o] = self.channels;
        let (places, per_output, vector) = (points(k).pow(2), c * k * k, lanes());
        let [inputs, outputs] = [BLOCK[0], BLOCK[1] * vector];
        let plane = plane(inputs * outputs);
        let mut weight = Buffer::new(o * per_output)?;
        let blocks = weight.par_chunks_mut(outputs * per_output).enumerate();
        blocks.with_min_len(min_tasks()).for_each(|(i, weight)| {
            let _flush = FlushDenormals::new();
            let width = weight.len() / per_output;
            with_scratch([places * plane], |[sums]| {
                for start in (0..c).step_by(inputs) {
                    let (at, size) = ([start, i * outputs], [inputs.min(c - start), width]);
                    for place in 0..places {
                        let sums = &mut sums[place * plane..][..size[0] * width];
                        arch().dispatch(PlaceProduct { products: self, place, at, size, sums, add: false });
                    }
                    for (i, weight) in weight.chunks_exact_mut(vector * per_output).enumerate() {
                        let (sums, weight) = (&sums[i * vector..], &mut weight[start * k * k..]);
                        arch().dispatch(TurnBack { k, sums, plane, row: width, inputs: size[0], weight, per_output });
                    }
                }
            });
        });
        Ok(weight)
    }
}

/// The sums of some channels at one place, `[channels of images, channels of gradients]`.
struct PlaceProduct<'a> {
    products: Products<'a>,
    place: usize,
    /// The first channels, and their numbers.
    at: [usize; 2],
    size: [usize; 2],
    sums: &'a mut [f32],
    /// To what the sums hold.
    add: bool,
}

impl WithSimd for PlaceProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { products, place, at, size: [inputs, outputs], sums, add } = self;
        let Products { channels, pixels, x, x_image, x_plane, grad, grad_image, grad_plane } = products;
        let (x, grad) = (&x[place * x_plane + at[0]..], &grad[place * grad_plane + at[1]..]);
        for (first, vectors) in tiles(outputs / S::F32_LANES, 2) {
            let vector = first * S::F32_LANES;
            for (scalar, size) in tiles(inputs, widest::<S>()) {
                Outer {
                    a: &x[scalar..],
                    a_strides: Strides { image: x_image, row: 0, pixel: channels[0] },
                    b: &grad[vector..],
                    b_strides: Strides { image: grad_image, row: 0, pixel: channels[1] },
                    pixels,
                    sums: &mut sums[scalar * outputs + vector..],
                    stride: outputs,
                    first: !add,
                }
                .run(simd, size, vectors);
            }
        }
    }
}

/// From the sums at all places to the weights of a vector of output channels.
struct TurnBack<'a> {
    k: usize,
    /// From the vector on, `row` floats from one input channel to the next.
    sums: &'a [f32],
    plane: usize,
    row: usize,
    inputs: usize,
    /// From the first of the input channels on, `per_output` floats from one output channel to the next.
    weight: &'a mut [f32],
    per_output: usize,
}

impl WithSimd for TurnBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.k == 5 { self.run::<S, 8, 5>(simd) } else { self.run::<S, 6, 3>(simd) }
    }
}

impl TurnBack<'_> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const K: usize>(self, simd: S) {
        let Self { sums, plane, row, inputs, weight, per_output, .. } = self;
        let places = Places::new(sums.len(), [P, P], [P * plane, plane], (inputs - 1) * row + S::F32_LANES);
        let mut kernels = [0.0; 5 * 5 * 16]; // at most: a kernel in each lane
        for c in 0..inputs {
            let mut rows = Rows::<_, P, K>::new();
            for i in 0..P {
                let mut values = [simd.splat_f32s(0.0); P];
                for (j, value) in values.iter_mut().enumerate() {
                    // SAFETY: i and j are below P; the places were made for a vector of every input channel.
                    *value = unsafe { places.load(simd, sums, i, j, c * row) };
                }
                rows.set(i, output::<S, P, K>(simd, values));
            }
            for kx in 0..K {
                // SAFETY: all rows have been set.
                let column = output::<S, P, K>(simd, unsafe { rows.column(kx) });
                for (ky, value) in column.into_iter().enumerate() {
                    let at = (ky * K + kx) * S::F32_LANES;
                    S::as_mut_simd_f32s(&mut kernels[at..][..S::F32_LANES]).0[0] = value;
                }
            }
            transpose(&kernels, S::F32_LANES, &mut weight[c * K * K..], per_output, K * K, S::F32_LANES);
        }
    }
}

/// The values of a 4x4 tile of gradients as a kernel.
#[inline(always)]
fn gradient_tile<S: Simd, const P: usize>(simd: S, grad: Image, at: [isize; 2], values: &mut [f32], plane: usize) {
    let from = Window::<TILE>::new(grad, at);
    let to = Places::new(values.len(), [P, P], [P * plane, plane], grad.c);
    for channel in (0..grad.c).step_by(S::F32_LANES) {
        let mut rows = Rows::<_, TILE, P>::new();
        for i in 0..TILE {
            // SAFETY: c is a number of whole vectors.
            rows.set(i, kernel::<S, P, TILE>(simd, unsafe { from.row(simd, i, channel) }));
        }
        for j in 0..P {
            // SAFETY: all rows have been set.
            let column = unsafe { rows.column(j) };
            for (i, value) in kernel::<S, P, TILE>(simd, column).into_iter().enumerate() {
                // SAFETY: i and j are below P; c is a number of whole vectors.
                unsafe { to.store(simd, values, (i, j), channel, value) };
            }
        }
    }
}
