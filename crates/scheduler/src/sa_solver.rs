use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_config::Real;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{
    ForwardProcess, History, Integrand, Point, Spaced, StochasticAdams, check_last, check_order, inference_steps,
    last_timestep, learned_or_none,
};
use crate::tensors::noise_like;
use crate::{
    Error, LearnedVarianceType, Process, Result, Run, RunOptions, Scheduler, SolverConfig, SpacingConfig, StepOutput,
    Steps, TimestepSpacing,
};

/// SA-Solver: Adams' multistep methods, a predictor and a corrector, for reverse SDEs with as much noise as one likes
/// (Xue et al. 2023, algorithm 1): diffusers' `SASolverScheduler`.
///
/// As in diffusers the last step leads to the lowest noise level of training, not to none; with `use_*_sigmas` it leads
/// nowhere. Thresholding with `noise_prediction` and models that predict a variance, which diffusers cannot do, work;
/// and a flow that begins with an image is noised as a flow.
///
/// ```
/// use kakusan_scheduler::{SASolverConfig, SASolverScheduler, SATau, Scheduler};
///
/// let tau_func = Some(SATau { tau: 0.5, from: 0.0, to: 999.0 });
/// let run = SASolverScheduler::new(SASolverConfig { tau_func, ..SASolverConfig::default() })?.run(4)?;
/// assert_eq!(run.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SASolverScheduler {
    config: SASolverConfig,
    process: ForwardProcess,
}

/// The configuration of [`SASolverScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SASolverConfig {
    /// What all solvers have. With `lower_order_final` the last steps are of lower orders however many there are.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// How many outputs the predictor looks at, 1 to 4.
    pub predictor_order: usize,
    /// How many outputs the corrector looks at, 1 to 4.
    pub corrector_order: usize,
    /// τ, how much noise steps add; absent, 1 at the timesteps 200 to 800 and 0 at the others. diffusers takes a
    /// function here, which its files cannot hold.
    pub tau_func: Option<SATau>,
    /// What is integrated.
    pub algorithm_type: SAAlgorithmType,
    /// The lowest λ of a timestep that is visited.
    pub lambda_min_clipped: Real,
    /// What of the variance the model predicts beside. DDPM's fixed variances stand for nothing.
    #[serde(deserialize_with = "learned_or_none")]
    pub variance_type: Option<LearnedVarianceType>,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

/// How much noise SA-Solver adds: none but at some timesteps (Xue et al. 2023).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
#[serde(rename_all = "snake_case")]
pub enum SAAlgorithmType {
    /// The predicted image.
    #[default]
    DataPrediction,
    /// The predicted noise.
    NoisePrediction,
}

impl Default for SASolverConfig {
    /// diffusers': two outputs for the predictor, two for the corrector, spaced `linspace`.
    fn default() -> Self {
        Self {
            solver: SolverConfig::default(),
            predictor_order: 2,
            corrector_order: 2,
            tau_func: None,
            algorithm_type: SAAlgorithmType::DataPrediction,
            lambda_min_clipped: Real(f64::NEG_INFINITY),
            variance_type: None,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
        }
    }
}

impl SASolverConfig {
    /// τ at a timestep.
    fn tau(&self, timestep: f32) -> f64 {
        let SATau { tau, from, to } = self.tau_func.unwrap_or(SATau { tau: 1.0, from: 200.0, to: 800.0 });
        if (from..=to).contains(&timestep.into()) { tau } else { 0.0 }
    }
}

impl SASolverScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "SASolverScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: SASolverConfig) -> Result<Self> {
        config.solver.check(Self::CLASS_NAME)?;
        config.solver.check_flow_is_not_converted(Self::CLASS_NAME)?;
        check_order(Self::CLASS_NAME, "predictor_order", config.predictor_order, 4)?;
        check_order(Self::CLASS_NAME, "corrector_order", config.corrector_order, 4)?;
        if let Some(SATau { tau, .. }) = config.tau_func.filter(|tau| !(0.0..=10.0).contains(&tau.tau)) {
            let reason = format!("tau_func has a tau of {tau}; it must be between 0, no noise, and 10");
            return Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        }
        let scheduler = Self::build(config);
        scheduler.process.alphas.check(Self::CLASS_NAME)?;
        last_timestep(Self::CLASS_NAME, &scheduler.process, scheduler.config.lambda_min_clipped.0)?;
        Ok(scheduler)
    }

    fn build(config: SASolverConfig) -> Self {
        Self { process: ForwardProcess::new(&config.solver, false, config.variance_type), config }
    }
}

