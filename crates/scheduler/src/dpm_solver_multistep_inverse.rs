use crate::prelude::*;

/// [`DPMSolverMultistepScheduler`](crate::DPMSolverMultistepScheduler) from images to the noise that gives them:
/// diffusers' `DPMSolverMultistepInverseScheduler`.
///
/// Where it is otherwise than in diffusers: a timestep that two model calls share counts twice, as its noise levels do,
/// and a flow leads upwards, too. The algorithms `sde-*` are refused, because the path from an image along a random
/// path is not one: diffusers takes the root of a negative variance.
pub type DPMSolverMultistepInverseScheduler = Sampler<DPMSolverMultistepInverseConfig>;

config! {
    /// The configuration of [`DPMSolverMultistepInverseScheduler`], under diffusers' names.
    pub struct DPMSolverMultistepInverseConfig {
        /// What all solvers have.
        #[serde(flatten)]
        pub solver: SolverConfig = SolverConfig::default(),
        /// The equation, not `sde-*`, and its order.
        #[serde(flatten)]
        pub dpm: DPMSolverConfig = DPMSolverConfig::default(),
        /// Whether the last step is of the first order, however many there are.
        pub euler_at_final: bool = false,
        /// The lowest λ of a timestep that is visited.
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        pub lambda_min_clipped: Real = Real(f64::NEG_INFINITY),
        /// What the model predicts of the variance. DDPM's fixed variances stand for nothing.
        #[serde(deserialize_with = "learned_or_none")]
        pub variance_type: Option<LearnedVarianceType> = None,
        /// Which timesteps are visited.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::new(TimestepSpacing::Linspace),
    }
}

impl Method for DPMSolverMultistepInverseConfig {
    const CLASS_NAME: &'static str = "DPMSolverMultistepInverseScheduler";
    const SUMMARY: &'static str = "DPM-Solver++ backwards: from images to the noise that gives them (Lu et al. 2022)";

    fn check(&self) -> Result<()> {
        self.solver.check_flow(&DynamicShiftConfig::default())?;
        self.dpm.check()?;
        ensure(!self.dpm.is_stochastic(), || {
            Error::config(
                "there is no way back from an image along the random path of algorithm_type sde-*; take dpmsolver++",
            )
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
        let SolverConfig { flow, lower_order_final, .. } = self.solver;
        let spaced = self.solver.spaced(alphas, self.spacing, self.lambda_min_clipped, flow.flow_shift)?;
        let path = Spaced { upwards: true, ..spaced }.path(alphas, &options.schedule)?;
        let last = self.solver.last_sigma(&path, alphas.sigmas()[spaced.last_timestep - 1]);
        let solver = DPMMultistep::new(self.dpm, lower_order_final, self.euler_at_final);
        solver.begin(forward.plan(path, last), options.start, forward)
    }
}
