use crate::prelude::*;

/// How a solver's model calls are spaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spaced {
    /// Which timesteps, where noise levels are not spaced otherwise.
    pub(crate) spacing: SpacingConfig,
    /// How many timesteps of training there are to visit: all, or those before `lambda_min_clipped`.
    pub(crate) last_timestep: usize,
    /// Noise levels spaced otherwise, between those of training or `[sigma_min, sigma_max]`.
    pub(crate) conversion: Option<SigmaConversion>,
    pub(crate) limits: [Option<f64>; 2],
    /// Whether the timesteps of such noise levels are rounded; otherwise they are cut off.
    pub(crate) rounded: bool,
    /// The shift of a flow's noise levels; `None` where there is no flow.
    pub(crate) flow_shift: Option<f64>,
    /// Whether the run leads from images to noise.
    pub(crate) upwards: bool,
}

/// The timesteps and the noise levels of a solver's model calls.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path {
    pub(crate) timesteps: Vec<f32>,
    pub(crate) sigmas: Vec<f64>,
}

impl Spaced {
    /// Over all of training from noise to images.
    pub(crate) fn new(alphas: &Alphas, spacing: SpacingConfig, conversion: Option<SigmaConversion>) -> Self {
        Self {
            spacing,
            last_timestep: alphas.len(),
            conversion,
            limits: [None, None],
            rounded: conversion == Some(SigmaConversion::Karras),
            flow_shift: None,
            upwards: false,
        }
    }

    /// The path that a run asks for.
    pub(crate) fn path(&self, alphas: &Alphas, schedule: &Schedule) -> Result<Path> {
        let training = alphas.sigmas();
        let path = self.any_path(training, schedule)?;
        let t = training.len();
        if path.sigmas.len() > t {
            check_apart(&path.sigmas.iter().map(|&sigma| sigma as f32).collect::<Vec<_>>(), t)?;
        }
        check_first_two(&path.timesteps, t)?;
        check_calls(&path.timesteps, &path.sigmas)?;
        Ok(path)
    }

    fn any_path(&self, training: &[f32], schedule: &Schedule) -> Result<Path> {
        let Schedule::Timesteps(timesteps) = schedule else {
            return self.even_path(training, check_count(schedule.num_steps())?);
        };
        ensure(self.conversion.is_none() && self.flow_shift.is_none(), || {
            Error::unsupported(
                "take timesteps while its noise levels are spaced by themselves: leave out use_*_sigmas and \
                 use_lu_lambdas",
            )
        })?;
        Ok(Path::at(check_whole_timesteps(timesteps, training.len())?, training))
    }

    /// `n` model calls.
    fn even_path(&self, training: &[f32], n: usize) -> Result<Path> {
        if let Some(conversion) = self.conversion {
            let [sigma_min, sigma_max] = self.limits;
            let (min, max) = (sigma_min.unwrap_or(training[0].into()), sigma_max.unwrap_or(last(training).into()));
            let sigmas = conversion.sigmas(if self.upwards { [min, max] } else { [max, min] }, n);
            return Ok(Path { timesteps: whole_timesteps(&sigmas, training, self.rounded), sigmas });
        }
        if let Some(shift) = self.flow_shift {
            let t = training.len() as f64;
            let alphas = linspace_f64(1.0, 1.0 / t, n + 1).into_iter().skip(1);
            let mut sigmas: Vec<f64> = alphas.map(|alpha| shifted(1.0 - alpha, shift)).collect();
            if !self.upwards {
                sigmas.reverse();
            }
            return Ok(Path { timesteps: sigmas.iter().map(|sigma| (sigma * t).trunc() as f32).collect(), sigmas });
        }
        Ok(Path::at(self.timesteps(training.len(), n)?, training))
    }

    /// The timesteps of `n` model calls. `n + 1` are spaced evenly, and the last of them is where the run leads.
    fn timesteps(&self, t: usize, n: usize) -> Result<Vec<f32>> {
        let last = self.last_timestep;
        let SpacingConfig { timestep_spacing, steps_offset } = self.spacing;
        self.spacing.check_offset(t, n)?;
        let visited = if self.upwards { 0..n } else { 1..n + 1 };
        let mut timesteps: Vec<f32> = match timestep_spacing {
            TimestepSpacing::Linspace => linspace_f64(0.0, last as f64 - 1.0, n + 1)[visited]
                .iter()
                .map(|t| t.round_ties_even() as f32)
                .collect(),
            TimestepSpacing::Leading => {
                let (ratio, most) = (last / (n + 1), (last - 1).max(1));
                ensure(n <= most, || {
                    Error::steps(n, format!("of {last} timesteps spaced leading it can do at most {most}"))
                })?;
                visited.map(|i| ((i * ratio) as f64 + steps_offset as f64) as f32).collect()
            }
            // from the last; where they lead is beyond
            TimestepSpacing::Trailing => {
                let timesteps = arange_down(last as f64, t as f64 / n as f64);
                timesteps.into_iter().rev().map(|timestep| (timestep.round_ties_even() - 1.0) as f32).collect()
            }
        };
        if !self.upwards {
            timesteps.reverse();
        }
        Ok(timesteps)
    }
}

impl Path {
    /// At whole timesteps.
    fn at(timesteps: Vec<f32>, training: &[f32]) -> Self {
        let sigmas = timesteps.iter().map(|&timestep| interpolate(timestep.into(), training)).collect();
        Self { timesteps, sigmas }
    }
}

/// How many steps can be spaced over the timesteps with a λ of at least `lambda_min_clipped`.
pub(crate) fn inference_steps(
    spacing: &SpacingConfig,
    alphas: &Alphas,
    lambda_min_clipped: Real,
) -> RangeInclusive<usize> {
    let last_timestep = last_timestep(alphas, lambda_min_clipped).unwrap_or(alphas.len());
    match spacing.timestep_spacing {
        TimestepSpacing::Leading => 1..=(last_timestep - 1).max(1),
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => 1..=last_timestep,
    }
}

/// How many timesteps have a λ of at least `lambda_min_clipped`; there has to be one.
pub(crate) fn last_timestep(alphas: &Alphas, Real(lambda_min_clipped): Real) -> Result<usize> {
    let lambda = |&alpha: &f32| f64::from(alpha.sqrt().ln() - (1.0 - alpha).sqrt().ln());
    let last = alphas.cumprod().iter().take_while(|alpha| lambda(alpha) >= lambda_min_clipped).count();
    if last > 0 {
        return Ok(last);
    }
    let most = alphas.cumprod().first().map_or(f64::NAN, lambda);
    Err(Error::config(format!(
        "lambda_min_clipped is {lambda_min_clipped}, but no timestep has a λ of more than {most}"
    )))
}

/// The timesteps of noise levels, rounded or cut off to whole ones. Where they begin at the highest of training, cut
/// off, it takes one ulp of that to fall to the timestep before; torch's square root, by which it comes, is not always
/// the nearest number (T = 50 and linear betas), so that there it can be diffusers' neighbour.
fn whole_timesteps(sigmas: &[f64], training: &[f32], rounded: bool) -> Vec<f32> {
    let log_sigmas: Vec<f32> = training.iter().map(|&sigma| ln_f32(sigma)).collect();
    let whole = |t: f64| if rounded { t.round_ties_even() } else { t.trunc() };
    sigmas.iter().map(|&sigma| whole(sigma_to_t(sigma, &log_sigmas)) as f32).collect()
}

fn last(training: &[f32]) -> f32 {
    training[training.len() - 1]
}
