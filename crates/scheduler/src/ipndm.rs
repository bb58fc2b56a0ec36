use std::f32::consts::PI;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{MOST_STEPS, check_count, check_train_timesteps, linspace_f32};
use crate::tensors::{check_same, mix, scale};
use crate::{Error, Levels, PredictionType, Process, Result, Run, RunOptions, Scheduler, StepOutput, Steps};

/// The pseudo linear multistep method of fourth order (Liu et al. 2022, equations 9 and 12), improved by beginning with
/// methods of lower order: diffusers' `IPNDMScheduler`, of DanceDiffusion.
///
/// A sample is `cos(t π/2) clean + sin(t π/2) noise` for a time `t` from 1 down to 0, which the model is told; it predicts the
/// velocity `cos(t π/2) noise - sin(t π/2) clean`.
#[derive(Debug, Clone, Default)]
pub struct IPNDMScheduler {
    config: IPNDMConfig,
}

/// The configuration of [`IPNDMScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IPNDMConfig {
    /// The times that training draws from.
    pub num_train_timesteps: usize,
    /// The shares of noise, `sin(t π/2)`, between which the steps of every sampling lead, in place of `sin²` of even times.
    pub trained_betas: Option<Vec<f64>>,
}

impl Default for IPNDMConfig {
    /// diffusers': 1000 times.
    fn default() -> Self {
        Self { num_train_timesteps: 1000, trained_betas: None }
    }
}

impl IPNDMScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "IPNDMScheduler";

    /// Takes the configuration.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn new(config: IPNDMConfig) -> Result<Self> {
        check_train_timesteps(Self::CLASS_NAME, config.num_train_timesteps, 1)?;
        let refuse = |reason: String| Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        if let Some(betas) = &config.trained_betas {
            if betas.len() < 2 {
                return refuse(format!(
                    "trained_betas has {} numbers, but a step leads from one to the next",
                    betas.len()
                ));
            }
            if let Some(beta) = betas.iter().find(|beta| !(0.0..=1.0).contains(*beta)) {
                return refuse(format!("trained_betas holds {beta}; shares of noise are between 0 and 1"));
            }
        }
        Ok(Self { config })
    }

    /// The shares of noise between which `n` steps lead, and of the image.
    fn betas_and_alphas(&self, n: usize) -> (Vec<f32>, Vec<f32>) {
        let betas: Vec<f32> = match &self.config.trained_betas {
            Some(betas) => betas.iter().map(|&beta| beta as f32).collect(),
            None => {
                let times = linspace_f32(1.0, 0.0, n + 1).into_iter().take(n).chain([0.0]);
                times.map(|time| (time * PI / 2.0).sin().powi(2)).collect()
            }
        };
        let alphas = betas.iter().map(|beta| (1.0 - beta * beta).sqrt()).collect();
        (betas, alphas)
    }

    /// The times of `n` steps.
    fn times(&self, n: usize) -> Vec<f32> {
        let (betas, alphas) = self.betas_and_alphas(n);
        let times = betas.iter().zip(&alphas).map(|(beta, alpha)| beta.atan2(*alpha) / PI * 2.0);
        times.take(betas.len() - 1).collect()
    }
}

/// `(α, σ)` at a time.
fn alpha_sigma(time: f32) -> (f32, f32) {
    let angle = time * PI / 2.0;
    (angle.cos(), angle.sin())
}

impl Scheduler for IPNDMScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "a linear multistep method of fourth order in time from 1 to 0 (Liu et al. 2022)"
    }

    fn process(&self) -> Process {
        let times = self.times(self.config.num_train_timesteps);
        Process::new(Levels::one_of(times), PredictionType::VPrediction, alpha_sigma)
    }

    /// Those between `trained_betas`, where there are such.
    fn inference_steps(&self) -> RangeInclusive<usize> {
        match &self.config.trained_betas {
            Some(betas) => betas.len() - 1..=betas.len() - 1,
            None => 1..=MOST_STEPS,
        }
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let n = check_count(Self::CLASS_NAME, options.num_steps())?;
        let (betas, alphas) = self.betas_and_alphas(n);
        if betas.len() != n + 1 {
            let reason = format!("trained_betas has {}, so it can do {}", betas.len(), betas.len() - 1);
            return Err(Error::Steps { class_name: Self::CLASS_NAME.into(), steps: n, reason });
        }
        let steps = Steps::new(Self::CLASS_NAME, self.times(n), options.start)?;
        Ok(Box::new(IPNDMRun { betas, alphas, steps, ets: vec![] }))
    }
}

/// A sampling by [`IPNDMScheduler`]; it remembers the noise that the last steps predicted, up to four of them.
#[derive(Debug)]
struct IPNDMRun {
    betas: Vec<f32>,
    alphas: Vec<f32>,
    steps: Steps,
    /// The latest first.
    ets: Vec<Tensor>,
}

impl Run for IPNDMRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        let i = self.steps.index()?;
        Ok((self.alphas[i], self.betas[i]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let i = self.steps.index()?;
        if let Some(before) = self.ets.first() {
            check_same("the sample", sample, before)?;
        }
        let x0 = mix(self.alphas[i], sample, -self.betas[i], model_output)?;
        self.ets.insert(0, mix(self.betas[i], sample, self.alphas[i], model_output)?);
        self.ets.truncate(4);
        let weights: &[f64] = match self.ets.len() {
            1 => &[1.0],
            2 => &[3.0 / 2.0, -1.0 / 2.0],
            3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
            _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
        };
        let mut et = sample.zeros_like()?;
        for (weight, earlier) in weights.iter().zip(&self.ets) {
            et = (et + scale(earlier, *weight as f32)?)?;
        }

        let pred = scale(&(sample - scale(&et, self.betas[i])?)?, 1.0 / self.alphas[i].max(1e-8))?;
        let prev_sample = mix(self.alphas[i + 1], &pred, self.betas[i + 1], &et)?;
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use kakusan_rng::Generator;

    use super::*;

    /// diffusers' own test: ten steps twice over, the second time with what the first remembered.
    #[test]
    fn full_loop_no_noise() -> Result<()> {
        let scheduler = IPNDMScheduler::default();
        let (betas, alphas) = scheduler.betas_and_alphas(10);
        let steps = || Steps::new(IPNDMScheduler::CLASS_NAME, scheduler.times(10), 0);
        let mut run = IPNDMRun { betas, alphas, steps: steps()?, ets: vec![] };
        let values: Vec<f32> = (0..768).map(|i| i as f32 / 768.0).collect();
        let mut x = Tensor::from_vec(values, (4, 3, 8, 8), &Device::Cpu)?;
        for _ in 0..2 {
            run.steps = steps()?;
            while let Some(t) = run.timestep() {
                let output = x.affine(f64::from(t), 0.0)?.affine(1.0 / f64::from(t + 1.0), 0.0)?;
                x = run.step(&output, &x, &mut Generator::new(0))?.prev_sample;
            }
        }
        let mean = x.abs()?.mean_all()?.to_scalar::<f32>()?;
        assert!((mean - 2540529.0).abs() < 10.0, "{mean}");
        Ok(())
    }
}
