use candle_core::Tensor;
use kakusan_rng::Generator;

use super::{check_positive, check_train_timesteps, shifted};
use crate::tensors::{draw_from, mix, mix_by_level, of_levels};
use crate::{Draw, Error, Result};

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

    /// Noise, and one of the shifted levels of training for each image.
    pub(crate) fn draw(&self, clean: &Tensor, rng: &mut Generator) -> Result<Draw> {
        let t = self.num_train_timesteps;
        let level = |i: usize| {
            let sigma = self.shifted(i as f64 / t as f64) as f32;
            self.level(if self.inverted { 1.0 - sigma } else { sigma })
        };
        draw_from(&(1..=t).rev().map(level).collect::<Vec<_>>(), clean, rng)
    }

    pub(crate) fn add_noise(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        mix_by_level(clean, noise, levels, |level| {
            let last = self.num_train_timesteps;
            match (0.0..=last as f32).contains(&level) {
                true => Ok(self.shares(level / last as f32)),
                false => Err(Error::Level { level, last }),
            }
        })
    }

    pub(crate) fn target(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        let sign = if self.inverted { -1.0 } else { 1.0 };
        mix_by_level(clean, noise, levels, |_| Ok((-sign, sign)))
    }

    /// The share of the image over that of the noise, squared.
    pub(crate) fn snr(&self, levels: &Tensor) -> Result<Tensor> {
        of_levels(levels, |level| {
            let (of_clean, of_noise) = self.shares(level / self.num_train_timesteps as f32);
            (of_clean / of_noise).powi(2)
        })
    }

    /// The image that the velocity `output` leads to from a sample at noise level `sigma`.
    pub(crate) fn original_sample(&self, output: &Tensor, sample: &Tensor, sigma: f32) -> Result<Tensor> {
        let end = if self.inverted { 1.0 } else { 0.0 };
        mix(1.0, sample, end - sigma, output)
    }

    /// The shares of the image and of the noise in a sample.
    pub(crate) fn shares(&self, sigma: f32) -> (f32, f32) {
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
