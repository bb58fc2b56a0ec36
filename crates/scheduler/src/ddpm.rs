use crate::prelude::*;

/// Denoising diffusion probabilistic models (Ho et al. 2020, algorithms 1 and 2): diffusers' `DDPMScheduler`.
///
/// ```
/// use kakusan_scheduler::{DDPMConfig, DDPMScheduler, PredictionType, Scheduler};
///
/// let config = DDPMConfig { prediction_type: PredictionType::VPrediction, ..DDPMConfig::default() };
/// let scheduler = DDPMScheduler::new(config)?;
/// assert_eq!(scheduler.run(4)?.timesteps(), [750.0, 500.0, 250.0, 0.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type DDPMScheduler = Sampler<DDPMConfig>;

config! {
    /// The configuration of [`DDPMScheduler`], under diffusers' names.
    pub struct DDPMConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::default(),
        /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
        pub rescale_betas_zero_snr: bool = false,
        /// What the model predicts; no flow.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// The variance of the noise added in a step.
        pub variance_type: VarianceType = VarianceType::FixedSmall,
        /// Clipping of predicted images.
        #[serde(flatten)]
        pub clip: ClipConfig = ClipConfig::default(),
        /// Thresholding of predicted images, in place of clipping.
        #[serde(flatten)]
        pub threshold: ThresholdConfig = ThresholdConfig::default(),
        /// Which timesteps a sampling visits.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::default(),
    }
}

/// The variance of the noise that DDPM adds in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// The posterior's β̃ (Ho et al. 2020, equation 7).
    #[default]
    FixedSmall,
    /// The same, by way of its logarithm.
    FixedSmallLog,
    /// β itself.
    FixedLarge,
    /// The same, by way of its logarithm. (diffusers takes the root of the logarithm, which is not a number.)
    FixedLargeLog,
    /// The model's, in a second half of its output channels.
    Learned,
    /// Between β̃ and β, by the second half of the model's output (Nichol and Dhariwal 2021, equation 15).
    LearnedRange,
}

impl Method for DDPMConfig {
    const CLASS_NAME: &'static str = "DDPMScheduler";
    const SUMMARY: &'static str =
        "the ancestral sampler of denoising diffusion, new noise in every step (Ho et al. 2020)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps];

    fn check(&self) -> Result<()> {
        self.prediction_type.only(PredictionType::NO_FLOW)?;
        self.threshold.check()?;
        self.beta.check(&[BetaSchedule::USUAL, &[BetaSchedule::Sigmoid, BetaSchedule::Laplace]].concat())?;
        self.clip.check()?;
        self.process().alphas().check()
    }

    fn process(&self) -> Process {
        Alphas::new(&self.beta, self.rescale_betas_zero_snr).preserving(self.prediction_type)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (config, alphas) = (self.clone(), process.alphas().clone());
        let timesteps = match &options.schedule {
            Schedule::Timesteps(timesteps) => check_whole_timesteps(timesteps, alphas.len())?,
            _ => self.spacing.whole(alphas.len(), check_steps(options.num_steps(), alphas.len())?)?,
        };
        alphas.check_calls(&timesteps, options.start, self.prediction_type, self.clip.is_on(&self.threshold))?;
        let emptied = timesteps.iter().filter(|&&t| alphas.of_call(t as i64) == 0.0).count();
        ensure(emptied <= 1, || {
            Error::unsupported(
                "step from noise alone to noise alone: the betas leave nothing of the image at more than one of its \
                 timesteps; take smaller ones, or fewer steps",
            )
        })?;
        let learned_variance = matches!(self.variance_type, VarianceType::Learned | VarianceType::LearnedRange);
        let plan = Plan { learned_variance, ..Plan::preserving(timesteps, &alphas) };
        let Self { prediction_type, clip, threshold, .. } = *self;
        let predict = move |call: &Call| threshold.threshold_or_clip(call.x0(prediction_type)?, &clip);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (t, prev_t) = (call.timestep() as i64, call.next_timestep().map_or(-1, |t| t as i64));
            let posterior = Posterior::new(alphas.of_call(t), alphas.at(prev_t, 1.0));
            let mean = posterior.mean(&x0, call.sample)?;
            if t <= 0 {
                return Ok(StepOutput { prev_sample: mean, pred_original_sample: x0 });
            }
            let z = noise_like(&call.output, rng)?;
            let noise = match (config.variance_type, &call.variance) {
                (VarianceType::FixedSmall | VarianceType::FixedSmallLog, _) => scale(&z, posterior.small.sqrt())?,
                (VarianceType::FixedLarge | VarianceType::FixedLargeLog, _) => scale(&z, posterior.beta.sqrt())?,
                (VarianceType::Learned, Some(variance)) => (variance.sqrt()? * z)?,
                (VarianceType::LearnedRange, Some(v)) => (posterior.learned_deviation(v)? * z)?,
                (VarianceType::Learned | VarianceType::LearnedRange, None) => z,
            };
            Ok(StepOutput { prev_sample: (mean + noise)?, pred_original_sample: x0 })
        })
    }
}
