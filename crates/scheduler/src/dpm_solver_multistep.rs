use std::fmt::Debug;
use std::ops::RangeInclusive;

use candle_core::Tensor;
use kakusan_config::Real;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{
    DPMMultistep, ForwardProcess, History, Integrand, SigmaConversion, Spaced, check_last, check_order,
    inference_steps, last_timestep, learned_or_none,
};
use crate::{
    DPMAlgorithmType, DPMSolverType, DynamicShiftConfig, Error, FinalSigmasType, LearnedVarianceType, Process, Result,
    Run, RunOptions, Scheduler, SolverConfig, SpacingConfig, StepOutput, Steps, Supports, TimeShiftType,
    TimestepSpacing,
};

/// DPM-Solver and DPM-Solver++ with earlier outputs in place of further model calls (Lu et al. 2022, "DPM-Solver++",
/// algorithm 2): diffusers' `DPMSolverMultistepScheduler`.
///
/// Where two model calls are at one timestep, as with a cosine schedule and `use_karras_sigmas`, both are done;
/// diffusers then begins with the second and runs out of noise levels.
///
/// ```
/// use kakusan_scheduler::{DPMSolverMultistepConfig, DPMSolverMultistepScheduler, Scheduler};
///
/// let config = DPMSolverMultistepConfig { solver_order: 3, ..DPMSolverMultistepConfig::default() };
/// let run = DPMSolverMultistepScheduler::new(config)?.run(4)?;
/// assert_eq!(run.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DPMSolverMultistepScheduler {
    config: DPMSolverMultistepConfig,
    process: ForwardProcess,
}

/// The configuration of [`DPMSolverMultistepScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DPMSolverMultistepConfig {
    /// What all solvers have.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// Whether the betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// How many outputs a step looks at, 1 to 3; 2 at most for `sde-dpmsolver`. The third order of `sde-dpmsolver++` is
    /// diffusers', which has a sign reversed: take the second.
    pub solver_order: usize,
    /// The equation that is integrated.
    pub algorithm_type: DPMAlgorithmType,
    /// How steps of the second order weigh the derivative.
    pub solver_type: DPMSolverType,
    /// Whether the last step is of the first order, however many there are.
    pub euler_at_final: bool,
    /// Evenly spaced in λ (Lu et al. 2022).
    pub use_lu_lambdas: bool,
    /// The noise level that the last step leads to; `dpmsolver` and `sde-dpmsolver` cannot lead to zero.
    pub final_sigmas_type: FinalSigmasType,
    /// The lowest λ of a timestep that is visited.
    pub lambda_min_clipped: Real,
    /// What of the variance the model predicts beside. DDPM's fixed variances stand for nothing.
    #[serde(deserialize_with = "learned_or_none")]
    pub variance_type: Option<LearnedVarianceType>,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
    /// A shift of a flow's noise levels for each run.
    #[serde(flatten)]
    pub dynamic_shift: DynamicShiftConfig,
}

impl Default for DPMSolverMultistepConfig {
    /// diffusers': `dpmsolver++` of the second order, midpoint, spaced `linspace` down to no noise.
    fn default() -> Self {
        Self {
            solver: SolverConfig::default(),
            rescale_betas_zero_snr: false,
            solver_order: 2,
            algorithm_type: DPMAlgorithmType::default(),
            solver_type: DPMSolverType::default(),
            euler_at_final: false,
            use_lu_lambdas: false,
            final_sigmas_type: FinalSigmasType::Zero,
            lambda_min_clipped: Real(f64::NEG_INFINITY),
            variance_type: None,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
            dynamic_shift: DynamicShiftConfig::default(),
        }
    }
}

