use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::Tensor;
use kakusan_rng::Noise;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::config_map;
use crate::schedule::{
    ForwardProcess, History, Integrand, Path, Spaced, UniPC, check_calls, check_count, check_descending,
    check_first_two, check_flow_levels, check_order, inference_steps, linspace_f64, shifted, shifted_by_run, stretched,
};
use crate::{
    DynamicShiftConfig, Error, FinalSigmasType, Process, Registry, Result, Run, RunOptions, Schedule, Scheduler,
    SolverConfig, SpacingConfig, StepOutput, Steps, Supports, TimeShiftType, TimestepSpacing, UniPCSolverType,
};

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
#[derive(Debug, Clone)]
pub struct UniPCMultistepScheduler {
    config: UniPCMultistepConfig,
    process: ForwardProcess,
    solver_p: Option<Arc<dyn Scheduler>>,
}

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

impl UniPCMultistepScheduler {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = "UniPCMultistepScheduler";

    /// Builds the schedule.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: UniPCMultistepConfig) -> Result<Self> {
        let refuse = |reason: String| Err(Error::Config { class_name: Self::CLASS_NAME.into(), reason });
        config.solver.check(Self::CLASS_NAME)?;
        config.solver.sigma.check(Self::CLASS_NAME, [config.sigma_min, config.sigma_max])?;
        let types = [TimeShiftType::Exponential, TimeShiftType::Linear];
        config.dynamic_shift.check(Self::CLASS_NAME, &config.solver.flow, &types)?;
        check_order(Self::CLASS_NAME, "solver_order", config.solver_order, 8)?;
        match config.shift_terminal {
            Some(_) if !config.solver.flow.use_flow_sigmas => {
                return refuse(
                    "shift_terminal stretches the noise levels of a flow, but use_flow_sigmas is false".into(),
                );
            }
            Some(terminal) if !(0.0..1.0).contains(&terminal) => {
                return refuse(format!(
                    "shift_terminal is {terminal}; it must be a noise level of at least 0 and below 1"
                ));
            }
            _ => {}
        }
        let solver_p = match &config.solver_p {
            None => None,
            Some(given) => match given.get("_class_name").and_then(Value::as_str) {
                Some(class_name) => Some(Registry::default().from_config(class_name, given)?),
                None => return refuse("solver_p is a scheduler's configuration, but has no _class_name".into()),
            },
        };
        let scheduler = Self { solver_p, ..Self::build(config) };
        scheduler.process.alphas.check(Self::CLASS_NAME)?;
        Ok(scheduler)
    }

    fn build(config: UniPCMultistepConfig) -> Self {
        Self {
            process: ForwardProcess::new(&config.solver, config.rescale_betas_zero_snr, None),
            config,
            solver_p: None,
        }
    }

    /// The timesteps of the model calls, and the noise levels between which the steps lead.
    fn path(&self, options: &RunOptions) -> Result<(Vec<f32>, Vec<f32>)> {
        let Self { config, process, .. } = self;
        let t = process.alphas.len();
        let shift = config.dynamic_shift.shift(Self::CLASS_NAME, options.mu)?;
        if config.dynamic_shift.use_dynamic_shifting && shift.is_none() {
            let what = "sample without `mu`, which use_dynamic_shifting asks for".into();
            return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what });
        }
        let shifted = |&sigma: &f64| match shift {
            Some(shift) => shifted_by_run(sigma, shift),
            None => shifted(sigma, config.solver.flow.flow_shift),
        };
        let conversion = config.solver.sigma.conversion();
        let is_flow = config.solver.flow.use_flow_sigmas;
        let (sigmas, last) = match &options.schedule {
            Schedule::Sigmas(_) if conversion.is_some() || !is_flow => {
                let what =
                    "take noise levels but those of a flow, with use_flow_sigmas and without other use_*_sigmas".into();
                return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what });
            }
            Schedule::Sigmas(sigmas) => {
                check_descending(Self::CLASS_NAME, sigmas)?;
                check_flow_levels(Self::CLASS_NAME, sigmas, 1.0)?;
                (
                    stretched(
                        Self::CLASS_NAME,
                        sigmas[..sigmas.len() - 1].iter().map(shifted).collect(),
                        config.shift_terminal,
                    )?,
                    sigmas.last().map(shifted),
                )
            }
            Schedule::Steps(n) if is_flow && conversion.is_none() => {
                check_count(Self::CLASS_NAME, *n)?;
                let even = linspace_f64(1.0, 1.0 / t as f64, n + 1);
                (stretched(Self::CLASS_NAME, even[..*n].iter().map(shifted).collect(), config.shift_terminal)?, None)
            }
            schedule => {
                let limits = [config.sigma_min, config.sigma_max];
                let spaced = Spaced { limits, ..Spaced::new(process, config.spacing, conversion) };
                let path = spaced.path(Self::CLASS_NAME, process, schedule)?;
                if !is_flow {
                    let lowest = match conversion {
                        Some(_) => path.sigmas[path.sigmas.len() - 1],
                        None => process.alphas.sigmas()[0].into(),
                    };
                    let last = if config.final_sigmas_type == FinalSigmasType::Zero { 0.0 } else { lowest };
                    let sigmas = path.sigmas_to(last);
                    return Ok((path.timesteps, sigmas));
                }
                // from noise against the image to noise in the flow
                (path.sigmas.iter().map(|sigma| sigma / (sigma + 1.0)).collect(), None)
            }
        };
        let last = last.unwrap_or(match config.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => sigmas[sigmas.len() - 1],
        });
        let path = Path { timesteps: sigmas.iter().map(|sigma| (sigma * t as f64).trunc() as f32).collect(), sigmas };
        check_first_two(Self::CLASS_NAME, &path.timesteps, t)?;
        check_calls(Self::CLASS_NAME, &path.timesteps, &path.sigmas)?;
        let sigmas = path.sigmas_to(last);
        Ok((path.timesteps, sigmas))
    }
}

