use crate::prelude::*;

/// DDIM the other way, from an image to the noise that leads to it (Song et al. 2021, section 4.3): diffusers'
/// `DDIMInverseScheduler`.
///
/// A run begins with images in place of [`Run::initial_noise`], and its timesteps ascend. The model is conditioned on
/// the timestep that a step leads to, and sees the sample of the one before it, which [`Run::add_noise`] brings images
/// to; at the first step that is the image itself, or the first timestep without `set_alpha_to_one`. Every step leads
/// `T / N` timesteps up, rounded to whole ones, whatever the spacing.
pub type DDIMInverseScheduler = Sampler<DDIMInverseConfig>;

config! {
    /// The configuration of [`DDIMInverseScheduler`], under diffusers' names.
    pub struct DDIMInverseConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::default(),
        /// Whether they are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
        pub rescale_betas_zero_snr: bool = false,
        /// What the model predicts; no flow.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// Whether the first step begins with the image; otherwise at the first timestep.
        pub set_alpha_to_one: bool = true,
        /// Clipping of predicted images.
        #[serde(flatten)]
        pub clip: ClipConfig = ClipConfig::default(),
        /// Which timesteps a run visits; not `linspace`.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::default(),
    }
}

impl Method for DDIMInverseConfig {
    const CLASS_NAME: &'static str = "DDIMInverseScheduler";
    const SUMMARY: &'static str = "DDIM the other way, from an image to the noise that leads to it (Song et al. 2021)";

    fn check(&self) -> Result<()> {
        self.prediction_type.only(PredictionType::NO_FLOW)?;
        self.beta.check(BetaSchedule::USUAL)?;
        ensure(self.spacing.timestep_spacing != TimestepSpacing::Linspace, || {
            Error::config("it has no timestep_spacing linspace; it knows leading and trailing")
        })?;
        self.clip.check()?;
        self.process().alphas().check()
    }

    fn process(&self) -> Process {
        Alphas::new(&self.beta, self.rescale_betas_zero_snr).preserving(self.prediction_type)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (alphas, n) = (process.alphas().clone(), options.num_steps());
        let mut timesteps = self.spacing.whole(alphas.len(), check_steps(n, alphas.len())?)?;
        timesteps.reverse();
        let stride = (alphas.len() / n) as i64;
        // ᾱ of the sample that each step begins with
        let initial_alpha = if self.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) };
        let before = |&next: &f32| alphas.at((next as i64 - stride).min(alphas.len() as i64 - 1), initial_alpha);
        let alpha_sigma: Vec<_> = timesteps.iter().map(before).map(|a| (a.sqrt(), (1.0 - a).sqrt())).collect();
        let begins_with_image = alpha_sigma.get(options.start).is_some_and(|&(_, sigma)| sigma == 0.0);
        // diffusers divides by the noise's weight
        ensure(!begins_with_image || self.prediction_type != PredictionType::Sample, || {
            Error::unsupported(
                "begin with an image and prediction_type sample: an image's noise is 0 times what such a model says of \
                 it; set set_alpha_to_one to false",
            )
        })?;
        let plan = Plan { alpha_sigma, ..Plan::new(timesteps) };
        let Self { prediction_type, clip, .. } = *self;
        let predict = move |call: &Call| clip.clip(call.x0(prediction_type)?);

        Sampling::begin(plan, options.start, predict, move |call, x0, _| {
            let epsilon = call.epsilon(prediction_type)?;
            let alpha_prod_next = alphas.at(call.timestep() as i64, 1.0);
            let prev_sample = mix(alpha_prod_next.sqrt(), &x0, (1.0 - alpha_prod_next).sqrt(), &epsilon)?;
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
