use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{
    ForwardProcess, History, Integrand, Point, Spaced, check_last, check_order, inference_steps, multistep_order,
};
use crate::tensors::scale;
use crate::{
    DynamicShiftConfig, Process, Result, Run, RunOptions, Scheduler, SolverConfig, SpacingConfig, StepOutput, Steps,
    Supports, TimeShiftType, TimestepSpacing,
};

/// DEIS: the noise that was predicted, interpolated over log ρ and integrated (Zhang and Chen 2023, "ρAB-DEIS"):
/// diffusers' `DEISMultistepScheduler`.
///
/// As in diffusers the last step leads to the lowest noise level of training, not to none; with `use_*_sigmas` it leads
/// nowhere.
///
/// ```
/// use kakusan_scheduler::{DEISMultistepConfig, DEISMultistepScheduler, Scheduler};
///
/// let config = DEISMultistepConfig { solver_order: 3, ..DEISMultistepConfig::default() };
/// let run = DEISMultistepScheduler::new(config)?.run(4)?;
/// assert_eq!(run.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DEISMultistepScheduler {
    config: DEISMultistepConfig,
    process: ForwardProcess,
}

/// The configuration of [`DEISMultistepScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DEISMultistepConfig {
    /// What all solvers have.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// How many outputs a step looks at, 1 to 3.
    pub solver_order: usize,
    /// The equation that is integrated.
    pub algorithm_type: DEISAlgorithmType,
    /// What outputs are interpolated over.
    pub solver_type: DEISSolverType,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
    /// A shift of a flow's noise levels for each run.
    #[serde(flatten)]
    pub dynamic_shift: DynamicShiftConfig,
}

/// The equation that DEIS integrates. The names that other classes have stand for the one there is, as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DEISAlgorithmType {
    /// The probability flow ODE of the predicted noise.
    #[default]
    #[serde(alias = "dpmsolver", alias = "dpmsolver++")]
    Deis,
}

/// What DEIS interpolates outputs over. The names that other classes have stand for the one there is, as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DEISSolverType {
    /// The logarithm of ρ = sigma / alpha.
    #[default]
    #[serde(alias = "midpoint", alias = "heun", alias = "bh1", alias = "bh2")]
    Logrho,
}

impl Default for DEISMultistepConfig {
    /// diffusers': of the second order, spaced `linspace`.
    fn default() -> Self {
        Self {
            solver: SolverConfig::default(),
            solver_order: 2,
            algorithm_type: DEISAlgorithmType::Deis,
            solver_type: DEISSolverType::Logrho,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
            dynamic_shift: DynamicShiftConfig::default(),
        }
    }
}

impl DEISMultistepScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "DEISMultistepScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: DEISMultistepConfig) -> Result<Self> {
        config.solver.check(Self::CLASS_NAME)?;
        config.solver.check_flow_is_not_converted(Self::CLASS_NAME)?;
        config.dynamic_shift.check(Self::CLASS_NAME, &config.solver.flow, &[TimeShiftType::Exponential])?;
        check_order(Self::CLASS_NAME, "solver_order", config.solver_order, 3)?;
        let scheduler = Self::build(config);
        scheduler.process.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: DEISMultistepConfig) -> Self {
        Self { process: ForwardProcess::new(&config.solver, false, None), config }
    }
}

impl Default for DEISMultistepScheduler {
    /// That of [`DEISMultistepConfig::default`].
    fn default() -> Self {
        Self::build(DEISMultistepConfig::default())
    }
}

impl Scheduler for DEISMultistepScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "predicted noise interpolated and integrated exactly, good images in 10 steps (Zhang and Chen 2023)"
    }

    fn process(&self) -> Process {
        self.process.training()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        inference_steps(&self.config.spacing, self.process.alphas.len())
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Mu])?;
        let Self { config, process } = self;
        let SolverConfig { flow, sigma, .. } = config.solver;
        let shift = config.dynamic_shift.shift(Self::CLASS_NAME, options.mu)?.unwrap_or(flow.flow_shift);
        let flow_shift = flow.use_flow_sigmas.then_some(shift);
        let spaced = Spaced { flow_shift, ..Spaced::new(process, config.spacing, sigma.conversion()) };
        let path = spaced.path(Self::CLASS_NAME, process, &options.schedule)?;
        let sigmas = path.sigmas_to(match sigma.conversion().is_some() || flow.use_flow_sigmas {
            true => path.sigmas[path.sigmas.len() - 1],
            false => process.alphas.sigmas()[0].into(),
        });
        check_last(Self::CLASS_NAME, &sigmas)?;
        let steps = Steps::new(Self::CLASS_NAME, path.timesteps, options.start)?;
        let history = History::new(config.solver_order);
        Ok(Box::new(DEISMultistepRun { config: config.clone(), process: process.clone(), steps, sigmas, history }))
    }
}

/// A sampling by [`DEISMultistepScheduler`].
#[derive(Debug)]
struct DEISMultistepRun {
    config: DEISMultistepConfig,
    process: ForwardProcess,
    steps: Steps,
    sigmas: Vec<f32>,
    history: History,
}

impl DEISMultistepRun {
    /// x_t = alpha_t (x_s / alpha_s + Σ C_j ε_j): what each of the latest `order` outputs counts.
    fn coefficients(&self, s: Point, t: Point, order: usize) -> Vec<f64> {
        let rho = |level: Point| level.sigma / level.alpha;
        let logs: Vec<f64> = (0..order).map(|j| -self.history.lambda(j)).collect(); // log ρ = -λ
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

impl Run for DEISMultistepRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.process.alpha_sigma(self.sigmas[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, _rng: &mut dyn Noise) -> Result<StepOutput> {
        let (i, n) = (self.steps.index()?, self.steps.timesteps().len());
        let [s, t] = [self.sigmas[i], self.sigmas[i + 1]].map(|sigma| self.process.point(sigma));
        let (epsilon, x0) = self.process.convert(Integrand::Noise, model_output, sample, s)?;
        self.history.push(s.lambda(), epsilon);
        let lower = self.config.solver.lower_order_final;
        let order = multistep_order([i, n], &self.history, self.config.solver_order, lower, false);

        let mut prev_sample = scale(sample, (t.alpha / s.alpha) as f32)?;
        for (j, c) in self.coefficients(s, t, order).into_iter().enumerate() {
            prev_sample = (prev_sample + scale(self.history.output(j), (t.alpha * c) as f32)?)?;
        }
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