impl Default for UniPCMultistepScheduler {
    /// That of [`UniPCMultistepConfig::default`].
    fn default() -> Self {
        Self::build(UniPCMultistepConfig::default())
    }
}

impl Scheduler for UniPCMultistepScheduler {
    fn class_name(&self) -> &str {
        Self::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        config_map(&self.config)
    }

    fn summary(&self) -> &str {
        "a predictor and a corrector of any order, good images in 10 steps (Zhao et al. 2023)"
    }

    fn process(&self) -> Process {
        self.process.training()
    }

    /// At least 2 with `shift_terminal`: a step that begins at 1 cannot be stretched.
    fn inference_steps(&self) -> RangeInclusive<usize> {
        let own = inference_steps(&self.config.spacing, self.process.alphas.len());
        let fewest = if self.config.shift_terminal.is_some_and(|terminal| terminal > 0.0) { 2 } else { 1 };
        match &self.solver_p {
            None => fewest..=*own.end(),
            Some(solver_p) => {
                let theirs = solver_p.inference_steps();
                fewest.max(*theirs.start())..=*own.end().min(theirs.end())
            }
        }
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        options.only(Self::CLASS_NAME, &[Supports::Sigmas, Supports::Mu])?;
        let (timesteps, sigmas) = self.path(options)?;
        let solver_p = match &self.solver_p {
            None => None,
            Some(solver_p) => {
                let run =
                    solver_p.run_with(&RunOptions { start: options.start, ..RunOptions::steps(timesteps.len()) })?;
                if run.timesteps() != timesteps {
                    let what =
                        format!("predict by {}, which visits other timesteps: space both alike", solver_p.class_name());
                    return Err(Error::Unsupported { class_name: Self::CLASS_NAME.into(), what });
                }
                Some(run)
            }
        };
        let steps = Steps::new(Self::CLASS_NAME, timesteps, options.start)?;
        let (config, process) = (self.config.clone(), self.process.clone());
        let integrand = if config.predict_x0 { Integrand::Data } else { Integrand::Noise };
        let history = History::new(config.solver_order);
        let solver = UniPC { solver_type: config.solver_type, integrand, history };
        Ok(Box::new(UniPCMultistepRun { config, process, steps, sigmas, solver, solver_p, last: None }))
    }
}

/// A sampling by [`UniPCMultistepScheduler`].
#[derive(Debug)]
struct UniPCMultistepRun {
    config: UniPCMultistepConfig,
    process: ForwardProcess,
    steps: Steps,
    sigmas: Vec<f32>,
    solver: UniPC,
    solver_p: Option<Box<dyn Run>>,
    /// The sample before the last step, and its order.
    last: Option<(Tensor, usize)>,
}

impl Run for UniPCMultistepRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok(self.process.alpha_sigma(self.sigmas[self.steps.index()?]))
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        let (i, n) = (self.steps.index()?, self.steps.timesteps().len());
        let [s, t] = [self.sigmas[i], self.sigmas[i + 1]].map(|sigma| self.process.point(sigma));
        let (output, x0) = self.process.convert(self.solver.integrand, model_output, sample, s)?;

        let sample = match &self.last {
            Some((last, p)) if !self.config.disable_corrector.contains(&(i - 1)) => {
                let before = self.process.point(self.sigmas[i - 1]);
                self.solver.update([before, s], *p, last, Some(&output))?
            }
            _ => sample.clone(),
        };

        self.solver.history.push(s.lambda(), output);
        let most = if self.config.solver.lower_order_final { n - i } else { n };
        let most = if t.sigma == 0.0 { 1 } else { most }; // λ is infinite there
        let p = self.config.solver_order.min(most).min(self.solver.history.len());
        let prev_sample = match &mut self.solver_p {
            Some(solver_p) => solver_p.step(model_output, &sample, rng)?.prev_sample,
            None if s == t => sample.clone(), // the next call is at this level again
            None => self.solver.update([s, t], p, &sample, None)?,
        };
        self.last = (s != t).then_some((sample, p));
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
