use crate::prelude::*;

/// Karras' stochastic sampler for score models of the variance exploding SDE (Karras et al. 2022, algorithm 2 and
/// equation 213): diffusers' deprecated `KarrasVeScheduler`, used as its pipeline does.
///
/// The model sees `(x + 1) / 2` and is conditioned on `σ / 2`: pixels from 0 to 1 for it, from -1 to 1 for the sampler.
/// Its output is the score there. A step calls it twice, but for the last; the noise that begins a step comes with what
/// the step before gives, or with the initial noise. [`RunOptions::start`] counts steps, not calls.
///
/// As in diffusers the noise levels are `σ_max² (σ_min² / σ_max²)^(i / (n - 1))`, squares where one would expect none,
/// while the initial noise has a deviation of σ_max. (Its one step alone is not a number; here it begins at the highest
/// level.)
pub type KarrasVeScheduler = Sampler<KarrasVeConfig>;

config! {
    /// The configuration of [`KarrasVeScheduler`], under diffusers' names.
    pub struct KarrasVeConfig {
        /// The square root of the lowest noise level.
        pub sigma_min: f64 = 0.02,
        /// The square root of the highest noise level.
        #[serde(serialize_with = "serialize_whole")]
        pub sigma_max: f64 = 100.0,
        /// The standard deviation of the noise added, 1 or a little more.
        pub s_noise: f64 = 1.007,
        /// How much noise is added, over all steps.
        #[serde(serialize_with = "serialize_whole")]
        pub s_churn: f64 = 80.0,
        /// The lowest noise level at which noise is added.
        pub s_min: f64 = 0.05,
        /// The highest noise level at which noise is added.
        #[serde(serialize_with = "serialize_whole")]
        pub s_max: f64 = 50.0,
    }
}

impl KarrasVeConfig {
    /// `n` noise levels from the highest to the lowest.
    fn sigmas(&self, n: usize) -> Vec<f32> {
        let ratio = (self.sigma_min.powi(2) / self.sigma_max.powi(2)) as f32;
        let sigma = |i: usize| self.sigma_max.powi(2) as f32 * ratio.powf(i as f32 / (n.max(2) - 1) as f32);
        (0..n).map(sigma).collect()
    }
}

impl Method for KarrasVeConfig {
    const CLASS_NAME: &'static str = "KarrasVeScheduler";
    const SUMMARY: &'static str =
        "Karras' stochastic sampler for variance exploding score models, two model calls a step (Karras et al. 2022)";

    fn check(&self) -> Result<()> {
        check_sigma_range(self.sigma_min, self.sigma_max)?;
        check_positive(&[("s_noise", self.s_noise)])?;
        for (key, value) in [("s_churn", self.s_churn), ("s_min", self.s_min), ("s_max", self.s_max)] {
            ensure(value >= 0.0, || Error::config(format!("{key} is {value}; it must be at least 0")))?;
        }
        Ok(())
    }

    /// Noise levels are drawn evenly in `log σ` over all that samplings visit.
    fn process(&self) -> Process {
        let (sigma_min, sigma_max) = (self.sigma_min, self.sigma_max);
        let sigma = move |u: f32| sigma_min.powi(2) * (sigma_max / sigma_min).powf(2.0 * f64::from(u));
        let levels = Levels::continuous(move |u| (sigma(u) / 2.0) as f32);
        Process::new(levels, PredictionType::Epsilon, |level| (1.0, 2.0 * level))
            .target_weights(|level| (0.0, -1.0 / level)) // the score of the image as the model sees it
            .weighted(|level| level * level) // so that all levels weigh alike
            .model_input(|_| (0.5, 0.5)) // pixels from 0 to 1
            .with_snr(|level| (2.0 * level).powi(-2))
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let n = check_count(options.num_steps())?;
        let churn = Churn { s_churn: self.s_churn, s_tmin: self.s_min, s_tmax: self.s_max, s_noise: self.s_noise };
        let sigmas: Vec<f32> = self.sigmas(n).into_iter().chain([0.0]).collect();
        let sigma_hats: Vec<f32> = sigmas[..n].iter().map(|&sigma| sigma + churn.gamma(sigma, n) * sigma).collect();
        // at the raised level of a step, and at the level that it leads to, unless that is 0
        let calls = sigma_hats.iter().zip(&sigmas[1..]).flat_map(|(&hat, &next)| [hat / 2.0, next / 2.0]);
        let steps = Steps::with_calls(calls.take(2 * n - 1).collect(), 2, options.start)?;
        let (init_noise_sigma, s_noise) = (self.sigma_max as f32, self.s_noise as f32);
        Ok(Box::new(KarrasVeRun { init_noise_sigma, s_noise, sigmas, sigma_hats, steps, first: None }))
    }
}

