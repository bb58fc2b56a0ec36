use crate::prelude::*;

/// DDPM's sampler as Karlo has it for unCLIP (Ho et al. 2020; Ramesh et al. 2022): diffusers' `UnCLIPScheduler`.
///
/// It differs from [`DDPMScheduler`](crate::DDPMScheduler) in its timesteps, which reach from the last to the first. A
/// step leads to the next of them, as it does in diffusers' pipeline, which passes that as `prev_timestep`. (One step
/// alone is a division by zero in diffusers; here it begins at the last timestep.)
pub type UnCLIPScheduler = Sampler<UnCLIPConfig>;

/// The configuration of [`UnCLIPScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnCLIPConfig {
    /// T, the timesteps of training.
    pub num_train_timesteps: usize,
    /// The variance of the noise added in a step: `fixed_small_log` or `learned_range`.
    pub variance_type: VarianceType,
    /// Clipping of predicted images.
    #[serde(flatten)]
    pub clip: ClipConfig,
    /// What the model predicts: `epsilon` or `sample`.
    pub prediction_type: PredictionType,
    /// `squaredcos_cap_v2`.
    pub beta_schedule: BetaSchedule,
}

impl Default for UnCLIPConfig {
    /// diffusers': 1000 timesteps, `fixed_small_log`, ε-prediction, clipped to ±1.
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            variance_type: VarianceType::FixedSmallLog,
            clip: ClipConfig::default(),
            prediction_type: PredictionType::Epsilon,
            beta_schedule: BetaSchedule::SquaredcosCapV2,
        }
    }
}

impl UnCLIPConfig {
    fn beta(&self) -> BetaConfig {
        let Self { num_train_timesteps, beta_schedule, .. } = *self;
        BetaConfig { num_train_timesteps, beta_schedule, ..BetaConfig::default() }
    }

    fn alphas(&self) -> Alphas {
        Alphas::new(&self.beta(), false)
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
        let known = [VarianceType::FixedSmallLog, VarianceType::LearnedRange];
        if !known.contains(&self.variance_type) {
            let given = self.variance_type;
            return Err(Error::config(format!("it has no use for variance_type {given:?}; it takes {known:?}")));
        }
        self.clip.check()?;
        self.alphas().check()
    }

    fn process(&self) -> Process {
        self.alphas().preserving(self.prediction_type)
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let alphas = self.alphas();
        let learned_variance = self.variance_type == VarianceType::LearnedRange;
        let plan = Plan { learned_variance, ..Plan::preserving(self.timesteps(options.num_steps())?, &alphas) };
        Sampling::begin(plan, options.start, UnCLIP { config: self.clone(), betas: self.beta().betas(), alphas })
    }
}

#[derive(Debug)]
struct UnCLIP {
    config: UnCLIPConfig,
    betas: Vec<f32>,
    alphas: Alphas,
}

impl Step for UnCLIP {
    fn step(&mut self, call: &Call, rng: &mut dyn Noise) -> Result<StepOutput> {
        let Self { config, betas, alphas } = self;
        let (t, prev_t) = (call.timestep() as i64, call.next_timestep().map_or(-1, |t| t as i64));
        let (alpha_prod, alpha_prod_prev) = (alphas.at(t, 1.0), alphas.at(prev_t, 1.0));
        // α is 1 - β, with the digits that this loses where α is next to nothing
        let beta = if prev_t + 1 == t { betas[t as usize] } else { 1.0 - alpha_prod / alpha_prod_prev };
        let posterior = Posterior::with_alpha_beta(alpha_prod, alpha_prod_prev, 1.0 - beta, beta);

        let x0 = call.x0(config.prediction_type)?;
        let x0 = config.clip.clip(x0)?;
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
    }
}
