use crate::prelude::*;

/// Heun's method in σ: Euler's step, then the same step by the mean of the slopes at both its ends (Karras et al. 2022,
/// algorithm 1): diffusers' `HeunDiscreteScheduler`.
///
/// Two model calls a step, one for the last.
pub type HeunDiscreteScheduler = Sampler<HeunDiscreteConfig>;

config! {
    /// The configuration of [`HeunDiscreteScheduler`], under diffusers' names.
    pub struct HeunDiscreteConfig {
        /// The process, and which timesteps or noise levels a sampling visits.
        #[serde(flatten)]
        pub k: KDiffusionConfig = KDiffusionConfig::latent(),
        /// Clipping of predicted images.
        #[serde(flatten)]
        pub clip: ClipConfig = ClipConfig::off(),
    }
}

impl Method for HeunDiscreteConfig {
    const CLASS_NAME: &'static str = "HeunDiscreteScheduler";
    const SUMMARY: &'static str = "Heun's method in noise levels, two model calls a step (Karras et al. 2022)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps];

    fn check(&self) -> Result<()> {
        self.clip.check()?;
        self.k.check(PredictionType::NO_FLOW, &[BetaSchedule::USUAL, &[BetaSchedule::Exp]].concat())
    }

    fn process(&self) -> Process {
        self.k.process()
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (training, n) = (process.alphas().sigmas(), options.num_steps());
        let (timesteps, sigmas) = match &options.schedule {
            Schedule::Timesteps(_) if self.k.sigma.conversion().is_some() => {
                let what = "take timesteps while its noise levels are spaced by themselves: leave out use_*_sigmas";
                return Err(Error::unsupported(what));
            }
            Schedule::Timesteps(timesteps) => {
                let timesteps = check_timesteps(timesteps, training.len())?.into_iter().map(f64::from).collect();
                let (timesteps, sigmas) = sigmas_at(timesteps, training, None, [None, None], n);
                check_calls(&timesteps, &sigmas)?;
                (timesteps, to_zero(sigmas))
            }
            _ => self.k.schedule(training, n)?,
        };
        let ends = sigmas[1..].to_vec();
        let plan = self.k.two_calls(&timesteps, sigmas, &timesteps[1..], &ends);
        let (prediction_type, clip) = (self.k.prediction_type, self.clip);
        let predict = move |call: &Call| {
            let (_, at) = call.alpha_sigma();
            clip.clip(prediction_type.denoised(&call.output, call.sample, at)?)
        };
        let mut first = None; // within a step the sample that it began with, and the slope there

        Sampling::begin(plan, options.start, predict, move |call, x0, _| {
            let (sigma, next_sigma) = call.sigmas();
            let dt = next_sigma - sigma;
            let (_, at) = call.alpha_sigma();
            let d = scale(&(call.sample - &x0)?, 1.0 / at)?;
            let prev_sample = match first.take() {
                None => {
                    let euler = mix(1.0, call.sample, dt, &d)?;
                    first = Some((call.sample.clone(), d));
                    euler
                }
                Some((begin, first_d)) => mix(1.0, &begin, dt / 2.0, &(first_d + d)?)?,
            };
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
