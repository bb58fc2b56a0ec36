use crate::prelude::*;

/// Denoising diffusion implicit models (Song et al. 2021, equation 12): diffusers' `DDIMScheduler`.
///
/// As in diffusers every step leads `T / N` timesteps down, rounded to whole ones. Spaced `leading` that is where the
/// next step begins; spaced `linspace`, or `trailing` where N does not divide T, it is close to it.
///
/// ```
/// use kakusan_scheduler::{DDIMScheduler, RunOptions, Scheduler};
///
/// let scheduler = DDIMScheduler::default();
/// let stochastic = scheduler.run_with(&RunOptions { eta: Some(1.0), ..RunOptions::steps(4) })?;
/// assert_eq!(stochastic.timesteps(), [750.0, 500.0, 250.0, 0.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type DDIMScheduler = Sampler<DDIMConfig>;

/// The configuration of [`DDIMScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DDIMConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Whether the last step leads to the image; otherwise to the first timestep.
    pub set_alpha_to_one: bool,
    /// Clipping of predicted images.
    #[serde(flatten)]
    pub clip: ClipConfig,
    /// Thresholding of predicted images, in place of clipping.
    #[serde(flatten)]
    pub threshold: ThresholdConfig,
    /// Which timesteps a sampling visits.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for DDIMConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, clipped to ±1, spaced `leading`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            set_alpha_to_one: true,
            clip: ClipConfig::default(),
            threshold: ThresholdConfig::default(),
            spacing: SpacingConfig::default(),
        }
    }
}

impl DDIMConfig {
    fn alphas(&self) -> Alphas {
        Alphas::new(&self.beta, self.rescale_betas_zero_snr)
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
        self.alphas().check()
    }

    fn process(&self) -> Process {
        self.alphas().preserving(self.prediction_type)
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let eta = options.eta.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&eta) {
            let expected = "from 0, no new noise, to 1, as much as DDPM's";
            return Err(Error::OptionValue { option: "eta", value: eta, expected });
        }
        let (alphas, n) = (self.alphas(), options.num_steps());
        let timesteps = self.spacing.whole(alphas.len(), check_steps(n, alphas.len())?)?;
        alphas.check_calls(&timesteps, options.start, self.prediction_type, self.clip.is_on(&self.threshold))?;
        let method = DDIMStep {
            stride: (alphas.len() / n) as i64,
            eta: eta as f32,
            use_clipped_model_output: options.use_clipped_model_output.unwrap_or(false),
            config: self.clone(),
            alphas: alphas.clone(),
        };
        Sampling::begin(Plan::preserving(timesteps, &alphas), options.start, method)
    }
}

#[derive(Debug)]
struct DDIMStep {
    config: DDIMConfig,
    alphas: Alphas,
    /// By how many timesteps of training a step leads down.
    stride: i64,
    eta: f32,
    use_clipped_model_output: bool,
}

impl Step for DDIMStep {
    fn step(&mut self, call: &Call, rng: &mut dyn Noise) -> Result<StepOutput> {
        let Self { config, alphas, .. } = self;
        // 1. ᾱ of the sample's timestep, and of the one that the step leads to
        let t = call.timestep() as i64;
        let final_alpha = if config.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) };
        let (alpha_prod, alpha_prod_prev) = (alphas.of_call(t), alphas.at(t - self.stride, final_alpha));
        let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);
        // 2. the predicted image, "predicted x₀" of equation 12
        let x0 = call.x0(config.prediction_type)?;
        // 3. clipped or thresholded, and the noise that goes with it
        let x0 = config.threshold.threshold_or_clip(x0, &config.clip)?;
        let epsilon = if self.use_clipped_model_output {
            let (alpha, sigma) = call.alpha_sigma();
            PredictionType::Sample.epsilon(&x0, call.sample, alpha, sigma)?
        } else {
            call.epsilon(config.prediction_type)?
        };
        // 4. the deviation of the new noise, η times DDPM's (equation 16)
        let std = if self.eta > 0.0 && beta_prod > 0.0 && alpha_prod_prev > 0.0 {
            self.eta * (beta_prod_prev / beta_prod * (1.0 - alpha_prod / alpha_prod_prev)).sqrt()
        } else {
            0.0
        };
        // 5. the "direction pointing to x_t", and the sample without new noise
        let direction = (beta_prod_prev - std * std).max(0.0).sqrt();
        let mut prev_sample = mix(alpha_prod_prev.sqrt(), &x0, direction, &epsilon)?;
        // 6. the new noise
        if self.eta > 0.0 {
            prev_sample = mix(1.0, &prev_sample, std, &noise_like(call.sample, rng)?)?;
        }
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
