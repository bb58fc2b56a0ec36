use crate::prelude::*;

/// Denoising diffusion implicit models (Song et al. 2021, equation 12): diffusers' `DDIMScheduler`.
///
/// As in diffusers every step leads `T / N` timesteps down, rounded to whole ones. Spaced `leading` that is where the
/// next step begins; spaced `linspace`, or `trailing` where N does not divide T, it is close to it.
pub type DDIMScheduler = Sampler<DDIMConfig>;

config! {
    /// The configuration of [`DDIMScheduler`], under diffusers' names.
    pub struct DDIMConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::default(),
        /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
        pub rescale_betas_zero_snr: bool = false,
        /// What the model predicts; no flow.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// Whether the last step leads to the image; otherwise to the first timestep.
        pub set_alpha_to_one: bool = true,
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

impl Method for DDIMConfig {
    const CLASS_NAME: &'static str = "DDIMScheduler";
    const SUMMARY: &'static str =
        "the implicit sampler of denoising diffusion, with as little new noise as asked for (Song et al. 2021)";
    const SUPPORTS: &'static [Supports] = &[Supports::Eta, Supports::ClippedModelOutput];

    fn check(&self) -> Result<()> {
        self.prediction_type.only(PredictionType::NO_FLOW)?;
        self.threshold.check()?;
        self.beta.check(BetaSchedule::USUAL)?;
        self.clip.check()?;
        self.process().alphas().check()
    }

    fn process(&self) -> Process {
        Alphas::new(&self.beta, self.rescale_betas_zero_snr).preserving(self.prediction_type)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let eta = options.eta.unwrap_or(0.0);
        check_eta(eta)?;
        let (alphas, n) = (process.alphas().clone(), options.num_steps());
        let timesteps = self.spacing.whole(alphas.len(), check_steps(n, alphas.len())?)?;
        alphas.check_calls(&timesteps, options.start, self.prediction_type, self.clip.is_on(&self.threshold))?;
        let plan = Plan::preserving(timesteps, &alphas);
        let Self { prediction_type, clip, threshold, .. } = *self;
        let predict = move |call: &Call| threshold.threshold_or_clip(call.x0(prediction_type)?, &clip);
        let (eta, stride) = (eta as f32, (alphas.len() / n) as i64);
        let use_clipped_model_output = options.use_clipped_model_output.unwrap_or(false);
        let final_alpha = if self.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) };

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            // 1. ᾱ of the sample's timestep, and of the one that the step leads to
            let t = call.timestep() as i64;
            let (alpha_prod, alpha_prod_prev) = (alphas.of_call(t), alphas.at(t - stride, final_alpha));
            let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);
            // 2. x0 is the predicted image, "predicted x₀" of equation 12, clipped or thresholded
            // 3. the noise that goes with it
            let epsilon = if use_clipped_model_output {
                let (alpha, sigma) = call.alpha_sigma();
                PredictionType::Sample.epsilon(&x0, call.sample, alpha, sigma)?
            } else {
                call.epsilon(prediction_type)?
            };
            // 4. the deviation of the new noise, η times DDPM's (equation 16)
            let std = if eta > 0.0 && beta_prod > 0.0 && alpha_prod_prev > 0.0 {
                eta * (beta_prod_prev / beta_prod * (1.0 - alpha_prod / alpha_prod_prev)).sqrt()
            } else {
                0.0
            };
            // 5. the "direction pointing to x_t", and the sample without new noise
            let direction = (beta_prod_prev - std * std).max(0.0).sqrt();
            let mut prev_sample = mix(alpha_prod_prev.sqrt(), &x0, direction, &epsilon)?;
            // 6. the new noise
            if eta > 0.0 {
                prev_sample = mix(1.0, &prev_sample, std, &noise_like(call.sample, rng)?)?;
            }
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
