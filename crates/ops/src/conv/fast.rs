//! The f32 path over a batch: what a task computes, in which order, by which way.

use candle_core::Result;
use pulp::{Simd, WithSimd};

use super::direct::{self, WeightSums};
use super::pass::{Packed, Pass, Way, Weights, pad, unpack};
use super::{ConvShape, Gradients, Wanted, winograd};
use crate::host::{arch, build, lanes, piece};
use crate::scratch::{Aligned, with_scratch};
use crate::silu;

/// The result `[b, co, oh, ow]` and, where SiLU's derivative is to be kept, that.
pub(super) fn forward(
    s: &ConvShape,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    silu: bool,
    keep: bool,
) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
    let (pass, _) = Pass::both(s, winograd::tame(weight));
    let &ConvShape { ci, k, .. } = s;
    let weights = Weights::new(&pass, |o, c, ky, kx| weight[((o * ci + c) * k + ky) * k + kx]);
    let group = even_group(&pass, s.part());
    let task = |i: usize, y: &mut [f32], derivative: Option<&mut [f32]>| {
        let images = piece(x, i, group * pass.image());
        let [values, products] = winograd::values(&pass, group);
        let lens = [group * pass.padded(), group * pass.sums(), values, products];
        with_scratch(lens, |[padded, sums, values, products]| {
            let rooms = [padded, sums, values, products];
            arch().dispatch(Forward { pass, images, weights: weights.lend(), bias, rooms, y });
            if silu {
                arch().dispatch(silu::Forward { x: y, derivative });
            }
        });
    };
    let (len, piece) = (s.b * pass.result(), group * pass.result());
    if keep {
        let ([y, derivative], _) = build(len, piece, |i, [y, derivative]| task(i, y, Some(derivative)))?;
        Ok((y, Some(derivative)))
    } else {
        let ([y], _) = build(len, piece, |i, [y]| task(i, y, None))?;
        Ok((y, None))
    }
}

/// The gradients that are wanted; `derivative` is SiLU's, by which the result's gradient is multiplied first.
pub(super) fn backward(
    s: &ConvShape,
    wanted: Wanted,
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    derivative: Option<&[f32]>,
) -> Result<Gradients<f32>> {
    let (forward, back) = Pass::both(s, winograd::tame(weight));
    let &ConvShape { co, ci, k, .. } = s;
    let turned =
        |o: usize, c: usize, ky: usize, kx: usize| weight[((c * ci + o) * k + (k - 1 - ky)) * k + (k - 1 - kx)];
    let weights = wanted.x.then(|| Weights::new(&back, turned));
    let layout = WeightSums::new(&forward, lanes());
    let part = s.part();
    let group = even_group(&forward, part);
    let task = |i: usize, dx: Option<&mut [f32]>| {
        let mut dw = Aligned::zeros(if wanted.weight { layout.len() } else { 0 });
        let mut db = vec![0.0; if wanted.bias { co } else { 0 }];
        let ([a, b], [c, d]) = (winograd::values(&forward, group), winograd::values(&back, group));
        let by_winograd = wanted.weight && forward.way == Way::Winograd;
        let lens = [
            group * forward.padded(),
            group * back.padded(),
            group * back.sums(),
            a.max(c),
            b.max(d),
            if by_winograd { winograd::weight_values(s) } else { 0 },
            group * s.result(),
        ];
        with_scratch(lens, |[x_padded, grad_padded, sums, values, products, dw_values, scaled]| {
            dw_values.fill(0.0);
            arch().dispatch(Backward {
                forward,
                back,
                group,
                layout,
                weights: weights.as_ref().map(Weights::lend),
                x: piece(x, i, part * s.image()),
                grad: piece(grad, i, part * s.result()),
                derivative: derivative.map(|derivative| piece(derivative, i, part * s.result())),
                rooms: [x_padded, grad_padded, sums, values, products],
                scaled,
                dw_values,
                dx,
                dw: dw.get_mut(),
                db: &mut db,
            });
        });
        (dw, db)
    };
    let (len, room) = (s.b * s.image(), part * s.image());
    let (x, parts) = if wanted.x {
        let ([x], parts) = build(len, room, |i, [dx]| task(i, Some(dx)))?;
        (x, parts)
    } else {
        let ([], parts) = build(len, room, |i, []: [&mut [f32]; 0]| task(i, None))?;
        (Vec::new(), parts)
    };
    let mut bias = vec![0.0; if wanted.bias { co } else { 0 }];
    for (_, part) in &parts {
        bias.iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
    }
    let weight = if wanted.weight { layout.total(&parts)? } else { Vec::new() };
    Ok(Gradients { x, weight, bias })
}

