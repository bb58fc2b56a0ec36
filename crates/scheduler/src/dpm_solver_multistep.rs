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

config! {
    /// The configuration of [`DPMSolverMultistepScheduler`], under diffusers' names.
    pub struct DPMSolverMultistepConfig {
        /// What all solvers have.
        #[serde(flatten)]
        pub solver: SolverConfig = SolverConfig::default(),
        /// The equation and its order: 2 at most for `sde-dpmsolver`. The third order of `sde-dpmsolver++` is
        /// diffusers', which has a sign reversed: take the second.
        #[serde(flatten)]
        pub dpm: DPMSolverConfig = DPMSolverConfig::default(),
        /// Whether the betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
        pub rescale_betas_zero_snr: bool = false,
        /// Whether the last step is of the first order, however many there are.
        pub euler_at_final: bool = false,
        /// Evenly spaced in λ (Lu et al. 2022).
        pub use_lu_lambdas: bool = false,
        /// The noise level that the last step leads to; `dpmsolver` and `sde-dpmsolver` cannot lead to zero.
        pub final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
        /// The lowest λ of a timestep that is visited.
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        pub lambda_min_clipped: Real = Real(f64::NEG_INFINITY),
        /// What the model predicts of the variance. DDPM's fixed variances stand for nothing.
        #[serde(deserialize_with = "learned_or_none")]
        pub variance_type: Option<LearnedVarianceType> = None,
        /// Which timesteps a sampling visits.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::new(TimestepSpacing::Linspace),
        /// A shift of a flow's noise levels for each run.
        #[serde(flatten)]
        pub dynamic_shift: DynamicShiftConfig = DynamicShiftConfig::default(),
    }
}

impl DPMSolverMultistepConfig {
    fn spaced(&self, alphas: &Alphas, mu: Option<f64>) -> Result<Spaced> {
        let shift = self.dynamic_shift.shift(mu)?.unwrap_or(self.solver.flow.flow_shift);
        let spaced = self.solver.spaced(alphas, self.spacing, self.lambda_min_clipped, shift)?;
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
        self.solver.check_flow(&self.dynamic_shift)?;
        self.dpm.check()?;
        ensure(self.dpm.algorithm_type != DPMAlgorithmType::SdeDPMSolver || self.dpm.solver_order < 3, || {
            Error::config("algorithm_type sde-dpmsolver has no solver_order 3; take 2, or sde-dpmsolver++")
        })?;
        self.dpm.check_last(self.final_sigmas_type)?;
        let is_spaced = self.solver.sigma.conversion().is_some() || self.solver.flow.use_flow_sigmas;
        ensure(!self.use_lu_lambdas || !is_spaced, || {
            Error::config(
                "use_lu_lambdas does not go with use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas or \
                 use_flow_sigmas",
            )
        })?;
        let process = self.process();
        process.alphas().check()?;
        self.spaced(process.alphas(), None).map(drop)
    }

    fn process(&self) -> Process {
        self.solver.process(self.rescale_betas_zero_snr)
    }

    fn inference_steps(&self, process: &Process) -> RangeInclusive<usize> {
        inference_steps(&self.spacing, process.alphas(), self.lambda_min_clipped)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (alphas, forward) = (process.alphas(), ForwardProcess::new(&self.solver, self.variance_type));
        let path = self.spaced(alphas, options.mu)?.path(alphas, &options.schedule)?;
        let plan = forward.plan(path, self.final_sigmas_type.of(alphas.sigmas()[0]));
        if self.dpm.integrand() == Integrand::Noise {
            check_last(&plan.sigmas)?;
        }
        let solver = DPMMultistep::new(self.dpm, self.solver.lower_order_final, self.euler_at_final);
        solver.begin(plan, options.start, forward)
    }
}
