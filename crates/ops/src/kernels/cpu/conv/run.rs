//! A convolution over a batch: what a task computes, in which order, by which way.

use std::ops::Range;

use candle_core::Result;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::direct::{self, WeightSums};
use super::pass::{Pass, Way};
use super::weights::{Prepared, Weights, panel};
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

/// The results `[b, oh, ow, o]` of images `[b, h, w, c]`, to be finished.
pub(crate) fn forward(prepared: &Prepared, x: &[f32], finish: Finish) -> Result<()> {
    let whole = &prepared.pass;
    let batch = finish.y.len() / whole.result();
    let cut = Cut::new(prepared, batch);
    if cut.channels == whole.o {
        return prepared.read(|weights| run(&cut, whole, weights, x, finish));
    }
    // Each task's channels lie together first.
    let Finish { bias, silu, y, derivative } = finish;
    let mut parts = Buffer::new(y.len())?;
    let mut slopes = Buffer::new(if derivative.is_some() { y.len() } else { 0 })?;
    let slopes_of = derivative.is_some().then_some(&mut *slopes);
    let finish = Finish { bias, silu, y: &mut parts, derivative: slopes_of };
    prepared.read(|weights| run(&cut, whole, weights, x, finish))?;
    cut.interleave(whole, batch, &parts, y);
    if let Some(derivative) = derivative {
        cut.interleave(whole, batch, &slopes, derivative);
    }
    Ok(())
}

/// Runs the tasks; their results follow one another.
fn run(cut: &Cut, whole: &Pass, weights: Weights, x: &[f32], finish: Finish) {
    let Finish { bias, silu, mut y, mut derivative } = finish;
    let batch = y.len() / whole.result();
    let images_of = |images: &Range<usize>| &x[images.start * whole.image()..images.end * whole.image()];
    let mut tasks = Vec::new();
    // once for all bands of an image
    let mut known = None;
    for (images, pass) in cut.tasks(whole, batch) {
        let bounded = (whole.way == Way::Winograd && cut.rows < whole.oh).then(|| match known.take() {
            Some((of, bounded)) if of == images.start => bounded,
            _ => winograd::all_bounded(images_of(&images)),
        });
        known = bounded.map(|bounded| (images.start, bounded));
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
        let bias = bias.map(|bias| &bias[pass.first..]);
        tasks.push((images, pass, bounded, Finish { bias, silu, y: piece, derivative: slopes }));
    }
    tasks.into_par_iter().with_min_len(min_tasks()).for_each(|(images, pass, bounded, finish)| {
        let _flush = FlushDenormals::new();
        let images = images_of(&images);
        let count = images.len() / pass.image();
        let [values, products] = winograd::rooms(&pass, count);
        let padded = if pass.as_it_is() { 0 } else { count * pass.padded() };
        with_scratch([padded, weights.room(&pass), direct::room(&pass, lanes()), values, products], |rooms| {
            arch().dispatch(Forward { weights, pass, images, bounded, rooms, finish });
        });
    });
}

/// How a pass is cut into tasks: some images, or a band of one, or some channels of these. No result depends on it.
struct Cut {
    /// Images of a task.
    group: usize,
    /// Rows of the results, if less than all, of one image.
    rows: usize,
    /// Output channels.
    channels: usize,
}

impl Cut {
    fn new(prepared: &Prepared, batch: usize) -> Self {
        /// Multiplications of an image, directly, from which on a second thread helps more than it costs: about 0.1 ms.
        const WORTH: usize = 1 << 24;
        let (pass, threads) = (&prepared.pass, rayon::current_num_threads());
        let most = match pass.way {
            Way::Winograd if prepared.by_task() => winograd::large_group(pass),
            _ => pass.group(),
        };
        // of about equal size
        let group = batch.div_ceil(batch.div_ceil(most).max(1)).max(1);
        let groups = batch.div_ceil(group).max(1);
        let mut cut = Self { group, rows: pass.oh, channels: pass.o };
        if pass.way == Way::Winograd && winograd::band_rows(pass) < pass.oh {
            // a large image: the values of all its tiles would go through memory
            cut.rows = winograd::band_rows(pass);
            cut.group = 1;
        }
        let groups = groups * pass.oh.div_ceil(cut.rows);
        if groups >= threads || pass.result() * pass.k * pass.window() < WORTH {
            return cut;
        }
        let tasks = threads.div_ceil(groups);
        if prepared.by_task() {
            // Each task brings the weights of its channels into form: a band would need all of them.
            cut.channels = pass.o.div_ceil(tasks).next_multiple_of(panel(pass)).min(pass.o);
        } else {
            cut.rows = cut.rows.div_ceil(tasks).next_multiple_of(4).min(cut.rows);
        }
        if cut.rows < pass.oh {
            cut.group = 1;
        }
        cut
    }

