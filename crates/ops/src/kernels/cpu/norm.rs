//! Group normalisation, alone or with SiLU behind it.
//!
//! Pixels lie channels last, and a group may be one channel: everything is computed by columns, for each channel, and
//! then folded into groups. Where the channels fill no whole vectors, several pixels make one row.

mod columns;

use rayon::prelude::*;

use self::columns::{Apply, Finish, Moments, Slopes};
use super::denormals::FlushDenormals;
use super::host::{arch, min_tasks};
use super::scratch::with_scratch;
use crate::op::norm::GroupNorm;

/// `y = (x - mean) * rstd * weight + bias`, as `torch.nn.functional.group_norm`, and SiLU of it where wanted; `mean`
/// and `rstd` are `[b, groups]`.
pub(crate) fn forward(
    s: GroupNorm,
    x: &[f32],
    [weight, bias]: [&[f32]; 2],
    y: &mut [f32],
    [mean, rstd]: [&mut [f32]; 2],
) {
    let image = s.pixels * s.c;
    let stats = mean.par_chunks_mut(s.groups).zip(rstd.par_chunks_mut(s.groups));
    let tasks = y.par_chunks_mut(image).zip(x.par_chunks(image)).zip(stats);
    tasks.with_min_len(min_tasks()).for_each(|((y, x), (mean, rstd))| {
        let _flush = FlushDenormals::new();
        let width = s.width();
        with_scratch([width; 4], |rooms| {
            let [centre, scale, shift, squares] = rooms.map(|room| &mut room[..width]);
            let (rows, rest) = x.split_at(x.len() / width * width);
            arch().dispatch(Moments { rows, width, mean: centre, squares });
            let columns = Columns { first: &rows[..width], means: centre, squares, count: rows.len() / width };
            s.fold_moments(columns, rest, [mean, rstd]);
            for (at, ((centre, scale), shift)) in centre.iter_mut().zip(scale.iter_mut()).zip(&mut *shift).enumerate() {
                let channel = at % s.c;
                let group = s.group(channel);
                (*centre, *scale, *shift) = (mean[group], rstd[group] * weight[channel], bias[channel]);
            }
            arch().dispatch(Apply { x, width, centre, scale, shift, silu: s.silu, y });
        });
    });
}

/// The gradients of x, `[b, pixels, c]`, and of weight and bias, `[c]`, from the result's and what `forward` found.
pub(crate) fn backward(
    s: GroupNorm,
    x: &[f32],
    [mean, rstd]: [&[f32]; 2],
    [weight, bias]: [&[f32]; 2],
    grad: &[f32],
    dx: &mut [f32],
    [dweight, dbias]: [&mut [f32]; 2],
) {
    let image = s.pixels * s.c;
    with_scratch([s.b * 2 * s.c], |[sums]| {
        // [b, 2, c]: of each image, the gradients of weight and bias
        let sums = &mut sums[..s.b * 2 * s.c];
        let stats = mean.par_chunks(s.groups).zip(rstd.par_chunks(s.groups));
        let inputs = x.par_chunks(image).zip(grad.par_chunks(image)).zip(stats);
        let tasks = dx.par_chunks_mut(image).zip(sums.par_chunks_mut(2 * s.c)).zip(inputs);
        tasks.with_min_len(min_tasks()).for_each(|((dx, sums), ((x, grad), (mean, rstd)))| {
            let _flush = FlushDenormals::new();
            s.image_backward(x, [mean, rstd], [weight, bias], grad, dx, sums);
        });
        for (channel, (dweight, dbias)) in dweight.iter_mut().zip(dbias).enumerate() {
            let over_images =
                |at: usize| sums.iter().skip(at).step_by(2 * s.c).map(|&sum| f64::from(sum)).sum::<f64>() as f32;
            (*dweight, *dbias) = (over_images(channel), over_images(s.c + channel));
        }
    });
}

