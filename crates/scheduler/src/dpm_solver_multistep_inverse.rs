use crate::dpm_solver_multistep::DPMSolverMultistep;
use crate::prelude::*;

/// [`DPMSolverMultistepScheduler`](crate::DPMSolverMultistepScheduler) from images to the noise that gives them:
/// diffusers' `DPMSolverMultistepInverseScheduler`.
///
/// Where it is otherwise than in diffusers: a timestep that two model calls share counts twice, as its noise levels do,
/// and a flow leads upwards, too. The algorithms `sde-*` are refused, because the path from an image along a random
/// path is not one: diffusers takes the root of a negative variance.
///
/// ```
/// use kakusan_scheduler::{DPMSolverMultistepInverseScheduler, Scheduler};
///
/// let run = DPMSolverMultistepInverseScheduler::default().run(4)?;
/// assert_eq!(run.timesteps(), [0.0, 250.0, 500.0, 749.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type DPMSolverMultistepInverseScheduler = Sampler<DPMSolverMultistepInverseConfig>;

/// The configuration of [`DPMSolverMultistepInverseScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DPMSolverMultistepInverseConfig {
    /// What all solvers have.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// The equation, not `sde-*`, and its order.
    #[serde(flatten)]
    pub dpm: DPMSolverConfig,
    /// Whether the last step is of the first order, however many there are.
    pub euler_at_final: bool,
    /// The lowest λ of a timestep that is visited.
    pub lambda_min_clipped: Real,
    /// What the model predicts of the variance. DDPM's fixed variances stand for nothing.
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
            dpm: DPMSolverConfig::default(),
            euler_at_final: false,
            lambda_min_clipped: Real(f64::NEG_INFINITY),
            variance_type: None,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
        }
    }
}

impl DPMSolverMultistepInverseConfig {
    fn forward(&self) -> ForwardProcess {
        ForwardProcess::new(&self.solver, false, self.variance_type)
    }
}

impl Method for DPMSolverMultistepInverseConfig {
    const CLASS_NAME: &'static str = "DPMSolverMultistepInverseScheduler";
    const SUMMARY: &'static str = "DPM-Solver++ backwards: from images to the noise that gives them (Lu et al. 2022)";

    fn check(&self) -> Result<()> {
        self.solver.check()?;
        self.solver.check_flow_is_not_converted()?;
        self.dpm.check()?;
        if self.dpm.is_stochastic() {
            return Err(Error::config(
                "there is no way back from an image along the random path of algorithm_type sde-*; take dpmsolver++",
            ));
        }
        let forward = self.forward();
        forward.alphas.check()?;
        last_timestep(&forward, self.lambda_min_clipped).map(drop)
    }

    fn process(&self) -> Process {
        self.forward().process()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        inference_steps(&self.spacing, &self.forward(), self.lambda_min_clipped)
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let forward = self.forward();
        let SolverConfig { flow, lower_order_final, .. } = self.solver;
        let spaced = self.solver.spaced(&forward, self.spacing, self.lambda_min_clipped, flow.flow_shift)?;
        let path = Spaced { upwards: true, ..spaced }.path(&forward, &options.schedule)?;
        let last = self.solver.last_sigma(&path, forward.alphas.sigmas()[spaced.last_timestep - 1]);
        let solver = DPMMultistep::new(self.dpm, lower_order_final, self.euler_at_final);
        Sampling::begin(forward.plan(path, last), options.start, DPMSolverMultistep { forward, solver })
    }
}
