use crate::prelude::*;

/// Multistep sampling of latent consistency models (Luo et al. 2023, algorithm 3): diffusers' `LCMScheduler`.
///
/// Each model call predicts the image; but for the last, it is then brought to the next, lower timestep with new noise.
pub type LCMScheduler = Sampler<LCMConfig>;

/// The configuration of [`LCMScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LCMConfig {
    /// The process, and what the model was distilled on.
    #[serde(flatten)]
    pub distilled: DistilledConfig,
}

impl LCMConfig {
    /// The weights of the sample and of the predicted image in the consistency function, which is the sample itself at
    /// timestep 0.
    fn c_skip_out(&self, t: f32) -> (f32, f32) {
        const SIGMA_DATA: f32 = 0.5;
        let scaled = t * self.distilled.timestep_scaling as f32;
        let sum = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        (SIGMA_DATA * SIGMA_DATA / sum, scaled / sum.sqrt())
    }
}

impl Method for LCMConfig {
    const CLASS_NAME: &'static str = "LCMScheduler";
    const SUMMARY: &'static str = "the sampler of latent consistency models, for 1 to 8 steps (Luo et al. 2023)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps];

    fn check(&self) -> Result<()> {
        self.distilled.check()
    }

    fn process(&self) -> Process {
        self.distilled.alphas().preserving(self.distilled.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.distilled.original_inference_steps
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let DistilledConfig { prediction_type, clip, threshold, .. } = self.distilled;
        let (alphas, timesteps) = (self.distilled.alphas(), self.distilled.timesteps(options)?);
        alphas.check_calls(&timesteps, options.start, prediction_type, clip.is_on(&threshold))?;
        Sampling::begin(Plan::preserving(timesteps, &alphas), options.start, LCMStep(self.clone()))
    }
}

#[derive(Debug)]
struct LCMStep(LCMConfig);

impl Step for LCMStep {
    fn step(&mut self, call: &Call, rng: &mut dyn Noise) -> Result<StepOutput> {
        let DistilledConfig { prediction_type, clip, threshold, .. } = self.0.distilled;
        let x0 = call.x0(prediction_type)?;
        let x0 = threshold.threshold_or_clip(x0, &clip)?;
        let (c_skip, c_out) = self.0.c_skip_out(call.timestep());
        let denoised = mix(c_out, &x0, c_skip, call.sample)?;

        let prev_sample = match call.next_alpha_sigma() {
            Some((alpha, sigma)) => mix(alpha, &denoised, sigma, &noise_like(call.sample, rng)?)?,
            None => denoised.clone(),
        };
        Ok(StepOutput { prev_sample, pred_original_sample: denoised })
    }
}
