use crate::prelude::*;

/// SA-Solver: Adams' multistep methods, a predictor and a corrector, for reverse SDEs with any amount of noise
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
pub type SASolverScheduler = Sampler<SASolverConfig>;

config! {
    /// The configuration of [`SASolverScheduler`], under diffusers' names.
    pub struct SASolverConfig {
        /// What all solvers have. With `lower_order_final` the last steps are of lower orders however many there are.
        #[serde(flatten)]
        pub solver: SolverConfig = SolverConfig::default(),
        /// How many outputs the predictor looks at, 1 to 4.
        pub predictor_order: usize = 2,
        /// How many outputs the corrector looks at, 1 to 4.
        pub corrector_order: usize = 2,
        /// τ, how much noise steps add; absent, 1 at the timesteps 200 to 800 and 0 at the others. diffusers takes a
        /// function here, which its files cannot hold.
        pub tau_func: Option<SATau> = None,
        /// What is integrated.
        pub algorithm_type: SAAlgorithmType = SAAlgorithmType::DataPrediction,
        /// The lowest λ of a timestep that is visited.
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        pub lambda_min_clipped: Real = Real(f64::NEG_INFINITY),
        /// What the model predicts of the variance. DDPM's fixed variances stand for nothing.
        #[serde(deserialize_with = "learned_or_none")]
        pub variance_type: Option<LearnedVarianceType> = None,
        /// Which timesteps a sampling visits.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::new(TimestepSpacing::Linspace),
    }
}

impl Method for SASolverConfig {
    const CLASS_NAME: &'static str = "SASolverScheduler";
    const SUMMARY: &'static str = "Adams' predictor and corrector, with as much noise as one likes (Xue et al. 2023)";

    fn check(&self) -> Result<()> {
        self.solver.check_flow(&DynamicShiftConfig::default())?;
        check_order("predictor_order", self.predictor_order, 4)?;
        check_order("corrector_order", self.corrector_order, 4)?;
        let tau = self.tau_func.map_or(0.0, |tau_func| tau_func.tau);
        ensure((0.0..=10.0).contains(&tau), || {
            Error::config(format!("tau_func has a tau of {tau}; it must be between 0, no noise, and 10"))
        })?;
        let process = self.process();
        process.alphas().check()?;
        last_timestep(process.alphas(), self.lambda_min_clipped).map(drop)
    }

    fn process(&self) -> Process {
        self.solver.process(false)
    }

    fn inference_steps(&self, process: &Process) -> RangeInclusive<usize> {
        inference_steps(&self.spacing, process.alphas(), self.lambda_min_clipped)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (alphas, forward) = (process.alphas(), ForwardProcess::new(&self.solver, self.variance_type));
        let flow = self.solver.flow;
        let spaced = self.solver.spaced(alphas, self.spacing, self.lambda_min_clipped, flow.flow_shift)?;
        let path = spaced.path(alphas, &options.schedule)?;
        let last = self.solver.last_sigma(&path, alphas.sigmas()[0]);
        let mut plan = forward.plan(path, last);
        check_last(&plan.sigmas)?;
        if !flow.use_flow_sigmas {
            // as in diffusers at the whole timestep, which with use_*_sigmas is not quite where the run is
            plan.alpha_sigma = plan.timesteps.iter().map(|&t| alphas.alpha_sigma(t)).collect();
        }
        let integrand = self.algorithm_type.integrand();
        let history = History::new(self.predictor_order.max(self.corrector_order - 1));
        let (config, tau_func) = (self.clone(), self.tau_func.unwrap_or_default());
        let mut solver = StochasticAdams { integrand, history };
        let mut last: Option<LastStep> = None;
        let predict = move |call: &Call| forward.x0(call);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (i, n) = (call.i, call.plan.timesteps.len());
            let [s, t] = forward.ends(call);
            let output = forward.integrand(integrand, call, &x0, s)?;
            let sample = match &last {
                Some(LastStep { sample, noise, from, tau, corrector_order }) => {
                    solver.correct([*from, s], *corrector_order, *tau, sample, noise, &output)?
                }
                None => call.sample.clone(),
            };
            solver.history.push(s.lambda(), output);
            let noise = noise_like(&sample, rng)?;

            let left = if config.solver.lower_order_final { n - i } else { n };
            let known = solver.history.len();
            let predictor_order = config.predictor_order.min(left).min(known);
            let corrector_order = config.corrector_order.min(left + 1).min(known + 1);
            let tau = tau_func.at(call.timestep());
            let prev_sample = if s == t {
                sample.clone() // nothing to integrate over, and nothing to correct
            } else {
                solver.predict([s, t], predictor_order, tau, &sample, &noise)?
            };
            last = (s != t).then_some(LastStep { sample, noise, from: s, tau, corrector_order });
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}

/// What the corrector needs of the step before.
struct LastStep {
    sample: Tensor,
    noise: Tensor,
    from: Point,
    tau: f64,
    corrector_order: usize,
}