impl Default for SASolverScheduler {
    /// That of [`SASolverConfig::default`].
    fn default() -> Self {
        Self::build(SASolverConfig::default())
    }
}

impl Scheduler for SASolverScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "Adams' predictor and corrector, with as much noise as one likes (Xue et al. 2023)"
    }

    fn process(&self) -> Process {
        self.process.training()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        let last_timestep = last_timestep(Self::CLASS_NAME, &self.process, self.config.lambda_min_clipped.0);
        inference_steps(&self.config.spacing, last_timestep.unwrap_or(self.process.alphas.len()))
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[])?;
        let Self { config, process } = self;
        let SolverConfig { flow, sigma, .. } = config.solver;
        let spaced = Spaced {
            last_timestep: last_timestep(Self::CLASS_NAME, process, config.lambda_min_clipped.0)?,
            flow_shift: flow.use_flow_sigmas.then_some(flow.flow_shift),
            ..Spaced::new(process, config.spacing, sigma.conversion())
        };
        let path = spaced.path(Self::CLASS_NAME, process, &options.schedule)?;
        let sigmas = path.sigmas_to(match sigma.conversion().is_some() || flow.use_flow_sigmas {
            true => path.sigmas[path.sigmas.len() - 1],
            false => process.alphas.sigmas()[0].into(),
        });
        let integrand = match config.algorithm_type {
            SAAlgorithmType::DataPrediction => Integrand::Data,
            SAAlgorithmType::NoisePrediction => Integrand::Noise,
        };
        let history = History::new(config.predictor_order.max(config.corrector_order - 1));
        check_last(Self::CLASS_NAME, &sigmas)?;
        let steps = Steps::new(Self::CLASS_NAME, path.timesteps, options.start)?;
        let (config, process) = (config.clone(), process.clone());
        let solver = StochasticAdams { integrand, history };
        Ok(Box::new(SASolverRun { config, process, steps, sigmas, solver, last: None }))
    }
}

/// A sampling by [`SASolverScheduler`].
#[derive(Debug)]
struct SASolverRun {
    config: SASolverConfig,
    process: ForwardProcess,
    steps: Steps,
    sigmas: Vec<f32>,
    solver: StochasticAdams,
    last: Option<LastStep>,
}

/// What the corrector needs of the step before.
#[derive(Debug)]
struct LastStep {
    sample: Tensor,
    noise: Tensor,
    level: Point,
    tau: f64,
    corrector_order: usize,
}

impl Run for SASolverRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        let i = self.steps.index()?;
        if self.config.solver.flow.use_flow_sigmas {
            return Ok((1.0 - self.sigmas[i], self.sigmas[i]));
        }
        // as in diffusers at the whole timestep, which with use_*_sigmas is not quite where the run is
        let (level, last) = (self.steps.timesteps()[i], self.process.alphas.len() - 1);
        if level > last as f32 {
            return Err(Error::Level { level, last });
        }
        let alpha_prod = self.process.alphas.of_call(level as i64);
        Ok((alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt()))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        let (i, n) = (self.steps.index()?, self.steps.timesteps().len());
        let [s, t] = [self.sigmas[i], self.sigmas[i + 1]].map(|sigma| self.process.point(sigma));
        let (output, x0) = self.process.convert(self.solver.integrand, model_output, sample, s)?;
        let sample = match &self.last {
            Some(last) => {
                let (order, between) = (last.corrector_order, [last.level, s]);
                self.solver.correct(between, order, last.tau, &last.sample, &last.noise, &output)?
            }
            None => sample.clone(),
        };
        self.solver.history.push(s.lambda(), output);
        let noise = noise_like(&sample, rng)?;

        let left = if self.config.solver.lower_order_final { n - i } else { n };
        let known = self.solver.history.len();
        let predictor_order = self.config.predictor_order.min(left).min(known);
        let corrector_order = self.config.corrector_order.min(left + 1).min(known + 1);
        let tau = self.config.tau(self.steps.timesteps()[i]);
        let prev_sample = match s == t {
            true => sample.clone(), // nothing to integrate over, and nothing to correct
            false => self.solver.predict([s, t], predictor_order, tau, &sample, &noise)?,
        };
        self.last = (s != t).then_some(LastStep { sample, noise, level: s, tau, corrector_order });
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
