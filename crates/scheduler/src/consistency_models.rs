use crate::prelude::*;

/// One-step and multistep sampling of consistency models (Song et al. 2023, algorithm 1): diffusers'
/// `CMStochasticIterativeScheduler`.
///
/// The model is conditioned on `250 ln σ` and sees `x / sqrt(σ² + σ_data²)`; its output `F` stands for the image
/// `c_skip x + c_out F` (appendix C). A step predicts the image and, but for the last, adds new noise of the next
/// level. Timesteps asked for by hand are places among those of training: `[22, 0]` is the paper's two-step schedule
/// for 40.
///
/// ```
/// use kakusan_scheduler::{CMStochasticIterativeScheduler, RunOptions, Scheduler};
///
/// let run = CMStochasticIterativeScheduler::default().run_with(&RunOptions::timesteps([22.0, 0.0]))?;
/// assert_eq!(run.sigmas().map(|sigmas| sigmas[0]), Some(80.0));
/// assert_eq!(run.timesteps().len(), 2);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
pub type CMStochasticIterativeScheduler = Sampler<CMStochasticIterativeConfig>;

config! {
    /// The configuration of [`CMStochasticIterativeScheduler`], under diffusers' names.
    pub struct CMStochasticIterativeConfig {
        /// N, the noise levels of training.
        pub num_train_timesteps: usize = 40,
        /// The lowest noise level.
        pub sigma_min: f64 = 0.002,
        /// The highest noise level.
        pub sigma_max: f64 = 80.0,
        /// The standard deviation of the images' pixels.
        pub sigma_data: f64 = 0.5,
        /// The standard deviation of the noise added, 1 or a little more.
        pub s_noise: f64 = 1.0,
        /// ρ, how much closer together the noise levels lie where there is little noise.
        pub rho: f64 = 7.0,
        /// Whether predicted images are clipped to ±1.
        pub clip_denoised: bool = true,
    }
}

impl CMStochasticIterativeConfig {
    /// The noise level at a place among those of training, the highest at 0 (Karras et al. 2022, equation 5).
    fn sigma_at(&self, place: usize) -> f64 {
        let ramp = place as f64 / (self.num_train_timesteps - 1) as f64;
        karras_sigma(self.sigma_max, self.sigma_min, self.rho, ramp)
    }

    /// The weights of the sample and of the model's output in the image, which is the sample itself at the lowest
    /// level.
    fn c_skip_out(&self, sigma: f32) -> (f32, f32) {
        let (above, sigma_data) = (sigma - self.sigma_min as f32, self.sigma_data as f32);
        let variance_data = sigma_data * sigma_data;
        (variance_data / (above * above + variance_data), above * sigma_data / (sigma * sigma + variance_data).sqrt())
    }

    fn c_in(&self, sigma: f32) -> f32 {
        1.0 / (sigma * sigma + (self.sigma_data * self.sigma_data) as f32).sqrt()
    }

    /// The weights of image and noise in the output that stands for the clean image, `(x₀ - c_skip x) / c_out`.
    fn target_weights(&self, sigma: f32) -> (f32, f32) {
        let (c_skip, c_out) = self.c_skip_out(sigma);
        if c_out <= 0.0 {
            return (0.0, 0.0); // the output does not count
        }
        // 1 - c_skip without the loss of digits
        let above = sigma - self.sigma_min as f32;
        let rest = above * above * c_skip / (self.sigma_data * self.sigma_data) as f32;
        (rest / c_out, -c_skip * sigma / c_out)
    }

    /// The places of a sampling among the noise levels of training, the highest level first.
    fn places(&self, options: &RunOptions) -> Result<Vec<usize>> {
        let (t, steps) = (self.num_train_timesteps, options.num_steps());
        if let Schedule::Timesteps(timesteps) = &options.schedule {
            let timesteps = check_whole_timesteps(timesteps, t)?;
            return Ok(timesteps.into_iter().rev().map(|timestep| timestep as usize).collect());
        }
        ensure(steps <= t, || {
            Error::steps(steps, format!("it was trained on {t} noise levels, so it can do at most {t}"))
        })?;
        check_count(steps)?;
        Ok((0..steps).map(|i| i * (t / steps)).collect())
    }
}

/// The level of σ, which the model is conditioned on.
fn level_of(sigma: f64) -> f32 {
    (250.0 * (sigma + 1e-44).ln()) as f32
}

/// σ of a level.
fn sigma_of(level: f32) -> f32 {
    (f64::from(level) / 250.0).exp() as f32
}

impl Method for CMStochasticIterativeConfig {
    const CLASS_NAME: &'static str = "CMStochasticIterativeScheduler";
    const SUMMARY: &'static str = "the sampler of consistency models, for one step or a few (Song et al. 2023)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps];

    fn check(&self) -> Result<()> {
        check_train_timesteps(self.num_train_timesteps, 2)?;
        check_sigma_range(self.sigma_min, self.sigma_max)?;
        check_positive(&[("sigma_data", self.sigma_data), ("rho", self.rho)])?;
        ensure(self.s_noise.is_finite() && self.s_noise >= 0.0, || {
            Error::config(format!("s_noise is {}; it must be a number of at least 0", self.s_noise))
        })
    }

    /// Draws the levels of training but for the lowest, where the model's output does not count.
    fn process(&self) -> Process {
        let levels = (0..self.num_train_timesteps - 1).map(|place| level_of(self.sigma_at(place)));
        let (levels, [target, input]) = (Levels::one_of(levels), [(); 2].map(|()| self.clone()));
        Process::new(levels, PredictionType::Sample, |level| (1.0, sigma_of(level)))
            .target_weights(move |level| target.target_weights(sigma_of(level)))
            .model_input(move |level| (input.c_in(sigma_of(level)), 0.0))
            .with_snr(|level| sigma_of(level).powi(-2))
    }

    fn inference_steps(&self, _: &Process) -> RangeInclusive<usize> {
        1..=self.num_train_timesteps
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let sigmas: Vec<f64> = self.places(options)?.into_iter().map(|place| self.sigma_at(place)).collect();
        let timesteps = sigmas.iter().map(|&sigma| level_of(sigma)).collect();
        let calls: Vec<f32> = sigmas.iter().map(|&sigma| sigma as f32).collect();
        let (sigma_min, sigma_max) = (self.sigma_min as f32, self.sigma_max as f32);
        let plan = Plan::exploding(timesteps, [&calls[..], &[sigma_min]].concat(), &calls, |sigma| self.c_in(sigma));
        let plan = Plan { init_noise_sigma: sigma_max, ..plan };
        let (config, s_noise) = (self.clone(), self.s_noise as f32);
        let predict = move |call: &Call| {
            let (c_skip, c_out) = config.c_skip_out(call.sigmas().0);
            let x0 = mix(c_out, &call.output, c_skip, call.sample)?;
            if config.clip_denoised { Ok(x0.clamp(-1f32, 1f32)?) } else { Ok(x0) }
        };

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (_, next_sigma) = call.sigmas();
            if call.plan.timesteps.len() == 1 {
                return Ok(StepOutput { prev_sample: x0.clone(), pred_original_sample: x0 });
            }
            let sigma_hat = next_sigma.max(sigma_min).min(sigma_max);
            let added = s_noise * (sigma_hat * sigma_hat - sigma_min * sigma_min).max(0.0).sqrt();
            // drawn in the last step, too, where none is added
            let z = noise_like(call.sample, rng)?;
            Ok(StepOutput { prev_sample: mix(1.0, &x0, added, &z)?, pred_original_sample: x0 })
        })
    }
}
