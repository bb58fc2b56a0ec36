use crate::mt19937::Mt19937;

/// torch's CPU generator: a Mersenne Twister, and the second value of a pair of normals until it is drawn.
///
/// Two generators are equal if they have the same seed and the same state.
///
/// ```
/// use kakusan_rng::Generator;
///
/// let mut generator = Generator::new(42); // torch.manual_seed(42)
/// let noise = generator.rand(128 * 28 * 28); // torch.rand(128, 1, 28, 28), row by row
/// assert!(noise.iter().all(|value| (0.0..1.0).contains(value)));
///
/// let state = generator.state(); // torch.get_rng_state()
/// let order = generator.randperm(10);
/// assert_eq!(Generator::from_state(&state)?.randperm(10), order);
/// # Ok::<(), kakusan_rng::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Generator {
    pub(crate) seed: u64,
    pub(crate) engine: Mt19937,
    /// The sine half of the last pair of scalar normals. Other draws leave it alone; it is part of the state.
    pub(crate) cached_normal: Option<f64>,
}

impl Generator {
    /// The generator after `torch.manual_seed(seed)`. As in torch, only the low 32 bits affect the values; a negative
    /// seed of torch is its two's complement (`-1` is [`u64::MAX`]).
    pub fn new(seed: u64) -> Self {
        Self { seed, engine: Mt19937::new(seed as u32), cached_normal: None }
    }

    /// The seed that this generator started from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.engine.next_u32()
    }

    /// The next 64 random bits: two draws, the first in the upper half.
    pub fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        (high << 32) | u64::from(self.next_u32())
    }
}

impl Default for Generator {
    /// torch's generator before it is seeded.
    fn default() -> Self {
        Self::new(67_280_421_310_721)
    }
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("seed", &self.seed).finish_non_exhaustive()
    }
}
