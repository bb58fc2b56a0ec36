#![cfg(test)]

//! In place of the libraries of a card: convolution and product of matrices, number by number, summed in f64.

use super::super::card::{Address, ByColumns, Pass, Product};
use crate::op::conv_shape::ConvShape;

fn get(from: Address, at: usize) -> f64 {
    let from: *const f32 = std::ptr::with_exposed_provenance(from.plus(at).0 as usize);
    // SAFETY: the sizes are those of the memory, which the caller of the card holds; no kernel runs.
    f64::from(unsafe { *from })
}

fn put(to: Address, at: usize, value: f64) {
    let to: *mut f32 = std::ptr::with_exposed_provenance_mut(to.plus(at).0 as usize);
    // SAFETY: as in `get`.
    unsafe { *to = value as f32 };
}

/// Features are `[b, h, w, c]`, weights `[co, k, k, ci]`.
pub(crate) fn convolve(pass: Pass, s: &ConvShape, [x, weights, y]: [Address; 3]) {
    assert_eq!((s.top, s.left), (s.bottom, s.right), "a library pads opposite sides alike");
    let sizes = [s.b * s.h * s.w * s.ci, s.co * s.k * s.k * s.ci, s.b * s.oh * s.ow * s.co];
    let [mut xs, mut ws, mut ys] = sizes.map(|size| vec![0.0; size]);
    for (numbers, from) in [(&mut xs, x), (&mut ws, weights), (&mut ys, y)] {
        numbers.iter_mut().enumerate().for_each(|(at, number)| *number = get(from, at));
    }
    let (to, sums) = match pass {
        Pass::Forward => (y, &mut ys),
        Pass::Weights => (weights, &mut ws),
        Pass::Input => (x, &mut xs),
    };
    sums.fill(0.0);
    for (image, oy, ox) in places(s.b, s.oh, s.ow) {
        for (co, ky, kx) in places(s.co, s.k, s.k) {
            let (Some(row), Some(column)) =
                ((oy * s.stride + ky).checked_sub(s.top), (ox * s.stride + kx).checked_sub(s.left))
            else {
                continue;
            };
            if row >= s.h || column >= s.w {
                continue;
            }
            let y_at = ((image * s.oh + oy) * s.ow + ox) * s.co + co;
            let (x_at, w_at) = (((image * s.h + row) * s.w + column) * s.ci, ((co * s.k + ky) * s.k + kx) * s.ci);
            for c in 0..s.ci {
                match pass {
                    Pass::Forward => ys[y_at] += xs[x_at + c] * ws[w_at + c],
                    Pass::Weights => ws[w_at + c] += xs[x_at + c] * ys[y_at],
                    Pass::Input => xs[x_at + c] += ws[w_at + c] * ys[y_at],
                }
            }
        }
    }
    let sums = match pass {
        Pass::Forward => ys,
        Pass::Weights => ws,
        Pass::Input => xs,
    };
    sums.into_iter().enumerate().for_each(|(at, sum)| put(to, at, sum));
}

fn places(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// With the arguments of cuBLAS, number by number as it is documented.
pub(crate) fn multiply(s: &Product, [a, b, c]: [Address; 3]) {
    let ByColumns { m, n, k, transposed, leading, strides } = s.by_columns();
    // by columns: a number of a matrix, or of its transpose
    let at = |transposed: bool, leading: usize, row: usize, column: usize| {
        if transposed { row * leading + column } else { column * leading + row }
    };
    for (which, column, row) in places(s.batch, n, m) {
        let [first, second, to] = [(b, 0), (a, 1), (c, 2)].map(|(from, i)| from.plus(which * strides[i]));
        let product = |i: usize| {
            let first = get(first, at(transposed[0], leading[0], row, i));
            first * get(second, at(transposed[1], leading[1], i, column))
        };
        let place = at(false, leading[2], row, column);
        let before = if s.add { get(to, place) } else { 0.0 };
        put(to, place, before + (0..k).map(product).sum::<f64>());
    }
}