/// Images that go through the kernels together, so many that the groups of a part are about equal.
fn even_group(pass: &Pass, part: usize) -> usize {
    part.div_ceil(part.div_ceil(pass.group()))
}

/// One group of images.
struct Forward<'a> {
    pass: Pass,
    images: &'a [f32],
    weights: Packed<'a>,
    bias: Option<&'a [f32]>,
    /// Padded images, sums, and the values and products of Winograd's method.
    rooms: [&'a mut [f32]; 4],
    y: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { pass, images, weights, bias, rooms: [padded, sums, values, products], y } = self;
        pad(&pass, images, padded);
        let by_winograd = pass.way == Way::Winograd && winograd::tame(images);
        results(simd, &pass, by_winograd, padded, weights, bias, [sums, values, products], y);
    }
}

/// The results of a pass over padded images.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
fn results<S: Simd>(
    simd: S,
    pass: &Pass,
    by_winograd: bool,
    padded: &[f32],
    weights: Packed,
    bias: Option<&[f32]>,
    [sums, values, products]: [&mut [f32]; 3],
    y: &mut [f32],
) {
    let count = y.len() / pass.result();
    match weights.winograd {
        _ if pass.way == Way::Narrow => return direct::narrow(simd, pass, count, padded, weights.direct, bias, y),
        Some(weights) if by_winograd => winograd::sums(simd, pass, count, padded, weights, [values, products], sums),
        _ => direct::sums(simd, pass, count, padded, weights.direct, sums),
    }
    unpack(simd, pass, sums, bias, y);
}

/// One part of the batch, group after group.
struct Backward<'a> {
    forward: Pass,
    back: Pass,
    group: usize,
    layout: WeightSums,
    weights: Option<Packed<'a>>,
    x: &'a [f32],
    grad: &'a [f32],
    derivative: Option<&'a [f32]>,
    /// Padded images, padded gradients, sums, and the values and products of Winograd's method.
    rooms: [&'a mut [f32]; 5],
    /// The gradients times SiLU's derivative.
    scaled: &'a mut [f32],
    dw_values: &'a mut [f32],
    dx: Option<&'a mut [f32]>,
    dw: &'a mut [f32],
    db: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { forward, back, group, layout, weights, x, grad, derivative, .. } = self;
        let Self { rooms: [x_padded, grad_padded, sums, values, products], scaled, dw_values, mut dx, dw, db, .. } =
            self;
        let groups = x.chunks(group * forward.image()).zip(grad.chunks(group * forward.result()));
        for (i, (x, grad)) in groups.enumerate() {
            let count = x.len() / forward.image();
            let grad = match derivative {
                None => grad,
                Some(derivative) => {
                    let scaled = &mut scaled[..grad.len()];
                    let derivative = piece(derivative, i, group * forward.result());
                    scaled.iter_mut().zip(grad.iter().zip(derivative)).for_each(|(s, (g, d))| *s = g * d);
                    scaled
                }
            };
            for image in grad.chunks_exact(forward.result()) {
                let channels = image.chunks_exact(forward.oh * forward.ow);
                db.iter_mut().zip(channels).for_each(|(sum, channel)| *sum += total(simd, channel));
            }
            if dw.is_empty() && dx.is_none() {
                continue;
            }
            let tame = back.way == Way::Winograd && winograd::tame(grad);
            pad(&back, grad, grad_padded);
            if let (Some(weights), Some(dx)) = (weights, &mut dx) {
                let dx = &mut dx[i * group * back.result()..][..count * back.result()];
                let rooms = [&mut *sums, &mut *values, &mut *products];
                results(simd, &back, tame, grad_padded, weights, None, rooms, dx);
            }
            if !dw.is_empty() {
                pad(&forward, x, x_padded);
                if tame && winograd::tame(x) {
                    let rooms = [&mut *values, &mut *products];
                    winograd::add_weights(simd, &forward, &back, count, [x_padded, grad_padded], rooms, dw_values);
                } else {
                    layout.add(simd, &forward, &back, count, x_padded, grad_padded, dw);
                }
            }
        }
        if !dw.is_empty() && forward.way == Way::Winograd {
            winograd::finish_weights(simd, &layout, &forward, dw_values, dw);
        }
    }
}

/// The sum of some numbers.
#[inline(always)]
fn total<S: Simd>(simd: S, numbers: &[f32]) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(numbers);
    let sum = vectors.iter().fold(simd.splat_f32s(0.0), |sum, &vector| simd.add_f32s(sum, vector));
    simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()
}
