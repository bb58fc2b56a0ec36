use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::Alphas;
use crate::tensors::{check_same, mix, scale};
use crate::{
    BetaConfig, BetaSchedule, Error, PredictionType, Process, Result, Run, RunOptions, Scheduler, SpacingConfig,
    StepOutput, Steps, TimestepSpacing,
};

/// Pseudo numerical methods on manifolds (Liu et al. 2022): diffusers' `PNDMScheduler`.
///
/// Three steps by a Runge-Kutta method of four model calls each, then a linear multistep method of one (algorithm 2). With
/// `skip_prk_steps` the multistep method begins at once, and calls the model twice in its first step.
///
/// As in diffusers every step leads `T / N` timesteps down, rounded to whole ones, whatever the spacing. A run that leaves
/// out steps at its beginning has its own Runge-Kutta steps, or its own doubled step, where it begins; its levels are
/// those that it calls the model at. (diffusers goes on there as if it had begun with noise, at wrong levels.)
#[derive(Debug, Clone)]
pub struct PNDMScheduler {
    config: PNDMConfig,
    alphas: Alphas,
}

/// The configuration of [`PNDMScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PNDMConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// What the model predicts: ε or a velocity.
    pub prediction_type: PredictionType,
    /// Whether to do without the Runge-Kutta steps.
    pub skip_prk_steps: bool,
    /// Whether the last step leads to the image; otherwise to the first timestep.
    pub set_alpha_to_one: bool,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for PNDMConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, spaced `leading`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            prediction_type: PredictionType::Epsilon,
            skip_prk_steps: false,
            set_alpha_to_one: false,
            spacing: SpacingConfig::new(TimestepSpacing::Leading),
        }
    }
}

impl PNDMScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "PNDMScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: PNDMConfig) -> Result<Self> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        config.prediction_type.only(Self::CLASS_NAME, &[PredictionType::Epsilon, PredictionType::VPrediction])?;
        config.beta.check(Self::CLASS_NAME, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        let scheduler = Self::build(config);
        scheduler.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: PNDMConfig) -> Self {
        Self { alphas: Alphas::new(&config.beta, false), config }
    }

    /// The levels of the Runge-Kutta calls, and of the multistep ones, for steps from these `timesteps` on.
    fn calls(&self, timesteps: &[f32], stride: i64) -> Result<(Vec<f32>, Vec<f32>)> {
        if self.config.skip_prk_steps {
            let doubled = timesteps.get(1).copied();
            let multistep = timesteps.iter().take(2).copied().chain(doubled).chain(timesteps.iter().skip(2).copied());
            return Ok((vec![], multistep.collect()));
        }
        let &[a, b, c, d, ..] = timesteps else {
            let reason = format!(
                "its Runge-Kutta steps need at least 4 to go on from, and there are {}; skip_prk_steps does without",
                timesteps.len()
            );
            return Err(Error::Steps { class_name: Self::CLASS_NAME.into(), steps: timesteps.len(), reason });
        };
        let half = (stride / 2) as f32;
        let step = |from: f32, to: f32| [from, to + half, to + half, to];
        Ok(([step(a, b), step(b, c), step(c, d)].concat(), timesteps[3..].to_vec()))
    }
}

impl Default for PNDMScheduler {
    /// That of [`PNDMConfig::default`].
    fn default() -> Self {
        Self::build(PNDMConfig::default())
    }
}

impl Scheduler for PNDMScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Runge-Kutta and linear multistep methods of fourth order in DDIM's terms (Liu et al. 2022)"
    }

    fn process(&self) -> Process {
        self.alphas.preserving(self.config.prediction_type)
    }

    /// At least 4 with Runge-Kutta steps, which the multistep method goes on from.
    fn inference_steps(&self) -> RangeInclusive<usize> {
        match self.config.skip_prk_steps {
            true => 1..=self.alphas.len(),
            false => 4..=self.alphas.len().max(4),
        }
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let timesteps = self.config.spacing.whole(Self::CLASS_NAME, self.alphas.len(), options.num_steps())?;
        let stride = (self.alphas.len() / options.num_steps()) as i64;
        let kept = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        let (runge_kutta, multistep) = self.calls(&kept.timesteps()[options.start..], stride)?;
        let prk_calls = runge_kutta.len();
        let steps = Steps::new(Self::CLASS_NAME, [runge_kutta, multistep].concat(), 0)?;
        if let Some(t) = steps.timesteps().iter().find(|&&t| self.alphas.of_call(t as i64) == 0.0) {
            let what = format!(
                "call the model at timestep {t}, where the betas leave nothing of the image: take smaller ones"
            );
            return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what });
        }
        Ok(Box::new(PNDMRun {
            scheduler: self.clone(),
            steps,
            prk_calls,
            stride,
            outputs: vec![],
            sum: None,
            begin: None,
        }))
    }
}

