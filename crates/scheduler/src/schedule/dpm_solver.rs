use crate::prelude::*;

/// The equation that DPM-Solver integrates. `deis`, which other classes have, stands for `dpmsolver++` as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DPMAlgorithmType {
    /// The probability flow ODE of the predicted noise (Lu et al. 2022, "DPM-Solver").
    #[serde(rename = "dpmsolver")]
    DPMSolver,
    /// The probability flow ODE of the predicted image (Lu et al. 2022, "DPM-Solver++").
    #[default]
    #[serde(rename = "dpmsolver++", alias = "deis")]
    DPMSolverPlusPlus,
    /// The reverse SDE of the predicted noise.
    #[serde(rename = "sde-dpmsolver")]
    SdeDPMSolver,
    /// The reverse SDE of the predicted image.
    #[serde(rename = "sde-dpmsolver++")]
    SdeDPMSolverPlusPlus,
}

/// How DPM-Solver weighs the first derivative in a step of the second order. The names that other classes have stand
/// for `midpoint` as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DPMSolverType {
    /// Half as much as the value.
    #[default]
    #[serde(alias = "logrho", alias = "bh1", alias = "bh2")]
    Midpoint,
    /// By its own integral.
    Heun,
}

config! {
    /// The equation of DPM-Solver and how it is solved, under diffusers' names.
    #[derive(Copy, Eq)]
    pub struct DPMSolverConfig {
        /// How many outputs a step looks at, 1 to 3.
        pub solver_order: usize = 2,
        /// The equation that is integrated.
        pub algorithm_type: DPMAlgorithmType = DPMAlgorithmType::DPMSolverPlusPlus,
        /// How steps of higher order weigh derivatives.
        pub solver_type: DPMSolverType = DPMSolverType::Midpoint,
    }
}

impl DPMSolverConfig {
    pub(crate) fn check(&self) -> Result<()> {
        check_order("solver_order", self.solver_order, 3)
    }

    /// Refuses to lead to no noise by the noise that is predicted.
    pub(crate) fn check_last(&self, final_sigmas_type: FinalSigmasType) -> Result<()> {
        ensure(self.integrand() == Integrand::Data || final_sigmas_type == FinalSigmasType::SigmaMin, || {
            Error::config(
                "algorithm_type dpmsolver and sde-dpmsolver cannot lead to no noise; set final_sigmas_type to sigma_min",
            )
        })
    }

    /// What it integrates.
    pub(crate) fn integrand(&self) -> Integrand {
        match self.algorithm_type {
            DPMAlgorithmType::DPMSolver | DPMAlgorithmType::SdeDPMSolver => Integrand::Noise,
            DPMAlgorithmType::DPMSolverPlusPlus | DPMAlgorithmType::SdeDPMSolverPlusPlus => Integrand::Data,
        }
    }

    /// Whether its steps add noise.
    pub(crate) fn is_stochastic(&self) -> bool {
        matches!(self.algorithm_type, DPMAlgorithmType::SdeDPMSolver | DPMAlgorithmType::SdeDPMSolverPlusPlus)
    }
}

/// A step of DPM-Solver: what the sample, the integrand and its derivatives, and new noise count in the next sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DPMStep {
    /// λ_t - λ_s
    pub(crate) h: f64,
    sample: f64,
    d0: f64,
    d1: f64,
    d2: f64,
    noise: f64,
}

/// The integrand at the beginning of a step and its derivatives over λ there, in units of the step.
pub(crate) struct Differences {
    /// The value, the first derivative, the second; as many as the order.
    pub(crate) d: Vec<Tensor>,
    /// Whether the first derivative counts half as much as the value, or its own integral.
    pub(crate) midpoint: bool,
}

impl DPMStep {
    /// From the point `s` of the forward process to the point `t`.
    ///
    /// diffusers has the sign of the 0.5 in `sde-dpmsolver++`'s third order reversed, so that the second derivative's
    /// weight does not vanish with `h`; it is kept, for one seed to give one image.
    pub(crate) fn new(algorithm: DPMAlgorithmType, s: Point, t: Point) -> Self {
        let h = t.lambda() - s.lambda();
        match algorithm {
            DPMAlgorithmType::DPMSolverPlusPlus => {
                let phi = (-h).exp_m1();
                let (d0, d1) = (-t.alpha * phi, t.alpha * (phi / h + 1.0));
                let d2 = -t.alpha * ((phi + h) / (h * h) - 0.5);
                Self { h, sample: t.sigma / s.sigma, d0, d1, d2, noise: 0.0 }
            }
            DPMAlgorithmType::DPMSolver => {
                let psi = h.exp_m1();
                let (d0, d1) = (-t.sigma * psi, -t.sigma * (psi / h - 1.0));
                let d2 = -t.sigma * ((psi - h) / (h * h) - 0.5);
                Self { h, sample: t.alpha / s.alpha, d0, d1, d2, noise: 0.0 }
            }
            DPMAlgorithmType::SdeDPMSolverPlusPlus => {
                let k = 2.0 * h;
                let phi = (-k).exp_m1();
                let (d0, d1) = (-t.alpha * phi, t.alpha * (phi / k + 1.0));
                let d2 = -t.alpha * ((phi + k) / (k * k) + 0.5);
                Self { h, sample: t.sigma / s.sigma * (-h).exp(), d0, d1, d2, noise: t.sigma * (-phi).max(0.0).sqrt() }
            }
            DPMAlgorithmType::SdeDPMSolver => {
                let psi = h.exp_m1();
                let (d0, d1) = (-2.0 * t.sigma * psi, -2.0 * t.sigma * (psi / h - 1.0));
                let d2 = -2.0 * t.sigma * ((psi - h) / (h * h) - 0.5);
                Self { h, sample: t.alpha / s.alpha, d0, d1, d2, noise: t.sigma * (2.0 * h).exp_m1().max(0.0).sqrt() }
            }
        }
    }

