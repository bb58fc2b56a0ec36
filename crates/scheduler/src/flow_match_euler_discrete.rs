use crate::prelude::*;

/// Euler's method along the straight paths of a flow (Liu et al. 2022; Esser et al. 2024): diffusers'
/// `FlowMatchEulerDiscreteScheduler`.
///
/// With `use_dynamic_shifting` a run needs [`RunOptions::mu`], for which there is [`mu`](Self::mu). Noise levels asked
/// for by hand are shifted as all are; like everywhere here, the last of them is where the last step leads, commonly 0
/// (diffusers' `sigmas` leave it out). Timesteps asked for by hand go to the model as they are, while the noise levels
/// that belong to them are shifted, as in diffusers.
///
/// With `invert_sigmas` noise levels count up from the noise to the image. (diffusers' `scale_noise` and
/// `stochastic_sampling` then still take them for weights of the noise, and mix up the two; here they are the image's.)
///
/// ```
/// use kakusan_scheduler::{FlowMatchEulerDiscreteConfig, FlowMatchEulerDiscreteScheduler, RunOptions, Scheduler};
///
/// let config = FlowMatchEulerDiscreteConfig { use_dynamic_shifting: true, ..Default::default() };
/// let scheduler = FlowMatchEulerDiscreteScheduler::new(config)?;
/// let mu = scheduler.mu(4096); // for images of 64 x 64 patches
/// assert_eq!(scheduler.run_with(&RunOptions { mu, ..RunOptions::steps(4) })?.timesteps().len(), 4);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type FlowMatchEulerDiscreteScheduler = Sampler<FlowMatchEulerDiscreteConfig>;

config! {
    /// The configuration of [`FlowMatchEulerDiscreteScheduler`], under diffusers' names.
    pub struct FlowMatchEulerDiscreteConfig {
        /// T: the model is conditioned on `T σ`.
        pub num_train_timesteps: usize = 1000,
        /// By how much noise levels are shifted up, without dynamic shifting.
        pub shift: f64 = 1.0,
        /// Whether they are shifted by [`RunOptions::mu`] instead, which larger images have more of.
        pub use_dynamic_shifting: bool = false,
        /// μ of an image of `base_image_seq_len` patches.
        pub base_shift: Option<f64> = Some(0.5),
        /// μ of an image of `max_image_seq_len` patches.
        pub max_shift: Option<f64> = Some(1.15),
        /// A small image.
        pub base_image_seq_len: usize = 256,
        /// A large image.
        pub max_image_seq_len: usize = 4096,
        /// Whether noise levels count from the noise to the image.
        pub invert_sigmas: bool = false,
        /// The noise level before the last step, to which the schedule is stretched; 0 is no stretching.
        pub shift_terminal: Option<f64> = None,
        /// Noise levels spaced otherwise.
        #[serde(flatten)]
        pub sigma: SigmaConfig = SigmaConfig::default(),
        /// How μ shifts noise levels.
        pub time_shift_type: TimeShiftType = TimeShiftType::Exponential,
        /// Whether each step goes to the image and back to the next noise level with new noise.
        pub stochastic_sampling: bool = false,
    }
}

impl Sampler<FlowMatchEulerDiscreteConfig> {
    /// μ for images that the model sees as so many patches: in proportion between `base_shift` and `max_shift`, and
    /// beyond them; what diffusers' pipelines pass as [`RunOptions::mu`]. `None` if the configuration has neither, or
    /// both are for images of one size.
    pub fn mu(&self, image_seq_len: usize) -> Option<f64> {
        let config = self.method();
        let (base, max) = (config.base_image_seq_len, config.max_image_seq_len);
        let (base_shift, max_shift) = (config.base_shift?, config.max_shift?);
        let place = (image_seq_len as f64 - base as f64) / (max as f64 - base as f64);
        (max != base).then_some(base_shift + place * (max_shift - base_shift))
    }
}

impl FlowMatchEulerDiscreteConfig {
    fn flow(&self, shift: f64) -> Flow {
        Flow { num_train_timesteps: self.num_train_timesteps, shift, inverted: self.invert_sigmas }
    }

    /// That of training: dynamic shifting is of sampling alone.
    fn training(&self) -> Flow {
        self.flow(if self.use_dynamic_shifting { 1.0 } else { self.shift })
    }

