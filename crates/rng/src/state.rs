//! The bytes of `torch.get_rng_state()`, little-endian. Fields that only older versions of torch used are zero:
//!
//! | offset | field |
//! |---|---|
//! | 0 | seed, u64 |
//! | 8 | left, i32: draws until the block is renewed |
//! | 12 | seeded, i32: 1 |
//! | 16 | next, u64: draws made from the block |
//! | 24 | the block, 624 words of 32 bits, each in 64 |
//! | 5016 | unused, f64 |
//! | 5024 | cached normal, f64 |
//! | 5032 | unused, f64 |
//! | 5040 | whether there is a cached normal, i32 (and 4 bytes of padding) |
//! | 5048 | a cached f32 normal and whether there is one: no draw of this crate makes one, so it is ignored |

use crate::mt19937::{Mt19937, N};
use crate::{Error, Generator};

const WORDS: usize = 24;
const CACHED_NORMAL: usize = 5024;
const HAS_CACHED_NORMAL: usize = 5040;
const LEN: usize = 5056;

impl Generator {
    /// `torch.get_rng_state()`: 5056 bytes from which [`Generator::from_state`] or torch continues.
    pub fn state(&self) -> Vec<u8> {
        let engine = &self.engine;
        let left = if engine.next == 0 { 1 } else { N + 1 - engine.next };
        let mut bytes = vec![0; LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.seed.to_le_bytes());
        put(8, &(left as u32).to_le_bytes());
        put(12, &1_u32.to_le_bytes());
        put(16, &(engine.next as u64).to_le_bytes());
        for (i, word) in engine.words.iter().enumerate() {
            put(WORDS + 8 * i, &word.to_le_bytes());
        }
        if let Some(normal) = self.cached_normal {
            put(CACHED_NORMAL, &normal.to_le_bytes());
            put(HAS_CACHED_NORMAL, &1_u32.to_le_bytes());
        }
        bytes
    }

    /// `torch.set_rng_state()`: the generator whose state [`Generator::state`] or torch has written.
    ///
    /// # Errors
    /// [`Error::State`] for bytes that are not such a state.
    pub fn from_state(bytes: &[u8]) -> Result<Self, Error> {
        let bytes: &[u8; LEN] =
            bytes.try_into().map_err(|_| Error::State(format!("it has {} bytes instead of {LEN}", bytes.len())))?;
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let (left, seeded, next) = (u32_at(8), u32_at(12), u64_at(16));
        if seeded != 1 {
            return Err(Error::State("it is not marked as seeded".into()));
        }
        let block = N as u64;
        let fresh = (left, next) == (1, 0);
        let counted = (1..=block).contains(&next) && u64::from(left) + next == block + 1;
        if !fresh && !counted {
            return Err(Error::State(format!("{next} draws made and {left} left do not make a block of {N}")));
        }

        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            *word = u32::try_from(u64_at(WORDS + 8 * i))
                .map_err(|_| Error::State(format!("word {i} of its block exceeds 32 bits")))?;
        }
        if words == [0; N] {
            return Err(Error::State("its block is all zeros, from which only zeros follow".into()));
        }

        let normal = f64::from_bits(u64_at(CACHED_NORMAL));
        let cached_normal = match u32_at(HAS_CACHED_NORMAL) {
            0 => None,
            1 if normal.is_finite() => Some(normal),
            1 => return Err(Error::State(format!("its cached normal is {normal}"))),
            other => return Err(Error::State(format!("its mark of a cached normal is {other} instead of 0 or 1"))),
        };
        Ok(Self { seed: u64_at(0), engine: Mt19937 { words, next: next as usize }, cached_normal })
    }
}