/// A sampling by [`PNDMScheduler`].
#[derive(Debug)]
struct PNDMRun {
    scheduler: PNDMScheduler,
    steps: Steps,
    prk_calls: usize,
    stride: i64,
    /// The model's output at the beginning of the last four steps, the newest last.
    outputs: Vec<Tensor>,
    /// The outputs of a Runge-Kutta step so far, weighted.
    sum: Option<Tensor>,
    /// The sample that a step of several calls began with.
    begin: Option<Tensor>,
}

impl PNDMRun {
    /// A call of a Runge-Kutta step: what to go by, from where, from which timestep to which.
    fn runge_kutta(&mut self, i: usize, output: &Tensor, sample: &Tensor) -> Result<(Tensor, Tensor, i64, i64)> {
        let timesteps = self.steps.timesteps();
        let (from, t) = (timesteps[i / 4 * 4] as i64, timesteps[i] as i64);
        let to = if i.is_multiple_of(2) { t - self.stride / 2 } else { t };
        let weight = if matches!(i % 4, 0 | 3) { 1.0 / 6.0 } else { 1.0 / 3.0 };
        let weighted = scale(output, weight)?;
        let sum = match &self.sum {
            Some(sum) => (sum + weighted)?,
            None => weighted,
        };
        if i.is_multiple_of(4) {
            self.outputs.push(output.clone());
        }
        let begin = match &self.begin {
            Some(begin) => begin.clone(),
            None => sample.clone(),
        };
        let ends = i % 4 == 3;
        let goes_by = if ends { sum.clone() } else { output.clone() };
        self.sum = (!ends).then_some(sum);
        self.begin = (!ends).then(|| begin.clone());
        Ok((goes_by, begin, from, to))
    }

    /// A call of the multistep method: likewise.
    fn multistep(&mut self, i: usize, output: &Tensor, sample: &Tensor) -> Result<(Tensor, Tensor, i64, i64)> {
        let t = self.steps.timesteps()[i] as i64;
        if let (1, [first], Some(begin)) = (i, self.outputs.as_slice(), &self.begin) {
            // the first step again, by the mean of both its ends
            let again = ((output + first)? / 2.0)?;
            let begin = begin.clone();
            self.begin = None;
            return Ok((again, begin, t + self.stride, t));
        }
        if i == 0 {
            self.begin = Some(sample.clone());
        }
        self.outputs.push(output.clone());
        if self.outputs.len() > 4 {
            self.outputs.remove(0);
        }
        let weights: &[f32] = match self.outputs.len() {
            1 => &[1.0],
            2 => &[-1.0 / 2.0, 3.0 / 2.0],
            3 => &[5.0 / 12.0, -16.0 / 12.0, 23.0 / 12.0],
            _ => &[-9.0 / 24.0, 37.0 / 24.0, -59.0 / 24.0, 55.0 / 24.0],
        };
        let mut goes_by = output.zeros_like()?;
        for (output, &weight) in self.outputs.iter().zip(weights) {
            goes_by = mix(1.0, &goes_by, weight, output)?;
        }
        Ok((goes_by, sample.clone(), t, t - self.stride))
    }

    /// From timestep `t` to `prev_t` (equation 9).
    fn transfer(&self, output: &Tensor, sample: &Tensor, t: i64, prev_t: i64) -> Result<Tensor> {
        let PNDMScheduler { config, alphas } = &self.scheduler;
        let final_alpha = if config.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) };
        let (alpha_prod, alpha_prod_prev) = (alphas.of_call(t), alphas.at(prev_t, final_alpha));
        let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);
        let epsilon = config.prediction_type.epsilon(output, sample, alpha_prod.sqrt(), beta_prod.sqrt())?;
        let divisor = alpha_prod * beta_prod_prev.sqrt() + (alpha_prod * beta_prod * alpha_prod_prev).sqrt();
        // without noise at both ends there is none to take away
        let of_epsilon = if divisor > 0.0 { (alpha_prod_prev - alpha_prod) / divisor } else { 0.0 };
        mix((alpha_prod_prev / alpha_prod).sqrt(), sample, -of_epsilon, &epsilon)
    }
}

impl Run for PNDMRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.scheduler.alphas.alpha_sigma(self.timesteps()[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        check_same("the model's output", model_output, sample)?;
        let i = self.steps.index()?;
        let alpha_prod = self.scheduler.alphas.of_call(self.timesteps()[i] as i64);
        let (alpha, sigma) = (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt());
        let x0 = self.scheduler.config.prediction_type.original_sample(model_output, sample, alpha, sigma)?;

        let (output, from, t, prev_t) = match i < self.prk_calls {
            true => self.runge_kutta(i, model_output, sample)?,
            false => self.multistep(i, model_output, sample)?,
        };
        let prev_sample = self.transfer(&output, &from, t, prev_t)?;
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