    /// The shift of a run.
    fn shift(&self, mu: Option<f64>) -> Result<f64> {
        match mu {
            _ if !self.use_dynamic_shifting => Ok(self.shift),
            Some(mu) => self.time_shift_type.shift(mu),
            None => Err(Error::unsupported(
                "sample without `mu` while use_dynamic_shifting is true: set RunOptions::mu, for which there is \
                 FlowMatchEulerDiscreteScheduler::mu, or build it with use_dynamic_shifting false",
            )),
        }
    }

    /// The timesteps of the model calls, and the noise levels between which the steps lead, one more.
    fn schedule(&self, options: &RunOptions) -> Result<(Vec<f32>, Vec<f32>)> {
        let t = self.num_train_timesteps as f64;
        let flow = self.flow(self.shift(options.mu)?);
        let (mut sigmas, last): (Vec<f64>, f64) = match &options.schedule {
            Schedule::Steps(n) => (self.training().spaced(check_count(*n)?), 0.0),
            Schedule::Timesteps(timesteps) => {
                check_flow_levels(timesteps, t)?;
                (timesteps.iter().map(|timestep| timestep / t).collect(), 0.0)
            }
            Schedule::Sigmas(sigmas) => {
                check_descending(sigmas)?;
                check_flow_levels(sigmas, 1.0)?;
                (sigmas[..sigmas.len() - 1].to_vec(), sigmas[sigmas.len() - 1])
            }
        };
        sigmas.iter_mut().for_each(|sigma| *sigma = flow.shifted(*sigma));
        sigmas = stretched_to(sigmas, self.shift_terminal)?;
        let n = sigmas.len();
        if let Some(conversion) = self.sigma.conversion() {
            ensure(sigmas[n - 1] > 0.0, || {
                Error::unsupported("space noise levels down to 0 by use_*_sigmas: leave out the last, or these")
            })?;
            sigmas = conversion.sigmas([sigmas[0], sigmas[n - 1]], n);
        }
        sigmas.push(flow.shifted(last));
        let count_up = |sigma: f32| if self.invert_sigmas { 1.0 - sigma } else { sigma };
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| count_up(sigma as f32)).collect();
        let timesteps = match &options.schedule {
            Schedule::Timesteps(timesteps) if !self.invert_sigmas => timesteps.iter().map(|&t| t as f32).collect(),
            _ => sigmas[..n].iter().map(|&sigma| flow.timestep(sigma)).collect(),
        };
        Ok((timesteps, sigmas))
    }
}

impl Method for FlowMatchEulerDiscreteConfig {
    const CLASS_NAME: &'static str = "FlowMatchEulerDiscreteScheduler";
    const SUMMARY: &'static str = "Euler's method for flows: straight from noise to image (Esser et al. 2024)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps, Supports::Sigmas, Supports::Mu];

    fn check(&self) -> Result<()> {
        self.flow(self.shift).check()?;
        self.sigma.check([None, None])?;
        check_terminal(self.shift_terminal)?;
        for (key, shift) in [("base_shift", self.base_shift), ("max_shift", self.max_shift)] {
            if let Some(shift) = shift.filter(|shift| !shift.is_finite()) {
                return Err(Error::config(format!("{key} is {shift}; it must be a finite number")));
            }
        }
        Ok(())
    }

    fn process(&self) -> Process {
        self.training().process()
    }

    /// At least 2 with `shift_terminal`: a step that begins at 1 cannot be stretched.
    fn inference_steps(&self, _: &Process) -> RangeInclusive<usize> {
        let stretched = self.shift_terminal.is_some_and(|terminal| terminal > 0.0);
        if stretched { 2..=MOST_STEPS } else { 1..=MOST_STEPS }
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let has_use = self.use_dynamic_shifting || options.mu.is_none();
        ensure(has_use, || Error::Option { class_name: Self::CLASS_NAME.into(), option: "mu" })?;
        let (flow, (timesteps, sigmas)) = (self.flow(1.0), self.schedule(options)?);
        let plan = Plan::between(timesteps, sigmas, |sigma| flow.alpha_sigma(sigma));
        let stochastic = self.stochastic_sampling;
        let predict = move |call: &Call| flow.original_sample(&call.output, call.sample, call.sigmas().0);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (sigma, next_sigma) = call.sigmas();
            let prev_sample = if stochastic {
                let (next_alpha, next_sigma) = flow.alpha_sigma(next_sigma);
                mix(next_alpha, &x0, next_sigma, &noise_like(call.sample, rng)?)?
            } else {
                mix(1.0, call.sample, next_sigma - sigma, &call.output)?
            };
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
