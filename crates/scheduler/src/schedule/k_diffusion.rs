use crate::prelude::*;

config! {
    /// What the samplers after k-diffusion are configured by, under diffusers' names: they solve the probability flow
    /// ODE in σ (Karras et al. 2022).
    pub struct KDiffusionConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::default(),
        /// What the model predicts; no flow.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// Noise levels spaced otherwise than the timesteps.
        #[serde(flatten)]
        pub sigma: SigmaConfig = SigmaConfig::default(),
        /// Which timesteps a sampling visits.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::new(TimestepSpacing::Linspace),
    }
}

impl KDiffusionConfig {
    /// The same with latent diffusion's betas, but linear.
    pub fn latent() -> Self {
        Self { beta: BetaConfig::latent(BetaSchedule::Linear), ..Self::default() }
    }

    /// Says what is out of range, or not among what the sampler knows.
    pub(crate) fn check(&self, predictions: &[PredictionType], betas: &[BetaSchedule]) -> Result<()> {
        self.prediction_type.only(predictions)?;
        self.beta.check(betas)?;
        self.sigma.check([None, None])?;
        self.process().alphas().check_sigmas()
    }

    pub(crate) fn process(&self) -> Process {
        Alphas::new(&self.beta, false).exploding(self.prediction_type)
    }

    /// The timesteps of a sampling in `n` steps, and the noise levels between which they lead, one more: the last is 0.
    pub(crate) fn schedule(&self, training: &[f32], n: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let timesteps = self.spacing.exact(training.len(), n)?;
        let timesteps = timesteps.into_iter().map(|t| f64::from(t as f32)).collect(); // f32 in diffusers
        let (timesteps, sigmas) = sigmas_at(timesteps, training, self.sigma.conversion(), [None, None], n);
        check_first_two(&timesteps, training.len())?;
        check_calls(&timesteps, &sigmas)?;
        Ok((timesteps, to_zero(sigmas)))
    }

    /// One model call a step.
    pub(crate) fn plan(&self, timesteps: Vec<f32>, sigmas: Vec<f32>) -> Plan {
        let calls = sigmas[..timesteps.len()].to_vec();
        self.plan_at(timesteps, sigmas, &calls)
    }

    /// Two model calls a step, at `timesteps` and at `second`, which have the noise levels `second_sigmas`; one in the
    /// last.
    pub(crate) fn two_calls(&self, timesteps: &[f32], sigmas: Vec<f32>, second: &[f32], second_sigmas: &[f32]) -> Plan {
        let calls = in_turns(&sigmas[..timesteps.len()], second_sigmas);
        Plan { calls: 2, ..self.plan_at(in_turns(timesteps, second), sigmas, &calls) }
    }

    /// The same with the second call at `second(from, to)`, within the step between these noise levels.
    pub(crate) fn calls_within(
        &self,
        timesteps: &[f32],
        sigmas: Vec<f32>,
        second: impl Fn(f32, f32) -> f32,
        training: &[f32],
    ) -> Plan {
        let steps = timesteps.len().saturating_sub(1);
        let levels: Vec<f32> = sigmas.array_windows().take(steps).map(|&[from, to]| second(from, to)).collect();
        let second = timesteps_of(&levels.iter().map(|&sigma| sigma.into()).collect::<Vec<_>>(), training);
        self.two_calls(timesteps, sigmas, &second, &levels)
    }

    fn plan_at(&self, timesteps: Vec<f32>, sigmas: Vec<f32>, calls: &[f32]) -> Plan {
        let init_noise_sigma = self.spacing.init_noise_sigma(&sigmas);
        Plan { init_noise_sigma, ..Plan::exploding(timesteps, sigmas, calls, c_in) }
    }
}

/// `[a₀, b₀, a₁, b₁, .. a]`, from the first calls of the steps and the second ones.
fn in_turns(first: &[f32], second: &[f32]) -> Vec<f32> {
    let Some((last, before)) = first.split_last() else { return vec![] };
    before.iter().zip(second).flat_map(|(&first, &second)| [first, second]).chain([*last]).collect()
}

/// Noise levels in f32, and 0 after the last.
pub(crate) fn to_zero(sigmas: Vec<f64>) -> Vec<f32> {
    sigmas.into_iter().chain([0.0]).map(|sigma| sigma as f32).collect()
}

/// Euler's step from σ to σ': `x + d (σ' - σ)`, where `d = (x - x₀) / σ`.
pub(crate) fn euler(x: &Tensor, x0: &Tensor, sigma: f32, next_sigma: f32) -> Result<Tensor> {
    let ratio = next_sigma / sigma;
    mix(ratio, x, 1.0 - ratio, x0)
}

/// Halfway between two noise levels in log σ.
pub(crate) fn halfway(a: f32, b: f32) -> f32 {
    (f64::from(a) * f64::from(b)).sqrt() as f32
}

/// How a step from one noise level to another is parted into a step further down and noise back up: `(down, up)` with
/// `down² + up² = to²`. (diffusers subtracts the squares, which after a long step leaves rounding alone, or no number.)
pub(crate) fn ancestral_step(from: f32, to: f32) -> (f32, f32) {
    let (from, to) = (f64::from(from), f64::from(to));
    let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
    ((to * to / from) as f32, up as f32)
}
