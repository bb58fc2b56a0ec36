//! Group normalisation.

use candle_core::{Result, Tensor};

use super::buffer::{Buffer, Parts, Read, Rows};
use super::card::{Address, Card, THREADS, WARP, arguments, each, launch};
use crate::op::norm::GroupNorm;

/// The result, and for each image and group all means, then all inverse deviations.
pub(crate) fn forward<C: Card>(s: &GroupNorm, x: &Buffer<C>, weights: [&Tensor; 2]) -> Result<(Buffer<C>, Buffer<C>)> {
    let &GroupNorm { b, pixels, c, groups, eps, silu } = s;
    let card = x.card();
    let [weight, bias] = read(card, weights)?;
    let all = b * groups;
    let Parts { lanes, part, parts, tiles } = Parts::new(pixels, c);
    let [moments, stats] = [Buffer::new(card, b * parts * 2 * c)?, Buffer::new(card, 2 * all)?];
    let sizes = arguments![x, &moments, pixels, c, part, parts, lanes];
    launch(card, "norm_moments", tiles * parts * b, sizes)?;
    let sizes = arguments![&moments, &stats, pixels, c, part, parts, groups, eps, all];
    launch(card, "norm_fold", all.div_ceil(THREADS / WARP), sizes)?;
    let y = x.alike()?;
    let Parts { lanes, part, parts, tiles } = Parts::small(pixels, c);
    let inputs = arguments![x, &stats, &weight, &bias, silu, &y, pixels, c, groups, all, part, parts, lanes];
    launch(card, "norm_apply", tiles * parts * b, inputs)?;
    Ok((y, stats))
}

/// The gradients of `x`, weight and bias.
pub(crate) fn backward<C: Card>(
    s: &GroupNorm,
    x: &Buffer<C>,
    stats: &Buffer<C>,
    weights: [&Tensor; 2],
    grad: &Buffer<C>,
) -> Result<[Buffer<C>; 3]> {
    let &GroupNorm { b, pixels, c, groups, silu, .. } = s;
    let card = x.card();
    let [weight, bias] = read(card, weights)?;
    let all = b * groups;
    let Parts { lanes, part, parts, tiles } = Parts::new(pixels, c);
    // [b, parts, 2, c], then [b, 2, c]
    let [of_parts, sums] = [Buffer::new(card, b * parts * 2 * c)?, Buffer::new(card, b * 2 * c)?];
    let inputs =
        arguments![x, stats, &weight, &bias, grad, silu, &of_parts, pixels, c, groups, all, part, parts, lanes];
    launch(card, "norm_slopes", tiles * parts * b, inputs)?;
    let rows = Rows { groups: b, rows: parts, width: 2 * c, stride: 2 * c };
    rows.sum(card, [of_parts.address(), Address::NULL], sums.address(), 2 * c)?;
    let [dweight, dbias] = [Buffer::new(card, c)?, Buffer::new(card, c)?];
    for (i, to) in [&dweight, &dbias].into_iter().enumerate() {
        let rows = Rows { groups: 1, rows: b, width: c, stride: 2 * c };
        rows.sum(card, [sums.address().plus(i * c), Address::NULL], to.address(), c)?;
    }
    let means = Buffer::new(card, 2 * all)?;
    each(card, "norm_means", all, arguments![&sums, &weight, &means, pixels, c, groups, all])?;
    let dx = x.alike()?;
    let Parts { lanes, part, parts, tiles } = Parts::small(pixels, c);
    let inputs =
        arguments![x, stats, &means, &weight, &bias, grad, silu, &dx, pixels, c, groups, all, part, parts, lanes];
    launch(card, "norm_backward", tiles * parts * b, inputs)?;
    Ok([dx, dweight, dbias])
}

fn read<C: Card>(card: &C, [weight, bias]: [&Tensor; 2]) -> Result<[Read<C>; 2]> {
    Ok([Read::on(card, weight)?, Read::on(card, bias)?])
}