    /// The derivatives by the latest `order` outputs, of which `[0]` is that of the step's beginning.
    pub(crate) fn multistep(&self, history: &History, order: usize, solver_type: DPMSolverType) -> Result<Differences> {
        let m0 = history.output(0);
        // the slope between outputs i and i + 1, and how far apart they are
        let slope = |i: usize| -> Result<(Tensor, f64)> {
            let r = (history.lambda(i) - history.lambda(i + 1)) / self.h;
            Ok((scale(&(history.output(i) - history.output(i + 1))?, (1.0 / r) as f32)?, r))
        };
        let d = match order {
            0 | 1 => vec![m0.clone()],
            2 => vec![m0.clone(), slope(0)?.0],
            _ => {
                let ((d1_0, r0), (d1_1, r1)) = (slope(0)?, slope(1)?);
                let bend = (&d1_0 - d1_1)?;
                let d1 = (d1_0 + scale(&bend, (r0 / (r0 + r1)) as f32)?)?;
                vec![m0.clone(), d1, scale(&bend, (1.0 / (r0 + r1)) as f32)?]
            }
        };
        Ok(Differences { midpoint: order == 2 && solver_type == DPMSolverType::Midpoint, d })
    }

    /// The derivatives at the first of the latest `order` outputs, from which the step leads over the others.
    pub(crate) fn singlestep(
        &self,
        history: &History,
        order: usize,
        solver_type: DPMSolverType,
    ) -> Result<Differences> {
        let is_midpoint = solver_type == DPMSolverType::Midpoint;
        let first = order.max(1) - 1;
        let m = history.output(first);
        // the slope from the first output to output i, and how far apart they are
        let slope = |i: usize| -> Result<(Tensor, f64)> {
            let r = (history.lambda(i) - history.lambda(first)) / self.h;
            Ok((scale(&(history.output(i) - m)?, (1.0 / r) as f32)?, r))
        };
        let d = match order {
            0 | 1 => vec![m.clone()],
            2 => vec![m.clone(), slope(0)?.0],
            _ if is_midpoint => vec![m.clone(), slope(0)?.0],
            _ => {
                let ((d1_1, r0), (d1_0, r1)) = (slope(0)?, slope(1)?);
                let d2 = scale(&(&d1_1 - &d1_0)?, (2.0 / (r0 - r1)) as f32)?;
                vec![m.clone(), mix((r0 / (r0 - r1)) as f32, &d1_0, (-r1 / (r0 - r1)) as f32, &d1_1)?, d2]
            }
        };
        Ok(Differences { midpoint: order == 2 && is_midpoint, d })
    }

    /// The sample at `t`, from that at `s` and standard normal noise where the algorithm adds some.
    pub(crate) fn integrate(&self, sample: &Tensor, by: &Differences, noise: Option<&Tensor>) -> Result<Tensor> {
        let d1 = if by.midpoint { 0.5 * self.d0 } else { self.d1 };
        let mut next = scale(sample, self.sample as f32)?;
        for (d, weight) in by.d.iter().zip([self.d0, d1, self.d2]) {
            next = (next + scale(d, weight as f32)?)?;
        }
        match noise {
            Some(noise) => Ok((next + scale(noise, self.noise as f32)?)?),
            None => Ok(next),
        }
    }
}

/// DPM-Solver with several earlier outputs in place of several model calls a step.
#[derive(Debug)]
pub(crate) struct DPMMultistep {
    dpm: DPMSolverConfig,
    lower_order_final: bool,
    euler_at_final: bool,
    history: History,
}

impl DPMMultistep {
    pub(crate) fn new(dpm: DPMSolverConfig, lower_order_final: bool, euler_at_final: bool) -> Self {
        Self { dpm, lower_order_final, euler_at_final, history: History::new(dpm.solver_order) }
    }

    /// Begins a run along the steps of a plan.
    pub(crate) fn begin(mut self, plan: Plan, start: usize, forward: ForwardProcess) -> Result<Box<dyn Run>> {
        let predict = move |call: &Call| forward.x0(call);
        Sampling::begin(plan, start, predict, move |call, x0, rng| {
            let [s, t] = forward.ends(call);
            let integrand = forward.integrand(self.dpm.integrand(), call, &x0, s)?;
            let prev_sample = self.step(call, [s, t], integrand, rng)?;
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }

    /// From the call's sample at `s` and the integrand there to the sample at `t`.
    pub(crate) fn step(
        &mut self,
        call: &Call,
        [s, t]: [Point; 2],
        integrand: Tensor,
        rng: &mut dyn Noise,
    ) -> Result<Tensor> {
        let noise = if self.dpm.is_stochastic() { Some(noise_like(call.sample, rng)?) } else { None };
        self.history.push(s.lambda(), integrand);
        if s == t {
            return Ok(call.sample.clone()); // nothing to integrate over
        }
        let euler = self.euler_at_final || t.sigma == 0.0; // λ is infinite there
        let order = multistep_order(call, &self.history, self.dpm.solver_order, self.lower_order_final, euler);
        let step = DPMStep::new(self.dpm.algorithm_type, s, t);
        step.integrate(call.sample, &step.multistep(&self.history, order, self.dpm.solver_type)?, noise.as_ref())
    }
}
