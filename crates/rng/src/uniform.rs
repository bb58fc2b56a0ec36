//! Uniform and Bernoulli values.

use crate::{Error, Generator};

/// The low 24 bits of a draw as an `f32` in [0, 1). (By way of `i32`, which converts in one instruction.)
#[inline(always)]
fn unit_f32(draw: u32) -> f32 {
    const SCALE: f32 = 1.0 / (1 << 24) as f32;
    (draw & 0xff_ffff) as i32 as f32 * SCALE
}

impl Generator {
    /// `torch.rand(n)`: uniform on [0, 1).
    pub fn rand(&mut self, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; n];
        self.fill_rand(&mut out);
        out
    }

    /// [`Generator::rand`] into existing memory.
    pub fn fill_rand(&mut self, out: &mut [f32]) {
        self.engine.fill(out, unit_f32);
    }

    /// `torch.rand(n, dtype=torch.float64)`: uniform on [0, 1), 53 bits each.
    pub fn rand_f64(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.unit_f64()).collect()
    }

    pub(crate) fn unit_f64(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.next_u64() & ((1 << 53) - 1)) as f64 * SCALE
    }

    /// `torch.empty(n).uniform_(from, to)`: uniform on [from, to), for `from <= to`. Used to initialise layers.
    pub fn uniform(&mut self, n: usize, from: f64, to: f64) -> Vec<f32> {
        let (from, to) = (from as f32, to as f32);
        let range = to - from;
        let mut out = vec![0.0; n];
        self.engine.fill(&mut out, |draw| {
            let value = unit_f32(draw).mul_add(range, from); // one rounding, as in torch
            if value == to { from } else { value } // torch returns `from` for a value that rounds to `to`
        });
        out
    }

    /// `torch.empty(n).bernoulli_(p)`: `true` with probability `p`, a number from 0 to 1.
    ///
    /// # Errors
    /// [`Error::Probability`] for a `p` outside that range.
    pub fn bernoulli(&mut self, n: usize, p: f64) -> Result<Vec<bool>, Error> {
        check_probability(p)?;
        Ok((0..n).map(|_| self.unit_f64() < p).collect())
    }

    /// `torch.bernoulli(probabilities)` of an `f32` tensor: `true` with the probability that each element gives. It
    /// draws other bits than [`Generator::bernoulli`].
    ///
    /// # Errors
    /// [`Error::Probability`] for an element outside 0 to 1.
    pub fn bernoulli_tensor(&mut self, probabilities: &[f32]) -> Result<Vec<bool>, Error> {
        for &p in probabilities {
            check_probability(p.into())?;
        }
        Ok(probabilities.iter().map(|&p| unit_f32(self.next_u32()) < p).collect())
    }
}

fn check_probability(p: f64) -> Result<(), Error> {
    if (0.0..=1.0).contains(&p) { Ok(()) } else { Err(Error::Probability(p)) }
}
