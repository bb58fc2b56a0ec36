use crate::prelude::*;

config! {
    /// What the samplers of distilled models are configured by, under diffusers' names. As in diffusers there are keys
    /// that one of them or both have no use for, because files are handed from one sampler to the other.
    pub struct DistilledConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::latent(BetaSchedule::ScaledLinear),
        /// On how many timesteps, evenly spaced, the model was distilled; a sampling visits some of them.
        pub original_inference_steps: usize = 50,
        /// Clipping of predicted images; LCM's alone.
        #[serde(flatten)]
        pub clip: ClipConfig = ClipConfig::off(),
        /// Of no consequence: no step leads below the first timestep.
        pub set_alpha_to_one: bool = true,
        /// What the model predicts; no flow.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// Thresholding of predicted images, in place of clipping; LCM's alone.
        #[serde(flatten)]
        pub threshold: ThresholdConfig = ThresholdConfig::default(),
        /// Of no consequence: the timesteps are those of the distillation.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::default(),
        /// By what timesteps are multiplied in `c_skip` and `c_out`; LCM's alone.
        pub timestep_scaling: f64 = 10.0,
        /// Whether betas are rescaled to leave nothing of the image at the last timestep (Lin et al. 2023).
        pub rescale_betas_zero_snr: bool = false,
    }
}

impl DistilledConfig {
    pub(crate) fn process(&self) -> Process {
        Alphas::new(&self.beta, self.rescale_betas_zero_snr).preserving(self.prediction_type)
    }

    /// Says what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        self.prediction_type.only(PredictionType::NO_FLOW)?;
        self.beta.check(BetaSchedule::USUAL)?;
        self.threshold.check()?;
        let (original_steps, t) = (self.original_inference_steps, self.beta.num_train_timesteps);
        ensure((1..=t).contains(&original_steps), || {
            Error::config(format!(
                "original_inference_steps is {original_steps}; it must be between 1 and num_train_timesteps, {t}"
            ))
        })?;
        check_positive(&[("timestep_scaling", self.timestep_scaling)])?;
        self.clip.check()?;
        self.process().alphas().check()
    }

    /// The timesteps of a run (Luo et al. 2023, section 4.3): some of those that the model was distilled on, evenly by
    /// their place, from the last on; or those asked for by hand.
    pub(crate) fn timesteps(&self, options: &RunOptions) -> Result<Vec<f32>> {
        let (original_steps, t) = (self.original_inference_steps, self.beta.num_train_timesteps);
        if let Schedule::Timesteps(timesteps) = &options.schedule {
            return check_whole_timesteps(timesteps, t);
        }
        let steps = check_count(options.num_steps())?;
        ensure(steps <= original_steps, || {
            let reason = format!(
                "its steps are some of the {original_steps} of the distillation (original_inference_steps), so it can \
                 do at most {original_steps}"
            );
            Error::steps(steps, reason)
        })?;
        let k = t / original_steps;
        let apart = original_steps as f64 / steps as f64; // in numpy's arithmetic, which may round a place down
        let place = |i: usize| original_steps - (i as f64 * apart) as usize;
        Ok((0..steps).map(|i| (place(i) * k - 1) as f32).collect())
    }
}
