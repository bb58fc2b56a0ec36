use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_config::Real;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{
    DPMStep, ForwardProcess, History, Integrand, Point, Spaced, check_last, check_order, last_timestep, learned_or_none,
};
use crate::tensors::noise_like;
use crate::{
    DPMAlgorithmType, DPMSolverType, DynamicShiftConfig, Error, FinalSigmasType, LearnedVarianceType, Process, Result,
    Run, RunOptions, Scheduler, SolverConfig, SpacingConfig, StepOutput, Steps, Supports, TimeShiftType,
    TimestepSpacing,
};

/// DPM-Solver and DPM-Solver++ in steps that call the model as often as their order (Lu et al. 2022, "DPM-Solver",
/// algorithms 1 and 2; "DPM-Solver++", algorithm 1): diffusers' `DPMSolverSinglestepScheduler`.
///
/// Each model call is a step here, as in diffusers: of the first order to the next level, then of the second from
/// before it to the one after, then of the third. `lower_order_final` is taken for granted where the steps cannot be
/// divided by the order, and where the last leads to no noise.
///
/// ```
/// use kakusan_scheduler::{DPMSolverSinglestepConfig, DPMSolverSinglestepScheduler, Scheduler};
///
/// let config = DPMSolverSinglestepConfig { solver_order: 3, ..DPMSolverSinglestepConfig::default() };
/// let run = DPMSolverSinglestepScheduler::new(config)?.run(4)?;
/// assert_eq!(run.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DPMSolverSinglestepScheduler {
    config: DPMSolverSinglestepConfig,
    process: ForwardProcess,
}

/// The configuration of [`DPMSolverSinglestepScheduler`], under diffusers' names. Timesteps are spaced `linspace`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DPMSolverSinglestepConfig {
    /// What all solvers have.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// The highest order of a step, 1 to 3.
    pub solver_order: usize,
    /// The equation that is integrated; not `sde-dpmsolver`.
    pub algorithm_type: DPMAlgorithmType,
    /// How steps of the second and third order weigh derivatives.
    pub solver_type: DPMSolverType,
    /// The noise level that the last step leads to; `dpmsolver` cannot lead to zero.
    pub final_sigmas_type: FinalSigmasType,
    /// The lowest λ of a timestep that is visited.
    pub lambda_min_clipped: Real,
    /// What of the variance the model predicts beside. DDPM's fixed variances stand for nothing.
    #[serde(deserialize_with = "learned_or_none")]
    pub variance_type: Option<LearnedVarianceType>,
    /// A shift of a flow's noise levels for each run.
    #[serde(flatten)]
    pub dynamic_shift: DynamicShiftConfig,
}

impl Default for DPMSolverSinglestepConfig {
    /// diffusers': `dpmsolver++` of the second order, midpoint, down to no noise.
    fn default() -> Self {
        Self {
            solver: SolverConfig { lower_order_final: false, ..SolverConfig::default() },
            solver_order: 2,
            algorithm_type: DPMAlgorithmType::default(),
            solver_type: DPMSolverType::default(),
            final_sigmas_type: FinalSigmasType::Zero,
            lambda_min_clipped: Real(f64::NEG_INFINITY),
            variance_type: None,
            dynamic_shift: DynamicShiftConfig::default(),
        }
    }
}

impl DPMSolverSinglestepScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "DPMSolverSinglestepScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: DPMSolverSinglestepConfig) -> Result<Self> {
        let refuse = |reason: &str| Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason: reason.into() });
        config.solver.check(Self::CLASS_NAME)?;
        config.solver.check_flow_is_not_converted(Self::CLASS_NAME)?;
        config.dynamic_shift.check(Self::CLASS_NAME, &config.solver.flow, &[TimeShiftType::Exponential])?;
        check_order(Self::CLASS_NAME, "solver_order", config.solver_order, 3)?;
        match config.algorithm_type {
            DPMAlgorithmType::SdeDPMSolver => {
                return refuse("it has no algorithm_type sde-dpmsolver; take sde-dpmsolver++");
            }
            DPMAlgorithmType::DPMSolver if config.final_sigmas_type == FinalSigmasType::Zero => {
                return refuse("algorithm_type dpmsolver cannot lead to no noise; set final_sigmas_type to sigma_min");
            }
            _ => {}
        }
        let scheduler = Self::build(config);
        scheduler.process.alphas.check(Self::CLASS_NAME)?;
        last_timestep(Self::CLASS_NAME, &scheduler.process, scheduler.config.lambda_min_clipped.0)?;
        Ok(scheduler)
    }

    fn build(config: DPMSolverSinglestepConfig) -> Self {
        Self { process: ForwardProcess::new(&config.solver, false, config.variance_type), config }
    }

    /// The order of each of `n` steps.
    fn orders(&self, n: usize) -> Vec<usize> {
        let k = self.config.solver_order;
        let to_zero = self.config.final_sigmas_type == FinalSigmasType::Zero;
        let mut orders: Vec<usize> = (0..n).map(|i| i % k + 1).collect();
        if to_zero || self.config.solver.lower_order_final && n.is_multiple_of(k) {
            orders[n - 1] = 1;
        }
        orders
    }
}