/// What `Moments` found of columns of `count` numbers: the means less the first number, and the summed squares.
struct Columns<'a> {
    first: &'a [f32],
    means: &'a [f32],
    squares: &'a [f32],
    count: usize,
}

impl GroupNorm {
    /// Floats of a row: whole vectors where that takes few pixels, else one pixel.
    fn width(&self) -> usize {
        const WIDEST: usize = 16;
        let pixels = WIDEST >> self.c.trailing_zeros().min(WIDEST.ilog2());
        if self.c >= 4 * WIDEST || self.pixels < pixels { self.c } else { self.c * pixels }
    }

    fn group(&self, channel: usize) -> usize {
        channel / (self.c / self.groups)
    }

    /// From the moments of columns, and the pixels that fill no row, to mean and 1 / deviation of each group.
    fn fold_moments(&self, columns: Columns, rest: &[f32], [mean, rstd]: [&mut [f32]; 2]) {
        let Columns { first, means, squares, count } = columns;
        let per_group = self.c / self.groups;
        let (count, size) = (count as f64, (self.pixels * per_group) as f64);
        let column = |at: usize| f64::from(first[at]) + f64::from(means[at]);
        for (group, (mean, rstd)) in mean.iter_mut().zip(rstd).enumerate() {
            let channels = group * per_group..(group + 1) * per_group;
            let (mut sum, mut squared) = (0.0, 0.0);
            for pixel in (0..means.len()).step_by(self.c) {
                sum += channels.clone().map(|channel| column(pixel + channel) * count).sum::<f64>();
            }
            for pixel in rest.chunks_exact(self.c) {
                sum += pixel[channels.clone()].iter().map(|&x| f64::from(x)).sum::<f64>();
            }
            let centre = sum / size;
            for pixel in (0..means.len()).step_by(self.c) {
                for at in channels.clone().map(|channel| pixel + channel) {
                    squared += f64::from(squares[at]) + count * (column(at) - centre).powi(2);
                }
            }
            for pixel in rest.chunks_exact(self.c) {
                squared += pixel[channels.clone()].iter().map(|&x| (f64::from(x) - centre).powi(2)).sum::<f64>();
            }
            let variance = squared / size + self.eps;
            // squares beyond f32, of a network that has diverged, must not pass for features that are all the same
            let scale = if variance.is_finite() { 1.0 / variance.sqrt() } else { f64::NAN };
            (*mean, *rstd) = (centre as f32, scale as f32);
        }
    }

