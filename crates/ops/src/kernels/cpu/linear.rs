//! A linear layer, `y = x Wᵀ + b`, as `torch.nn.functional.linear`.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::denormals::FlushDenormals;
use super::elementwise::AddColumns;
use super::host::{arch, min_tasks, min_tasks_of, min_tasks_of_products, piece};
use super::matmul::{Left, Panels, Product};
use super::scratch::with_scratch;
use crate::op::linear::Linear;

/// So few rows wait for the weights' way from memory: the weights are read once and not packed.
const FEW: usize = 8;

/// Rows of a task, and of the sums over rows that are added at a time.
const ROWS: usize = 112;

/// Outputs, or inputs, of a task where there are few rows.
const COLUMNS: usize = 64;

/// `y[m, o] = sum over i of x[m, i] * weight[o, i] + bias[o]`
pub(crate) fn forward(s: Linear, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let Linear { m, i, o } = s;
    if m <= FEW {
        few_rows([m, i, o], y, |at, columns, part| {
            let weight = &weight[at * i..][..columns * i];
            arch().dispatch(Dots { x, i, weight, y: part });
        });
        if let Some(bias) = bias {
            y.chunks_exact_mut(o).for_each(|y| y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
        }
        return;
    }
    let panels = Panels::new(i, o);
    with_scratch([panels.len()], |[packed]| {
        let packed = &mut packed[..panels.len()];
        let panel = panels.width() * i;
        let tasks = packed.par_chunks_mut(panel).enumerate().with_min_len(min_tasks_of(panel));
        tasks.for_each(|(panel, packed)| panels.pack_turned(panel, weight, i, packed));
        rows_times(x, i, panels, packed, y, o);
        if let Some(bias) = bias {
            y.par_chunks_mut(ROWS * o).with_min_len(min_tasks_of(ROWS * o)).for_each(|y| {
                let _flush = FlushDenormals::new();
                arch().dispatch(AddBias { bias, y });
            });
        }
    });
}

/// `dx[m, i] = sum over o of grad[m, o] * weight[o, i]`
pub(crate) fn input_gradient(s: Linear, weight: &[f32], grad: &[f32], dx: &mut [f32]) {
    let Linear { m, i, o } = s;
    if m <= FEW {
        few_rows([m, o, i], dx, |at, columns, part| {
            let panels = Panels::new(o, columns);
            with_scratch([panels.len()], |[packed]| {
                panels.pack(&weight[at..], i, packed);
                let left = Left { numbers: grad, row: o, step: 1 };
                Product { left, m, right: packed, panels, c: part, c_row: columns, add: false }.run();
            });
        });
        return;
    }
    let panels = Panels::new(o, i);
    with_scratch([panels.len()], |[packed]| {
        panels.pack(weight, i, packed);
        rows_times(grad, o, panels, packed, dx, i);
    });
}

/// `dw[o, i] = sum over m of grad[m, o] * x[m, i]`, in the same order on any number of threads: a task has all rows for
/// some outputs.
pub(crate) fn weight_gradient(s: Linear, x: &[f32], grad: &[f32], dw: &mut [f32]) {
    let Linear { m, i, o } = s;
    if m == 0 {
        dw.fill(0.0);
        return;
    }
    // a multiple of a tile's 7 rows: few tasks, as each packs x for itself, but enough for some threads
    let outputs = match o {
        ..48 => 14,
        48..256 => 28,
        _ => 56,
    };
    dw.par_chunks_mut(outputs * i).enumerate().with_min_len(min_tasks()).for_each(|(task, dw)| {
        let _flush = FlushDenormals::new();
        with_scratch([Panels::new(ROWS, i).len()], |[packed]| {
            for start in (0..m).step_by(ROWS) {
                let panels = Panels::new(ROWS.min(m - start), i);
                panels.pack(&x[start * i..], i, packed);
                let left = Left { numbers: &grad[start * o + task * outputs..], row: 1, step: o };
                let rows = dw.len() / i;
                Product { left, m: rows, right: packed, panels, c: dw, c_row: i, add: start > 0 }.run();
            }
        });
    });
}

/// `db[o] = sum over m of grad[m, o]`, in chunks of rows that do not depend on the threads.
pub(crate) fn bias_gradient(s: Linear, grad: &[f32], db: &mut [f32]) {
    const CHUNK: usize = 1024;
    let o = s.o;
    let chunks = s.m.div_ceil(CHUNK);
    db.fill(0.0);
    with_scratch([chunks * o], |[sums]| {
        let sums = &mut sums[..chunks * o];
        sums.par_chunks_mut(o).enumerate().with_min_len(min_tasks()).for_each(|(i, sums)| {
            let _flush = FlushDenormals::new();
            sums.fill(0.0);
            arch().dispatch(AddColumns { rows: piece(grad, i, CHUNK * o), width: o, sums });
        });
        arch().dispatch(AddColumns { rows: sums, width: o, sums: db });
    });
}

/// `y[m, n] = x[m, k]` times the packed matrix, `ROWS` rows to a task.
fn rows_times(x: &[f32], k: usize, panels: Panels, packed: &[f32], y: &mut [f32], n: usize) {
    let tasks = y.par_chunks_mut(ROWS * n).enumerate().with_min_len(min_tasks_of_products(ROWS * n * k));
    tasks.for_each(|(task, y)| {
        let _flush = FlushDenormals::new();
        let left = Left { numbers: piece(x, task, ROWS * k), row: k, step: 1 };
        Product { left, m: y.len() / n, right: packed, panels, c: y, c_row: n, add: false }.run();
    });
}

/// Splits a result `[m, n]` of few rows by columns: `work` fills the part `[m, columns]` that begins at a column, and
/// reads `k` weights for each.
fn few_rows([m, k, n]: [usize; 3], y: &mut [f32], work: impl Fn(usize, usize, &mut [f32]) + Sync) {
    if m == 0 {
        return;
    }
    with_scratch([m * n], |[parts]| {
        let parts = &mut parts[..m * n];
        let tasks = parts.par_chunks_mut(m * COLUMNS).enumerate().with_min_len(min_tasks_of(k * COLUMNS));
        tasks.for_each(|(task, part)| {
            let _flush = FlushDenormals::new();
            work(task * COLUMNS, part.len() / m, part);
        });
        for (task, part) in parts.chunks(m * COLUMNS).enumerate() {
            let columns = part.len() / m;
            for (y, part) in y.chunks_exact_mut(n).zip(part.chunks_exact(columns)) {
                y[task * COLUMNS..][..columns].copy_from_slice(part);
            }
        }
    });
}

struct AddBias<'a> {
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for AddBias<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (bias, bias_rest) = S::as_simd_f32s(self.bias);
        for y in self.y.chunks_exact_mut(self.bias.len()) {
            let (y, y_rest) = S::as_mut_simd_f32s(y);
            for (y, &bias) in y.iter_mut().zip(bias) {
                *y = simd.add_f32s(*y, bias);
            }
            for (y, &bias) in y_rest.iter_mut().zip(bias_rest) {
                *y += bias;
            }
        }
    }
}

