use crate::prelude::*;

/// DPM-Solver and DPM-Solver++ in steps that call the model as often as their order (Lu et al. 2022, "DPM-Solver",
/// algorithms 1 and 2; "DPM-Solver++", algorithm 1): diffusers' `DPMSolverSinglestepScheduler`.
///
/// Each model call is a step here, as in diffusers: of the first order to the next level, then of the second from
/// before it to the one after, then of the third. `lower_order_final` is taken for granted where the steps cannot be
/// divided by the order, and where the last leads to no noise.
///
/// ```
/// use kakusan_scheduler::{DPMSolverConfig, DPMSolverSinglestepConfig, DPMSolverSinglestepScheduler, Scheduler};
///
/// let dpm = DPMSolverConfig { solver_order: 3, ..Default::default() };
/// let config = DPMSolverSinglestepConfig { dpm, ..Default::default() };
/// let run = DPMSolverSinglestepScheduler::new(config)?.run(4)?;
/// assert_eq!(run.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type DPMSolverSinglestepScheduler = Sampler<DPMSolverSinglestepConfig>;

/// The configuration of [`DPMSolverSinglestepScheduler`], under diffusers' names. Timesteps are spaced `linspace`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DPMSolverSinglestepConfig {
    /// What all solvers have.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// The equation, not `sde-dpmsolver`, and the highest order of a step.
    #[serde(flatten)]
    pub dpm: DPMSolverConfig,
    /// The noise level that the last step leads to; `dpmsolver` cannot lead to zero.
    pub final_sigmas_type: FinalSigmasType,
    /// The lowest λ of a timestep that is visited.
    pub lambda_min_clipped: Real,
    /// What the model predicts of the variance. DDPM's fixed variances stand for nothing.
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
            dpm: DPMSolverConfig::default(),
            final_sigmas_type: FinalSigmasType::Zero,
            lambda_min_clipped: Real(f64::NEG_INFINITY),
            variance_type: None,
            dynamic_shift: DynamicShiftConfig::default(),
        }
    }
}

impl DPMSolverSinglestepConfig {
    fn forward(&self) -> ForwardProcess {
        ForwardProcess::new(&self.solver, false, self.variance_type)
    }

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
        self.solver.check()?;
        self.solver.check_flow_is_not_converted()?;
        self.dynamic_shift.check(&self.solver.flow, &[TimeShiftType::Exponential])?;
        self.dpm.check()?;
        match self.dpm.algorithm_type {
            DPMAlgorithmType::SdeDPMSolver => {
                return Err(Error::config("it has no algorithm_type sde-dpmsolver; take sde-dpmsolver++"));
            }
            DPMAlgorithmType::DPMSolver if self.final_sigmas_type == FinalSigmasType::Zero => {
                return Err(Error::config(
                    "algorithm_type dpmsolver cannot lead to no noise; set final_sigmas_type to sigma_min",
                ));
            }
            _ => {}
        }
        let forward = self.forward();
        forward.alphas.check()?;
        last_timestep(&forward, self.lambda_min_clipped).map(drop)
    }

    fn process(&self) -> Process {
        self.forward().process()
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let forward = self.forward();
        let shift = self.dynamic_shift.shift(options.mu)?.unwrap_or(self.solver.flow.flow_shift);
        let spacing = SpacingConfig::new(TimestepSpacing::Linspace);
        let spaced = self.solver.spaced(&forward, spacing, self.lambda_min_clipped, shift)?;
        let path = spaced.path(&forward, &options.schedule)?;
        let plan = forward.plan(path, self.final_sigmas_type.of(forward.alphas.sigmas()));
        if self.dpm.integrand() == Integrand::Noise {
            check_last(&plan.sigmas)?;
        }
        let (orders, history) = (self.orders(plan.timesteps.len()), History::new(self.dpm.solver_order));
        Sampling::begin(
            plan,
            options.start,
            DPMSolverSinglestep { dpm: self.dpm, forward, orders, history, base: None },
        )
    }
}

#[derive(Debug)]
struct DPMSolverSinglestep {
    dpm: DPMSolverConfig,
    forward: ForwardProcess,
    /// The order of each step.
    orders: Vec<usize>,
    /// The outputs since the last step of the first order.
    history: History,
    /// Where that step began.
    base: Option<(Point, Tensor)>,
}

impl Step for DPMSolverSinglestep {
    fn step(&mut self, call: &Call, rng: &mut dyn Noise) -> Result<StepOutput> {
        let [s, t] = self.forward.ends(call);
        let (integrand, x0) = self.forward.convert(self.dpm.integrand(), call, s)?;
        let noise = if self.dpm.is_stochastic() { Some(noise_like(call.sample, rng)?) } else { None };

        if self.orders[call.i] == 1 {
            self.history.clear();
        }
        self.history.push(s.lambda(), integrand);
        // a run that begins in the middle has too few outputs at first
        let order = self.orders[call.i].min(self.history.len());
        let (from, x) = match self.base.take() {
            Some(base) if order > 1 => base,
            _ => (s, call.sample.clone()),
        };
        let step = DPMStep::new(self.dpm.algorithm_type, from, t);
        let differences = step.singlestep(&self.history, order, self.dpm.solver_type)?;
        let prev_sample = step.integrate(&x, &differences, noise.as_ref())?;
        self.base = Some((from, x));
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
