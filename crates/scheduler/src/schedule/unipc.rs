use crate::prelude::*;

/// B(h), by which UniPC divides (Zhao et al. 2023). The names that other classes have stand for `bh2` as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum UniPCSolverType {
    /// h
    Bh1,
    /// e^h - 1
    #[default]
    #[serde(alias = "midpoint", alias = "heun", alias = "logrho")]
    Bh2,
}

/// UniP and UniC, the predictor and the corrector of UniPC (Zhao et al. 2023, algorithms 1 and 2), and what they
/// remember.
#[derive(Debug, Clone)]
pub(crate) struct UniPC {
    pub(crate) solver_type: UniPCSolverType,
    pub(crate) integrand: Integrand,
    pub(crate) history: History,
}

impl UniPC {
    /// A step of order `p` from `x` at `s` to `t`, by earlier outputs and, where it is there already, the output at
    /// `t`.
    pub(crate) fn update(&self, [s, t]: [Point; 2], p: usize, x: &Tensor, model_t: Option<&Tensor>) -> Result<Tensor> {
        let h = t.lambda() - s.lambda();
        let (hh, a, weight) = match self.integrand {
            Integrand::Data => (-h, t.sigma / s.sigma, t.alpha),
            Integrand::Noise => (h, t.alpha / s.alpha, t.sigma),
        };
        let h_phi_1 = hh.exp_m1(); // hh φ₁(hh)
        let first = if t.sigma == 0.0 && self.integrand == Integrand::Noise {
            t.alpha * s.sigma / s.alpha // its limit as σ_t goes to 0
        } else {
            weight * h_phi_1
        };
        let m0 = self.history.output(0);
        let mut x_t = mix(a as f32, x, -first as f32, m0)?;
        if p == 1 && model_t.is_none() {
            return Ok(x_t);
        }

        let b_h = match self.solver_type {
            UniPCSolverType::Bh1 => hh,
            UniPCSolverType::Bh2 => h_phi_1,
        };
        let mut rks: Vec<f64> = (1..p).map(|i| (self.history.lambda(i) - self.history.lambda(0)) / h).collect();
        let mut differences = Vec::with_capacity(p);
        for (i, rk) in rks.iter().enumerate() {
            differences.push(scale(&(self.history.output(i + 1) - m0)?, (1.0 / rk) as f32)?);
        }
        if let Some(model_t) = model_t {
            rks.push(1.0);
            differences.push((model_t - m0)?);
        }
        let rhos = match (model_t, p) {
            (None, 2) | (Some(_), 1) => vec![0.5], // in place of the equations' solution
            _ => {
                // R ρ B(h) = φ, φ_k = k! hh φ_{k+1}(hh)
                let (mut b, mut h_phi_k, mut factorial) = (vec![], h_phi_1 / hh - 1.0, 1.0);
                for k in 1..=rks.len() {
                    b.push(h_phi_k * factorial / b_h);
                    factorial *= (k + 1) as f64;
                    h_phi_k = h_phi_k / hh - 1.0 / factorial;
                }
                let powers = |k: usize| rks.iter().map(|rk| rk.powi(k as i32)).collect();
                solve((0..rks.len()).map(powers).collect(), b)
            }
        };
        for (rho, difference) in rhos.iter().zip(&differences) {
            x_t = (x_t - scale(difference, (weight * b_h * rho) as f32)?)?;
        }
        Ok(x_t)
    }
}
