use crate::prelude::*;

/// Noise levels σ spaced otherwise than the timesteps, under diffusers' names; at most one may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SigmaConfig {
    /// Evenly in `σ^(1/7)` (Karras et al. 2022, equation 5).
    pub use_karras_sigmas: bool,
    /// Evenly in `log σ`.
    pub use_exponential_sigmas: bool,
    /// By the quantiles of a beta distribution (Lee et al. 2024).
    pub use_beta_sigmas: bool,
}

/// A spacing of noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SigmaConversion {
    Karras,
    Exponential,
    Beta,
    /// Evenly in λ = -log σ, whose ends are in f32 (Lu et al. 2022).
    Lu,
}

/// The noise level that the last step leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmasType {
    /// None: the image.
    #[default]
    Zero,
    /// The lowest of training.
    SigmaMin,
}

impl FinalSigmasType {
    /// That level, where the lowest is `sigma_min`.
    pub(crate) fn of(self, sigma_min: impl Into<f64>) -> f64 {
        match self {
            Self::Zero => 0.0,
            Self::SigmaMin => sigma_min.into(),
        }
    }
}

impl SigmaConfig {
    /// Refuses more than one spacing, and limits `[sigma_min, sigma_max]` that leave no room between them.
    pub(crate) fn check(&self, [sigma_min, sigma_max]: [Option<f64>; 2]) -> Result<()> {
        let refuse = |reason: String| Err(Error::config(reason));
        let set = [self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas];
        ensure(set.into_iter().filter(|&set| set).count() <= 1, || {
            Error::config("only one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas can be true")
        })?;
        for (key, sigma) in [("sigma_min", sigma_min), ("sigma_max", sigma_max)] {
            if let Some(sigma) = sigma.filter(|sigma| !(sigma.is_finite() && *sigma > 0.0)) {
                return refuse(format!("{key} is {sigma}; a noise level is a number above 0"));
            }
        }
        match (sigma_min, sigma_max) {
            (Some(min), Some(max)) if min >= max => refuse(format!("sigma_min is {min}, but sigma_max is {max}")),
            _ => Ok(()),
        }
    }

    /// The spacing that is set, if any.
    pub(crate) fn conversion(&self) -> Option<SigmaConversion> {
        match *self {
            Self { use_karras_sigmas: true, .. } => Some(SigmaConversion::Karras),
            Self { use_exponential_sigmas: true, .. } => Some(SigmaConversion::Exponential),
            Self { use_beta_sigmas: true, .. } => Some(SigmaConversion::Beta),
            _ => None,
        }
    }
}

impl SigmaConversion {
    /// `n` noise levels from `sigma_max` down to `sigma_min`.
    pub(crate) fn sigmas(self, [sigma_max, sigma_min]: [f64; 2], n: usize) -> Vec<f64> {
        match self {
            Self::Karras => karras(sigma_max, sigma_min, 7.0, n),
            Self::Exponential => linspace_f64(sigma_max.ln(), sigma_min.ln(), n).into_iter().map(f64::exp).collect(),
            Self::Lu => {
                let [max, min] = [sigma_max, sigma_min].map(|sigma| f64::from(ln_f32(sigma as f32)));
                linspace_f64(0.0, 1.0, n).into_iter().map(|ramp| (max + ramp * (min - max)).exp()).collect()
            }
            Self::Beta => linspace_f64(0.0, 1.0, n)
                .into_iter()
                .map(|quantile| sigma_min + puruspe::invbetai(1.0 - quantile, 0.6, 0.6) * (sigma_max - sigma_min))
                .collect(),
        }
    }
}

/// The noise levels at `timesteps`, which may lie between whole ones. With a conversion `n` levels between the first
/// and the last of them, or between `limits` where those are set, and the timesteps that have these levels.
pub(crate) fn sigmas_at(
    timesteps: Vec<f64>,
    training: &[f32],
    conversion: Option<SigmaConversion>,
    [sigma_min, sigma_max]: [Option<f64>; 2],
    n: usize,
) -> (Vec<f32>, Vec<f64>) {
    let sigmas: Vec<f64> = timesteps.iter().map(|&t| interpolate(t, training)).collect();
    let (Some(conversion), Some(&first), Some(&last)) = (conversion, sigmas.first(), sigmas.last()) else {
        return (timesteps.into_iter().map(|t| t as f32).collect(), sigmas);
    };
    let sigmas = conversion.sigmas([sigma_max.unwrap_or(first), sigma_min.unwrap_or(last)], n);
    (timesteps_of(&sigmas, training), sigmas)
}

