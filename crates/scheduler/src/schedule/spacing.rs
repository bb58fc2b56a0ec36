use crate::prelude::*;

/// Which of the timesteps of training a sampling visits (Lin et al. 2023, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Evenly from the last to the first, both included.
    Linspace,
    /// Every so many from the first; the last ones are left out.
    Leading,
    /// Every so many from the last. They are numpy's `arange`, whose rounding makes one more of some numbers of steps
    /// (of 61 of 1000): timestep -1, which Euler and the solvers take for 0, and DDPM, DDIM and PNDM, as in diffusers,
    /// for the last.
    Trailing,
}

/// Which timesteps a sampling visits, under diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SpacingConfig {
    /// How they are spaced.
    pub timestep_spacing: TimestepSpacing,
    /// Added to those spaced `leading`.
    pub steps_offset: usize,
}

impl Default for SpacingConfig {
    /// `leading`, without an offset.
    fn default() -> Self {
        Self::new(TimestepSpacing::Leading)
    }
}

impl SpacingConfig {
    /// No offset.
    pub fn new(timestep_spacing: TimestepSpacing) -> Self {
        Self { timestep_spacing, steps_offset: 0 }
    }

    /// The standard deviation of the noise that a run over these noise levels begins with: where the first timesteps
    /// are left out, the image adds to it.
    pub(crate) fn init_noise_sigma(&self, sigmas: &[f32]) -> f32 {
        let max = sigmas.iter().copied().fold(0.0, f32::max);
        match self.timestep_spacing {
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => max,
            TimestepSpacing::Leading => (max * max + 1.0).sqrt(),
        }
    }

    /// The timesteps of `n` steps of `t` in descending order, rounded to whole ones, as DDPM and DDIM have them. Spaced
    /// `trailing` there may be one more, -1.
    pub(crate) fn whole(&self, t: usize, n: usize) -> Result<Vec<f32>> {
        let timesteps: Vec<f32> =
            self.exact(t, n)?.into_iter().map(|timestep| timestep.round_ties_even() as f32).collect();
        match timesteps.first() {
            Some(&first) if first > (t - 1) as f32 => {
                let (offset, last) = (self.steps_offset, t - 1);
                let reason =
                    format!("with steps_offset {offset} the first timestep is {first}, but there is none after {last}");
                Err(Error::steps(n, reason))
            }
            _ => Ok(timesteps),
        }
    }

    /// Refuses an offset that leads beyond all timesteps.
    pub(crate) fn check_offset(&self, t: usize, n: usize) -> Result<()> {
        let offset = self.steps_offset;
        ensure(self.timestep_spacing != TimestepSpacing::Leading || offset <= t, || {
            Error::steps(n, format!("steps_offset is {offset}, but there is none after {}", t - 1))
        })
    }

    /// The same where `linspace` may lie between whole timesteps, and `steps_offset` lead beyond the last, as Euler and
    /// its kin have them.
    pub(crate) fn exact(&self, t: usize, n: usize) -> Result<Vec<f64>> {
        check_count(n)?;
        self.check_offset(t, n)?;
        let timesteps: Vec<f64> = match self.timestep_spacing {
            TimestepSpacing::Linspace => linspace_f64(0.0, (t - 1) as f64, n).into_iter().rev().collect(),
            TimestepSpacing::Leading => (0..n).rev().map(|i| (i * (t / n) + self.steps_offset) as f64).collect(),
            TimestepSpacing::Trailing => {
                let ratio = t as f64 / n as f64;
                arange_down(t as f64, ratio).into_iter().map(|timestep| timestep.round_ties_even() - 1.0).collect()
            }
        };
        Ok(timesteps)
    }
}
