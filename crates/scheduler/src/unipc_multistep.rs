use crate::prelude::*;

/// UniPC: steps of any order by earlier outputs, each corrected by the output at its end (Zhao et al. 2023, algorithms
/// 1 and 2): diffusers' `UniPCMultistepScheduler`.
///
/// Where diffusers divides by an infinite step, in a step to no noise with `bh1`, without `lower_order_final` or
/// without `predict_x0`, that step is of the first order here. Without `predict_x0` thresholding is done, too, which
/// diffusers leaves out; and a flow may be spaced by any of `use_*_sigmas`, not by `use_karras_sigmas` alone.
pub type UniPCMultistepScheduler = Sampler<UniPCMultistepConfig>;

config! {
    /// The configuration of [`UniPCMultistepScheduler`], under diffusers' names.
    pub struct UniPCMultistepConfig {
        /// What all solvers have. With `lower_order_final` the last steps are of lower orders however many there are.
        #[serde(flatten)]
        pub solver: SolverConfig = SolverConfig::default(),
        /// Whether the betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
        pub rescale_betas_zero_snr: bool = false,
        /// p, how many outputs a step looks at, 1 to 8; more than 3 gain little.
        pub solver_order: usize = 2,
        /// Whether the predicted image is integrated, or the predicted noise.
        pub predict_x0: bool = true,
        /// What a step is divided by.
        pub solver_type: UniPCSolverType = UniPCSolverType::Bh2,
        /// Steps, counted from 0, that are not corrected.
        pub disable_corrector: Vec<usize> = vec![],
        /// The configuration, `_class_name` and all, of a scheduler of this crate that predicts in place of UniP.
        pub solver_p: Option<Map<String, Value>> = None,
        /// The noise level that the last step leads to; the lowest of `use_*_sigmas` and of flows is their last.
        pub final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
        /// The lowest noise level of `use_*_sigmas`; that of training where absent.
        pub sigma_min: Option<f64> = None,
        /// The highest noise level of `use_*_sigmas`; that of training where absent.
        pub sigma_max: Option<f64> = None,
        /// The last noise level of a flow before the final one, to which the others are stretched.
        pub shift_terminal: Option<f64> = None,
        /// Which timesteps a sampling visits.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::new(TimestepSpacing::Linspace),
        /// A shift of a flow's noise levels for each run, which then has to have one.
        #[serde(flatten)]
        pub dynamic_shift: DynamicShiftConfig = DynamicShiftConfig::default(),
    }
}

impl UniPCMultistepConfig {
    /// The scheduler that predicts in place of UniP.
    fn predictor(&self) -> Result<Option<Arc<dyn Scheduler>>> {
        let Some(given) = &self.solver_p else { return Ok(None) };
        match given.get("_class_name").and_then(Value::as_str) {
            Some(class_name) => Registry::default().from_config(class_name, given).map(Some),
            None => Err(Error::config("solver_p is a scheduler's configuration, but has no _class_name")),
        }
    }

