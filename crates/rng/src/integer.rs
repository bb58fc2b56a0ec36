//! Integers and permutations.

use crate::{Error, Generator};

/// From this width on, torch draws an integer from 64 bits. (Older versions: from 2^32 on.)
pub(crate) const WIDE_RANGE: u64 = 1 << 28;
/// From this length on, torch draws a permutation from 64 bits.
const LONG_PERMUTATION: usize = u32::MAX as usize / 20;

impl Generator {
    /// `torch.randint(low, high, (n,))`: integers from `low` (inclusive) to `high` (exclusive).
    ///
    /// # Errors
    /// [`Error::EmptyRange`] unless `low < high`.
    pub fn randint(&mut self, n: usize, low: i64, high: i64) -> Result<Vec<i64>, Error> {
        let range = range(low, high)?;
        let draw = |_| {
            let bits = if range < WIDE_RANGE { self.next_u32().into() } else { self.next_u64() };
            low.wrapping_add_unsigned(bits % range)
        };
        Ok((0..n).map(draw).collect())
    }

    /// `torch.empty((), dtype=torch.int64).random_()`: an integer from 0 to 2^63 - 1. torch seeds its data loaders with
    /// it.
    pub fn random(&mut self) -> i64 {
        (self.next_u64() & i64::MAX as u64) as i64
    }

    /// `torch.randperm(n)`: the numbers 0 to n - 1 in random order (Fisher and Yates).
    pub fn randperm(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        if n < LONG_PERMUTATION {
            for i in 0..n.saturating_sub(1) {
                order.swap(i, i + self.next_u32() as usize % (n - i));
            }
        } else {
            for i in 0..n {
                order.swap(i, (self.next_u64() % (i as u64 + 1)) as usize);
            }
        }
        order
    }
}

/// The number of integers from `low` to `high`, without `high`.
pub(crate) fn range(low: i64, high: i64) -> Result<u64, Error> {
    if low < high { Ok(high.abs_diff(low)) } else { Err(Error::EmptyRange { low, high }) }
}

/// One epoch of torch's `DataLoader(shuffle=True)` without an explicit generator: the order in which it visits `n`
/// items.
///
/// The loader takes two 64-bit draws from the global generator. The first seeds the loader's workers; the second seeds
/// the private generator that shuffles. Batches are consecutive slices of the order; the last one is shorter where `n`
/// is not a multiple of their size.
///
/// ```
/// let mut global = kakusan_rng::Generator::new(0);
/// let order = kakusan_rng::dataloader_permutation(&mut global, 60_000);
/// assert_eq!(order[..4], [11226, 15289, 1783, 11687]);
/// ```
pub fn dataloader_permutation(global: &mut Generator, n: usize) -> Vec<usize> {
    let _base_seed = global.random();
    let seed = global.random();
    Generator::new(seed.unsigned_abs()).randperm(n)
}
