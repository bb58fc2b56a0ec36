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

        Sampling::begin(plan, options.start, move |call, _| {
            let [s, t] = forward.ends(call);
            let (epsilon, x0) = forward.convert(Integrand::Noise, call, s)?;
            history.push(s.lambda(), epsilon);
            let order = multistep_order(call, &history, most, lower_order_final, false);

            let mut prev_sample = scale(call.sample, (t.alpha / s.alpha) as f32)?;
            for (j, c) in coefficients(&history, s, t, order).into_iter().enumerate() {
                prev_sample = (prev_sample + scale(history.output(j), (t.alpha * c) as f32)?)?;
            }
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}

/// x_t = alpha_t (x_s / alpha_s + Σ C_j ε_j): the C of each of the latest `order` outputs.
fn coefficients(history: &History, s: Point, t: Point, order: usize) -> Vec<f64> {
    let rho = |at: Point| at.sigma / at.alpha;
    let logs: Vec<f64> = (0..order).map(|j| -history.lambda(j)).collect(); // log ρ = -λ
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

/// ∫ (log ρ - c) / (b - c) dρ, that of the line which is 1 at b and 0 at c.
fn integral_of_one(rho: f64, b: f64, c: f64) -> f64 {
    rho * (rho.ln() - c - 1.0) / (b - c)
}

/// ∫ (log ρ - c) (log ρ - d) / ((b - c) (b - d)) dρ, that of the parabola which is 1 at b and 0 at c and d.
fn integral_of_two(rho: f64, b: f64, c: f64, d: f64) -> f64 {
    let log = rho.ln();
    rho * ((log - c) * (log - d) - 2.0 * log + c + d + 2.0) / ((b - c) * (b - d))
}
