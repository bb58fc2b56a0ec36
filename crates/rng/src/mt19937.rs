//! The Mersenne Twister (Matsumoto & Nishimura, 1998). It makes a block of 624 words at a time, which the compiler can
//! vectorise.

/// Words in the state, and in a block.
pub(crate) const N: usize = 624;
/// Distance between the two words that a new word is computed from.
const M: usize = 397;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Mt19937 {
    pub(crate) words: [u32; N],
    /// Number of words of the block that were drawn; 0 before the first block is made.
    pub(crate) next: usize,
}

impl Mt19937 {
    pub(crate) fn new(seed: u32) -> Self {
        let mut words = [seed; N];
        for i in 1..N {
            let last = words[i - 1];
            words[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { words, next: 0 }
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        self.refill();
        let word = self.words[self.next];
        self.next += 1;
        temper(word)
    }

    /// Fills `out` with `f` of one draw each: the hot path of every tensor of noise.
    pub(crate) fn fill<T>(&mut self, out: &mut [T], f: impl Fn(u32) -> T) {
        pulp::Arch::new().dispatch(Fill { engine: self, out, f });
    }

    /// Makes the next block if this one is used up.
    #[inline(always)]
    fn refill(&mut self) {
        if !matches!(self.next, 0 | N) {
            return;
        }
        let words = &mut self.words;
        for i in 0..N - M {
            words[i] = words[i + M] ^ twist(words[i], words[i + 1]);
        }
        for i in N - M..N - 1 {
            words[i] = words[i + M - N] ^ twist(words[i], words[i + 1]);
        }
        words[N - 1] = words[M - 1] ^ twist(words[N - 1], words[0]);
        self.next = 0;
    }
}

/// [`Mt19937::fill`], compiled for each vector width. (A struct, because a closure is not certain to be inlined.)
struct Fill<'a, T, F> {
    engine: &'a mut Mt19937,
    out: &'a mut [T],
    f: F,
}

impl<T, F: Fn(u32) -> T> pulp::NullaryFnOnce for Fill<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { engine, mut out, f } = self;
        while !out.is_empty() {
            engine.refill();
            let n = out.len().min(N - engine.next);
            let (now, later) = out.split_at_mut(n);
            for (value, &word) in now.iter_mut().zip(&engine.words[engine.next..]) {
                *value = f(temper(word));
            }
            engine.next += n;
            out = later;
        }
    }
}

/// The upper bit of one word and the lower bits of the next, multiplied by the twister's matrix.
#[inline(always)]
fn twist(upper: u32, lower: u32) -> u32 {
    let matrix = (lower & 1).wrapping_neg() & 0x9908_b0df;
    (((upper & 0x8000_0000) | (lower & 0x7fff_ffff)) >> 1) ^ matrix
}

#[inline(always)]
fn temper(mut y: u32) -> u32 {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c_5680;
    y ^= (y << 15) & 0xefc6_0000;
    y ^ (y >> 18)
}
