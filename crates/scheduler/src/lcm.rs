use crate::prelude::*;

/// Multistep sampling of latent consistency models (Luo et al. 2023, algorithm 3): diffusers' `LCMScheduler`.
///
/// Each model call predicts the image; but for the last, it is then brought to the next, lower timestep with new noise.
pub type LCMScheduler = Sampler<LCMConfig>;

config! {
    /// The configuration of [`LCMScheduler`], under diffusers' names.
    pub struct LCMConfig {
        /// The process, and what the model was distilled on.
        #[serde(flatten)]
        pub distilled: DistilledConfig = DistilledConfig::default(),
    }
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
        self.distilled.process()
    }

    fn inference_steps(&self, _: &Process) -> RangeInclusive<usize> {
        1..=self.distilled.original_inference_steps
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let DistilledConfig { prediction_type, clip, threshold, .. } = self.distilled;
        let timesteps = self.distilled.timesteps(options)?;
        process.alphas().check_calls(&timesteps, options.start, prediction_type, clip.is_on(&threshold))?;
        let (plan, config) = (Plan::preserving(timesteps, process.alphas()), self.clone());
        let predict = move |call: &Call| {
            let x0 = threshold.threshold_or_clip(call.x0(prediction_type)?, &clip)?;
            let (c_skip, c_out) = config.c_skip_out(call.timestep());
            mix(c_out, &x0, c_skip, call.sample)
        };

        Sampling::begin(plan, options.start, predict, move |call, denoised, rng| {
            let prev_sample = match call.next_alpha_sigma() {
                Some((alpha, sigma)) => mix(alpha, &denoised, sigma, &noise_like(call.sample, rng)?)?,
                None => denoised.clone(),
            };
            Ok(StepOutput { prev_sample, pred_original_sample: denoised })
        })
    }
}
