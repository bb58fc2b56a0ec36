use candle_core::Tensor;
use kakusan_rng::{Generator, Noise};

use crate::Result;
use crate::tensors::check_dims;

/// A Brownian motion over the noise levels of a training for each image of a batch, whose value at any level depends on
/// the image's seed alone, whatever was asked before: a virtual Brownian tree (Li et al. 2020, algorithm 3).
///
/// The levels are halved in log σ, [`DEPTH`](Self::DEPTH) times, and the motion is a straight line below that.
#[derive(Debug)]
pub(crate) struct BrownianMotion {
    shape: Vec<usize>,
    seeds: Vec<u64>,
    levels: [f64; 2],
    /// The values last asked for, since the halves of a step begin at the same level.
    recent: Vec<(f32, Vec<f32>)>,
}

impl BrownianMotion {
    /// So fine that a part is a hundred thousandth of its level.
    const DEPTH: usize = 20;

    /// Draws a seed for each image of a tensor of `shape` `[b, ...]`.
    pub(crate) fn new(shape: &[usize], training: &[f32], rng: &mut dyn Noise) -> Result<Self> {
        let images = shape.first().copied().unwrap_or(1);
        // a uniform number has 24 random bits
        let bits = |number: &f32| (f64::from(*number) * f64::from(1 << 24)) as u64;
        let numbers = rng.rand_tensor(&[images, 3])?;
        let seeds =
            numbers.as_chunks::<3>().0.iter().map(|[a, b, c]| bits(a) << 40 ^ bits(b) << 20 ^ bits(c)).collect();
        let lowest = training.iter().copied().fold(f32::MAX, f32::min).max(1e-6);
        let highest = training.iter().copied().fold(lowest, f32::max);
        Ok(Self { shape: shape.to_vec(), seeds, levels: [lowest.into(), highest.into()], recent: vec![] })
    }

    /// By how much the motion changes between two levels, in units of its standard deviation: standard normal
    /// noise for a tensor like `x`.
    pub(crate) fn increment(&mut self, from: f32, to: f32, x: &Tensor) -> Result<Tensor> {
        check_dims("the sample", x, &self.shape)?;
        let deviation = (from - to).abs().sqrt();
        if deviation == 0.0 {
            return Ok(x.zeros_like()?);
        }
        let (begin, end) = (self.at(from), self.at(to));
        let increment = begin.iter().zip(&end).map(|(begin, end)| (end - begin) / deviation).collect::<Vec<f32>>();
        Ok(Tensor::from_vec(increment, self.shape.as_slice(), x.device())?)
    }

    /// The motion of all images at a level.
    fn at(&mut self, sigma: f32) -> Vec<f32> {
        if let Some(i) = self.recent.iter().position(|(level, _)| *level == sigma) {
            let known = self.recent.remove(i);
            self.recent.push(known);
        } else {
            let image = self.shape.iter().skip(1).product();
            let values = self.seeds.iter().flat_map(|&seed| self.image_at(seed, image, sigma.into())).collect();
            self.recent.push((sigma, values));
        }
        if self.recent.len() > 2 {
            self.recent.remove(0);
        }
        self.recent.last().map(|(_, values)| values.clone()).unwrap_or_default()
    }

    /// The motion of one image of `n` numbers at a level.
    fn image_at(&self, seed: u64, n: usize, sigma: f64) -> Vec<f32> {
        let [mut low, mut high] = self.levels;
        let (mut at_low, mut at_high) = (vec![0.0; n], normal(seed, 0, n));
        at_high.iter_mut().for_each(|value| *value *= (high - low).sqrt() as f32);
        let mut node = 1;
        for _ in 0..Self::DEPTH {
            // halfway, and there given both ends (Brownian bridge)
            let middle = (low * high).sqrt();
            let weight = ((middle - low) / (high - low)) as f32;
            let deviation = ((middle - low) * (high - middle) / (high - low)).sqrt() as f32;
            let mut at_middle = normal(seed, node, n);
            for (value, (low, high)) in at_middle.iter_mut().zip(at_low.iter().zip(&at_high)) {
                *value = low + weight * (high - low) + deviation * *value;
            }
            let above = sigma > middle;
            (low, high) = if above { (middle, high) } else { (low, middle) };
            *(if above { &mut at_low } else { &mut at_high }) = at_middle;
            node = 2 * node + u64::from(above);
        }
        let weight = ((sigma - low) / (high - low)).clamp(0.0, 1.0) as f32;
        at_low.iter().zip(&at_high).map(|(low, high)| low + weight * (high - low)).collect()
    }
}

/// The noise of one node of an image's tree.
fn normal(seed: u64, node: u64, n: usize) -> Vec<f32> {
    // splitmix64's finaliser, so that neighbouring nodes have nothing in common
    let mut mixed = seed.wrapping_add(node.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    Generator::new(mixed ^ mixed >> 31).randn(n)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const SHAPE: [usize; 4] = [3, 1, 64, 64];

    fn motion(seed: u64) -> BrownianMotion {
        BrownianMotion::new(&SHAPE, &[0.03, 1.0, 15.0], &mut Generator::new(seed)).unwrap()
    }

    fn difference(a: &[f32], b: &[f32]) -> Vec<f32> {
        a.iter().zip(b).map(|(a, b)| a - b).collect()
    }

    fn covariance(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() / a.len() as f64
    }

    #[test]
    fn increments_are_independent_with_the_variance_of_their_length() {
        let mut motion = motion(0);
        let levels = [15.0, 9.3, 2.0, 1.99, 0.5, 0.04, 0.03];
        let values: Vec<Vec<f32>> = levels.iter().map(|&level| motion.at(level)).collect();
        let increments: Vec<Vec<f32>> = values.array_windows().map(|[a, b]| difference(a, b)).collect();
        for (i, a) in increments.iter().enumerate() {
            for (j, b) in increments.iter().enumerate() {
                let deviations = ((levels[i] - levels[i + 1]) * (levels[j] - levels[j + 1])).sqrt();
                let correlation = covariance(a, b) / f64::from(deviations);
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((correlation - expected).abs() < 0.05, "{i} {j}: {correlation}");
            }
        }
    }

    #[test]
    fn the_motion_does_not_depend_on_what_was_asked_before() {
        let (mut one, mut other) = (motion(1), motion(1));
        let coarse = [15.0, 1.0].map(|level| one.at(level));
        let fine = [15.0, 12.0, 7.0, 3.0, 1.0].map(|level| other.at(level));
        assert_eq!((&coarse[0], &coarse[1]), (&fine[0], &fine[4]));
        assert_ne!(coarse[1], motion(2).at(1.0));
    }

    #[test]
    fn each_image_has_a_motion_of_its_own() {
        let values = motion(3).at(4.0);
        let (a, b) = (&values[..4096], &values[4096..8192]);
        assert!((covariance(a, b) / covariance(a, a)).abs() < 0.05);
    }

    #[test]
    fn another_shape_is_refused() {
        let x = Tensor::zeros((3, 1, 64, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(motion(0).increment(2.0, 1.0, &x).unwrap_err().to_string().contains("the sample has shape"));
    }
}
