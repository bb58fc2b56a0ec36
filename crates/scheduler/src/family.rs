use std::fmt;

use crate::PredictionType;

/// What a model has learned, as far as a sampler must know it: how its images were noised, what it is conditioned on,
/// and what it predicts. A scheduler can sample a model that was trained with another one of the same family.
///
/// Within a family numbers may differ, such as the betas: as in diffusers, a sampler with others draws worse, not
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// `sqrt(ᾱ) x₀ + sqrt(1 - ᾱ) ε`, and the model is conditioned on the timestep (Ho et al. 2020): `DDPMScheduler`'s,
    /// and that of all that diffusers calls compatible with it.
    Diffusion(PredictionType),
    /// `(1 - σ) x₀ + σ ε`, and the model is conditioned on `σ T` (Liu et al. 2022):
    /// `FlowMatchEulerDiscreteScheduler`'s, and that of solvers with `use_flow_sigmas`.
    Flow(PredictionType),
    /// `x₀ + σ ε`, preconditioned, and the model is conditioned on `ln(σ) / 4` (Karras et al. 2022):
    /// `EDMEulerScheduler`'s.
    Edm(PredictionType),
    /// The one of this name, which is a scheduler's class where no other has the family.
    Own(String),
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Diffusion(prediction) => write!(f, "diffusion over timesteps with prediction_type {prediction}"),
            Self::Flow(prediction) => write!(f, "a flow with prediction_type {prediction}"),
            Self::Edm(prediction) => write!(f, "EDM's preconditioning with prediction_type {prediction}"),
            Self::Own(name) => write!(f, "the process of {name} alone"),
        }
    }
}
