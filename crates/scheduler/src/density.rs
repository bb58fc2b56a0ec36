use std::f32::consts::PI;

use crate::process::{Levels, Process};
use crate::{Family, Result};

/// How often a training draws which noise level, in place of the process's own [`Levels`]: for
/// [`Process::with_density`].
///
/// The first three are those of flows, by which [Esser et al. 2024](https://arxiv.org/abs/2403.03206) (section 3.1)
/// spend more of the training in the middle: diffusers' `compute_density_for_timestep_sampling`. Each draws a place `u`
/// in `[0, 1)` on the schedule, where 0 has the most noise, and takes the timestep there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Density {
    /// A flow: all levels alike.
    Uniform,
    /// A flow: the logit of `u` is normal.
    LogitNormal {
        /// Its mean; below 0 there is more noise.
        mean: f64,
        /// Its standard deviation, above 0.
        std: f64,
    },
    /// A flow: `u` by equation 20 of the paper, heavier in the middle and at the ends than a logit-normal one.
    Mode {
        /// From -1 to 2 / (π - 2): above 0 the middle is more likely, below 0 the ends are.
        scale: f64,
    },
    /// EDM's: `ln σ` is normal ([Karras et al. 2022](https://arxiv.org/abs/2206.00364), table 1).
    LogNormal {
        /// NVlabs' `P_mean`, -1.2 in the paper.
        mean: f64,
        /// NVlabs' `P_std`, 1.2 in the paper.
        std: f64,
    },
}

impl Process {
    /// The same with levels that training draws by another density; `None` if the process is not of the density's
    /// family.
    ///
    /// ```
    /// use kakusan_scheduler::{Density, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, Scheduler};
    ///
    /// let (flow, edm) = (FlowMatchEulerDiscreteScheduler::default(), EDMEulerScheduler::default());
    /// let density = Density::LogitNormal { mean: 0.0, std: 1.0 };
    /// assert!(flow.process().with_density(density)?.is_some());
    /// assert!(edm.process().with_density(density)?.is_none());
    /// # Ok::<(), kakusan_scheduler::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the process contradicts itself: a level that it draws is none of it.
    pub fn with_density(self, density: Density) -> Result<Option<Self>> {
        let levels = match (density, self.family()) {
            // a level of this family is ln(σ) / 4
            (Density::LogNormal { mean, std }, Some(Family::Edm(_))) => {
                let (mean, std) = (mean as f32, std as f32);
                Levels::normal(0.0, 1.0, move |z| (z * std + mean) / 4.0)
            }
            (Density::LogNormal { .. }, _) => return Ok(None),
            (_, Some(Family::Flow(_))) => {
                let Some(schedule) = self.schedule()? else { return Ok(None) };
                let count = schedule.len() as f32;
                let at = move |u: f32| schedule[((u * count) as usize).min(schedule.len() - 1)];
                match density {
                    Density::LogitNormal { mean, std } => Levels::normal(mean, std, move |logit| at(sigmoid(logit))),
                    Density::Mode { scale } => Levels::continuous(move |u| at(mode(u, scale as f32))),
                    Density::Uniform | Density::LogNormal { .. } => Levels::continuous(at),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(self.with_levels(levels)))
    }

    /// The levels of training from the most noise to the least, if they are finitely many.
    fn schedule(&self) -> Result<Option<Vec<f32>>> {
        let Some(levels) = self.levels() else { return Ok(None) };
        let with_noise = |level: f32| Ok((self.alpha_sigma(level)?.1, level));
        let mut levels = levels.into_iter().map(with_noise).collect::<Result<Vec<_>>>()?;
        levels.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok((!levels.is_empty()).then(|| levels.into_iter().map(|(_, level)| level).collect()))
    }
}

/// `torch.sigmoid`.
fn sigmoid(x: f32) -> f32 {
    let exp = (-f64::from(x)).exp() as f32;
    1.0 / (1.0 + exp)
}

/// Equation 20, in the order of diffusers.
fn mode(u: f32, scale: f32) -> f32 {
    let cos = f64::from(PI * u / 2.0).cos() as f32;
    1.0 - u - scale * (cos * cos - 1.0 + u)
}
