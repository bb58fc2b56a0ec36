use crate::prelude::*;

/// The Euler-Maruyama method on the reverse of the variance preserving SDE (Song et al. 2021, equations 6 and 11):
/// diffusers' deprecated `ScoreSdeVpScheduler`.
///
/// The model is conditioned on the time, from 1 down to `sampling_eps`, and predicts the noise. The last step comes
/// without its noise, as in the paper's own sampler: diffusers returns both, and has no pipeline that would choose.
pub type ScoreSdeVpScheduler = Sampler<ScoreSdeVpConfig>;

config! {
    /// The configuration of [`ScoreSdeVpScheduler`], under diffusers' names.
    pub struct ScoreSdeVpConfig {
        /// The times that training draws from.
        pub num_train_timesteps: usize = 2000,
        /// β at time 0.
        pub beta_min: f64 = 0.1,
        /// β at time 1.
        #[serde(serialize_with = "serialize_whole")]
        pub beta_max: f64 = 20.0,
        /// The time of the last step, where that of the first is 1.
        pub sampling_eps: f64 = 1e-3,
    }
}

impl ScoreSdeVpConfig {
    /// `(α, σ)` of a sample (equation 29).
    fn alpha_sigma(&self, time: f32) -> (f32, f32) {
        let (beta_min, range) = (self.beta_min as f32, (self.beta_max - self.beta_min) as f32);
        let log_mean = -0.25 * time * time * range - 0.5 * time * beta_min;
        (log_mean.exp(), (1.0 - (2.0 * log_mean).exp()).sqrt())
    }

    /// `n` times from 1 down.
    fn times(&self, n: usize) -> Vec<f32> {
        linspace_f32(1.0, self.sampling_eps as f32, n)
    }
}

impl Method for ScoreSdeVpConfig {
    const CLASS_NAME: &'static str = "ScoreSdeVpScheduler";
    const SUMMARY: &'static str =
        "Euler-Maruyama on the variance preserving SDE, a thousand steps or more (Song et al. 2021)";

    fn check(&self) -> Result<()> {
        check_train_timesteps(self.num_train_timesteps, 1)?;
        let Self { beta_min, beta_max, sampling_eps, .. } = *self;
        ensure(sampling_eps > 0.0 && sampling_eps < 1.0, || {
            Error::config(format!("sampling_eps is {sampling_eps}; it must be between 0 and 1"))
        })?;
        ensure(beta_min >= 0.0 && beta_max > beta_min && beta_max.is_finite(), || {
            Error::config(format!("beta_min is {beta_min} and beta_max {beta_max}; β must grow from at least 0"))
        })
    }

    fn process(&self) -> Process {
        let (levels, config) = (Levels::one_of(self.times(self.num_train_timesteps)), self.clone());
        Process::new(levels, PredictionType::Epsilon, move |time| config.alpha_sigma(time))
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let times = self.times(check_count(options.num_steps())?);
        let alpha_sigma = times.iter().map(|&time| self.alpha_sigma(time)).collect();
        let Self { beta_min, beta_max, .. } = *self;

        let plan = Plan { alpha_sigma, ..Plan::new(times) };
        let predict = |call: &Call| {
            let (alpha, sigma) = call.alpha_sigma();
            mix(1.0 / alpha, call.sample, -sigma / alpha, &call.output)
        };

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            // x - (-β/2 x - β score) / n, where the score is -ε / σ
            let (_, sigma) = call.alpha_sigma();
            let n = call.plan.timesteps.len() as f32;
            let beta = beta_min as f32 + call.timestep() * (beta_max - beta_min) as f32;
            let mean = mix(1.0 + 0.5 * beta / n, call.sample, -beta / n / sigma, &call.output)?;
            let z = noise_like(call.sample, rng)?;
            let is_last = call.next_timestep().is_none();
            let prev_sample = if is_last { mean } else { mix(1.0, &mean, (beta / n).sqrt(), &z)? };
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
