use crate::prelude::*;

/// UniPC: steps of any order by earlier outputs, each corrected by the output at its end (Zhao et al. 2023, algorithms
/// 1 and 2): diffusers' `UniPCMultistepScheduler`.
///
/// Where diffusers divides by an infinite step, in a step to no noise with `bh1`, without `lower_order_final` or
/// without `predict_x0`, that step is of the first order here. Without `predict_x0` thresholding is done, too, which
/// diffusers leaves out; and a flow may be spaced by any of `use_*_sigmas`, not by `use_karras_sigmas` alone.
///
/// ```
/// use kakusan_scheduler::{Scheduler, UniPCMultistepScheduler};
///
/// let run = UniPCMultistepScheduler::default().run(4)?;
/// assert_eq!(run.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// assert_eq!(run.sigmas().and_then(|sigmas| sigmas.last()), Some(&0.0));
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type UniPCMultistepScheduler = Sampler<UniPCMultistepConfig>;

/// The configuration of [`UniPCMultistepScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UniPCMultistepConfig {
    /// What all solvers have. With `lower_order_final` the last steps are of lower orders however many there are.
    #[serde(flatten)]
    pub solver: SolverConfig,
    /// Whether the betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// p, how many outputs a step looks at, 1 to 8; more than 3 gain little.
    pub solver_order: usize,
    /// Whether the predicted image is integrated, or the predicted noise.
    pub predict_x0: bool,
    /// What a step is divided by.
    pub solver_type: UniPCSolverType,
    /// Steps, counted from 0, that are not corrected.
    pub disable_corrector: Vec<usize>,
    /// The configuration, `_class_name` and all, of a scheduler of this crate that predicts in place of UniP.
    pub solver_p: Option<Map<String, Value>>,
    /// The noise level that the last step leads to; the lowest of `use_*_sigmas` and of flows is their last.
    pub final_sigmas_type: FinalSigmasType,
    /// The lowest noise level of `use_*_sigmas`; that of training where absent.
    pub sigma_min: Option<f64>,
    /// The highest noise level of `use_*_sigmas`; that of training where absent.
    pub sigma_max: Option<f64>,
    /// The last noise level of a flow before the final one, to which the others are stretched.
    pub shift_terminal: Option<f64>,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
    /// A shift of a flow's noise levels for each run, which then has to have one.
    #[serde(flatten)]
    pub dynamic_shift: DynamicShiftConfig,
}

impl Default for UniPCMultistepConfig {
    /// diffusers': UniPC-2 of the predicted image by B₂, spaced `linspace` down to no noise.
    fn default() -> Self {
        Self {
            solver: SolverConfig::default(),
            rescale_betas_zero_snr: false,
            solver_order: 2,
            predict_x0: true,
            solver_type: UniPCSolverType::Bh2,
            disable_corrector: vec![],
            solver_p: None,
            final_sigmas_type: FinalSigmasType::Zero,
            sigma_min: None,
            sigma_max: None,
            shift_terminal: None,
            spacing: SpacingConfig::new(TimestepSpacing::Linspace),
            dynamic_shift: DynamicShiftConfig::default(),
        }
    }
}

impl UniPCMultistepConfig {
    fn forward(&self) -> ForwardProcess {
        ForwardProcess::new(&self.solver, self.rescale_betas_zero_snr, None)
    }

    /// The scheduler that predicts in place of UniP.
    fn predictor(&self) -> Result<Option<Arc<dyn Scheduler>>> {
        let Some(given) = &self.solver_p else { return Ok(None) };
        match given.get("_class_name").and_then(Value::as_str) {
            Some(class_name) => Registry::default().from_config(class_name, given).map(Some),
            None => Err(Error::config("solver_p is a scheduler's configuration, but has no _class_name")),
        }
    }

    /// The path of a run, and the noise level that its last step leads to.
    fn path(&self, forward: &ForwardProcess, options: &RunOptions) -> Result<(Path, f64)> {
        let t = forward.alphas.len();
        let shift = self.dynamic_shift.shift(options.mu)?;
        if self.dynamic_shift.use_dynamic_shifting && shift.is_none() {
            return Err(Error::unsupported("sample without `mu`, which use_dynamic_shifting asks for"));
        }
        let shifted = |&sigma: &f64| match shift {
            Some(shift) => shifted_by_run(sigma, shift),
            None => shifted(sigma, self.solver.flow.flow_shift),
        };
        let conversion = self.solver.sigma.conversion();
        let is_flow = self.solver.flow.use_flow_sigmas;
        let (sigmas, last) = match &options.schedule {
            Schedule::Sigmas(_) if conversion.is_some() || !is_flow => {
                return Err(Error::unsupported(
                    "take noise levels but those of a flow, with use_flow_sigmas and without other use_*_sigmas",
                ));
            }
            Schedule::Sigmas(sigmas) => {
                check_descending(sigmas)?;
                check_flow_levels(sigmas, 1.0)?;
                let calls = sigmas[..sigmas.len() - 1].iter().map(shifted).collect();
                (stretched(calls, self.shift_terminal)?, sigmas.last().map(shifted))
            }
            Schedule::Steps(n) if is_flow && conversion.is_none() => {
                check_count(*n)?;
                let even = linspace_f64(1.0, 1.0 / t as f64, n + 1);
                (stretched(even[..*n].iter().map(shifted).collect(), self.shift_terminal)?, None)
            }
            schedule => {
                let limits = [self.sigma_min, self.sigma_max];
                let path =
                    Spaced { limits, ..Spaced::new(forward, self.spacing, conversion) }.path(forward, schedule)?;
                if !is_flow {
                    let lowest = self.solver.last_sigma(&path, forward.alphas.sigmas()[0]);
                    let last = if self.final_sigmas_type == FinalSigmasType::Zero { 0.0 } else { lowest };
                    return Ok((path, last));
                }
                // from noise against the image to noise in the flow
                (path.sigmas.iter().map(|sigma| sigma / (sigma + 1.0)).collect(), None)
            }
        };
        let last = last.unwrap_or(match self.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => sigmas[sigmas.len() - 1],
        });
        let path = Path { timesteps: sigmas.iter().map(|sigma| (sigma * t as f64).trunc() as f32).collect(), sigmas };
        check_first_two(&path.timesteps, t)?;
        check_calls(&path.timesteps, &path.sigmas)?;
        Ok((path, last))
    }
}

