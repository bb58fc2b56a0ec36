use crate::prelude::*;

/// DPM-Solver and DPM-Solver++ in steps that call the model as often as their order (Lu et al. 2022, "DPM-Solver",
/// algorithms 1 and 2; "DPM-Solver++", algorithm 1): diffusers' `DPMSolverSinglestepScheduler`.
///
/// Each model call is a step here, as in diffusers: of the first order to the next level, then of the second from
/// before it to the one after, then of the third. `lower_order_final` is taken for granted where the steps cannot be
/// divided by the order, and where the last leads to no noise.
pub type DPMSolverSinglestepScheduler = Sampler<DPMSolverSinglestepConfig>;

config! {
    /// The configuration of [`DPMSolverSinglestepScheduler`], under diffusers' names. Timesteps are spaced `linspace`.
    pub struct DPMSolverSinglestepConfig {
        /// What all solvers have.
        #[serde(flatten)]
        pub solver: SolverConfig = SolverConfig { lower_order_final: false, ..SolverConfig::default() },
        /// The equation, not `sde-dpmsolver`, and the highest order of a step.
        #[serde(flatten)]
        pub dpm: DPMSolverConfig = DPMSolverConfig::default(),
        /// The noise level that the last step leads to; `dpmsolver` cannot lead to zero.
        pub final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
        /// The lowest λ of a timestep that is visited.
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        pub lambda_min_clipped: Real = Real(f64::NEG_INFINITY),
        /// What the model predicts of the variance. DDPM's fixed variances stand for nothing.
        #[serde(deserialize_with = "learned_or_none")]
        pub variance_type: Option<LearnedVarianceType> = None,
        /// A shift of a flow's noise levels for each run.
        #[serde(flatten)]
        pub dynamic_shift: DynamicShiftConfig = DynamicShiftConfig::default(),
    }
}

impl DPMSolverSinglestepConfig {
    /// The order of each of `n` steps.
    fn orders(&self, n: usize) -> Vec<usize> {
        let k = self.dpm.solver_order;
        let to_zero = self.final_sigmas_type == FinalSigmasType::Zero;
        let mut orders: Vec<usize> = (0..n).map(|i| i % k + 1).collect();
        if to_zero || self.solver.lower_order_final && n.is_multiple_of(k) {
            orders[n - 1] = 1;
        }
        orders
    }
}

impl Method for DPMSolverSinglestepConfig {
    const CLASS_NAME: &'static str = "DPMSolverSinglestepScheduler";
    const SUMMARY: &'static str =
        "DPM-Solver++ with as many model calls as the order, good images in 20 calls (Lu et al. 2022)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps, Supports::Mu];

    fn check(&self) -> Result<()> {
        self.solver.check_flow(&self.dynamic_shift)?;
        self.dpm.check()?;
        ensure(self.dpm.algorithm_type != DPMAlgorithmType::SdeDPMSolver, || {
            Error::config("it has no algorithm_type sde-dpmsolver; take sde-dpmsolver++")
        })?;
        self.dpm.check_last(self.final_sigmas_type)?;
        let process = self.process();
        process.alphas().check()?;
        last_timestep(process.alphas(), self.lambda_min_clipped).map(drop)
    }

    fn process(&self) -> Process {
        self.solver.process(false)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (alphas, forward) = (process.alphas(), ForwardProcess::new(&self.solver, self.variance_type));
        let shift = self.dynamic_shift.shift(options.mu)?.unwrap_or(self.solver.flow.flow_shift);
        let spacing = SpacingConfig::new(TimestepSpacing::Linspace);
        let spaced = self.solver.spaced(alphas, spacing, self.lambda_min_clipped, shift)?;
        let path = spaced.path(alphas, &options.schedule)?;
        let plan = forward.plan(path, self.final_sigmas_type.of(alphas.sigmas()[0]));
        if self.dpm.integrand() == Integrand::Noise {
            check_last(&plan.sigmas)?;
        }
        let (dpm, orders) = (self.dpm, self.orders(plan.timesteps.len()));
        // the outputs since the last step of the first order, and where that began
        let (mut history, mut base) = (History::new(dpm.solver_order), None);
        let predict = move |call: &Call| forward.x0(call);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let [s, t] = forward.ends(call);
            let integrand = forward.integrand(dpm.integrand(), call, &x0, s)?;
            let noise = if dpm.is_stochastic() { Some(noise_like(call.sample, rng)?) } else { None };
            if orders[call.i] == 1 {
                history.clear();
            }
            history.push(s.lambda(), integrand);
            // a run that begins in the middle has too few outputs at first
            let order = orders[call.i].min(history.len());
            let (from, x) = match base.take() {
                Some(base) if order > 1 => base,
                _ => (s, call.sample.clone()),
            };
            let step = DPMStep::new(dpm.algorithm_type, from, t);
            let differences = step.singlestep(&history, order, dpm.solver_type)?;
            let prev_sample = step.integrate(&x, &differences, noise.as_ref())?;
            base = Some((from, x));
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
