//! A convolution over a batch: what a task computes, in which order, by which way.

use std::ops::Range;

use candle_core::Result;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::direct::{self, WeightSums};
use super::pass::{Pass, Way};
use super::weights::Prepared;
use super::winograd::{self, WeightValues};
use crate::kernels::cpu::buffer::{Buffer, SLACK};
use crate::kernels::cpu::denormals::FlushDenormals;
use crate::kernels::cpu::elementwise::AddColumns;
use crate::kernels::cpu::host::{arch, lanes, min_tasks, piece};
use crate::kernels::cpu::scratch::with_scratch;
use crate::kernels::cpu::silu::Finish;
use crate::op::conv_shape::ConvShape;

/// Images whose weight gradients are computed together, and whose bias gradients are added up before those of others.
const IMAGES: usize = 4;

/// The results `[b, oh, ow, o]` of images `[b, h, w, c]`, bias and SiLU applied; its derivative where one is wanted.
pub(crate) fn forward(
    prepared: &Prepared,
    x: &[f32],
    bias: Option<&[f32]>,
    silu: bool,
    mut y: &mut [f32],
    mut derivative: Option<&mut [f32]>,
) {
    let whole = &prepared.pass;
    let batch = y.len() / whole.result();
    // of about equal size
    let group = batch.div_ceil(batch.div_ceil(whole.group()).max(1)).max(1);
    let task = |task: Task| {
        let _flush = FlushDenormals::new();
        let Task { images, pass, y, derivative } = task;
        let images = &x[images.start * pass.image()..images.end * pass.image()];
        let count = images.len() / pass.image();
        let [values, products] = winograd::rooms(&pass, count);
        let padded = if pass.as_it_is() { 0 } else { count * pass.padded() };
        with_scratch([padded, direct::room(&pass, lanes()), values, products], |rooms| {
            arch().dispatch(Forward { prepared, pass, images, rooms, finish: Finish { bias, silu, y, derivative } });
        });
    };
    let mut tasks = Vec::new();
    let rows = band_rows(whole, batch.div_ceil(group));
    let group = if rows < whole.oh { 1 } else { group };
    for first in (0..batch).step_by(group) {
        let images = first..batch.min(first + group);
        for from in (0..whole.oh).step_by(rows) {
            let pass = if rows < whole.oh { whole.band(from, rows.min(whole.oh - from)) } else { *whole };
            let len = images.len() * pass.result();
            let (piece, rest) = std::mem::take(&mut y).split_at_mut(len);
            y = rest;
            let (slopes, rest) = match derivative.take() {
                Some(derivative) => {
                    let (piece, rest) = derivative.split_at_mut(len);
                    (Some(piece), Some(rest))
                }
                None => (None, None),
            };
            derivative = rest;
            tasks.push(Task { images: images.clone(), pass, y: piece, derivative: slopes });
        }
    }
    tasks.into_par_iter().with_min_len(min_tasks()).for_each(task);
}

/// What one task computes: some images, or a band of one.
struct Task<'a> {
    images: Range<usize>,
    pass: Pass,
    y: &'a mut [f32],
    derivative: Option<&'a mut [f32]>,
}

/// Rows of the results that a task computes at once: all, but where there are fewer groups of images than threads and
/// the work is large enough to be shared.
fn band_rows(pass: &Pass, groups: usize) -> usize {
    /// Multiplications of an image, directly, from which on a second thread helps more than it costs: about 0.1 ms.
    const WORTH: usize = 1 << 24;
    let threads = rayon::current_num_threads();
    if groups >= threads || pass.result() * pass.k * pass.window() < WORTH {
        return pass.oh;
    }
    pass.oh.div_ceil(threads.div_ceil(groups.max(1))).next_multiple_of(4)
}

/// One group of images.
struct Forward<'a> {
    prepared: &'a Prepared,
    pass: Pass,
    images: &'a [f32],
    /// For padded images, the sums of a row, and the values and products of Winograd's method.
    rooms: [&'a mut [f32]; 4],
    finish: Finish<'a>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { prepared, ref pass, images, rooms: [padded, room, values, products], mut finish } = self;
        let Prepared { direct: weights, winograd: values_of_weights, .. } = prepared;
        let count = images.len() / pass.image();
        let padded = if pass.as_it_is() {
            images
        } else {
            pass.pad(images, padded);
            &*padded
        };
        match values_of_weights {
            Some(weights) if winograd::bounded(images) => {
                winograd::results(simd, pass, count, padded, weights, [values, products], finish);
                return;
            }
            _ if pass.way == Way::Narrow => direct::narrow(simd, pass, count, padded, weights, finish.y),
            _ => direct::wide(simd, pass, count, padded, weights, room, finish.y),
        }
        finish.apply(simd, pass.o);
    }
}

/// Multiplies the results' gradients by SiLU's derivative, and sums them over images and pixels.
pub(crate) fn scale_and_sum(s: &ConvShape, grad: &mut [f32], derivative: &[f32], sums: &mut [f32]) -> Result<()> {
    let image = s.co * s.oh * s.ow;
    let mut parts = Buffer::zeros(s.b.div_ceil(IMAGES) * s.co)?;
    let pieces = grad.par_chunks_mut(IMAGES * image).zip(derivative.par_chunks(IMAGES * image));
    pieces.zip(parts.par_chunks_mut(s.co)).with_min_len(min_tasks()).for_each(|((grad, derivative), sums)| {
        let _flush = FlushDenormals::new();
        grad.iter_mut().zip(derivative).for_each(|(grad, derivative)| *grad *= derivative);
        arch().dispatch(AddColumns { rows: grad, width: s.co, sums });
    });
    add_parts(&parts, sums);
    Ok(())
}

