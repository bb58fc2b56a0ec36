use std::fmt;

use crate::prelude::*;

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε (Ho et al. 2020).
    #[default]
    Epsilon,
    /// The clean image x₀.
    #[serde(alias = "original_sample")]
    Sample,
    /// The velocity `sqrt(ᾱ) ε - sqrt(1 - ᾱ) x₀` (Salimans and Ho 2022).
    VPrediction,
    /// A flow's velocity `ε - x₀` (Liu et al. 2022).
    FlowPrediction,
}

impl fmt::Display for PredictionType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Epsilon => "epsilon",
            Self::Sample => "sample",
            Self::VPrediction => "v_prediction",
            Self::FlowPrediction => "flow_prediction",
        })
    }
}

impl PredictionType {
    /// All but a flow's velocity.
    pub(crate) const NO_FLOW: &[Self] = &[Self::Epsilon, Self::Sample, Self::VPrediction];
    /// Noise or a velocity.
    pub(crate) const EPSILON_OR_V: &[Self] = &[Self::Epsilon, Self::VPrediction];

    /// Refuses what the scheduler cannot make use of.
    pub(crate) fn only(self, known: &[Self]) -> Result<()> {
        ensure(known.contains(&self), || {
            Error::config(format!("it has no use for prediction_type {self:?}; it takes {known:?}"))
        })
    }

    /// The clean image that `output` implies for `sample = alpha x₀ + sigma ε`.
    pub(crate) fn original_sample(self, output: &Tensor, sample: &Tensor, alpha: f32, sigma: f32) -> Result<Tensor> {
        match self {
            // where nothing is left of the image, as large as can be, and nothing where there is nothing
            Self::Epsilon => scale(&(sample - scale(output, sigma)?)?, (1.0 / alpha).min(f32::MAX)),
            Self::Sample => Ok(output.clone()),
            Self::VPrediction => mix(alpha, sample, -sigma, output),
            Self::FlowPrediction => mix(1.0, sample, -sigma, output),
        }
    }

    /// The clean image that `output` implies for `sample = x₀ + σ ε`, of which the model was shown `sample / sqrt(σ² +
    /// 1)`.
    pub(crate) fn denoised(self, output: &Tensor, sample: &Tensor, sigma: f32) -> Result<Tensor> {
        match self {
            Self::VPrediction => {
                let alpha = 1.0 / (sigma * sigma + 1.0);
                mix(-sigma * alpha.sqrt(), output, alpha, sample)
            }
            other => other.original_sample(output, sample, 1.0, sigma),
        }
    }

    /// The noise that `output` implies for `sample = alpha x₀ + sigma ε`.
    pub(crate) fn epsilon(self, output: &Tensor, sample: &Tensor, alpha: f32, sigma: f32) -> Result<Tensor> {
        match self {
            Self::Epsilon => Ok(output.clone()),
            Self::Sample if sigma == 0.0 => Ok(sample.zeros_like()?),
            Self::Sample => scale(&(sample - scale(output, alpha)?)?, 1.0 / sigma),
            Self::VPrediction => mix(alpha, output, sigma, sample),
            Self::FlowPrediction => mix(1.0, sample, 1.0 - sigma, output),
        }
    }
}
