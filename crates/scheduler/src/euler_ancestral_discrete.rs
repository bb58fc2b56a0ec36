use crate::prelude::*;

/// Euler's method in σ, ancestral: each step goes further down than its level and adds new noise to come back up to it
/// (Song et al. 2021, DDPM's variance; after k-diffusion's `sample_euler_ancestral`): diffusers'
/// `EulerAncestralDiscreteScheduler`.
pub type EulerAncestralDiscreteScheduler = Sampler<EulerAncestralDiscreteConfig>;

config! {
    /// The configuration of [`EulerAncestralDiscreteScheduler`], under diffusers' names.
    pub struct EulerAncestralDiscreteConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::default(),
        /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
        pub rescale_betas_zero_snr: bool = false,
        /// What the model predicts: ε or a velocity.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// Which timesteps a sampling visits.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::new(TimestepSpacing::Linspace),
    }
}

impl Method for EulerAncestralDiscreteConfig {
    const CLASS_NAME: &'static str = "EulerAncestralDiscreteScheduler";
    const SUMMARY: &'static str = "Euler's method in noise levels with new noise in every step (after k-diffusion)";

    fn check(&self) -> Result<()> {
        self.prediction_type.only(PredictionType::EPSILON_OR_V)?;
        self.beta.check(BetaSchedule::USUAL)?;
        self.process().alphas().check_sigmas()
    }

    fn process(&self) -> Process {
        Alphas::with_finite_sigmas(&self.beta, self.rescale_betas_zero_snr).exploding(self.prediction_type)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (beta, prediction_type, spacing) = (self.beta.clone(), self.prediction_type, self.spacing);
        let k = KDiffusionConfig { beta, prediction_type, spacing, sigma: SigmaConfig::default() };
        let (timesteps, sigmas) = k.schedule(process.alphas().sigmas(), options.num_steps())?;
        let predict = move |call: &Call| prediction_type.denoised(&call.output, call.sample, call.sigmas().0);

        Sampling::begin(k.plan(timesteps, sigmas), options.start, predict, move |call, x0, rng| {
            let (sigma, next_sigma) = call.sigmas();
            let (sigma_down, sigma_up) = ancestral_step(sigma, next_sigma);
            let down = euler(call.sample, &x0, sigma, sigma_down)?;
            let prev_sample = mix(1.0, &down, sigma_up, &noise_like(call.sample, rng)?)?;
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