/// `y[r, j] = sum over i of x[r, i] * weight[j, i]`, the vectors along `i`.
struct Dots<'a> {
    x: &'a [f32],
    i: usize,
    weight: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, i, weight, y } = self;
        let columns = weight.len() / i;
        for (j, weight) in weight.chunks(4 * i).enumerate() {
            let mut at = 0;
            for x in x.chunks(4 * i) {
                let y = &mut y[at * columns + 4 * j..];
                let dots = DotTile { x, i, weight, y, columns };
                match (x.len() / i, weight.len() / i) {
                    (1, 4) => simd.vectorize(SizedDots::<1, 4>(dots)),
                    (2, 4) => simd.vectorize(SizedDots::<2, 4>(dots)),
                    (3, 4) => simd.vectorize(SizedDots::<3, 4>(dots)),
                    (4, 4) => simd.vectorize(SizedDots::<4, 4>(dots)),
                    (rows, outputs) => {
                        for (r, x) in x.chunks_exact(i).enumerate().take(rows) {
                            for (q, weight) in weight.chunks_exact(i).enumerate().take(outputs) {
                                let y = &mut dots.y[r * columns + q..];
                                simd.vectorize(SizedDots::<1, 1>(DotTile { x, i, weight, y, columns }));
                            }
                        }
                    }
                }
                at += 4;
            }
        }
    }
}

struct DotTile<'a> {
    x: &'a [f32],
    i: usize,
    weight: &'a [f32],
    y: &'a mut [f32],
    columns: usize,
}

struct SizedDots<'a, const R: usize, const Q: usize>(DotTile<'a>);

