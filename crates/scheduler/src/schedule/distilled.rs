use crate::prelude::*;

/// What the samplers of distilled models are configured by, under diffusers' names. As in diffusers there are keys that
/// one of them or both have no use for, because files are handed from one sampler to the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistilledConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// On how many timesteps, evenly spaced, the model was distilled; a sampling visits some of them.
    pub original_inference_steps: usize,
    /// Clipping of predicted images; LCM's alone.
    #[serde(flatten)]
    pub clip: ClipConfig,
    /// Of no consequence: no step leads below the first timestep.
    pub set_alpha_to_one: bool,
    /// What the model predicts; no flow.
    pub prediction_type: PredictionType,
    /// Thresholding of predicted images, in place of clipping; LCM's alone.
    #[serde(flatten)]
    pub threshold: ThresholdConfig,
    /// Of no consequence: the timesteps are those of the distillation.
    #[serde(flatten)]
    pub spacing: SpacingConfig,
    /// By what timesteps are multiplied in `c_skip` and `c_out`; LCM's alone.
    pub timestep_scaling: f64,
    /// Whether betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
    pub rescale_betas_zero_snr: bool,
}

impl Default for DistilledConfig {
    /// diffusers': latent diffusion's betas, ε-prediction, distilled on 50 timesteps, not clipped.
    fn default() -> Self {
        Self {
            beta: BetaConfig::latent(BetaSchedule::ScaledLinear),
            original_inference_steps: 50,
            clip: ClipConfig::off(),
            set_alpha_to_one: true,
            prediction_type: PredictionType::Epsilon,
            threshold: ThresholdConfig::default(),
            spacing: SpacingConfig::default(),
            timestep_scaling: 10.0,
            rescale_betas_zero_snr: false,
        }
    }
}

impl DistilledConfig {
    pub(crate) fn alphas(&self) -> Alphas {
        Alphas::new(&self.beta, self.rescale_betas_zero_snr)
    }

    /// Says what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        self.prediction_type.only(PredictionType::NO_FLOW)?;
        self.beta.check(BetaSchedule::USUAL)?;
        self.threshold.check()?;
        let (original_steps, t) = (self.original_inference_steps, self.beta.num_train_timesteps);
        if !(1..=t).contains(&original_steps) {
            return Err(Error::config(format!(
                "original_inference_steps is {original_steps}; it must be between 1 and num_train_timesteps, {t}"
            )));
        }
        check_positive(&[("timestep_scaling", self.timestep_scaling)])?;
        self.clip.check()?;
        self.alphas().check()
    }

    /// The timesteps of a run (Luo et al. 2023, section 4.3): some of those that the model was distilled on, evenly by
    /// their place, from the last on; or those asked for by hand.
    pub(crate) fn timesteps(&self, options: &RunOptions) -> Result<Vec<f32>> {
        let (original_steps, t) = (self.original_inference_steps, self.beta.num_train_timesteps);
        if let Schedule::Timesteps(timesteps) = &options.schedule {
            return check_whole_timesteps(timesteps, t);
        }
        match options.num_steps() {
            0 => Err(Error::steps(0, "at least one is needed")),
            steps if steps > original_steps => Err(Error::steps(
                steps,
                format!(
                    "its steps are some of the {original_steps} of the distillation (original_inference_steps), so it can \
                     do at most {original_steps}"
                ),
            )),
            steps => {
                let k = t / original_steps;
                let apart = original_steps as f64 / steps as f64; // in numpy's arithmetic, which may round a place down
                let place = |i: usize| original_steps - (i as f64 * apart) as usize;
                Ok((0..steps).map(|i| (place(i) * k - 1) as f32).collect())
            }
        }
    }
}
