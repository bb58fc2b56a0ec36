//! Muon's step: see [`Muon`](crate::Muon).

use std::cmp::Reverse;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Cpu;
use super::buffer::Buffer;
use super::denormals::FlushDenormals;
use super::elementwise::scale_in_place;
use super::host::{arch, min_tasks_of_products, with_numbers};
use super::matmul::{Left, Panels, Product};
use super::optim::SumOfSquares;
use crate::kernels::Parameter;
use crate::optim::muon::{MuonConfig, QUINTIC, step_size};

/// Rows of a product that are a task.
const ROWS: usize = 112;

/// One step of Muon. What takes long is done before candle locks the parameter: see [`optim`](super::optim).
pub(crate) fn muon(mut params: Vec<Parameter<Cpu, 1>>, config: &MuonConfig, scale: f64) -> Result<()> {
    params.sort_by_key(|param| Reverse(param.states[0].len()));
    params.into_par_iter().with_max_len(1).try_for_each(|Parameter { var, grad, states: [momentum] }| {
        let rows = var.dims()[0];
        let columns = momentum.len() / rows.max(1);
        let mut direction = Buffer::new(momentum.len())?;
        with_numbers(grad, |grad| {
            let _flush = FlushDenormals::new();
            let (keep, take) = (config.momentum as f32, ((1.0 - config.momentum) * scale) as f32);
            arch().dispatch(Mean { grad, momentum, direction: &mut direction, keep, take });
            orthogonalise(&mut direction, [rows, columns])
        })?;
        let (keep, by) = ((1.0 - config.lr * config.weight_decay) as f32, step_size(config, [rows, columns]) as f32);
        var.inplace_op1(&MoveInPlace { direction: &direction, keep, by })
    })
}

/// Replaces a matrix by the nearest one whose singular values are all about 1: the iteration of
/// [`orthogonal`](crate::kernels::reference::optim::orthogonal).
///
/// Everything but `x` is a polynomial of the Gram matrix of its smaller side: symmetric, and all of them commute.
fn orthogonalise(x: &mut Buffer, [rows, columns]: [usize; 2]) -> Result<()> {
    if x.is_empty() {
        return Ok(());
    }
    let norm = arch().dispatch(SumOfSquares { numbers: x }).sqrt().max(1e-7);
    scale_in_place(x, (1.0 / norm) as f32);
    let (wide, side) = (rows <= columns, rows.min(columns));
    let [by_row, by_column] = [Left { numbers: x, row: columns, step: 1 }, Left { numbers: x, row: 1, step: columns }];
    // the square matrices lie one after the other
    let mut squares = Buffer::new(5 * side * side)?;
    let mut squares = squares.chunks_exact_mut(side * side);
    let (Some(mut gram), Some(square), Some(factor), Some(mut room), Some(mut total)) =
        (squares.next(), squares.next(), squares.next(), squares.next(), squares.next())
    else {
        bail!("muon: a matrix {rows} x {columns} has no rows or columns")
    };
    let of_x = if wide { Panels::new(columns, rows) } else { Panels::new(rows, columns) };
    let along = Panels::new(side, columns);
    let over_side = Panels::new(side, side);
    let mut packed = Buffer::new(of_x.len().max(along.len()).max(over_side.len()))?;
    if wide {
        of_x.pack_turned(0, x, columns, &mut packed);
        multiply(by_row, &packed, of_x, side, gram);
    } else {
        of_x.pack(x, columns, &mut packed);
        multiply(by_column, &packed, of_x, side, gram);
    }
    const STEPS: usize = 5;
    for step in 0..STEPS {
        over_side.pack(gram, side, &mut packed);
        multiply(square_rows(gram, side), &packed, over_side, side, square);
        polynomial(gram, square, side, factor);
        if step + 1 < STEPS {
            multiply(square_rows(factor, side), &packed, over_side, side, square);
        }
        over_side.pack(factor, side, &mut packed);
        if step == 0 {
            total.copy_from_slice(factor);
        } else {
            multiply(square_rows(total, side), &packed, over_side, side, room);
            std::mem::swap(&mut total, &mut room);
        }
        if step + 1 < STEPS {
            multiply(square_rows(square, side), &packed, over_side, side, room);
            std::mem::swap(&mut gram, &mut room);
        }
    }
    let mut y = Buffer::new(x.len())?;
    if wide {
        along.pack(x, columns, &mut packed);
        multiply(square_rows(total, side), &packed, along, columns, &mut y);
    } else {
        over_side.pack(total, side, &mut packed);
        multiply(by_row, &packed, over_side, columns, &mut y);
    }
    *x = y;
    Ok(())
}

fn square_rows(numbers: &[f32], side: usize) -> Left<'_> {
    Left { numbers, row: side, step: 1 }
}

/// A product of `n` columns, some rows to a task.
fn multiply(left: Left, right: &[f32], panels: Panels, n: usize, c: &mut [f32]) {
    let tasks = c.par_chunks_mut(ROWS * n).enumerate().with_min_len(min_tasks_of_products(panels.len() * ROWS));
    tasks.for_each(|(task, c)| {
        let _flush = FlushDenormals::new();
        let left = Left { numbers: &left.numbers[task * ROWS * left.row..], ..left };
        Product { left, m: c.len() / n, right, panels, c, c_row: n, add: false }.run();
    });
}

/// `a I + b G + c G²`
fn polynomial(gram: &[f32], square: &[f32], side: usize, to: &mut [f32]) {
    let [a, b, c] = QUINTIC.map(|coefficient| coefficient as f32);
    arch().dispatch(Mix { x: gram, y: square, by: [b, c], to });
    to.iter_mut().step_by(side + 1).for_each(|diagonal| *diagonal += a);
}

// Plain code that the compiler turns into the vectors of `S`; memory is what it waits for.

/// The mean gradient, and Nesterov's look ahead of it.
struct Mean<'a> {
    grad: &'a [f32],
    momentum: &'a mut [f32],
    direction: &'a mut [f32],
    keep: f32,
    take: f32,
}

impl WithSimd for Mean<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { grad, momentum, direction, keep, take } = self;
        for ((direction, mean), &grad) in direction.iter_mut().zip(momentum).zip(grad) {
            *mean = *mean * keep + grad * take;
            *direction = *mean * keep + grad * take;
        }
    }
}

/// A weighted sum.
struct Mix<'a> {
    x: &'a [f32],
    y: &'a [f32],
    by: [f32; 2],
    to: &'a mut [f32],
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { x, y, by: [by_x, by_y], to } = self;
        for ((to, &x), &y) in to.iter_mut().zip(x).zip(y) {
            *to = x * by_x + y * by_y;
        }
    }
}

/// `param = param * keep - direction * by`, in place.
struct MoveInPlace<'a> {
    direction: &'a [f32],
    keep: f32,
    by: f32,
}

impl InplaceOp1 for MoveInPlace<'_> {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn cpu_fwd(&self, param: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(param), Some((start, end))) = (param, layout.contiguous_offsets()) else {
            bail!("muon: a parameter {:?} is strided or no longer f32", layout.shape())
        };
        let _flush = FlushDenormals::new();
        arch().dispatch(Move { param: &mut param[start..end], by: self });
        Ok(())
    }
}

struct Move<'a> {
    param: &'a mut [f32],
    by: &'a MoveInPlace<'a>,
}

impl WithSimd for Move<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { param, by: &MoveInPlace { direction, keep, by } } = self;
        for (param, &direction) in param.iter_mut().zip(direction) {
            *param = *param * keep - direction * by;
        }
    }
}