    fn image_backward(
        &self,
        x: &[f32],
        [mean, rstd]: [&[f32]; 2],
        [weight, bias]: [&[f32]; 2],
        grad: &[f32],
        dx: &mut [f32],
        sums: &mut [f32],
    ) {
        let width = self.width();
        with_scratch([width; 6], |rooms| {
            let [centre, rstds, weights, shift, by_x, plain] = rooms.map(|room| &mut room[..width]);
            for at in 0..width {
                let channel = at % self.c;
                let group = self.group(channel);
                (centre[at], rstds[at], weights[at], shift[at]) =
                    (mean[group], rstd[group], weight[channel], bias[channel]);
            }
            by_x.fill(0.0);
            plain.fill(0.0);
            // dx holds the gradient before SiLU for a while
            let whole = x.len() / width * width;
            for pixels in [0..whole, whole..x.len()] {
                let (x, grad, dx) = (&x[pixels.clone()], &grad[pixels.clone()], &mut dx[pixels]);
                if !x.is_empty() {
                    let width = width.min(x.len());
                    let rows = [&centre[..width], &rstds[..width], &weights[..width], &shift[..width]];
                    let sums = [&mut by_x[..width], &mut plain[..width]];
                    arch().dispatch(Slopes { x, grad, width, rows, silu: self.silu, before: dx, sums });
                }
            }
            let (dweight, dbias) = sums.split_at_mut(self.c);
            for channel in 0..self.c {
                let over_pixels =
                    |sums: &[f32]| sums.iter().skip(channel).step_by(self.c).map(|&x| f64::from(x)).sum::<f64>() as f32;
                (dweight[channel], dbias[channel]) = (over_pixels(by_x), over_pixels(plain));
            }
            // dx = rstd (t w - mean of t w - xhat * mean of t w xhat), t the gradient before SiLU, means over the
            // group: t * factor + (x - centre) * slope + offset
            let per_group = self.c / self.groups;
            let size = (self.pixels * per_group) as f64;
            let [factor, slope, offset] = [weights, shift, plain];
            for group in 0..self.groups {
                let channels = group * per_group..(group + 1) * per_group;
                let weighted = |sums: &[f32]| {
                    let products = channels.clone().map(|c| f64::from(sums[c]) * f64::from(weight[c]));
                    products.sum::<f64>() / size
                };
                let (along_x, along_one) = (weighted(dweight), weighted(dbias));
                let rstd = f64::from(rstd[group]);
                for pixel in (0..width).step_by(self.c) {
                    for channel in channels.clone() {
                        let at = pixel + channel;
                        factor[at] = (rstd * f64::from(weight[channel])) as f32;
                        slope[at] = (-rstd * rstd * along_x) as f32;
                        offset[at] = (-rstd * along_one) as f32;
                    }
                }
            }
            arch().dispatch(Finish { x, width, rows: [centre, factor, slope, offset], dx });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::silu_f64;
    use crate::kernels::cpu::testing::{CHANNELS, error, f64s, noise, on_threads};

    fn run(s: GroupNorm, [x, weight, bias, grad]: [&[f32]; 4]) -> [Vec<f32>; 6] {
        let (len, stats) = (x.len(), s.b * s.groups);
        let mut results = [len, stats, stats, len, s.c, s.c].map(|len| vec![f32::NAN; len]);
        let [y, mean, rstd, dx, dweight, dbias] = &mut results;
        forward(s, x, [weight, bias], y, [mean, rstd]);
        backward(s, x, [mean, rstd], [weight, bias], grad, dx, [dweight, dbias]);
        results
    }

    /// The plain computation.
    fn plain(s: GroupNorm, args: [&[f32]; 4]) -> [Vec<f64>; 6] {
        let [x, weight, bias, grad] = args.map(f64s);
        let mut results = [x.len(), s.b * s.groups, s.b * s.groups, x.len(), s.c, s.c].map(|len| vec![0.0; len]);
        let [y, means, rstds, dx, dweight, dbias] = &mut results;
        for (image, group) in (0..s.b).flat_map(|image| (0..s.groups).map(move |group| (image, group))) {
            let in_group = |i: &usize| i / (s.pixels * s.c) == image && s.group(i % s.c) == group;
            let places: Vec<usize> = (0..x.len()).filter(in_group).collect();
            let over = |number: &dyn Fn(usize) -> f64| places.iter().map(|&i| number(i)).sum::<f64>();
            let size = places.len() as f64;
            let mean = over(&|i| x[i]) / size;
            let rstd = 1.0 / (over(&|i| (x[i] - mean).powi(2)) / size + s.eps).sqrt();
            (means[image * s.groups + group], rstds[image * s.groups + group]) = (mean, rstd);
            let normal = |i: usize| (x[i] - mean) * rstd;
            let affine = |i: usize| normal(i) * weight[i % s.c] + bias[i % s.c];
            let before = |i: usize| if s.silu { grad[i] * silu_f64(affine(i)).1 } else { grad[i] };
            let along_one = over(&|i| before(i) * weight[i % s.c]) / size;
            let along_x = over(&|i| before(i) * weight[i % s.c] * normal(i)) / size;
            for &i in &places {
                y[i] = if s.silu { silu_f64(affine(i)).0 } else { affine(i) };
                dx[i] = rstd * (before(i) * weight[i % s.c] - along_one - normal(i) * along_x);
                dweight[i % s.c] += before(i) * normal(i);
                dbias[i % s.c] += before(i);
            }
        }
        results
    }

    #[test]
    fn numbers_whose_squares_are_too_large_give_no_number() {
        let s = GroupNorm { b: 1, pixels: 64, c: 8, groups: 2, eps: 1e-5, silu: true };
        let x: Vec<f32> = noise(1, 512).iter().map(|x| x * 1e21).collect();
        let [y, ..] = run(s, [&x, &[1.0; 8], &[0.0; 8], &x]);
        assert!(y.iter().all(|y| y.is_nan()), "{y:?}");
    }

    fn worst(s: GroupNorm, scale: f32, offset: f32) -> [f64; 6] {
        let x: Vec<f32> = noise(1, s.b * s.pixels * s.c).iter().map(|x| x * scale + offset).collect();
        let args = [x, noise(2, s.c), noise(3, s.c), noise(4, s.b * s.pixels * s.c)];
        let args = args.each_ref().map(Vec::as_slice);
        let results = on_threads(|| run(s, args));
        let expected = plain(s, args);
        std::array::from_fn(|i| error(&results[i], &expected[i]))
    }

    #[test]
    fn values_and_gradients_of_all_sizes() {
        let mut largest = [0f64; 6];
        for (i, c) in CHANNELS.into_iter().enumerate() {
            for (j, groups) in [1, 2, 4, 8, 17, 32, 65].into_iter().filter(|groups| c % groups == 0).enumerate() {
                for round in 0..3 {
                    let [h, w] = [1 + (i + 2 * j + 3 * round) % 9, 1 + (4 * i + j + 5 * round) % 9];
                    // a group of one number is all rounding
                    let pixels = if c == groups { (h * w).max(2) } else { h * w };
                    let s = GroupNorm { b: 1 + round, pixels, c, groups, eps: 1e-5, silu: (i + j + round) % 2 == 0 };
                    let errors = worst(s, 1.5, 0.5);
                    assert!(errors.iter().all(|&error| error < 2e-6), "{s:?}: {errors:?}");
                    (0..6).for_each(|i| largest[i] = largest[i].max(errors[i]));
                }
            }
        }
    }

    #[test]
    fn large_images_and_large_means_keep_their_digits() {
        for (pixels, c, groups) in [(5000, 32, 32), (3000, 4, 4), (1024, 128, 32), (700, 130, 2)] {
            let s = GroupNorm { b: 2, pixels, c, groups, eps: 1e-6, silu: true };
            let errors = worst(s, 1.0, 0.0);
            assert!(errors.iter().all(|&error| error < 1e-6), "{s:?}: {errors:?}");
            // as many digits of x as 1000 leaves, of which the mean takes three
            let errors = worst(GroupNorm { silu: false, ..s }, 1.0, 1000.0);
            assert!(errors[2] < 1e-6 && errors[0] < 1e-4, "{s:?}: {errors:?}");
        }
    }

    #[test]
    fn what_is_not_finite_spoils_its_group() {
        for (bad, silu) in [(f32::NAN, true), (f32::INFINITY, false), (f32::NEG_INFINITY, true)] {
            let s = GroupNorm { b: 2, pixels: 9, c: 34, groups: 17, eps: 1e-5, silu };
            let mut x = noise(1, 2 * 9 * 34);
            x[9 * 34 + 4 * 34 + 7] = bad; // second image, group 3
            let [y, _, _, dx, dweight, dbias] = run(s, [&x, &noise(2, 34), &noise(3, 34), &noise(4, x.len())]);
            for i in 0..x.len() {
                let spoiled = i >= 9 * 34 && i % 34 / 2 == 3;
                assert_eq!([y[i].is_nan(), dx[i].is_nan()], [spoiled; 2], "{bad} at {i}");
            }
            for channel in 0..34 {
                assert_eq!(dweight[channel].is_nan(), channel / 2 == 3);
                assert_eq!(dbias[channel].is_nan(), silu && channel / 2 == 3);
            }
        }
    }
}