impl DPMSolverMultistepScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "DPMSolverMultistepScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: DPMSolverMultistepConfig) -> Result<Self> {
        let refuse = |reason: &str| Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason: reason.into() });
        config.solver.check(Self::CLASS_NAME)?;
        config.solver.check_flow_is_not_converted(Self::CLASS_NAME)?;
        config.dynamic_shift.check(Self::CLASS_NAME, &config.solver.flow, &[TimeShiftType::Exponential])?;
        check_order(Self::CLASS_NAME, "solver_order", config.solver_order, 3)?;
        match config.algorithm_type {
            DPMAlgorithmType::SdeDPMSolver if config.solver_order == 3 => {
                return refuse("algorithm_type sde-dpmsolver has no solver_order 3; take 2, or sde-dpmsolver++");
            }
            DPMAlgorithmType::DPMSolver | DPMAlgorithmType::SdeDPMSolver
                if config.final_sigmas_type == FinalSigmasType::Zero =>
            {
                return refuse(
                    "algorithm_type dpmsolver and sde-dpmsolver cannot lead to no noise; set final_sigmas_type to \
                     sigma_min",
                );
            }
            _ => {}
        }
        if config.use_lu_lambdas && (config.solver.sigma.conversion().is_some() || config.solver.flow.use_flow_sigmas) {
            return refuse(
                "use_lu_lambdas does not go with use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas or \
                           use_flow_sigmas",
            );
        }
        let scheduler = Self::build(config);
        scheduler.process.alphas.check(Self::CLASS_NAME)?;
        scheduler.spaced(None)?;
        Ok(scheduler)
    }

    fn build(config: DPMSolverMultistepConfig) -> Self {
        Self {
            process: ForwardProcess::new(&config.solver, config.rescale_betas_zero_snr, config.variance_type),
            config,
        }
    }

    fn spaced(&self, mu: Option<f64>) -> Result<Spaced> {
        let Self { config, process } = self;
        let shift = config.dynamic_shift.shift(Self::CLASS_NAME, mu)?.unwrap_or(config.solver.flow.flow_shift);
        let conversion = match config.use_lu_lambdas {
            true => Some(SigmaConversion::Lu),
            false => config.solver.sigma.conversion(),
        };
        let rounded = matches!(conversion, Some(SigmaConversion::Karras | SigmaConversion::Lu));
        Ok(Spaced {
            last_timestep: last_timestep(Self::CLASS_NAME, process, config.lambda_min_clipped.0)?,
            rounded: rounded && !config.solver.is_cosine(),
            flow_shift: config.solver.flow.use_flow_sigmas.then_some(shift),
            ..Spaced::new(process, config.spacing, conversion)
        })
    }
}

impl Default for DPMSolverMultistepScheduler {
    /// That of [`DPMSolverMultistepConfig::default`].
    fn default() -> Self {
        Self::build(DPMSolverMultistepConfig::default())
    }
}

impl Scheduler for DPMSolverMultistepScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "DPM-Solver++ with earlier outputs for higher orders, good images in 20 steps (Lu et al. 2022)"
    }

    fn process(&self) -> Process {
        self.process.training()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        let last_timestep = last_timestep(Self::CLASS_NAME, &self.process, self.config.lambda_min_clipped.0);
        inference_steps(&self.config.spacing, last_timestep.unwrap_or(self.process.alphas.len()))
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Timesteps, Supports::Mu])?;
        let Self { config, process } = self;
        let path = self.spaced(options.mu)?.path(Self::CLASS_NAME, process, &options.schedule)?;
        let sigmas = path.sigmas_to(match config.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => process.alphas.sigmas()[0].into(),
        });
        let solver = DPMMultistep {
            algorithm_type: config.algorithm_type,
            solver_type: config.solver_type,
            solver_order: config.solver_order,
            lower_order_final: config.solver.lower_order_final,
            euler_at_final: config.euler_at_final,
            history: History::new(config.solver_order),
        };
        if config.algorithm_type.integrand() == Integrand::Noise {
            check_last(Self::CLASS_NAME, &sigmas)?;
        }
        let steps = Steps::new(Self::CLASS_NAME, path.timesteps, options.start)?;
        Ok(Box::new(DPMSolverMultistepRun { process: process.clone(), steps, sigmas, solver }))
    }
}

/// A sampling by [`DPMSolverMultistepScheduler`], or by its inverse.
#[derive(Debug)]
pub(crate) struct DPMSolverMultistepRun {
    pub(crate) process: ForwardProcess,
    pub(crate) steps: Steps,
    pub(crate) sigmas: Vec<f32>,
    pub(crate) solver: DPMMultistep,
}

impl Run for DPMSolverMultistepRun {
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
        let (integrand, x0) = self.process.convert(self.solver.algorithm_type.integrand(), model_output, sample, s)?;
        let of = [i, self.steps.timesteps().len()];
        let prev_sample = self.solver.step(of, [s, t], integrand, sample, rng)?;
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
