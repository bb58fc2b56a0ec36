use crate::prelude::*;

/// DEIS: the noise that was predicted, interpolated over log ρ and integrated (Zhang and Chen 2023, "ρAB-DEIS"):
/// diffusers' `DEISMultistepScheduler`.
///
/// As in diffusers the last step leads to the lowest noise level of training, not to none; with `use_*_sigmas` it leads
/// nowhere.
pub type DEISMultistepScheduler = Sampler<DEISMultistepConfig>;

config! {
    /// The configuration of [`DEISMultistepScheduler`], under diffusers' names.
    pub struct DEISMultistepConfig {
        /// What all solvers have.
        #[serde(flatten)]
        pub solver: SolverConfig = SolverConfig::default(),
        /// How many outputs a step looks at, 1 to 3.
        pub solver_order: usize = 2,
        /// The equation that is integrated.
        pub algorithm_type: DEISAlgorithmType = DEISAlgorithmType::Deis,
        /// What outputs are interpolated over.
        pub solver_type: DEISSolverType = DEISSolverType::Logrho,
        /// Which timesteps a sampling visits.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::new(TimestepSpacing::Linspace),
        /// A shift of a flow's noise levels for each run.
        #[serde(flatten)]
        pub dynamic_shift: DynamicShiftConfig = DynamicShiftConfig::default(),
    }
}

/// All timesteps are visited.
const NO_CLIPPING: Real = Real(f64::NEG_INFINITY);

impl Method for DEISMultistepConfig {
    const CLASS_NAME: &'static str = "DEISMultistepScheduler";
    const SUMMARY: &'static str =
        "predicted noise interpolated and integrated exactly, good images in 10 steps (Zhang and Chen 2023)";
    const SUPPORTS: &'static [Supports] = &[Supports::Mu];

    fn check(&self) -> Result<()> {
        self.solver.check_flow(&self.dynamic_shift)?;
        check_order("solver_order", self.solver_order, 3)?;
        self.process().alphas().check()
    }

    fn process(&self) -> Process {
        self.solver.process(false)
    }

    fn inference_steps(&self, process: &Process) -> RangeInclusive<usize> {
        inference_steps(&self.spacing, process.alphas(), NO_CLIPPING)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (alphas, forward) = (process.alphas(), ForwardProcess::new(&self.solver, None));
        let shift = self.dynamic_shift.shift(options.mu)?.unwrap_or(self.solver.flow.flow_shift);
        let path = self.solver.spaced(alphas, self.spacing, NO_CLIPPING, shift)?.path(alphas, &options.schedule)?;
        let last = self.solver.last_sigma(&path, alphas.sigmas()[0]);
        let plan = forward.plan(path, last);
        check_last(&plan.sigmas)?;
        let (most, lower_order_final) = (self.solver_order, self.solver.lower_order_final);
        let mut history = History::new(most);
        let predict = move |call: &Call| forward.x0(call);

        Sampling::begin(plan, options.start, predict, move |call, x0, _| {
            let [s, t] = forward.ends(call);
            let epsilon = forward.integrand(Integrand::Noise, call, &x0, s)?;
            history.push(s.lambda(), epsilon);
            let order = multistep_order(call, &history, most, lower_order_final, false);

            let mut prev_sample = scale(call.sample, (t.alpha / s.alpha) as f32)?;
            for (j, c) in deis_coefficients(&history, s, t, order).into_iter().enumerate() {
                prev_sample = (prev_sample + scale(history.output(j), (t.alpha * c) as f32)?)?;
            }
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