impl Default for DPMSolverSinglestepScheduler {
    /// That of [`DPMSolverSinglestepConfig::default`].
    fn default() -> Self {
        Self::build(DPMSolverSinglestepConfig::default())
    }
}

impl Scheduler for DPMSolverSinglestepScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "DPM-Solver++ with as many model calls as the order, good images in 20 calls (Lu et al. 2022)"
    }

    fn process(&self) -> Process {
        self.process.training()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.process.alphas.len()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Timesteps, Supports::Mu])?;
        let Self { config, process } = self;
        let SolverConfig { flow, sigma, .. } = config.solver;
        let shift = config.dynamic_shift.shift(Self::CLASS_NAME, options.mu)?.unwrap_or(flow.flow_shift);
        let spaced = Spaced {
            last_timestep: last_timestep(Self::CLASS_NAME, process, config.lambda_min_clipped.0)?,
            flow_shift: flow.use_flow_sigmas.then_some(shift),
            ..Spaced::new(process, SpacingConfig::new(TimestepSpacing::Linspace), sigma.conversion())
        };
        let path = spaced.path(Self::CLASS_NAME, process, &options.schedule)?;
        let sigmas = path.sigmas_to(match config.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => process.alphas.sigmas()[0].into(),
        });
        let orders = self.orders(path.timesteps.len());
        if config.algorithm_type.integrand() == Integrand::Noise {
            check_last(Self::CLASS_NAME, &sigmas)?;
        }
        let steps = Steps::new(Self::CLASS_NAME, path.timesteps, options.start)?;
        let history = History::new(config.solver_order);
        let (config, process) = (config.clone(), process.clone());
        Ok(Box::new(DPMSolverSinglestepRun { config, process, steps, sigmas, orders, history, base: None }))
    }
}

/// A sampling by [`DPMSolverSinglestepScheduler`].
#[derive(Debug)]
struct DPMSolverSinglestepRun {
    config: DPMSolverSinglestepConfig,
    process: ForwardProcess,
    steps: Steps,
    sigmas: Vec<f32>,
    orders: Vec<usize>,
    /// The outputs since the last step of the first order.
    history: History,
    /// Where that step began.
    base: Option<(Point, Tensor)>,
}

impl Run for DPMSolverSinglestepRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.process.alpha_sigma(self.sigmas[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        let i = self.steps.index()?;
        let [s, t] = [self.sigmas[i], self.sigmas[i + 1]].map(|sigma| self.process.point(sigma));
        let algorithm = self.config.algorithm_type;
        let (integrand, x0) = self.process.convert(algorithm.integrand(), model_output, sample, s)?;
        let noise = if algorithm.is_stochastic() { Some(noise_like(sample, rng)?) } else { None };

        if self.orders[i] == 1 {
            self.history.clear();
        }
        self.history.push(s.lambda(), integrand);
        // a run that begins in the middle has too few outputs at first
        let order = self.orders[i].min(self.history.len());
        let (from, x) = match self.base.take() {
            Some(base) if order > 1 => base,
            _ => (s, sample.clone()),
        };
        let step = DPMStep::new(algorithm, from, t);
        let differences = step.singlestep(&self.history, order, self.config.solver_type)?;
        let prev_sample = step.integrate(&x, &differences, noise.as_ref())?;
        self.base = Some((from, x));
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
