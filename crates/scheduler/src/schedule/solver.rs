use crate::prelude::*;

config! {
    /// What all solvers of the DPM-Solver family are configured by, under diffusers' names.
    pub struct SolverConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::default(),
        /// What the model predicts. `flow_prediction` goes with `use_flow_sigmas`, and `v_prediction` without.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// Thresholding of predicted images.
        #[serde(flatten)]
        pub threshold: ThresholdConfig = ThresholdConfig::default(),
        /// Whether a run's last steps are of a lower order; multistep solvers do so in runs of less than 15 steps.
        pub lower_order_final: bool = true,
        /// Noise levels spaced otherwise than the timesteps.
        #[serde(flatten)]
        pub sigma: SigmaConfig = SigmaConfig::default(),
        /// The noise levels of a flow.
        #[serde(flatten)]
        pub flow: FlowConfig = FlowConfig::default(),
    }
}

/// What a model predicts of the variance, in a second half of its output channels. Solvers leave it aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LearnedVarianceType {
    /// The variance.
    Learned,
    /// Where the variance lies between the smallest and the largest.
    LearnedRange,
}

/// What a solver integrates over λ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integrand {
    /// The predicted clean image.
    Data,
    /// The predicted noise.
    Noise,
}

/// A point of the forward process: `x = alpha x₀ + sigma ε`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) alpha: f64,
    pub(crate) sigma: f64,
}

/// The forward process that solvers integrate backwards, and what models predict in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForwardProcess {
    prediction_type: PredictionType,
    threshold: ThresholdConfig,
    is_flow: bool,
    learned_variance: bool,
}

impl SolverConfig {
    /// Says what is out of range, or does not go together.
    pub(crate) fn check(&self) -> Result<()> {
        self.beta.check(BetaSchedule::USUAL)?;
        self.threshold.check()?;
        self.sigma.check([None, None])?;
        self.flow.check()?;
        let reason = match (self.flow.use_flow_sigmas, self.prediction_type) {
            (false, PredictionType::FlowPrediction) => {
                "prediction_type flow_prediction is the velocity of a flow: set use_flow_sigmas"
            }
            (true, PredictionType::VPrediction) => {
                "prediction_type v_prediction is not the velocity of a flow, which use_flow_sigmas asks for: use \
                 flow_prediction"
            }
            _ => return Ok(()),
        };
        Err(Error::config(reason))
    }

    /// The same, and refuses a flow whose noise levels are to be spaced as a diffusion's (diffusers gives NaN), or
    /// shifted by another type than the exponential.
    pub(crate) fn check_flow(&self, shift: &DynamicShiftConfig) -> Result<()> {
        self.check()?;
        shift.check(&self.flow, &[TimeShiftType::Exponential])?;
        ensure(!self.flow.use_flow_sigmas || self.sigma.conversion().is_none(), || {
            Error::config(
                "use_flow_sigmas spaces noise levels itself: leave out use_karras_sigmas, use_exponential_sigmas and \
                 use_beta_sigmas",
            )
        })
    }

    /// The training side: the variance preserving process, or a flow, whose timestep `t` of T has the noise level `t /
    /// T`.
    pub(crate) fn process(&self, zero_snr: bool) -> Process {
        let (alphas, prediction) = (Alphas::with_finite_sigmas(&self.beta, zero_snr), self.prediction_type);
        if !self.flow.use_flow_sigmas {
            return alphas.preserving(prediction);
        }
        let t = alphas.len() as f32;
        Process::new(Levels::timesteps(alphas.len()), prediction, move |level| (1.0 - level / t, level / t))
            .of_family(Family::Flow(prediction))
            .with_alphas(&alphas)
    }

    /// How the model calls of a run are spaced.
    pub(crate) fn spaced(
        &self,
        alphas: &Alphas,
        spacing: SpacingConfig,
        lambda_min_clipped: Real,
        shift: f64,
    ) -> Result<Spaced> {
        Ok(Spaced {
            last_timestep: last_timestep(alphas, lambda_min_clipped)?,
            flow_shift: self.flow.use_flow_sigmas.then_some(shift),
            ..Spaced::new(alphas, spacing, self.sigma.conversion())
        })
    }