    /// The images and the pass of each task, in the order of the results.
    fn tasks(&self, whole: &Pass, batch: usize) -> impl Iterator<Item = (Range<usize>, Pass)> {
        let (&Self { group, rows, channels }, whole) = (self, *whole);
        let images = (0..batch).step_by(group).map(move |first| first..batch.min(first + group));
        let bands = images.flat_map(move |images| (0..whole.oh).step_by(rows).map(move |from| (images.clone(), from)));
        bands.flat_map(move |(images, from)| {
            let band = if rows < whole.oh { whole.band(from, rows.min(whole.oh - from)) } else { whole };
            (0..whole.o).step_by(channels).map(move |first| {
                let pass = if channels < whole.o { band.channels(first, channels.min(whole.o - first)) } else { band };
                (images.clone(), pass)
            })
        })
    }

    /// From the results of tasks one after the other to `[pixels, o]`.
    fn interleave(&self, whole: &Pass, batch: usize, parts: &[f32], y: &mut [f32]) {
        let (mut from, mut start) = (parts, 0);
        for (images, pass) in self.tasks(whole, batch) {
            let (part, rest) = from.split_at(images.len() * pass.result());
            let pixels = y[start..].chunks_mut(whole.o).zip(part.chunks_exact(pass.o));
            pixels.for_each(|(y, part)| y[pass.first..][..pass.o].copy_from_slice(part));
            from = rest;
            if pass.first + pass.o == whole.o {
                start += part.len() / pass.o * whole.o;
            }
        }
    }
}

/// One task's images.
struct Forward<'a> {
    weights: Weights<'a>,
    pass: Pass,
    images: &'a [f32],
    /// Whether the images hold no extreme number, if that is known.
    bounded: Option<bool>,
    /// For padded images, weights, the sums of a row, and the values and products of Winograd's method.
    rooms: [&'a mut [f32]; 5],
    finish: Finish<'a>,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, ref pass, images, bounded, rooms: [padded, form, room, values, products], mut finish } =
            self;
        let count = images.len() / pass.image();
        let by_winograd = pass.way == Way::Winograd && bounded.unwrap_or_else(|| winograd::bounded(images));
        let images = if pass.as_it_is() || by_winograd && pass.dilation == 1 {
            images
        } else {
            pass.pad(images, padded);
            &*padded
        };
        if by_winograd {
            winograd::results(simd, pass, count, images, weights, [form, values, products], finish);
            return;
        }
        match pass.way {
            Way::Narrow => direct::narrow(simd, pass, count, images, weights, finish.y),
            _ => direct::wide(simd, pass, count, images, weights, [form, room], finish.y),
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
    let layout = WeightSums::new(&pass, lanes());
    let mut sums = None;
    let mut winograd = match pass.way {
        Way::Winograd => {
            let values = WeightValues::new(&pass, images);
            let ([x, grad], count) = (values.image(), values.group());
            Some((values, Buffer::new(count * x)?, Buffer::new(count * grad)?))
        }
        _ => None,
    };
    // The same images together on any number of threads, whatever they hold.
    let count = match &winograd {
        Some((values, ..)) => values.group(),
        None => (ROOM / pass.padded()).max(1).min(images),
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
                    values.values(images, room);
                });
                values.add(n, x_values, grad_values)?;
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
    let mut weight = match winograd {
        Some((values, ..)) => values.finish()?,
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