/// Sums the results' gradients over images and pixels.
pub(crate) fn sum_channels(s: &ConvShape, grad: &[f32], sums: &mut [f32]) -> Result<()> {
    let mut parts = Buffer::zeros(s.b.div_ceil(IMAGES) * s.co)?;
    let pieces = grad.par_chunks(IMAGES * s.co * s.oh * s.ow).zip(parts.par_chunks_mut(s.co));
    pieces.with_min_len(min_tasks()).for_each(|(grad, sums)| {
        let _flush = FlushDenormals::new();
        arch().dispatch(AddColumns { rows: grad, width: s.co, sums });
    });
    add_parts(&parts, sums);
    Ok(())
}

fn add_parts(parts: &[f32], sums: &mut [f32]) {
    for part in parts.chunks_exact(sums.len()) {
        sums.iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
    }
}

/// The gradient of the weights, `[co, ci, k, k]`, from images and results' gradients, channels last.
pub(crate) fn weight_gradient(s: &ConvShape, x: &Buffer, grad: &Buffer) -> Result<Buffer> {
    let pass = Pass::forward(s, true);
    let (image, result) = (pass.image(), pass.result());
    let images = x.len() / image;
    // The same images together on any number of threads, whatever they hold.
    let count = match pass.way {
        Way::Winograd => pass.group(),
        _ => (ROOM / pass.padded()).max(1),
    }
    .min(images);
    let layout = WeightSums::new(&pass, lanes());
    let mut sums = None;
    let mut winograd = match pass.way {
        Way::Winograd => {
            let values = WeightValues::new(&pass)?;
            let [x, grad] = values.image();
            Some((values, Buffer::new(count * x)?, Buffer::new(count * grad)?))
        }
        _ => None,
    };
    for first in (0..images).step_by(count.max(1)) {
        let n = count.min(images - first);
        // what kernels read behind the last pixel belongs to nothing, but is there
        let x_slack = &x.with_slack()[first * image..][..n * image + SLACK];
        let grad_slack = &grad.with_slack()[first * result..][..n * result + SLACK];
        let (x, grad) = (&x_slack[..n * image], &grad_slack[..n * result]);
        match &mut winograd {
            Some((values, x_values, grad_values)) if winograd::bounded(x) && winograd::bounded(grad) => {
                let [x_image, grad_image] = values.image();
                let images = x_values.par_chunks_mut(x_image).zip(grad_values.par_chunks_mut(grad_image)).take(n);
                images.enumerate().with_min_len(min_tasks()).for_each(|(i, room)| {
                    let _flush = FlushDenormals::new();
                    let images = (piece(x, i, image), piece(grad, i, result));
                    with_scratch(values.rooms(), |rooms| values.values(images, room, rooms));
                });
                values.add(n, x_values, grad_values);
            }
            _ => {
                let sums = match &mut sums {
                    Some(sums) => sums,
                    none => none.insert(Buffer::zeros(layout.len())?),
                };
                let mut padded = Buffer::new(if pass.as_it_is() { 0 } else { n * pass.padded() })?;
                padded.par_chunks_mut(pass.padded()).enumerate().with_min_len(min_tasks()).for_each(|(i, padded)| {
                    pass.pad(piece(x, i, image), padded);
                });
                let x = if pass.as_it_is() { x_slack } else { padded.with_slack() };
                let rows = layout.rows().div_ceil(ROW_TASKS);
                let pieces = sums.par_chunks_mut(rows * layout.width()).enumerate().with_min_len(min_tasks());
                pieces.for_each(|(i, sums)| {
                    let _flush = FlushDenormals::new();
                    arch().dispatch(AddDirect { layout, pass, count: n, x, grad: grad_slack, first: i * rows, sums });
                });
            }
        }
    }
    let mut weight = match &winograd {
        Some((values, ..)) => values.finish(s)?,
        None => Buffer::zeros(s.co * s.ci * s.k * s.k)?,
    };
    if let Some(sums) = sums {
        weight.par_chunks_mut(s.ci * s.k * s.k).enumerate().with_min_len(min_tasks()).for_each(|(o, weight)| {
            for c in 0..s.ci {
                for ky in 0..s.k {
                    for kx in 0..s.k {
                        weight[(c * s.k + ky) * s.k + kx] += sums[layout.place(s, (ky, kx), c, o)];
                    }
                }
            }
        });
    }
    Ok(weight)
}

/// Floats of the padded images whose weight gradients are computed together, directly.
const ROOM: usize = 1 << 17;

/// Tasks that the rows of the weights' gradient are cut into.
const ROW_TASKS: usize = 16;

struct AddDirect<'a> {
    layout: WeightSums,
    pass: Pass,
    count: usize,
    x: &'a [f32],
    grad: &'a [f32],
    first: usize,
    sums: &'a mut [f32],
}

impl WithSimd for AddDirect<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layout, pass, count, x, grad, first, sums } = self;
        layout.add(simd, &pass, count, (x, grad), first, sums);
    }
}