impl<const R: usize, const Q: usize> WithSimd for SizedDots<'_, R, Q> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let DotTile { x, i, weight, y, columns } = self.0;
        let whole = i / S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); Q]; R];
        let (mut rows, mut weights) = ([S::as_simd_f32s(&x[..0]); R], [S::as_simd_f32s(&x[..0]); Q]);
        for r in 0..R {
            rows[r] = S::as_simd_f32s(&x[r * i..][..i]);
            rows[r].0 = &rows[r].0[..whole];
        }
        for q in 0..Q {
            weights[q] = S::as_simd_f32s(&weight[q * i..][..i]);
            weights[q].0 = &weights[q].0[..whole];
        }
        for j in 0..whole {
            for q in 0..Q {
                let weight = weights[q].0[j];
                for r in 0..R {
                    sums[r][q] = simd.mul_add_e_f32s(rows[r].0[j], weight, sums[r][q]);
                }
            }
        }
        if !rows[0].1.is_empty() {
            for q in 0..Q {
                let weight = simd.partial_load_f32s(weights[q].1);
                for r in 0..R {
                    sums[r][q] = simd.mul_add_e_f32s(simd.partial_load_f32s(rows[r].1), weight, sums[r][q]);
                }
            }
        }
        for r in 0..R {
            for q in 0..Q {
                y[r * columns + q] = simd.reduce_sum_f32s(sums[r][q]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{CHANNELS, error, f64s, noise, on_threads};

    fn run(s: Linear, [x, weight, bias, grad]: [&[f32]; 4]) -> [Vec<f32>; 4] {
        let Linear { m, i, o } = s;
        let mut results = [m * o, m * i, o * i, o].map(|len| vec![f32::NAN; len]);
        let [y, dx, dw, db] = &mut results;
        forward(s, x, weight, Some(bias), y);
        input_gradient(s, weight, grad, dx);
        weight_gradient(s, x, grad, dw);
        bias_gradient(s, grad, db);
        results
    }

    /// The plain computation.
    fn plain(s: Linear, args: [&[f32]; 4]) -> [Vec<f64>; 4] {
        let Linear { m, i, o } = s;
        let [x, weight, bias, grad] = args.map(f64s);
        let [mut y, mut dx, mut dw, mut db] = [m * o, m * i, o * i, o].map(|len| vec![0.0; len]);
        for row in 0..m {
            for out in 0..o {
                let grad = grad[row * o + out];
                y[row * o + out] = bias[out];
                db[out] += grad;
                for at in 0..i {
                    y[row * o + out] += x[row * i + at] * weight[out * i + at];
                    dx[row * i + at] += grad * weight[out * i + at];
                    dw[out * i + at] += grad * x[row * i + at];
                }
            }
        }
        [y, dx, dw, db]
    }

    #[test]
    fn values_and_gradients_of_all_sizes() {
        let mut worst = [0f64; 4];
        for (a, i) in CHANNELS.into_iter().enumerate() {
            for (b, o) in CHANNELS.into_iter().enumerate() {
                let m = [1, 2, 3, 4, 5, 7, 8, 9, 49, 113, 230, 1100][(a + 5 * b) % 12];
                let s = Linear { m, i, o };
                let args = [noise(1, m * i), noise(2, o * i), noise(3, o), noise(4, m * o)];
                let args = args.each_ref().map(Vec::as_slice);
                let results = on_threads(|| run(s, args));
                for ((got, expected), worst) in results.iter().zip(plain(s, args)).zip(&mut worst) {
                    let error = error(got, &expected);
                    assert!(error < 1e-6, "{s:?}: {error:.1e}");
                    *worst = worst.max(error);
                }
            }
        }
    }

    #[test]
    fn no_rows_have_no_gradient() {
        let [y, dx, dw, db] = run(Linear { m: 0, i: 3, o: 5 }, [&[], &[1.0; 15], &[1.0; 5], &[]]);
        assert!(y.is_empty() && dx.is_empty());
        assert!(dw.iter().chain(&db).all(|&x| x == 0.0));
    }

    #[test]
    fn what_is_not_finite_stays_in_its_row() {
        for (m, bad) in [(3, f32::NAN), (3, f32::INFINITY), (50, f32::NAN), (50, f32::NEG_INFINITY)] {
            let s = Linear { m, i: 33, o: 17 };
            let mut x = noise(1, m * 33);
            x[2 * 33 + 32] = bad;
            let mut y = vec![0.0; m * 17];
            forward(s, &x, &noise(2, 17 * 33), None, &mut y);
            for (row, y) in y.chunks_exact(17).enumerate() {
                assert!(y.iter().all(|y| y.is_finite() == (row != 2)));
            }
        }
    }
}