/// Refuses more steps than timesteps, `t`, where the first two were the same: diffusers would begin with the second.
pub(crate) fn check_first_two(timesteps: &[f32], t: usize) -> Result<()> {
    ensure(timesteps.len() <= t || timesteps.first() != timesteps.get(1), || {
        let reason =
            format!("it was trained on {t} timesteps, so that the first two steps would be the same; it can do {t}");
        Error::steps(timesteps.len(), reason)
    })
}

/// Refuses model calls where there is no noise, or nothing but noise.
pub(crate) fn check_calls(timesteps: &[f32], sigmas: &[f64]) -> Result<()> {
    let empty = |&sigma: &f64| sigma as f32 == 0.0 || sigma.is_nan();
    let reason = if sigmas.iter().any(|sigma| sigma.is_infinite()) {
        "the betas leave nothing of the image where it would begin: take smaller ones, or fewer timesteps"
    } else if sigmas.iter().any(empty) || !timesteps.iter().all(|t| t.is_finite()) {
        "it divides by the noise level, or takes its logarithm, and at timestep 0 there is no noise: the first β is 0"
    } else {
        return Ok(());
    };
    Err(Error::steps(timesteps.len(), reason))
}

/// Refuses to lead to no noise by a method whose last step divides by it.
pub(crate) fn check_last(sigmas: &[f32]) -> Result<()> {
    let reason = "its last step leads to the noise level of timestep 0, where there is none: the first β is 0";
    ensure(sigmas.last() != Some(&0.0), || Error::steps(sigmas.len() - 1, reason))
}

/// Refuses two steps at the same noise level, between which a method of several steps would divide by 0.
pub(crate) fn check_apart(sigmas: &[f32], t: usize) -> Result<()> {
    let Some([level, _]) = sigmas.array_windows().find(|[a, b]| a == b) else { return Ok(()) };
    let reason =
        format!("it was trained on {t} timesteps, and two of its steps would begin at the same noise level, {level}");
    Err(Error::steps(sigmas.len() - 1, reason))
}

/// `1 / sqrt(σ² + 1)`, by which a model of the variance preserving process sees `x₀ + σ ε` scaled.
pub(crate) fn c_in(sigma: f32) -> f32 {
    1.0 / (sigma * sigma + 1.0).sqrt()
}

/// The timesteps, whole or not, that have these noise levels.
pub(crate) fn timesteps_of(sigmas: &[f64], training: &[f32]) -> Vec<f32> {
    let log_sigmas: Vec<f32> = training.iter().map(|&sigma| ln_f32(sigma)).collect();
    sigmas.iter().map(|&sigma| sigma_to_t(sigma, &log_sigmas) as f32).collect()
}

/// `n` noise levels evenly in `σ^(1/ρ)` (Karras et al. 2022, equation 5).
pub(crate) fn karras(sigma_max: f64, sigma_min: f64, rho: f64, n: usize) -> Vec<f64> {
    linspace_f64(0.0, 1.0, n).into_iter().map(|ramp| karras_sigma(sigma_max, sigma_min, rho, ramp)).collect()
}

/// The noise level at a place between 0, the highest, and 1.
pub(crate) fn karras_sigma(sigma_max: f64, sigma_min: f64, rho: f64, ramp: f64) -> f64 {
    let (max_root, min_root) = (sigma_max.powf(1.0 / rho), sigma_min.powf(1.0 / rho));
    (max_root + ramp * (min_root - max_root)).powf(rho)
}

/// The value of a table, whose entries are those of 0, 1, 2 ..., between its entries: `numpy.interp`.
pub(crate) fn interpolate(at: f64, table: &[f32]) -> f64 {
    let last = table.len().saturating_sub(1);
    let below = (at.max(0.0) as usize).min(last);
    let (low, high) = (f64::from(table[below]), f64::from(table[(below + 1).min(last)]));
    if at >= last as f64 { low } else { (high - low) * (at.max(0.0) - below as f64) + low }
}

/// The timestep, whole or between two, whose noise level is `sigma`; `log_sigmas` ascend over the timesteps, and their
/// differences are taken in f32, as numpy does it.
pub(crate) fn sigma_to_t(sigma: f64, log_sigmas: &[f32]) -> f64 {
    let log_sigma = sigma.max(1e-10).ln();
    let Some(highest) = log_sigmas.len().checked_sub(2) else {
        // of one timestep alone numpy counts the one before from the end
        return if log_sigmas.iter().any(|&log| log_sigma > f64::from(log)) { -1.0 } else { 0.0 };
    };
    let below = log_sigmas.iter().rposition(|&log| log_sigma - f64::from(log) >= 0.0).unwrap_or(0).min(highest);
    let (low, high) = (log_sigmas[below], log_sigmas[below + 1]);
    let weight = ((f64::from(low) - log_sigma) / f64::from(low - high)).clamp(0.0, 1.0);
    (1.0 - weight) * below as f64 + weight * (below + 1) as f64
}
