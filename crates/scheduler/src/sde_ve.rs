use crate::prelude::*;

/// The predictor-corrector sampler of the variance exploding SDE (Song et al. 2021, algorithms 2 and 4): diffusers'
/// `ScoreSdeVeScheduler`, used as its pipeline does.
///
/// A step is `correct_steps` corrections by Langevin dynamics and then a prediction, each with one model call; the
/// model is conditioned on σ and predicts the score, `-noise / σ`. The last prediction comes without its noise. Pixels
/// are from 0 to 1. (One step alone goes from the lowest noise level in diffusers; here it goes from the highest.)
pub type ScoreSdeVeScheduler = Sampler<ScoreSdeVeConfig>;

config! {
    /// The configuration of [`ScoreSdeVeScheduler`], under diffusers' names.
    pub struct ScoreSdeVeConfig {
        /// The noise levels that training draws from.
        pub num_train_timesteps: usize = 2000,
        /// r, the size of the corrector's steps.
        pub snr: f64 = 0.15,
        /// The lowest noise level.
        pub sigma_min: f64 = 0.01,
        /// The highest noise level.
        pub sigma_max: f64 = 1348.0,
        /// The time of the last step, where that of the first is 1.
        pub sampling_eps: f64 = 1e-5,
        /// Corrections in a step.
        pub correct_steps: usize = 1,
    }
}

/// More corrections than this are taken for a slip.
const MAX_CORRECT_STEPS: usize = 1000;
/// More model calls than this are taken for a slip.
const MAX_CALLS: usize = 10_000_000;

impl ScoreSdeVeConfig {
    /// `n` noise levels evenly in `log σ`, ascending.
    fn discrete_sigmas(&self, n: usize) -> Vec<f32> {
        let from = if n == 1 { self.sigma_max } else { self.sigma_min };
        linspace_f32(from.ln() as f32, self.sigma_max.ln() as f32, n).into_iter().map(f32::exp).collect()
    }
}

impl Method for ScoreSdeVeConfig {
    const CLASS_NAME: &'static str = "ScoreSdeVeScheduler";
    const SUMMARY: &'static str =
        "predictor and corrector for the variance exploding SDE, thousands of model calls (Song et al. 2021)";

    fn check(&self) -> Result<()> {
        check_train_timesteps(self.num_train_timesteps, 1)?;
        check_sigma_range(self.sigma_min, self.sigma_max)?;
        check_positive(&[("snr", self.snr)])?;
        let Self { sampling_eps, correct_steps, .. } = *self;
        ensure((0.0..1.0).contains(&sampling_eps), || {
            Error::config(format!("sampling_eps is {sampling_eps}; it must be at least 0 and below 1"))
        })?;
        ensure(correct_steps <= MAX_CORRECT_STEPS, || {
            Error::config(format!("correct_steps is {correct_steps}; it must be at most {MAX_CORRECT_STEPS}"))
        })
    }

    fn process(&self) -> Process {
        let sigmas = self.discrete_sigmas(self.num_train_timesteps);
        Process::new(Levels::one_of(sigmas), PredictionType::Epsilon, |sigma| (1.0, sigma))
            .target_weights(|sigma| (0.0, -1.0 / sigma)) // the score of the noisy image given the clean one
            .weighted(|sigma| sigma * sigma) // weighs all levels alike (equation 7)
            .with_snr(|sigma| sigma.powi(-2))
            .on_pixels(PixelRange::ZeroToOne)
    }

    fn inference_steps(&self, _: &Process) -> RangeInclusive<usize> {
        1..=MOST_STEPS.min(MAX_CALLS / (self.correct_steps + 1))
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (n, calls) = (check_count(options.num_steps())?, self.correct_steps + 1);
        ensure(n * calls <= MAX_CALLS, || {
            let corrections = self.correct_steps;
            Error::steps(n, format!("with correct_steps {corrections} they are more than {MAX_CALLS} model calls"))
        })?;
        let times = linspace_f32(1.0, self.sampling_eps as f32, n);
        let ratio = (self.sigma_max / self.sigma_min) as f32;
        let sigma = |time: f32| self.sigma_min as f32 * ratio.powf(time);
        let timesteps: Vec<f32> = times.iter().flat_map(|&time| std::iter::repeat_n(sigma(time), calls)).collect();
        let alpha_sigma = timesteps.iter().map(|&sigma| (1.0, sigma)).collect();
        let plan = Plan { alpha_sigma, init_noise_sigma: self.sigma_max as f32, calls, ..Plan::new(timesteps) };
        let (snr, discrete_sigmas) = (self.snr, self.discrete_sigmas(n));
        let predict = |call: &Call| mix(1.0, call.sample, call.timestep() * call.timestep(), &call.output);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (step, within) = (call.i / calls, call.i % calls);
            let score = &call.output;
            let z = noise_like(call.sample, rng)?;

            let prev_sample = if within + 1 < calls {
                // Langevin dynamics (algorithm 4), as far as the ratio of the two norms, over the whole batch, allows
                let (grad_norm, noise_norm) = (mean_norm(score)?, mean_norm(&z)?);
                let step_size = (snr * noise_norm / grad_norm).powi(2) * 2.0;
                // without a score there is nowhere to go
                let step_size = if grad_norm > 0.0 { step_size as f32 } else { 0.0 };
                let mean = mix(1.0, call.sample, step_size, score)?;
                mix(1.0, &mean, (step_size * 2.0).sqrt(), &z)?
            } else {
                // reverse diffusion (algorithm 2), to the noise level below
                let place = (times[step] * (times.len() - 1) as f32) as usize;
                let sigma = discrete_sigmas[place];
                let adjacent_sigma = if place == 0 { 0.0 } else { discrete_sigmas[place - 1] };
                let diffusion = (sigma * sigma - adjacent_sigma * adjacent_sigma).sqrt();
                let mean = mix(1.0, call.sample, diffusion * diffusion, score)?;
                let is_last = step + 1 == times.len();
                if is_last { mean } else { mix(1.0, &mean, diffusion, &z)? }
            };
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}

/// The mean over the batch of the images' norms.
fn mean_norm(images: &Tensor) -> Result<f64> {
    let images: Vec<Vec<f32>> = images.flatten_from(1)?.to_vec2()?;
    let norm = |image: &Vec<f32>| image.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
    Ok(images.iter().map(norm).sum::<f64>() / images.len() as f64)
}
