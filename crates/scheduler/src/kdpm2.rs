use crate::prelude::*;

/// The midpoint method in σ, halfway in log σ (DPM-Solver-2, Lu et al. 2022, algorithm 1, in the terms of Karras et al.
/// 2022; after k-diffusion's `sample_dpm_2`): diffusers' `KDPM2DiscreteScheduler`.
///
/// Two model calls a step, the second halfway; one for the last.
pub type KDPM2DiscreteScheduler = Sampler<KDPM2DiscreteConfig>;

/// The midpoint method in σ, ancestral: each step goes further down than its level and adds new noise to come back up
/// to it (after k-diffusion's `sample_dpm_2_ancestral`): diffusers' `KDPM2AncestralDiscreteScheduler`.
///
/// Two model calls a step, the second halfway in log σ to where the step goes down to; one for the last.
pub type KDPM2AncestralDiscreteScheduler = Sampler<KDPM2AncestralDiscreteConfig>;

/// The configuration of [`KDPM2DiscreteScheduler`].
pub type KDPM2DiscreteConfig = KDPM2Config<false>;

/// The configuration of [`KDPM2AncestralDiscreteScheduler`].
pub type KDPM2AncestralDiscreteConfig = KDPM2Config<true>;

/// The configuration of both, under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KDPM2Config<const ANCESTRAL: bool> {
    /// The process, and which timesteps or noise levels a sampling visits. The model predicts ε or a velocity.
    #[serde(flatten)]
    pub k: KDiffusionConfig,
}

impl<const ANCESTRAL: bool> Default for KDPM2Config<ANCESTRAL> {
    /// diffusers': 1000 timesteps, latent diffusion's betas but linear, ε-prediction, spaced `linspace`.
    fn default() -> Self {
        Self { k: KDiffusionConfig::latent() }
    }
}

impl<const ANCESTRAL: bool> Method for KDPM2Config<ANCESTRAL> {
    const CLASS_NAME: &'static str =
        if ANCESTRAL { "KDPM2AncestralDiscreteScheduler" } else { "KDPM2DiscreteScheduler" };
    const SUMMARY: &'static str = if ANCESTRAL {
        "the midpoint method in noise levels with new noise in every step (after k-diffusion)"
    } else {
        "the midpoint method in noise levels, two model calls a step (DPM-Solver-2, after k-diffusion)"
    };

    fn check(&self) -> Result<()> {
        self.k.check(PredictionType::EPSILON_OR_V, BetaSchedule::USUAL)
    }

    fn process(&self) -> Process {
        self.k.process()
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let training = process.alphas().sigmas();
        let (mut timesteps, sigmas) = self.k.schedule(training, options.num_steps())?;
        if self.k.sigma.use_karras_sigmas {
            timesteps.iter_mut().for_each(|timestep| *timestep = timestep.round_ties_even());
        }
        let midpoint = |from, to| halfway(from, if ANCESTRAL { ancestral_step(from, to).0 } else { to });
        let plan = self.k.calls_within(&timesteps, sigmas, midpoint, training);
        let prediction_type = self.k.prediction_type;
        let predict = move |call: &Call| prediction_type.denoised(&call.output, call.sample, call.alpha_sigma().1);
        let mut begin: Option<Tensor> = None; // within a step the sample that it began with

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (sigma, next_sigma) = call.sigmas();
            let (at, next_at) = call.noise_levels();
            let d = scale(&(call.sample - &x0)?, 1.0 / at)?;
            let prev_sample = match begin.take() {
                None => {
                    begin = Some(call.sample.clone());
                    mix(1.0, call.sample, next_at - sigma, &d)?
                }
                Some(begin) if ANCESTRAL => {
                    let (sigma_down, sigma_up) = ancestral_step(sigma, next_sigma);
                    let down = mix(1.0, &begin, sigma_down - sigma, &d)?;
                    mix(1.0, &down, sigma_up, &noise_like(call.sample, rng)?)?
                }
                Some(begin) => mix(1.0, &begin, next_sigma - sigma, &d)?,
            };
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
