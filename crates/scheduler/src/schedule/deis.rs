use crate::prelude::*;

/// The equation that DEIS integrates. The names that other classes have stand for the one there is, as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DEISAlgorithmType {
    /// The probability flow ODE of the predicted noise.
    #[default]
    #[serde(alias = "dpmsolver", alias = "dpmsolver++")]
    Deis,
}

/// What DEIS interpolates outputs over. The names that other classes have stand for the one there is, as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DEISSolverType {
    /// The logarithm of ρ = sigma / alpha.
    #[default]
    #[serde(alias = "midpoint", alias = "heun", alias = "bh1", alias = "bh2")]
    Logrho,
}

/// x_t = alpha_t (x_s / alpha_s + Σ C_j ε_j): the C of each of the latest `order` outputs.
pub(crate) fn deis_coefficients(history: &History, s: Point, t: Point, order: usize) -> Vec<f64> {
    let rho = |at: Point| at.sigma / at.alpha;
    let logs: Vec<f64> = (0..order).map(|j| -history.lambda(j)).collect(); // log ρ = -λ
    let integral = |j: usize, others: &[usize]| {
        let of = |rho: f64| match *others {
            [] => rho,
            [c] => integral_of_one(rho, logs[j], logs[c]),
            [c, d, ..] => integral_of_two(rho, logs[j], logs[c], logs[d]),
        };
        of(rho(t)) - of(rho(s))
    };
    (0..order).map(|j| integral(j, &(0..order).filter(|&other| other != j).collect::<Vec<_>>())).collect()
}

/// ∫ (log ρ - c) / (b - c) dρ, that of the line which is 1 at b and 0 at c.
fn integral_of_one(rho: f64, b: f64, c: f64) -> f64 {
    rho * (rho.ln() - c - 1.0) / (b - c)
}

/// ∫ (log ρ - c) (log ρ - d) / ((b - c) (b - d)) dρ, that of the parabola which is 1 at b and 0 at c and d.
fn integral_of_two(rho: f64, b: f64, c: f64, d: f64) -> f64 {
    let log = rho.ln();
    rho * ((log - c) * (log - d) - 2.0 * log + c + d + 2.0) / ((b - c) * (b - d))
}