impl Method for UniPCMultistepConfig {
    const CLASS_NAME: &'static str = "UniPCMultistepScheduler";
    const SUMMARY: &'static str =
        "a predictor and a corrector of any order, good images in 10 steps (Zhao et al. 2023)";
    const SUPPORTS: &'static [Supports] = &[Supports::Sigmas, Supports::Mu];

    fn check(&self) -> Result<()> {
        self.solver.check()?;
        self.solver.sigma.check([self.sigma_min, self.sigma_max])?;
        let types = [TimeShiftType::Exponential, TimeShiftType::Linear];
        self.dynamic_shift.check(&self.solver.flow, &types)?;
        check_order("solver_order", self.solver_order, 8)?;
        if self.shift_terminal.is_some() && !self.solver.flow.use_flow_sigmas {
            return Err(Error::config(
                "shift_terminal stretches the noise levels of a flow, but use_flow_sigmas is false",
            ));
        }
        check_terminal(self.shift_terminal)?;
        self.predictor()?;
        self.forward().alphas.check()
    }

    fn process(&self) -> Process {
        self.forward().process()
    }

    /// At least 2 with `shift_terminal`: a step that begins at 1 cannot be stretched.
    fn inference_steps(&self) -> RangeInclusive<usize> {
        let own = inference_steps(&self.spacing, &self.forward(), Real(f64::NEG_INFINITY));
        let fewest = if self.shift_terminal.is_some_and(|terminal| terminal > 0.0) { 2 } else { 1 };
        let predictor = self.predictor().ok().flatten();
        let theirs = predictor.map_or(1..=usize::MAX, |predictor| predictor.inference_steps());
        fewest.max(*theirs.start())..=*own.end().min(theirs.end())
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let forward = self.forward();
        let (path, last) = self.path(&forward, options)?;
        let plan = forward.plan(path, last);
        let mut predictor = None;
        if let Some(scheduler) = self.predictor()? {
            let n = plan.timesteps.len();
            let run = scheduler.run_with(&RunOptions { start: options.start, ..RunOptions::steps(n) })?;
            if run.timesteps() != plan.timesteps {
                let class_name = scheduler.class_name();
                return Err(Error::unsupported(format!(
                    "predict by {class_name}, which visits other timesteps: space both alike"
                )));
            }
            predictor = Some(run);
        }
        let integrand = if self.predict_x0 { Integrand::Data } else { Integrand::Noise };
        let solver = UniPC { solver_type: self.solver_type, integrand, history: History::new(self.solver_order) };
        let method = UniPCMultistep { config: self.clone(), forward, solver, predictor, last: None };
        Sampling::begin(plan, options.start, method)
    }
}

#[derive(Debug)]
struct UniPCMultistep {
    config: UniPCMultistepConfig,
    forward: ForwardProcess,
    solver: UniPC,
    predictor: Option<Box<dyn Run>>,
    /// The sample before the last step, where that began, and its order.
    last: Option<(Tensor, Point, usize)>,
}

impl Step for UniPCMultistep {
    fn step(&mut self, call: &Call, rng: &mut dyn Noise) -> Result<StepOutput> {
        let (i, n) = (call.i, call.plan.timesteps.len());
        let [s, t] = self.forward.ends(call);
        let (output, x0) = self.forward.convert(self.solver.integrand, call, s)?;

        // UniC: the sample corrected by the output for it
        let sample = match &self.last {
            Some((last, before, p)) if !self.config.disable_corrector.contains(&(i - 1)) => {
                self.solver.update([*before, s], *p, last, Some(&output))?
            }
            _ => call.sample.clone(),
        };
        self.solver.history.push(s.lambda(), output);

        // UniP: the sample of the next call
        let most = if self.config.solver.lower_order_final { n - i } else { n };
        let most = if t.sigma == 0.0 { 1 } else { most }; // λ is infinite there
        let p = self.config.solver_order.min(most).min(self.solver.history.len());
        let prev_sample = match &mut self.predictor {
            Some(predictor) => predictor.step(&call.output, &sample, rng)?.prev_sample,
            None if s == t => sample.clone(), // the next call is at this level again
            None => self.solver.update([s, t], p, &sample, None)?,
        };
        self.last = (s != t).then_some((sample, s, p));
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
