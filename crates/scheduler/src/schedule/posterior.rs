use crate::prelude::*;

/// The distribution of a less noisy sample, given the image and the sample (Ho et al. 2020, equations 6 and 7).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Posterior {
    of_x0: f32,
    of_sample: f32,
    /// β̃, its variance, at least 1e-20.
    pub(crate) small: f32,
    /// β, the variance of the noise between the two.
    pub(crate) beta: f32,
}

impl Posterior {
    /// From ᾱ of the sample to that of the less noisy one.
    pub(crate) fn new(alpha_prod: f32, alpha_prod_prev: f32) -> Self {
        let alpha = alpha_prod / alpha_prod_prev;
        Self::with_alpha_beta(alpha_prod, alpha_prod_prev, alpha, 1.0 - alpha)
    }

    /// The same where α, the ratio of the two, and β = 1 - α are known at higher precision.
    pub(crate) fn with_alpha_beta(alpha_prod: f32, alpha_prod_prev: f32, alpha: f32, beta: f32) -> Self {
        let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);
        if beta_prod == 0.0 {
            return Self { of_x0: 1.0, of_sample: 0.0, small: 1e-20, beta: 0.0 }; // there is no noise
        }
        Self {
            of_x0: alpha_prod_prev.sqrt() * beta / beta_prod,
            of_sample: alpha.sqrt() * beta_prod_prev / beta_prod,
            small: (beta_prod_prev / beta_prod * beta).max(1e-20),
            beta,
        }
    }

    pub(crate) fn mean(&self, x0: &Tensor, sample: &Tensor) -> Result<Tensor> {
        mix(self.of_x0, x0, self.of_sample, sample)
    }

    /// The standard deviation that a model predicts: the logarithm of the variance between those of β̃, at `v = -1`,
    /// and β, at `v = 1` (Nichol and Dhariwal 2021, equation 15).
    pub(crate) fn learned_deviation(&self, v: &Tensor) -> Result<Tensor> {
        let (low, high) = (self.small.ln(), self.beta.ln());
        let log_variance = v.affine(f64::from(high - low) / 2.0, f64::from(high + low) / 2.0)?;
        Ok(log_variance.affine(0.5, 0.0)?.exp()?)
    }
}
