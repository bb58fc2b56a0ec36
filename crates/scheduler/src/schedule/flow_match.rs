use std::fmt::Debug;

use candle_core::Tensor;

use super::{check_positive, check_train_timesteps, shifted};
use crate::tensors::mix;
use crate::{Error, Family, Levels, PredictionType, Process, Result};

/// The straight paths of rectified flow and flow matching (Liu et al. 2022; Lipman et al. 2022): at noise level σ the
/// sample is `(1 - σ) clean + σ noise`, and the model, which is told `T σ`, predicts the velocity `noise - clean`.
///
/// Inverted, everything counts from the noise: `σ clean + (1 - σ) noise`, and `clean - noise`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    /// T.
    pub(crate) num_train_timesteps: usize,
    /// By how much noise levels are shifted up where they are drawn or spaced: `s σ / (1 + (s - 1) σ)`.
    pub(crate) shift: f64,
    /// Whether σ is 1 for the image.
    pub(crate) inverted: bool,
}

impl Flow {
    /// Says what is out of range.
    pub(crate) fn check(&self, class_name: &str) -> Result<()> {
        check_train_timesteps(class_name, self.num_train_timesteps, 1)?;
        check_positive(class_name, &[("shift", self.shift)])
    }

    pub(crate) fn shifted(&self, sigma: f64) -> f64 {
        shifted(sigma, self.shift)
    }

    /// `n` noise levels from the highest of training down to the lowest. As in diffusers they are shifted twice: first those
    /// of training, between which they lie, and then themselves.
    pub(crate) fn spaced(&self, n: usize) -> Vec<f64> {
        let t = self.num_train_timesteps as f64;
        // in f32, as the levels of training are
        let [max, min] = [1.0, 1.0 / t].map(|sigma| f64::from(self.shifted(sigma) as f32));
        super::linspace_f64(max * t, min * t, n).into_iter().map(|timestep| timestep / t).collect()
    }

    /// What the model is told of a noise level.
    pub(crate) fn level(&self, sigma: f32) -> f32 {
        sigma * self.num_train_timesteps as f32
    }

    /// The process of training, which draws from the shifted levels.
    pub(crate) fn process(self) -> Process {
        let (t, shift) = (self.num_train_timesteps, self.shift);
        let level = move |i: usize| {
            let sigma = shifted(i as f64 / t as f64, shift) as f32;
            self.level(if self.inverted { 1.0 - sigma } else { sigma })
        };
        let levels = Levels::one_of((1..=t).rev().map(level));
        let sign = if self.inverted { -1.0 } else { 1.0 };
        Process::new(levels, PredictionType::FlowPrediction, move |level| self.alpha_sigma(level / t as f32))
            .target_weights(move |_| (-sign, sign))
            .up_to(t)
            .of_family(Family::Flow(PredictionType::FlowPrediction))
    }

    /// The image that the velocity `output` leads to from a sample at noise level `sigma`.
    pub(crate) fn original_sample(&self, output: &Tensor, sample: &Tensor, sigma: f32) -> Result<Tensor> {
        let end = if self.inverted { 1.0 } else { 0.0 };
        mix(1.0, sample, end - sigma, output)
    }

    /// `(α, σ)` of a sample.
    pub(crate) fn alpha_sigma(&self, sigma: f32) -> (f32, f32) {
        if self.inverted { (sigma, 1.0 - sigma) } else { (1.0 - sigma, sigma) }
    }
}

/// Noise levels stretched so that the last is `terminal`; `None` where the last is 1, and nothing can be stretched.
pub(crate) fn stretched_to(sigmas: &[f64], terminal: f64) -> Option<Vec<f64>> {
    // in numpy's order, which decides where timesteps are cut off
    let divisor = (1.0 - sigmas.last()?) / (1.0 - terminal);
    (divisor != 0.0).then(|| sigmas.iter().map(|sigma| 1.0 - (1.0 - sigma) / divisor).collect())
}

/// Refuses levels asked for by hand that do not descend, or do not lie between 0 and `highest`.
pub(crate) fn check_flow_levels(class_name: &str, levels: &[f64], highest: f64) -> Result<()> {
    let refuse = |reason: String| Err(Error::Steps { class_name: class_name.to_owned(), steps: levels.len(), reason });
    if levels.is_empty() {
        return refuse("at least one is needed".into());
    }
    if let Some(bad) = levels.iter().find(|level| !(0.0..=highest).contains(*level)) {
        return refuse(format!("{bad} is not between 0 and {highest}"));
    }
    match levels.array_windows().find(|[a, b]| b >= a) {
        Some([a, b]) => refuse(format!("levels have to descend, but {b} follows {a}")),
        None => Ok(()),
    }
}