/// A sampling by [`KarrasVeScheduler`]; between the two calls of a step it remembers the first.
#[derive(Debug)]
struct KarrasVeRun {
    init_noise_sigma: f32,
    s_noise: f32,
    sigmas: Vec<f32>,
    sigma_hats: Vec<f32>,
    steps: Steps,
    /// Where a step began, and its derivative there.
    first: Option<(Tensor, Tensor)>,
}

impl KarrasVeRun {
    /// Raises the noise level of a sample to that at which `step` begins. The noise is drawn even where none is added.
    fn churn(&self, step: usize, sample: &Tensor, rng: &mut dyn Noise) -> Result<Tensor> {
        let (sigma, sigma_hat) = (self.sigmas[step], self.sigma_hats[step]);
        let eps = scale(&noise_like(sample, rng)?, self.s_noise)?;
        mix(1.0, sample, (sigma_hat * sigma_hat - sigma * sigma).sqrt(), &eps)
    }
}

impl Run for KarrasVeRun {
    fn steps(&self) -> &Steps {
        &self.steps
    }

    fn sigmas(&self) -> Option<&[f32]> {
        Some(&self.sigmas)
    }

    fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma
    }

    fn initial_noise(&self, shape: &[usize], device: &Device, rng: &mut dyn Noise) -> Result<Tensor> {
        let noise = scale(&randn(shape, device, rng)?, self.init_noise_sigma)?;
        self.churn(self.steps.index()? / 2, &noise, rng)
    }

    fn alpha_sigma(&self) -> Result<(f32, f32)> {
        Ok((1.0, self.timesteps()[self.steps.index()?] * 2.0))
    }

    fn alpha_sigmas(&self) -> Option<Vec<(f32, f32)>> {
        Some(self.timesteps().iter().map(|timestep| (1.0, timestep * 2.0)).collect())
    }

    fn scale_model_input(&self, sample: &Tensor) -> Result<Tensor> {
        Ok(sample.affine(0.5, 0.5)?)
    }

    fn pred_original_sample(&self, model_output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        check_same("the model's output", model_output, sample)?;
        let timestep = self.timesteps()[self.steps.index()?];
        mix(1.0, sample, 2.0 * timestep, &scale(model_output, timestep)?)
    }

    fn step(&mut self, model_output: &Tensor, sample: &Tensor, rng: &mut dyn Noise) -> Result<StepOutput> {
        let x0 = self.pred_original_sample(model_output, sample)?;
        let call = self.steps.index()?;
        let step = call / 2;
        let dt = self.sigmas[step + 1] - self.sigma_hats[step];
        let timestep = self.timesteps()[call];
        let output = scale(model_output, timestep)?;
        let d = output.neg()?; // (x - x₀) / σ

        let prev_sample = match self.first.take() {
            None => {
                let euler = mix(1.0, sample, dt, &d)?;
                self.first = (self.sigmas[step + 1] != 0.0).then(|| (sample.clone(), d));
                euler
            }
            Some((x_hat, first_d)) => {
                check_same("the sample", sample, &x_hat)?;
                let mean = mix(0.5, &first_d, 0.5, &d)?;
                self.churn(step + 1, &mix(1.0, &x_hat, dt, &mean)?, rng)?
            }
        };
        self.steps.advance();
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
