use crate::prelude::*;

/// DEIS: the noise that was predicted, interpolated over log ρ and integrated (Zhang and Chen 2023, "ρAB-DEIS"):
/// diffusers' `DEISMultistepScheduler`.
///
/// As in diffusers the last step leads to the lowest noise level of training, not to none; with `use_*_sigmas` it leads
/// nowhere.
///
/// ```
/// use kakusan_scheduler::{DEISMultistepConfig, DEISMultistepScheduler, Scheduler};
///
/// let config = DEISMultistepConfig { solver_order: 3, ..DEISMultistepConfig::default() };
/// let run = DEISMultistepScheduler::new(config)?.run(4)?;
/// assert_eq!(run.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type DEISMultistepScheduler = Sampler<DEISMultistepConfig>;

/// The configuration of [`DEISMultistepScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DEISMultistepConfig {
    /// What all solvers have.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// How many outputs a step looks at, 1 to 3.
    pub solver_order: usize,
    /// The equation that is integrated.
    pub algorithm_type: DEISAlgorithmType,
    /// What outputs are interpolated over.
    pub solver_type: DEISSolverType,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
    /// A shift of a flow's noise levels for each run.
    #[serde(flatten)]
    pub dynamic_shift: DynamicShiftConfig,
}

/// The equation that DEIS integrates. The names that other classes have stand for the one there is, as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DEISAlgorithmType {
    /// The probability flow ODE of the predicted noise.
    #[default]
    #[serde(alias = "dpmsolver", alias = "dpmsolver++")]
    Deis,
}

/// What DEIS interpolates outputs over. The names that other classes have stand for the one there is, as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DEISSolverType {
    /// The logarithm of ρ = sigma / alpha.
    #[default]
    #[serde(alias = "midpoint", alias = "heun", alias = "bh1", alias = "bh2")]
    Logrho,
}

impl Default for DEISMultistepConfig {
    /// diffusers': of the second order, spaced `linspace`.
    fn default() -> Self {
        Self {
            solver: SolverConfig::default(),
            solver_order: 2,
            algorithm_type: DEISAlgorithmType::Deis,
            solver_type: DEISSolverType::Logrho,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
            dynamic_shift: DynamicShiftConfig::default(),
        }
    }
}

/// All timesteps are visited.
const NO_CLIPPING: Real = Real(f64::NEG_INFINITY);

impl DEISMultistepConfig {
    fn forward(&self) -> ForwardProcess {
        ForwardProcess::new(&self.solver, false, None)
    }
}

impl Method for DEISMultistepConfig {
    const CLASS_NAME: &'static str = "DEISMultistepScheduler";
    const SUMMARY: &'static str =
        "predicted noise interpolated and integrated exactly, good images in 10 steps (Zhang and Chen 2023)";
    const SUPPORTS: &'static [Supports] = &[Supports::Mu];

    fn check(&self) -> Result<()> {
        self.solver.check()?;
        self.solver.check_flow_is_not_converted()?;
        self.dynamic_shift.check(&self.solver.flow, &[TimeShiftType::Exponential])?;
        check_order("solver_order", self.solver_order, 3)?;
        self.forward().alphas.check()
    }

    fn process(&self) -> Process {
        self.forward().process()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        inference_steps(&self.spacing, &self.forward(), NO_CLIPPING)
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let forward = self.forward();
        let shift = self.dynamic_shift.shift(options.mu)?.unwrap_or(self.solver.flow.flow_shift);
        let spaced = self.solver.spaced(&forward, self.spacing, NO_CLIPPING, shift)?;
        let path = spaced.path(&forward, &options.schedule)?;
        let last = self.solver.last_sigma(&path, forward.alphas.sigmas()[0]);
        let plan = forward.plan(path, last);
        check_last(&plan.sigmas)?;
        let history = History::new(self.solver_order);
        let (order, lower_order_final) = (self.solver_order, self.solver.lower_order_final);
        Sampling::begin(plan, options.start, DEISStep { forward, order, lower_order_final, history })
    }
}

#[derive(Debug)]
struct DEISStep {
    forward: ForwardProcess,
    order: usize,
    lower_order_final: bool,
    history: History,
}

impl DEISStep {
    /// x_t = alpha_t (x_s / alpha_s + Σ C_j ε_j): the C of each of the latest `order` outputs.
    fn coefficients(&self, s: Point, t: Point, order: usize) -> Vec<f64> {
        let rho = |at: Point| at.sigma / at.alpha;
        let logs: Vec<f64> = (0..order).map(|j| -self.history.lambda(j)).collect(); // log ρ = -λ
        let integral = |j: usize, others: &[usize]| {
            let of = |rho: f64| match *others {
                [] => rho,
                [c] => integral_of_one(rho, logs[j], logs[c]),
                [c, d, ..] => integral_of_two(rho, logs[j], logs[c], logs[d]),
            };
            of(rho(t)) - of(rho(s))
        };
        (0..order).map(|j| integral(j, &(0..order).filter(|&other| other != j).collect::<Vec<_>>())).collect()
    }
}

/// ∫ (log ρ - c) / (b - c) dρ, that of the line which is 1 at b and 0 at c.
fn integral_of_one(rho: f64, b: f64, c: f64) -> f64 {
    rho * (rho.ln() - c - 1.0) / (b - c)
}

/// ∫ (log ρ - c) (log ρ - d) / ((b - c) (b - d)) dρ, that of the parabola which is 1 at b and 0 at c and d.
fn integral_of_two(rho: f64, b: f64, c: f64, d: f64) -> f64 {
    let log = rho.ln();
    rho * ((log - c) * (log - d) - 2.0 * log + c + d + 2.0) / ((b - c) * (b - d))
}

impl Step for DEISStep {
    fn step(&mut self, call: &Call, _: &mut dyn Noise) -> Result<StepOutput> {
        let [s, t] = self.forward.ends(call);
        let (epsilon, x0) = self.forward.convert(Integrand::Noise, call, s)?;
        self.history.push(s.lambda(), epsilon);
        let order = multistep_order(call, &self.history, self.order, self.lower_order_final, false);

        let mut prev_sample = scale(call.sample, (t.alpha / s.alpha) as f32)?;
        for (j, c) in self.coefficients(s, t, order).into_iter().enumerate() {
            prev_sample = (prev_sample + scale(self.history.output(j), (t.alpha * c) as f32)?)?;
        }
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
