use crate::prelude::*;

/// DDIM the other way, from an image to the noise that leads to it (Song et al. 2021, section 4.3): diffusers'
/// `DDIMInverseScheduler`.
///
/// A run begins with images in place of [`Run::initial_noise`], and its timesteps ascend. The model is conditioned on
/// the timestep that a step leads to, and sees the sample of the one before it, which [`Run::add_noise`] brings images
/// to; at the first step that is the image itself, or the first timestep without `set_alpha_to_one`. Every step leads
/// `T / N` timesteps up, rounded to whole ones, whatever the spacing.
pub type DDIMInverseScheduler = Sampler<DDIMInverseConfig>;

/// The configuration of [`DDIMInverseScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DDIMInverseConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Whether the first step begins with the image; otherwise at the first timestep.
    pub set_alpha_to_one: bool,
    /// Clipping of predicted images.
    #[serde(flatten)]
    pub clip: ClipConfig,
    /// Which timesteps a run visits; not `linspace`.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
}

impl Default for DDIMInverseConfig {
    /// diffusers': 1000 timesteps, linear betas, ε-prediction, clipped to ±1, spaced `leading`.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            rescale_betas_zero_snr: false,
            prediction_type: PredictionType::Epsilon,
            set_alpha_to_one: true,
            clip: ClipConfig::default(),
            spacing: SpacingConfig::default(),
        }
    }
}

impl DDIMInverseConfig {
    fn alphas(&self) -> Alphas {
        Alphas::new(&self.beta, self.rescale_betas_zero_snr)
    }
}

impl Method for DDIMInverseConfig {
    const CLASS_NAME: &'static str = "DDIMInverseScheduler";
    const SUMMARY: &'static str = "DDIM the other way, from an image to the noise that leads to it (Song et al. 2021)";

    fn check(&self) -> Result<()> {
        self.prediction_type.only(PredictionType::NO_FLOW)?;
        self.beta.check(BetaSchedule::USUAL)?;
        if self.spacing.timestep_spacing == TimestepSpacing::Linspace {
            return Err(Error::config("it has no timestep_spacing linspace; it knows leading and trailing"));
        }
        self.clip.check()?;
        self.alphas().check()
    }

    fn process(&self) -> Process {
        self.alphas().preserving(self.prediction_type)
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (alphas, n) = (self.alphas(), options.num_steps());
        let mut timesteps = self.spacing.whole(alphas.len(), check_steps(n, alphas.len())?)?;
        timesteps.reverse();
        let stride = (alphas.len() / n) as i64;
        // ᾱ of the sample that each step begins with
        let initial_alpha = if self.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) };
        let before = |&next: &f32| alphas.at((next as i64 - stride).min(alphas.len() as i64 - 1), initial_alpha);
        let alpha_sigma: Vec<_> = timesteps.iter().map(before).map(|a| (a.sqrt(), (1.0 - a).sqrt())).collect();
        let begins_with_image = alpha_sigma.get(options.start).is_some_and(|&(_, sigma)| sigma == 0.0);
        if begins_with_image && self.prediction_type == PredictionType::Sample {
            // diffusers divides by the noise's weight
            return Err(Error::unsupported(
                "begin with an image and prediction_type sample: an image's noise is 0 times what such a model says of \
                 it; set set_alpha_to_one to false",
            ));
        }
        let plan = Plan { alpha_sigma, ..Plan::new(timesteps) };
        Sampling::begin(plan, options.start, DDIMInverse { config: self.clone(), alphas })
    }
}

#[derive(Debug)]
struct DDIMInverse {
    config: DDIMInverseConfig,
    alphas: Alphas,
}

impl Step for DDIMInverse {
    fn step(&mut self, call: &Call, _: &mut dyn Noise) -> Result<StepOutput> {
        let Self { config, alphas } = self;
        let x0 = call.x0(config.prediction_type)?;
        let x0 = config.clip.clip(x0)?;
        let epsilon = call.epsilon(config.prediction_type)?;

        let alpha_prod_next = alphas.at(call.timestep() as i64, 1.0);
        let prev_sample = mix(alpha_prod_next.sqrt(), &x0, (1.0 - alpha_prod_next).sqrt(), &epsilon)?;
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