    /// The path of a run, and the noise level that its last step leads to.
    fn path(&self, alphas: &Alphas, options: &RunOptions) -> Result<(Path, f64)> {
        let (conversion, is_flow) = (self.solver.sigma.conversion(), self.solver.flow.use_flow_sigmas);
        let shift = self.dynamic_shift.shift(options.mu)?;
        ensure(!self.dynamic_shift.use_dynamic_shifting || shift.is_some(), || {
            Error::unsupported("sample without `mu`, which use_dynamic_shifting asks for")
        })?;
        let shifted = |&sigma: &f64| match shift {
            Some(shift) => shifted_by_run(sigma, shift),
            None => shifted(sigma, self.solver.flow.flow_shift),
        };
        let (t, limits) = (alphas.len(), [self.sigma_min, self.sigma_max]);
        let spaced = Spaced { limits, ..Spaced::new(alphas, self.spacing, conversion) };
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
            schedule if !is_flow => {
                let path = spaced.path(alphas, schedule)?;
                let lowest = self.solver.last_sigma(&path, alphas.sigmas()[0]);
                return Ok((path, self.final_sigmas_type.of(lowest)));
            }
            Schedule::Steps(n) if conversion.is_none() => {
                let even = linspace_f64(1.0, 1.0 / t as f64, check_count(*n)? + 1);
                (stretched(even[..*n].iter().map(shifted).collect(), self.shift_terminal)?, None)
            }
            // from noise against the image to noise in the flow
            schedule => {
                let sigmas = spaced.path(alphas, schedule)?.sigmas;
                (sigmas.into_iter().map(|sigma| sigma / (sigma + 1.0)).collect(), None)
            }
        };
        let last = last.unwrap_or(self.final_sigmas_type.of(sigmas[sigmas.len() - 1]));
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
        self.dynamic_shift.check(&self.solver.flow, &[TimeShiftType::Exponential, TimeShiftType::Linear])?;
        check_order("solver_order", self.solver_order, 8)?;
        ensure(self.shift_terminal.is_none() || self.solver.flow.use_flow_sigmas, || {
            Error::config("shift_terminal stretches the noise levels of a flow, but use_flow_sigmas is false")
        })?;
        check_terminal(self.shift_terminal)?;
        self.predictor()?;
        self.process().alphas().check()
    }

    fn process(&self) -> Process {
        self.solver.process(self.rescale_betas_zero_snr)
    }

    /// At least 2 with `shift_terminal`: a step that begins at 1 cannot be stretched.
    fn inference_steps(&self, process: &Process) -> RangeInclusive<usize> {
        let own = inference_steps(&self.spacing, process.alphas(), Real(f64::NEG_INFINITY));
        let fewest = if self.shift_terminal.is_some_and(|terminal| terminal > 0.0) { 2 } else { 1 };
        let predictor = self.predictor().ok().flatten();
        let theirs = predictor.map_or(1..=usize::MAX, |predictor| predictor.inference_steps());
        fewest.max(*theirs.start())..=*own.end().min(theirs.end())
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let forward = ForwardProcess::new(&self.solver, None);
        let (path, last) = self.path(process.alphas(), options)?;
        let plan = forward.plan(path, last);
        let mut predictor = None;
        if let Some(scheduler) = self.predictor()? {
            let n = plan.timesteps.len();
            let run = scheduler.run_with(&RunOptions { start: options.start, ..RunOptions::steps(n) })?;
            ensure(run.timesteps() == plan.timesteps, || {
                let class_name = scheduler.class_name();
                Error::unsupported(format!("predict by {class_name}, which visits other timesteps: space both alike"))
            })?;
            predictor = Some(run);
        }
        let integrand = if self.predict_x0 { Integrand::Data } else { Integrand::Noise };
        let mut solver = UniPC { solver_type: self.solver_type, integrand, history: History::new(self.solver_order) };
        let config = self.clone();
        // the sample before the last step, where that began, and its order
        let mut last: Option<(Tensor, Point, usize)> = None;
        let predict = move |call: &Call| forward.x0(call);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (i, n) = (call.i, call.plan.timesteps.len());
            let [s, t] = forward.ends(call);
            let output = forward.integrand(integrand, call, &x0, s)?;

            // UniC: the sample corrected by the output for it
            let sample = match &last {
                Some((last, before, p)) if !config.disable_corrector.contains(&(i - 1)) => {
                    solver.update([*before, s], *p, last, Some(&output))?
                }
                _ => call.sample.clone(),
            };
            solver.history.push(s.lambda(), output);

            // UniP: the sample of the next call
            let most = if config.solver.lower_order_final { n - i } else { n };
            let most = if t.sigma == 0.0 { 1 } else { most }; // λ is infinite there
            let p = config.solver_order.min(most).min(solver.history.len());
            let prev_sample = match &mut predictor {
                Some(predictor) => predictor.step(&call.output, &sample, rng)?.prev_sample,
                None if s == t => sample.clone(), // the next call is at this level again
                None => solver.update([s, t], p, &sample, None)?,
            };
            last = (s != t).then_some((sample, s, p));
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
