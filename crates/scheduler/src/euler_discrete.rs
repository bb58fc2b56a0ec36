use crate::prelude::*;

/// Euler's method on the probability flow ODE in σ, with noise added before a step where asked for (Karras et al. 2022,
/// algorithm 2 without its correction): diffusers' `EulerDiscreteScheduler`.
pub type EulerDiscreteScheduler = Sampler<EulerDiscreteConfig>;

config! {
    /// The configuration of [`EulerDiscreteScheduler`], under diffusers' names.
    pub struct EulerDiscreteConfig {
        /// The process, and which timesteps or noise levels a sampling visits.
        #[serde(flatten)]
        pub k: KDiffusionConfig = KDiffusionConfig::default(),
        /// Whether the betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
        pub rescale_betas_zero_snr: bool = false,
        /// Where noise levels between the timesteps' come from.
        pub interpolation_type: InterpolationType = InterpolationType::Linear,
        /// The lowest noise level of `use_*_sigmas`; the last timestep's where absent.
        pub sigma_min: Option<f64> = None,
        /// The highest noise level of `use_*_sigmas`; the first timestep's where absent.
        pub sigma_max: Option<f64> = None,
        /// What a `v_prediction` model is conditioned on.
        pub timestep_type: TimestepType = TimestepType::Discrete,
        /// The noise level that the last step leads to.
        pub final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
    }
}

/// Where noise levels between those of training come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum InterpolationType {
    /// In proportion between the two nearest timesteps.
    #[default]
    Linear,
    /// Evenly in log σ over all of training, wherever the timesteps are.
    LogLinear,
}

/// What the model is conditioned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimestepType {
    /// The timestep.
    #[default]
    Discrete,
    /// `ln(σ) / 4`, where the model predicts a velocity (Karras et al. 2022).
    Continuous,
}

impl EulerDiscreteConfig {
    /// Whether the model is conditioned on σ instead of the timestep.
    fn is_continuous(&self) -> bool {
        self.timestep_type == TimestepType::Continuous && self.k.prediction_type == PredictionType::VPrediction
    }

    /// The timesteps of the model calls, and the noise levels between which the steps lead, one more.
    fn schedule(&self, options: &RunOptions, training: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (t, conversion) = (training.len(), self.k.sigma.conversion());
        let timesteps = match &options.schedule {
            Schedule::Sigmas(sigmas) => {
                check_descending(sigmas)?;
                let calls: Vec<f64> = sigmas[..sigmas.len() - 1].iter().map(|&sigma| f64::from(sigma as f32)).collect();
                let timesteps = timesteps_of(&calls, training);
                check_calls(&timesteps, &calls)?;
                return Ok((timesteps, sigmas.iter().map(|&sigma| sigma as f32).collect()));
            }
            Schedule::Timesteps(_) if conversion.is_some() || self.is_continuous() => {
                return Err(Error::unsupported(
                    "take timesteps while its noise levels are spaced by themselves: leave out use_*_sigmas and \
                     timestep_type continuous, or give sigmas",
                ));
            }
            Schedule::Timesteps(timesteps) => check_timesteps(timesteps, t)?,
            Schedule::Steps(n) => self.k.spacing.exact(t, *n)?.into_iter().map(|timestep| timestep as f32).collect(),
        };
        let n = options.num_steps();
        let (timesteps, mut sigmas) = match (self.interpolation_type, conversion) {
            (InterpolationType::Linear, _) => {
                let timesteps = timesteps.into_iter().map(f64::from).collect();
                sigmas_at(timesteps, training, conversion, [self.sigma_min, self.sigma_max], n)
            }
            // one level more than there are timesteps, so that the last step leads to the lowest of training
            (InterpolationType::LogLinear, None) => (timesteps, log_linear(training, n + 1)),
            (InterpolationType::LogLinear, Some(conversion)) => {
                let even = log_linear(training, n + 1);
                let limits = [self.sigma_max.unwrap_or(even[0]), self.sigma_min.unwrap_or(even[n])];
                let sigmas = conversion.sigmas(limits, n);
                (timesteps_of(&sigmas, training), sigmas)
            }
        };
        check_first_two(&timesteps, t)?;
        check_calls(&timesteps, &sigmas)?;
        sigmas.push(self.final_sigmas_type.of(training[0]));
        Ok((timesteps, sigmas.into_iter().map(|sigma| sigma as f32).collect()))
    }
}

/// `n` noise levels of training evenly in log σ, from the highest.
fn log_linear(training: &[f32], n: usize) -> Vec<f64> {
    let [first, last] = [training[0], training[training.len() - 1]].map(ln_f32);
    linspace_f32(last, first, n).into_iter().map(|log| f64::from(log.exp())).collect()
}

impl Method for EulerDiscreteConfig {
    const CLASS_NAME: &'static str = "EulerDiscreteScheduler";
    const SUMMARY: &'static str = "Euler's method in noise levels, one model call a step (Karras et al. 2022)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps, Supports::Sigmas, Supports::Churn];

    fn check(&self) -> Result<()> {
        self.k.check(PredictionType::NO_FLOW, BetaSchedule::USUAL)?;
        self.k.sigma.check([self.sigma_min, self.sigma_max])?;
        self.process().alphas().check_sigmas()
    }

    fn process(&self) -> Process {
        let alphas = Alphas::with_finite_sigmas(&self.k.beta, self.rescale_betas_zero_snr);
        let process = alphas.exploding(self.k.prediction_type);
        if self.is_continuous() {
            return process.of_family(Family::Own(format!("{} with timestep_type continuous", Self::CLASS_NAME)));
        }
        process
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (mut timesteps, sigmas) = self.schedule(options, process.alphas().sigmas())?;
        if self.is_continuous() {
            timesteps = sigmas[..sigmas.len() - 1].iter().map(|sigma| 0.25 * sigma.ln()).collect();
        }
        let (prediction_type, churn) = (self.k.prediction_type, options.churn.unwrap_or_default());
        let predict = move |call: &Call| prediction_type.denoised(&call.output, call.sample, call.sigmas().0);
        let plan = self.k.plan(timesteps, sigmas);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (sigma, next_sigma) = call.sigmas();
            let (x_hat, sigma_hat) = churn.raise(call.sample, sigma, call.plan.sigmas.len() - 1, rng)?;
            let shown = if prediction_type == PredictionType::VPrediction { sigma } else { sigma_hat };
            let x0 = if sigma_hat == sigma { x0 } else { prediction_type.denoised(&call.output, &x_hat, shown)? };
            Ok(StepOutput { prev_sample: euler(&x_hat, &x0, sigma_hat, next_sigma)?, pred_original_sample: x0 })
        })
    }
}
