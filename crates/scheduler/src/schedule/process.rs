use candle_core::Tensor;
use kakusan_rng::Generator;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Alphas, BetaConfig, BetaSchedule, FlowConfig, PredictionType, SigmaConfig, ThresholdConfig};
use crate::tensors::{mix_by_level, of_levels, scale, split_variance};
use crate::{Draw, Error, Family, Result, VarianceType};

/// What all solvers of the DPM-Solver family are configured by, under diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SolverConfig {
    /// The variances of the forward process.
    #[serde(flatten)]
    pub beta: BetaConfig,
    /// What the model predicts. `flow_prediction` goes with `use_flow_sigmas`, and `v_prediction` without.
    pub prediction_type: PredictionType,
    /// Thresholding of predicted images.
    #[serde(flatten)]
    pub threshold: ThresholdConfig,
    /// Whether a run's last steps are of a lower order; multistep solvers do so in runs of less than 15 steps.
    pub lower_order_final: bool,
    /// Noise levels spaced otherwise than the timesteps.
    #[serde(flatten)]
    pub sigma: SigmaConfig,
    /// The noise levels of a flow.
    #[serde(flatten)]
    pub flow: FlowConfig,
}

/// What a model predicts of the variance, in a second half of its output channels. Solvers leave it aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
pub(crate) struct Level {
    pub(crate) alpha: f64,
    pub(crate) sigma: f64,
}

/// The forward process that solvers integrate backwards, what models predict in it, and the training side of it all.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) alphas: Alphas,
    prediction_type: PredictionType,
    threshold: ThresholdConfig,
    is_flow: bool,
    learned_variance: bool,
}

impl Default for SolverConfig {
    /// 1000 timesteps, linear betas, ε-prediction, no thresholding, low orders at the end, no flow.
    fn default() -> Self {
        Self {
            beta: BetaConfig::default(),
            prediction_type: PredictionType::Epsilon,
            threshold: ThresholdConfig::default(),
            lower_order_final: true,
            sigma: SigmaConfig::default(),
            flow: FlowConfig::default(),
        }
    }
}

impl SolverConfig {
    /// The models that a solver so configured samples.
    pub(crate) fn family(&self) -> Family {
        match self.flow.use_flow_sigmas {
            true => Family::Flow(self.prediction_type),
            false => Family::Diffusion(self.prediction_type),
        }
    }

    /// Says what is out of range, or does not go together.
    pub(crate) fn check(&self, class_name: &str) -> Result<()> {
        use BetaSchedule::{Linear, ScaledLinear, SquaredcosCapV2};
        self.beta.check(class_name, &[Linear, ScaledLinear, SquaredcosCapV2])?;
        self.threshold.check(class_name)?;
        self.sigma.check(class_name, [None, None])?;
        self.flow.check(class_name)?;
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
        Err(Error::Config { class_name: class_name.to_owned(), reason: reason.into() })
    }

    /// Refuses a flow whose noise levels are to be spaced as a diffusion's: diffusers gives NaN.
    pub(crate) fn check_flow_is_not_converted(&self, class_name: &str) -> Result<()> {
        if !self.flow.use_flow_sigmas || self.sigma.conversion().is_none() {
            return Ok(());
        }
        let reason =
            "use_flow_sigmas spaces noise levels itself: leave out use_karras_sigmas, use_exponential_sigmas and \
                      use_beta_sigmas"
                .into();
        Err(Error::Config { class_name: class_name.to_owned(), reason })
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

/// Refuses an order that is not between 1 and `most`.
pub(crate) fn check_order(class_name: &str, key: &str, order: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&order) {
        return Ok(());
    }
    let reason = format!("{key} is {order}; it must be between 1 and {most}");
    Err(Error::Config { class_name: class_name.to_owned(), reason })
}

impl Level {
    /// The logarithm of the signal-to-noise ratio, halved: the λ of Lu et al. (2022).
    pub(crate) fn lambda(&self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }
}

impl Process {
    /// That of a configuration that was checked.
    pub(crate) fn new(config: &SolverConfig, zero_snr: bool, learned: Option<LearnedVarianceType>) -> Self {
        Self {
            alphas: Alphas::with_finite_sigmas(&config.beta, zero_snr),
            prediction_type: config.prediction_type,
            threshold: config.threshold,
            is_flow: config.flow.use_flow_sigmas,
            learned_variance: learned.is_some(),
        }
    }

    /// The shares of image and noise at a noise level.
    pub(crate) fn shares(&self, sigma: f32) -> (f32, f32) {
        let level = self.level(sigma);
        (level.alpha as f32, level.sigma as f32)
    }

    /// The point with the noise level `sigma`, as diffusers counts it: of noise alone in a flow, otherwise of the noise
    /// against the image.
    pub(crate) fn level(&self, sigma: f32) -> Level {
        let sigma = f64::from(sigma);
        match self.is_flow {
            true => Level { alpha: 1.0 - sigma, sigma },
            false => {
                let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
                Level { alpha, sigma: sigma * alpha }
            }
        }
    }

    /// The integrand and the clean image that a model's output for `sample` implies.
    pub(crate) fn convert(
        &self,
        integrand: Integrand,
        output: &Tensor,
        sample: &Tensor,
        level: Level,
    ) -> Result<(Tensor, Tensor)> {
        let (output, _) = split_variance(self.learned_variance, output, sample)?;
        let (alpha, sigma) = (level.alpha as f32, level.sigma as f32);
        let x0 = self.prediction_type.original_sample(&output, sample, alpha, sigma)?;
        let x0 = if self.threshold.thresholding { self.threshold.threshold(&x0)? } else { x0 };
        let converted = match integrand {
            Integrand::Data => x0.clone(),
            // the noise that goes with the image as it was thresholded
            Integrand::Noise if self.threshold.thresholding => scale(&(sample - scale(&x0, alpha)?)?, 1.0 / sigma)?,
            Integrand::Noise => self.prediction_type.epsilon(&output, sample, alpha, sigma)?,
        };
        Ok((converted, x0))
    }

    pub(crate) fn draw(&self, clean: &Tensor, rng: &mut Generator) -> Result<Draw> {
        self.alphas.draw(clean, rng)
    }

    /// `sqrt(ᾱ) clean + sqrt(1 - ᾱ) noise`; in a flow `(1 - σ) clean + σ noise`.
    pub(crate) fn add_noise(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        if !self.is_flow {
            return self.alphas.add_noise(clean, noise, levels);
        }
        mix_by_level(clean, noise, levels, |level| {
            let last = self.alphas.len() - 1;
            match (0.0..=last as f32).contains(&level) {
                true => Ok((1.0 - self.flow_sigma(level), self.flow_sigma(level))),
                false => Err(Error::Level { level, last }),
            }
        })
    }

    pub(crate) fn target(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        self.alphas.target(self.prediction_type, clean, noise, levels)
    }

    pub(crate) fn snr(&self, levels: &Tensor) -> Result<Tensor> {
        if !self.is_flow {
            return self.alphas.snr(levels);
        }
        of_levels(levels, |level| ((1.0 - self.flow_sigma(level)) / self.flow_sigma(level)).powi(2))
    }

    /// The noise level of a flow's timestep.
    fn flow_sigma(&self, level: f32) -> f32 {
        level / self.alphas.len() as f32
    }
}
