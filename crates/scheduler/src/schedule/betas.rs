use std::f64::consts::PI;

use crate::prelude::*;

/// How the variances β of the forward process grow over its timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// In even steps (Ho et al. 2020).
    Linear,
    /// Their square roots in even steps (latent diffusion, Rombach et al. 2022).
    ScaledLinear,
    /// From a squared cosine for ᾱ, capped at 0.999 (Nichol and Dhariwal 2021, equation 17).
    SquaredcosCapV2,
    /// Along a sigmoid from -6 to 6 (GeoDiff, Xu et al. 2022).
    Sigmoid,
    /// From a Laplace distribution of the log-SNR (Hang et al. 2024).
    Laplace,
    /// From ᾱ(t) = exp(-12 t).
    Exp,
}

config! {
    /// The variances β of the forward process, under diffusers' names. The default is that of Ho et al. (2020).
    pub struct BetaConfig {
        /// T, the timesteps of training.
        pub num_train_timesteps: usize = 1000,
        /// The first β.
        pub beta_start: f64 = 0.0001,
        /// The last β.
        pub beta_end: f64 = 0.02,
        /// How β gets from the one to the other.
        pub beta_schedule: BetaSchedule = BetaSchedule::Linear,
        /// The variances themselves, in place of all the above.
        pub trained_betas: Option<Vec<f64>> = None,
    }
}

impl BetaSchedule {
    /// Those that most schedulers know.
    pub(crate) const USUAL: &[Self] = &[Self::Linear, Self::ScaledLinear, Self::SquaredcosCapV2];
}

impl BetaConfig {
    /// From 0.00085 to 0.012: those of latent diffusion.
    pub fn latent(beta_schedule: BetaSchedule) -> Self {
        Self { beta_start: 0.00085, beta_end: 0.012, beta_schedule, ..Self::default() }
    }

    /// Says what is out of range, or not among the `known` schedules.
    pub(crate) fn check(&self, known: &[BetaSchedule]) -> Result<()> {
        let refuse = |reason: String| Err(Error::config(reason));
        let n = self.num_train_timesteps;
        check_train_timesteps(n, 1)?;
        for (key, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(0.0..=1.0).contains(&beta) {
                return refuse(format!("{key} is {beta}; it must be a variance between 0 and 1"));
            }
        }
        match &self.trained_betas {
            None if known.contains(&self.beta_schedule) => Ok(()),
            None => refuse(format!("it has no beta_schedule {:?}; it knows {known:?}", self.beta_schedule)),
            Some(betas) if betas.len() != n => {
                refuse(format!("trained_betas has {} variances, but num_train_timesteps is {n}", betas.len()))
            }
            Some(betas) => match betas.iter().find(|beta| !(0.0..=1.0).contains(*beta)) {
                Some(beta) => refuse(format!("trained_betas holds {beta}; variances are between 0 and 1")),
                None => Ok(()),
            },
        }
    }

    /// The variances β of every timestep, in torch's bits.
    pub(crate) fn betas(&self) -> Vec<f32> {
        if let Some(betas) = &self.trained_betas {
            return betas.iter().map(|&beta| beta as f32).collect();
        }
        let n = self.num_train_timesteps;
        let (start, end) = (self.beta_start, self.beta_end);
        match self.beta_schedule {
            BetaSchedule::Linear => linspace_f32(start as f32, end as f32, n),
            BetaSchedule::ScaledLinear => {
                linspace_f32(start.sqrt() as f32, end.sqrt() as f32, n).into_iter().map(|root| root * root).collect()
            }
            BetaSchedule::Sigmoid => {
                let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
                let at = |x| sigmoid(x) * (end - start) as f32 + start as f32;
                linspace_f32(-6.0, 6.0, n).into_iter().map(at).collect()
            }
            BetaSchedule::SquaredcosCapV2 => betas_for_alpha_bar(n, |t| ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2)),
            BetaSchedule::Exp => betas_for_alpha_bar(n, |t| (t * -12.0).exp()),
            BetaSchedule::Laplace => betas_for_alpha_bar(n, |t| {
                let log_snr = -0.5 * (0.5 - t).signum() * (1.0 - 2.0 * (0.5 - t).abs() + 1e-6).ln();
                (log_snr.exp() / (1.0 + log_snr.exp())).sqrt()
            }),
        }
    }
}

/// `β_i = 1 - ᾱ((i + 1) / n) / ᾱ(i / n)`, at most 0.999.
fn betas_for_alpha_bar(n: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f32> {
    let time = |i: usize| i as f64 / n as f64;
    (0..n).map(|i| (1.0 - alpha_bar(time(i + 1)) / alpha_bar(time(i))).min(0.999) as f32).collect()
}