    /// The noise level that the last step leads to: `lowest`, or as in diffusers where it begins, if noise levels are
    /// not those of timesteps.
    pub(crate) fn last_sigma(&self, path: &Path, lowest: f32) -> f64 {
        match path.sigmas.last() {
            Some(&last) if self.sigma.conversion().is_some() || self.flow.use_flow_sigmas => last,
            _ => lowest.into(),
        }
    }

    /// Whether timesteps are those of a cosine schedule.
    pub(crate) fn is_cosine(&self) -> bool {
        self.beta.beta_schedule == BetaSchedule::SquaredcosCapV2
    }
}

/// A `variance_type`, which files of DDPM have, too: one that is fixed leaves nothing to predict.
pub(crate) fn learned_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<LearnedVarianceType>, D::Error> {
    Ok(match Option::deserialize(deserializer)? {
        Some(VarianceType::Learned) => Some(LearnedVarianceType::Learned),
        Some(VarianceType::LearnedRange) => Some(LearnedVarianceType::LearnedRange),
        _ => None,
    })
}

impl Point {
    /// The logarithm of the signal-to-noise ratio, halved: the λ of Lu et al. (2022).
    pub(crate) fn lambda(&self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }
}

impl ForwardProcess {
    /// That of a configuration that was checked.
    pub(crate) fn new(config: &SolverConfig, learned: Option<LearnedVarianceType>) -> Self {
        Self {
            prediction_type: config.prediction_type,
            threshold: config.threshold,
            is_flow: config.flow.use_flow_sigmas,
            learned_variance: learned.is_some(),
        }
    }

    /// `(α, σ)` at a noise level.
    fn alpha_sigma(&self, sigma: f32) -> (f32, f32) {
        let point = self.point(sigma);
        (point.alpha as f32, point.sigma as f32)
    }

    /// The point with the noise level `sigma`, as diffusers counts it: of noise alone in a flow, otherwise of the noise
    /// against the image.
    fn point(&self, sigma: f32) -> Point {
        let sigma = f64::from(sigma);
        if self.is_flow {
            return Point { alpha: 1.0 - sigma, sigma };
        }
        let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
        Point { alpha, sigma: sigma * alpha }
    }

    /// The points between which the step of a call leads.
    pub(crate) fn ends(&self, call: &Call) -> [Point; 2] {
        let (sigma, next_sigma) = call.sigmas();
        [sigma, next_sigma].map(|sigma| self.point(sigma))
    }

    /// The plan of a run along `path`, whose last step leads to the noise level `last`.
    pub(crate) fn plan(&self, path: Path, last: f64) -> Plan {
        let sigmas = path.sigmas.into_iter().chain([last]).map(|sigma| sigma as f32).collect();
        let plan = Plan::between(path.timesteps, sigmas, |sigma| self.alpha_sigma(sigma));
        Plan { learned_variance: self.learned_variance, ..plan }
    }

    /// The clean image that the model's output implies.
    pub(crate) fn x0(&self, call: &Call) -> Result<Tensor> {
        let (sigma, _) = call.sigmas();
        let (alpha, sigma) = self.alpha_sigma(sigma);
        self.threshold.apply(self.prediction_type.original_sample(&call.output, call.sample, alpha, sigma)?)
    }

    /// What is integrated: that image, or the noise that the output implies.
    pub(crate) fn integrand(&self, integrand: Integrand, call: &Call, x0: &Tensor, at: Point) -> Result<Tensor> {
        let (output, sample) = (&call.output, call.sample);
        let (alpha, sigma) = (at.alpha as f32, at.sigma as f32);
        match integrand {
            Integrand::Data => Ok(x0.clone()),
            // the noise that goes with the image as it was thresholded
            Integrand::Noise if self.threshold.thresholding => scale(&(sample - scale(x0, alpha)?)?, 1.0 / sigma),
            Integrand::Noise => self.prediction_type.epsilon(output, sample, alpha, sigma),
        }
    }
}
