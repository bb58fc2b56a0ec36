use std::fmt::Debug;
use std::ops::RangeInclusive;

use kakusan_config::Real;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dpm_solver_multistep::DPMSolverMultistepRun;
use crate::registry::config_map;
use crate::schedule::{
    DPMMultistep, ForwardProcess, History, Spaced, check_order, inference_steps, last_timestep, learned_or_none,
};
use crate::{
    DPMAlgorithmType, DPMSolverType, Error, LearnedVarianceType, Process, Result, Run, RunOptions, Scheduler,
    SolverConfig, SpacingConfig, Steps, TimestepSpacing,
};

/// [`DPMSolverMultistepScheduler`](crate::DPMSolverMultistepScheduler) from images to the noise that gives them:
/// diffusers' `DPMSolverMultistepInverseScheduler`.
///
/// Where it is otherwise than in diffusers: a timestep that two model calls share counts twice, as its noise levels do,
/// and a flow leads upwards, too. The algorithms `sde-*` are refused, because the way back from an image along a random
/// path is not one: diffusers takes the root of a negative variance.
///
/// ```
/// use kakusan_scheduler::{DPMSolverMultistepInverseScheduler, Scheduler};
///
/// let run = DPMSolverMultistepInverseScheduler::default().run(4)?;
/// assert_eq!(run.timesteps(), [0.0, 250.0, 500.0, 749.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DPMSolverMultistepInverseScheduler {
    config: DPMSolverMultistepInverseConfig,
    process: ForwardProcess,
}

/// The configuration of [`DPMSolverMultistepInverseScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DPMSolverMultistepInverseConfig {
    /// What all solvers have.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// How many outputs a step looks at, 1 to 3.
    pub solver_order: usize,
    /// The equation that is integrated, not `sde-*`.
    pub algorithm_type: DPMAlgorithmType,
    /// How steps of the second order weigh the derivative.
    pub solver_type: DPMSolverType,
    /// Whether the last step is of the first order, however many there are.
    pub euler_at_final: bool,
    /// The lowest λ of a timestep that is visited.
    pub lambda_min_clipped: Real,
    /// What of the variance the model predicts beside. DDPM's fixed variances stand for nothing.
    #[serde(deserialize_with = "learned_or_none")]
    pub variance_type: Option<LearnedVarianceType>,
    /// Which timesteps are visited.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for DPMSolverMultistepInverseConfig {
    /// diffusers': `dpmsolver++` of the second order, midpoint, spaced `linspace`.
    fn default() -> Self {
        Self {
            solver: SolverConfig::default(),
            solver_order: 2,
            algorithm_type: DPMAlgorithmType::default(),
            solver_type: DPMSolverType::default(),
            euler_at_final: false,
            lambda_min_clipped: Real(f64::NEG_INFINITY),
            variance_type: None,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
        }
    }
}

impl DPMSolverMultistepInverseScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "DPMSolverMultistepInverseScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: DPMSolverMultistepInverseConfig) -> Result<Self> {
        config.solver.check(Self::CLASS_NAME)?;
        config.solver.check_flow_is_not_converted(Self::CLASS_NAME)?;
        check_order(Self::CLASS_NAME, "solver_order", config.solver_order, 3)?;
        if config.algorithm_type.is_stochastic() {
            let reason =
                "there is no way back from an image along the random path of algorithm_type sde-*; take dpmsolver++";
            return Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason: reason.into() });
        }
        let scheduler = Self::build(config);
        scheduler.process.alphas.check(Self::CLASS_NAME)?;
        last_timestep(Self::CLASS_NAME, &scheduler.process, scheduler.config.lambda_min_clipped.0)?;
        Ok(scheduler)
    }

    fn build(config: DPMSolverMultistepInverseConfig) -> Self {
        Self { process: ForwardProcess::new(&config.solver, false, config.variance_type), config }
    }
}

impl Default for DPMSolverMultistepInverseScheduler {
    /// That of [`DPMSolverMultistepInverseConfig::default`].
    fn default() -> Self {
        Self::build(DPMSolverMultistepInverseConfig::default())
    }
}

impl Scheduler for DPMSolverMultistepInverseScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "DPM-Solver++ backwards: from images to the noise that gives them (Lu et al. 2022)"
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
        let SolverConfig { flow, sigma, lower_order_final, .. } = config.solver;
        let last_timestep = last_timestep(Self::CLASS_NAME, process, config.lambda_min_clipped.0)?;
        let spaced = Spaced {
            last_timestep,
            flow_shift: flow.use_flow_sigmas.then_some(flow.flow_shift),
            upwards: true,
            ..Spaced::new(process, config.spacing, sigma.conversion())
        };
        let path = spaced.path(Self::CLASS_NAME, process, &options.schedule)?;
        // as in diffusers, the last step leads nowhere where noise levels are not those of timesteps
        let sigmas = path.sigmas_to(match sigma.conversion().is_some() || flow.use_flow_sigmas {
            true => path.sigmas[path.sigmas.len() - 1],
            false => process.alphas.sigmas()[last_timestep - 1].into(),
        });
        let solver = DPMMultistep {
            algorithm_type: config.algorithm_type,
            solver_type: config.solver_type,
            solver_order: config.solver_order,
            lower_order_final,
            euler_at_final: config.euler_at_final,
            history: History::new(config.solver_order),
        };
        let steps = Steps::new(Self::CLASS_NAME, path.timesteps, options.start)?;
        Ok(Box::new(DPMSolverMultistepRun { process: process.clone(), steps, sigmas, solver }))
    }
}
