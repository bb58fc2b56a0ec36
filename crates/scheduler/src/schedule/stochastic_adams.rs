use crate::prelude::*;

/// How much noise SA-Solver adds: none but at some timesteps (Xue et al. 2023).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SATau {
    /// τ there: 0 is the ODE, 1 the usual SDE.
    pub tau: f64,
    /// The lowest timestep at which noise is added.
    pub from: f64,
    /// The highest.
    pub to: f64,
}

/// What SA-Solver integrates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SAAlgorithmType {
    /// The predicted image.
    #[default]
    DataPrediction,
    /// The predicted noise.
    NoisePrediction,
}

impl Default for SATau {
    /// The paper's: noise in the middle.
    fn default() -> Self {
        Self { tau: 1.0, from: 200.0, to: 800.0 }
    }
}

impl SATau {
    /// τ at a timestep.
    pub(crate) fn at(&self, timestep: f32) -> f64 {
        if (self.from..=self.to).contains(&timestep.into()) { self.tau } else { 0.0 }
    }
}

impl SAAlgorithmType {
    pub(crate) fn integrand(self) -> Integrand {
        match self {
            Self::DataPrediction => Integrand::Data,
            Self::NoisePrediction => Integrand::Noise,
        }
    }
}

/// The stochastic Adams methods of SA-Solver (Xue et al. 2023, algorithm 1), and the outputs that they look at.
#[derive(Debug, Clone)]
pub(crate) struct StochasticAdams {
    pub(crate) integrand: Integrand,
    pub(crate) history: History,
}

impl StochasticAdams {
    /// Adams and Bashforth's: from `x` at `s` to `t` by the latest `order` outputs.
    pub(crate) fn predict(&self, [s, t]: [Point; 2], order: usize, tau: f64, x: &Tensor, z: &Tensor) -> Result<Tensor> {
        let (c, h) = (self.rate(tau), t.lambda() - s.lambda());
        let nodes: Vec<f64> = (0..order).map(|k| self.history.lambda(k) - t.lambda()).collect();
        let mut weights = lagrange_integrals(&nodes, c, h);
        if let (Integrand::Data, [first, second]) = (self.integrand, weights.as_mut_slice()) {
            // of the third order in h, for better images in few steps
            let extra = (h * h / 2.0 - second_phi(c, h)) / (nodes[0] - nodes[1]);
            *first += extra;
            *second -= extra;
        }
        let outputs: Vec<&Tensor> = (0..order).map(|k| self.history.output(k)).collect();
        self.update([s, t], tau, x, z, &weights, &outputs)
    }

    /// Adams and Moulton's: the same by `output`, the one at `t`, and the latest `order - 1` before.
    pub(crate) fn correct(
        &self,
        [s, t]: [Point; 2],
        order: usize,
        tau: f64,
        x: &Tensor,
        z: &Tensor,
        output: &Tensor,
    ) -> Result<Tensor> {
        let (c, h) = (self.rate(tau), t.lambda() - s.lambda());
        let earlier = (0..order - 1).map(|k| self.history.lambda(k) - t.lambda());
        let mut weights = lagrange_integrals(&[0.0].into_iter().chain(earlier).collect::<Vec<_>>(), c, h);
        if let (Integrand::Data, [first, second]) = (self.integrand, weights.as_mut_slice()) {
            let extra = h / 2.0 - second_phi(c, h) / h;
            *first += extra;
            *second -= extra;
        }
        let outputs: Vec<&Tensor> =
            [output].into_iter().chain((0..order - 1).map(|k| self.history.output(k))).collect();
        self.update([s, t], tau, x, z, &weights, &outputs)
    }

    /// The rate at which the integrand counts more as λ grows: `e^(c λ)`.
    fn rate(&self, tau: f64) -> f64 {
        match self.integrand {
            Integrand::Data => 1.0 + tau * tau,
            Integrand::Noise => -1.0,
        }
    }

    fn update(
        &self,
        [s, t]: [Point; 2],
        tau: f64,
        x: &Tensor,
        z: &Tensor,
        weights: &[f64],
        outputs: &[&Tensor],
    ) -> Result<Tensor> {
        let h = t.lambda() - s.lambda();
        let tau2 = tau * tau;
        let (of_x, of_integral, of_z) = match self.integrand {
            Integrand::Data => {
                let of_z = t.sigma * (-(-2.0 * tau2 * h).exp_m1()).max(0.0).sqrt();
                ((-tau2 * h).exp() * t.sigma / s.sigma, (1.0 + tau2) * t.alpha, of_z)
            }
            Integrand::Noise => {
                let of_z = tau * t.sigma * (2.0 * h).exp_m1().max(0.0).sqrt();
                (t.alpha / s.alpha, -(1.0 + tau2) * t.sigma, of_z)
            }
        };
        let mut x_t = scale(x, of_x as f32)?;
        for (weight, output) in weights.iter().zip(outputs) {
            x_t = (x_t + scale(output, (of_integral * weight) as f32)?)?;
        }
        Ok((x_t + scale(z, of_z as f32)?)?)
    }
}

/// `(c h - 1 + e^(-c h)) / c²`
fn second_phi(c: f64, h: f64) -> f64 {
    (c * h + (-c * h).exp_m1()) / (c * c)
}

/// ∫ e^(c u) ℓ(u) du from -h to 0, for the polynomial ℓ of each node that is 1 there and 0 at the others.
fn lagrange_integrals(nodes: &[f64], c: f64, h: f64) -> Vec<f64> {
    // those of u^p: by parts, the one from the other
    let mut powers = vec![-(-c * h).exp_m1() / c];
    for p in 1..nodes.len() {
        powers.push((-(-h).powi(p as i32) * (-c * h).exp() - p as f64 * powers[p - 1]) / c);
    }
    let integral = |k: usize| lagrange(nodes, k).iter().zip(&powers).map(|(a, power)| a * power).sum();
    (0..nodes.len()).map(integral).collect()
}
