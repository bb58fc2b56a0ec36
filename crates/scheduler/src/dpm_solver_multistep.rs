use crate::prelude::*;

/// DPM-Solver and DPM-Solver++ with earlier outputs in place of further model calls (Lu et al. 2022, "DPM-Solver++",
/// algorithm 2): diffusers' `DPMSolverMultistepScheduler`.
///
/// Where two model calls are at one timestep, as with a cosine schedule and `use_karras_sigmas`, both are done;
/// diffusers then begins with the second and runs out of noise levels.
///
/// ```
/// use kakusan_scheduler::{DPMSolverConfig, DPMSolverMultistepConfig, DPMSolverMultistepScheduler, Scheduler};
///
/// let dpm = DPMSolverConfig { solver_order: 3, ..Default::default() };
/// let config = DPMSolverMultistepConfig { dpm, ..Default::default() };
/// let run = DPMSolverMultistepScheduler::new(config)?.run(4)?;
/// assert_eq!(run.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type DPMSolverMultistepScheduler = Sampler<DPMSolverMultistepConfig>;

/// The configuration of [`DPMSolverMultistepScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DPMSolverMultistepConfig {
    /// What all solvers have.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// The equation and its order: 2 at most for `sde-dpmsolver`. The third order of `sde-dpmsolver++` is diffusers',
    /// which has a sign reversed: take the second.
    #[serde(flatten)]
    pub dpm: DPMSolverConfig,
    /// Whether the betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// Whether the last step is of the first order, however many there are.
    pub euler_at_final: bool,
    /// Evenly spaced in λ (Lu et al. 2022).
    pub use_lu_lambdas: bool,
    /// The noise level that the last step leads to; `dpmsolver` and `sde-dpmsolver` cannot lead to zero.
    pub final_sigmas_type: FinalSigmasType,
    /// The lowest λ of a timestep that is visited.
    pub lambda_min_clipped: Real,
    /// What the model predicts of the variance. DDPM's fixed variances stand for nothing.
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
            dpm: DPMSolverConfig::default(),
            rescale_betas_zero_snr: false,
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

impl DPMSolverMultistepConfig {
    fn forward(&self) -> ForwardProcess {
        ForwardProcess::new(&self.solver, self.rescale_betas_zero_snr, self.variance_type)
    }

    fn spaced(&self, forward: &ForwardProcess, mu: Option<f64>) -> Result<Spaced> {
        let shift = self.dynamic_shift.shift(mu)?.unwrap_or(self.solver.flow.flow_shift);
        let spaced = self.solver.spaced(forward, self.spacing, self.lambda_min_clipped, shift)?;
        let conversion = if self.use_lu_lambdas { Some(SigmaConversion::Lu) } else { spaced.conversion };
        let rounded = matches!(conversion, Some(SigmaConversion::Karras | SigmaConversion::Lu));
        Ok(Spaced { conversion, rounded: rounded && !self.solver.is_cosine(), ..spaced })
    }
}

impl Method for DPMSolverMultistepConfig {
    const CLASS_NAME: &'static str = "DPMSolverMultistepScheduler";
    const SUMMARY: &'static str =
        "DPM-Solver++ with earlier outputs for higher orders, good images in 20 steps (Lu et al. 2022)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps, Supports::Mu];

    fn check(&self) -> Result<()> {
        self.solver.check()?;
        self.solver.check_flow_is_not_converted()?;
        self.dynamic_shift.check(&self.solver.flow, &[TimeShiftType::Exponential])?;
        self.dpm.check()?;
        if self.dpm.algorithm_type == DPMAlgorithmType::SdeDPMSolver && self.dpm.solver_order == 3 {
            return Err(Error::config(
                "algorithm_type sde-dpmsolver has no solver_order 3; take 2, or sde-dpmsolver++",
            ));
        }
        if self.dpm.integrand() == Integrand::Noise && self.final_sigmas_type == FinalSigmasType::Zero {
            return Err(Error::config(
                "algorithm_type dpmsolver and sde-dpmsolver cannot lead to no noise; set final_sigmas_type to sigma_min",
            ));
        }
        if self.use_lu_lambdas && (self.solver.sigma.conversion().is_some() || self.solver.flow.use_flow_sigmas) {
            return Err(Error::config(
                "use_lu_lambdas does not go with use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas or \
                 use_flow_sigmas",
            ));
        }
        let forward = self.forward();
        forward.alphas.check()?;
        self.spaced(&forward, None).map(drop)
    }

    fn process(&self) -> Process {
        self.forward().process()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        inference_steps(&self.spacing, &self.forward(), self.lambda_min_clipped)
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let forward = self.forward();
        let path = self.spaced(&forward, options.mu)?.path(&forward, &options.schedule)?;
        let plan = forward.plan(path, self.final_sigmas_type.of(forward.alphas.sigmas()));
        if self.dpm.integrand() == Integrand::Noise {
            check_last(&plan.sigmas)?;
        }
        let solver = DPMMultistep::new(self.dpm, self.solver.lower_order_final, self.euler_at_final);
        Sampling::begin(plan, options.start, DPMSolverMultistep { forward, solver })
    }
}

/// A sampling by [`DPMSolverMultistepScheduler`], or by its inverse.
#[derive(Debug)]
pub(crate) struct DPMSolverMultistep {
    pub(crate) forward: ForwardProcess,
    pub(crate) solver: DPMMultistep,
}

impl Step for DPMSolverMultistep {
    fn step(&mut self, call: &Call, rng: &mut dyn Noise) -> Result<StepOutput> {
        let [s, t] = self.forward.ends(call);
        let (integrand, x0) = self.forward.convert(self.solver.dpm.integrand(), call, s)?;
        let prev_sample = self.solver.step(call, [s, t], integrand, rng)?;
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
