use std::f32::consts::PI;

use crate::prelude::*;

/// The pseudo linear multistep method of fourth order (Liu et al. 2022, equations 9 and 12), improved by beginning with
/// methods of lower order: diffusers' `IPNDMScheduler`, of DanceDiffusion.
///
/// A sample is `cos(t π/2) clean + sin(t π/2) noise` for a time `t` from 1 down to 0, which the model is conditioned
/// on; it predicts the velocity `cos(t π/2) noise - sin(t π/2) clean`.
pub type IPNDMScheduler = Sampler<IPNDMConfig>;

config! {
    /// The configuration of [`IPNDMScheduler`], under diffusers' names.
    pub struct IPNDMConfig {
        /// The times that training draws from.
        pub num_train_timesteps: usize = 1000,
        /// The weights of the noise, `sin(t π/2)`, between which the steps of every sampling lead, in place of `sin²`
        /// of even times.
        pub trained_betas: Option<Vec<f64>> = None,
    }
}

impl IPNDMConfig {
    /// `(α, σ)` between which `n` steps lead.
    fn alpha_sigma(&self, n: usize) -> Vec<(f32, f32)> {
        let betas: Vec<f32> = match &self.trained_betas {
            Some(betas) => betas.iter().map(|&beta| beta as f32).collect(),
            None => {
                let times = linspace_f32(1.0, 0.0, n + 1).into_iter().take(n).chain([0.0]);
                times.map(|time| (time * PI / 2.0).sin().powi(2)).collect()
            }
        };
        betas.into_iter().map(|beta| ((1.0 - beta * beta).sqrt(), beta)).collect()
    }

    /// The times of `n` steps.
    fn times(&self, n: usize) -> Vec<f32> {
        let ends = self.alpha_sigma(n);
        ends[..ends.len() - 1].iter().map(|(alpha, sigma)| sigma.atan2(*alpha) / PI * 2.0).collect()
    }
}

impl Method for IPNDMConfig {
    const CLASS_NAME: &'static str = "IPNDMScheduler";
    const SUMMARY: &'static str = "a linear multistep method of fourth order in time from 1 to 0 (Liu et al. 2022)";

    fn check(&self) -> Result<()> {
        check_train_timesteps(self.num_train_timesteps, 1)?;
        let Some(betas) = &self.trained_betas else { return Ok(()) };
        let count = betas.len();
        ensure(count >= 2, || {
            Error::config(format!("trained_betas has {count} numbers, but a step leads from one to the next"))
        })?;
        match betas.iter().find(|beta| !(0.0..=1.0).contains(*beta)) {
            Some(beta) => {
                Err(Error::config(format!("trained_betas holds {beta}; weights of the noise are between 0 and 1")))
            }
            None => Ok(()),
        }
    }

    fn process(&self) -> Process {
        let angle = |time: f32| time * PI / 2.0;
        let levels = Levels::one_of(self.times(self.num_train_timesteps));
        Process::new(levels, PredictionType::VPrediction, move |time| (angle(time).cos(), angle(time).sin()))
    }

    /// Those between `trained_betas`, where there are such.
    fn inference_steps(&self, _: &Process) -> RangeInclusive<usize> {
        match &self.trained_betas {
            Some(betas) => betas.len() - 1..=betas.len() - 1,
            None => 1..=MOST_STEPS,
        }
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let n = check_count(options.num_steps())?;
        let alpha_sigma = self.alpha_sigma(n);
        let (has, can) = (alpha_sigma.len(), alpha_sigma.len() - 1);
        ensure(n == can, || Error::steps(n, format!("trained_betas has {has}, so it can do {can}")))?;
        let plan = Plan { alpha_sigma, ..Plan::new(self.times(n)) };
        let mut ets = vec![];
        Sampling::begin(plan, options.start, predict, move |call, x0, _| step(call, x0, &mut ets))
    }
}

/// The clean image.
fn predict(call: &Call) -> Result<Tensor> {
    let (alpha, sigma) = call.alpha_sigma();
    mix(alpha, call.sample, -sigma, &call.output)
}

/// A step by the noise that the last ones predicted: `ets`, up to four of them, the latest first.
fn step(call: &Call, x0: Tensor, ets: &mut Vec<Tensor>) -> Result<StepOutput> {
    if let Some(before) = ets.first() {
        check_same("the sample", call.sample, before)?;
    }
    let (alpha, sigma) = call.alpha_sigma();
    let (next_alpha, next_sigma) = call.plan.alpha_sigma[call.i + 1];
    ets.insert(0, mix(sigma, call.sample, alpha, &call.output)?);
    ets.truncate(4);
    let mut et = call.sample.zeros_like()?;
    for (&weight, earlier) in adams_bashforth(ets.len()).iter().zip(&*ets) {
        et = (et + scale(earlier, weight)?)?;
    }
    let pred = scale(&(call.sample - scale(&et, sigma)?)?, 1.0 / alpha.max(1e-8))?;
    let prev_sample = mix(next_alpha, &pred, next_sigma, &et)?;
    Ok(StepOutput { prev_sample, pred_original_sample: x0 })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// diffusers' own test: ten steps twice over, the second time with what the first remembered.
    #[test]
    fn full_loop_no_noise() -> Result<()> {
        let (config, mut ets) = (IPNDMConfig::default(), vec![]);
        let plan = Plan { alpha_sigma: config.alpha_sigma(10), ..Plan::new(config.times(10)) };
        let values: Vec<f32> = (0..768).map(|i| i as f32 / 768.0).collect();
        let mut x = Tensor::from_vec(values, (4, 3, 8, 8), &Device::Cpu)?;
        for _ in 0..2 {
            for (i, &t) in plan.timesteps.iter().enumerate() {
                let output = x.affine(f64::from(t), 0.0)?.affine(1.0 / f64::from(t + 1.0), 0.0)?;
                let call = Call { plan: &plan, i, sample: &x, output, variance: None };
                x = step(&call, predict(&call)?, &mut ets)?.prev_sample;
            }
        }
        let mean = x.abs()?.mean_all()?.to_scalar::<f32>()?;
        assert!((mean - 2540529.0).abs() < 10.0, "{mean}");
        Ok(())
    }
}
