use std::f32::consts::TAU;

use crate::integer::{WIDE_RANGE, range};
use crate::philox::philox;
use crate::{Error, cephes};

/// Threads in a block of torch's kernels.
const BLOCK: u64 = 256;
/// Numbers of a thread between two calls of the generator; torch advances its offset by a multiple of it.
const CALL: u64 = 4;
const TO_UNIT: f32 = 1.0 / (1u64 << 32) as f32;

/// torch's CUDA generator, `torch.Generator("cuda")`, computed without a card.
///
/// Each thread of a card has a generator of its own ([Philox4x32-10](https://doi.org/10.1145/2063384.2063405), as in
/// cuRAND), so which number goes to which element depends on the number of threads that run at a time, the [`Card`],
/// once a tensor has more elements than that.
///
/// Bits and integers are torch's exactly, and so are uniform values. Normal values differ from a card's by less than
/// 1e-5, because a card computes sine and cosine in hardware, at lower precision.
///
/// ```
/// use kakusan_rng::CudaGenerator;
///
/// let mut generator = CudaGenerator::new(0); // torch.Generator("cuda").manual_seed(0)
/// let normal = generator.randn(3); // torch.randn(3, generator=generator, device="cuda")
/// let torchs = [-0.9247, -0.4253, -2.6438];
/// assert!(normal.iter().zip(torchs).all(|(ours, torchs)| (ours - torchs).abs() < 1e-4));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaGenerator {
    seed: u64,
    /// Numbers that each thread has drawn so far, rounded up to whole calls.
    offset: u64,
    card: Card,
}

/// The size of a card, on which the order of [`CudaGenerator`]'s numbers depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// `multiProcessorCount`
    pub multiprocessors: u32,
    /// `maxThreadsPerMultiProcessor`
    pub threads: u32,
}

impl Card {
    /// The most elements whose numbers are in the same order on every larger card: one for each thread.
    pub fn wave(&self) -> u64 {
        BLOCK * (u64::from(self.multiprocessors) * (u64::from(self.threads) / BLOCK)).max(1)
    }
}

impl Default for Card {
    /// An H100 (SXM) or H200.
    fn default() -> Self {
        Self { multiprocessors: 132, threads: 2048 }
    }
}

impl CudaGenerator {
    /// The generator of an H100 or H200 after `manual_seed(seed)`.
    pub fn new(seed: u64) -> Self {
        Self::on(Card::default(), seed)
    }

    /// The generator of this card after `manual_seed(seed)`.
    pub fn on(card: Card, seed: u64) -> Self {
        Self { seed, offset: 0, card }
    }

    /// The seed that this generator started from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// `torch.randn(n, generator=generator, device="cuda")`.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        self.normal(n, 0.0, 1.0)
    }

    /// `torch.empty(n, device="cuda").normal_(mean, std, generator=generator)`, for `std >= 0`.
    pub fn normal(&mut self, n: usize, mean: f64, std: f64) -> Vec<f32> {
        let (mean, std) = (mean as f32, std as f32);
        self.draw(n, |[a, b, c, d]| {
            let ([a, b], [c, d]) = (box_muller(a, b), box_muller(c, d));
            [a, b, c, d].map(|normal| normal.mul_add(std, mean))
        })
    }

    /// `torch.rand(n, generator=generator, device="cuda")`: uniform on [0, 1).
    pub fn rand(&mut self, n: usize) -> Vec<f32> {
        self.draw(n, |bits| {
            bits.map(|bits| {
                let unit = unit(bits); // from above 0 to 1; torch returns 0 for a value that rounds to 1
                if unit == 1.0 { 0.0 } else { unit }
            })
        })
    }

    /// `torch.randint(low, high, (n,), generator=generator, device="cuda")`: integers from `low` (inclusive) to `high`
    /// (exclusive).
    ///
    /// # Errors
    /// [`Error::EmptyRange`] unless `low < high`.
    pub fn randint(&mut self, n: usize, low: i64, high: i64) -> Result<Vec<i64>, Error> {
        let range = range(low, high)?;
        let place = |bits: u64| low.wrapping_add_unsigned(bits % range);
        Ok(if range < WIDE_RANGE {
            self.draw(n, |bits| bits.map(|bits| place(bits.into())))
        } else {
            self.draw(n, |[a, b, c, d]| {
                [(a, b), (c, d)].map(|(high, low)| place(u64::from(high) << 32 | u64::from(low)))
            })
        })
    }

    /// torch's `distribution_elementwise_grid_stride_kernel`: each of the card's threads makes `K` values at a call and
    /// leaves them a whole grid apart.
    fn draw<T: Copy + Default, const K: usize>(&mut self, n: usize, make: impl Fn([u32; 4]) -> [T; K]) -> Vec<T> {
        let mut out = vec![T::default(); n];
        if n == 0 {
            return out;
        }
        let threads = (n as u64).next_multiple_of(BLOCK).min(self.card.wave());
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let calls = (n as u64).div_ceil(threads * K as u64);
        for call in 0..calls {
            let (block, first) = (self.offset / CALL + call, call * threads * K as u64);
            for thread in 0..threads.min(n as u64 - first) {
                let counter = [block as u32, (block >> 32) as u32, thread as u32, (thread >> 32) as u32];
                for (k, value) in make(philox(counter, key)).into_iter().enumerate() {
                    if let Some(place) = out.get_mut((first + thread + k as u64 * threads) as usize) {
                        *place = value;
                    }
                }
            }
        }
        self.offset += calls * CALL;
        out
    }
}

/// cuRAND's uniform value: above 0, up to 1.
#[inline(always)]
fn unit(bits: u32) -> f32 {
    (bits as f32).mul_add(TO_UNIT, TO_UNIT / 2.0)
}

/// cuRAND's `_curand_box_muller`, with the multiply-adds that its compiler makes of it.
#[inline(always)]
fn box_muller(x: u32, y: u32) -> [f32; 2] {
    const TO_ANGLE: f32 = TO_UNIT * TAU;
    let radius = (-2.0 * cephes::ln(unit(x))).sqrt();
    let (sin, cos) = cephes::sin_cos((y as f32).mul_add(TO_ANGLE, TO_ANGLE / 2.0));
    [radius * sin, radius * cos]
}
