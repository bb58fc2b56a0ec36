use crate::prelude::*;

/// DDPM's sampler as Karlo has it for unCLIP (Ho et al. 2020; Ramesh et al. 2022): diffusers' `UnCLIPScheduler`.
///
/// It differs from [`DDPMScheduler`](crate::DDPMScheduler) in its timesteps, which reach from the last to the first. A
/// step leads to the next of them, as it does in diffusers' pipeline, which passes that as `prev_timestep`. (One step
/// alone is a division by zero in diffusers; here it begins at the last timestep.)
pub type UnCLIPScheduler = Sampler<UnCLIPConfig>;

config! {
    /// The configuration of [`UnCLIPScheduler`], under diffusers' names.
    pub struct UnCLIPConfig {
        /// T, the timesteps of training.
        pub num_train_timesteps: usize = 1000,
        /// The variance of the noise added in a step: `fixed_small_log` or `learned_range`.
        pub variance_type: VarianceType = VarianceType::FixedSmallLog,
        /// Clipping of predicted images.
        #[serde(flatten)]
        pub clip: ClipConfig = ClipConfig::default(),
        /// What the model predicts: `epsilon` or `sample`.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// `squaredcos_cap_v2`.
        pub beta_schedule: BetaSchedule = BetaSchedule::SquaredcosCapV2,
    }
}

impl UnCLIPConfig {
    fn beta(&self) -> BetaConfig {
        let Self { num_train_timesteps, beta_schedule, .. } = *self;
        BetaConfig { num_train_timesteps, beta_schedule, ..BetaConfig::default() }
    }

    /// `n` timesteps, evenly from the last of training to the first.
    fn timesteps(&self, n: usize) -> Result<Vec<f32>> {
        let t = self.num_train_timesteps;
        if check_steps(n, t)? == 1 {
            return Ok(vec![(t - 1) as f32]);
        }
        let places = linspace_f64(0.0, (t - 1) as f64, n).into_iter().rev();
        Ok(places.map(|place| place.round_ties_even() as f32).collect())
    }
}

impl Method for UnCLIPConfig {
    const CLASS_NAME: &'static str = "UnCLIPScheduler";
    const SUMMARY: &'static str = "DDPM's sampler as Karlo's unCLIP has it (Ramesh et al. 2022)";

    fn check(&self) -> Result<()> {
        self.prediction_type.only(&[PredictionType::Epsilon, PredictionType::Sample])?;
        self.beta().check(&[BetaSchedule::SquaredcosCapV2])?;
        let (given, known) = (self.variance_type, [VarianceType::FixedSmallLog, VarianceType::LearnedRange]);
        ensure(known.contains(&given), || {
            Error::config(format!("it has no use for variance_type {given:?}; it takes {known:?}"))
        })?;
        self.clip.check()?;
        self.process().alphas().check()
    }

    fn process(&self) -> Process {
        Alphas::new(&self.beta(), false).preserving(self.prediction_type)
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (alphas, betas) = (process.alphas().clone(), self.beta().betas());
        let Self { prediction_type, clip, .. } = *self;
        let learned_variance = self.variance_type == VarianceType::LearnedRange;
        let predict = move |call: &Call| clip.clip(call.x0(prediction_type)?);
        let plan = Plan { learned_variance, ..Plan::preserving(self.timesteps(options.num_steps())?, &alphas) };

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (t, prev_t) = (call.timestep() as i64, call.next_timestep().map_or(-1, |t| t as i64));
            let (alpha_prod, alpha_prod_prev) = (alphas.at(t, 1.0), alphas.at(prev_t, 1.0));
            // α is 1 - β, with the digits that this loses where α is next to nothing
            let beta = if prev_t + 1 == t { betas[t as usize] } else { 1.0 - alpha_prod / alpha_prod_prev };
            let posterior = Posterior::with_alpha_beta(alpha_prod, alpha_prod_prev, 1.0 - beta, beta);

            let mean = posterior.mean(&x0, call.sample)?;
            if t == 0 {
                return Ok(StepOutput { prev_sample: mean, pred_original_sample: x0 });
            }
            let z = noise_like(&call.output, rng)?;
            let noise = match &call.variance {
                Some(v) => (posterior.learned_deviation(v)? * z)?,
                None => scale(&z, posterior.small.sqrt())?,
            };
            Ok(StepOutput { prev_sample: (mean + noise)?, pred_original_sample: x0 })
        })
    }
}
