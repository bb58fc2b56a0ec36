use candle_core::Tensor;
use kakusan_rng::Generator;

use super::{BetaConfig, PredictionType, interpolate};
use crate::tensors::{check_same, levels_of, per_image};
use crate::{Draw, Error, Result, Steps};

/// ᾱ_t, the share of the image's variance that is left at timestep `t`, for every timestep of training; and with it the
/// training side of all schedulers that have betas.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alphas {
    cumprod: Vec<f32>,
    sigmas: Vec<f32>,
}

impl Alphas {
    /// The products of a configuration's `1 - β`; with `zero_snr` rescaled so that the last is 0 (Lin et al. 2023,
    /// algorithm 1).
    pub(crate) fn new(config: &BetaConfig, zero_snr: bool) -> Self {
        let betas = config.betas();
        Self::from_cumprod(cumulative_product(&if zero_snr { rescale_zero_terminal_snr(&betas) } else { betas }))
    }

    /// The same with the last ᾱ at 2^-24 where it would be 0, so that σ stays finite.
    pub(crate) fn with_finite_sigmas(config: &BetaConfig, zero_snr: bool) -> Self {
        let mut cumprod = Self::new(config, zero_snr).cumprod;
        if let (true, Some(last)) = (zero_snr, cumprod.last_mut()) {
            *last = 2f32.powi(-24);
        }
        Self::from_cumprod(cumprod)
    }

    fn from_cumprod(cumprod: Vec<f32>) -> Self {
        let sigmas = cumprod.iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect();
        Self { cumprod, sigmas }
    }

    /// T, the number of timesteps.
    pub(crate) fn len(&self) -> usize {
        self.cumprod.len()
    }

    /// ᾱ of a timestep; after the last step, where `t` is below 0, `before_first`.
    pub(crate) fn at(&self, t: i64, before_first: f32) -> f32 {
        match usize::try_from(t) {
            Ok(t) => self.cumprod.get(t).copied().unwrap_or(f32::NAN),
            Err(_) => before_first,
        }
    }

    /// ᾱ at which the model is called. Timestep -1, at which a `trailing` run may end, counts from the end, as in diffusers.
    pub(crate) fn of_call(&self, t: i64) -> f32 {
        self.at(if t < 0 { self.len() as i64 + t } else { t }, f32::NAN)
    }

    /// Refuses what is not a share: β that cannot be rescaled.
    pub(crate) fn check(&self, class_name: &str) -> Result<()> {
        match self.cumprod.iter().position(|alpha| !alpha.is_finite()) {
            Some(_) => {
                let reason = "rescale_betas_zero_snr cannot rescale these betas: there have to be two timesteps or more, and \
                              of the image less at the last than at the first, but something before the last";
                Err(Error::Config { class_name: class_name.to_owned(), reason: reason.into() })
            }
            None => Ok(()),
        }
    }

    /// The same, and an infinite σ.
    pub(crate) fn check_sigmas(&self, class_name: &str) -> Result<()> {
        self.check(class_name)?;
        match self.sigmas.iter().position(|sigma| !sigma.is_finite()) {
            Some(t) => {
                let reason = format!(
                    "the betas leave nothing of the image at timestep {t}, so that its noise level against the image is \
                     infinite: take smaller ones, or fewer timesteps"
                );
                Err(Error::Config { class_name: class_name.to_owned(), reason })
            }
            None => Ok(()),
        }
    }

    pub(crate) fn cumprod(&self) -> &[f32] {
        &self.cumprod
    }

    /// σ_t = sqrt((1 - ᾱ_t) / ᾱ_t) of every timestep, in ascending order.
    pub(crate) fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// Refuses model calls where the sample is noise alone and the model predicts just that: the image would be 0 / 0. With
    /// `clips` it is what that is clipped to.
    pub(crate) fn check_calls(
        &self,
        class_name: &str,
        steps: &Steps,
        predicts: PredictionType,
        clips: bool,
    ) -> Result<()> {
        let mut calls = steps.timesteps()[steps.index()?..].iter();
        match calls.find(|&&level| self.of_call(level as i64) == 0.0) {
            Some(t) if predicts == PredictionType::Epsilon && !clips => {
                let what = format!(
                    "call the model at timestep {t} with prediction_type epsilon: that sample is noise alone and does not \
                     tell of an image (Lin et al. 2023); train for v_prediction, or space timesteps leading, or set clip_sample"
                );
                Err(Error::Unsupported { class_name: class_name.to_owned(), what })
            }
            _ => Ok(()),
        }
    }

    /// Standard normal noise, then a timestep for each image: the order of diffusers' training scripts.
    pub(crate) fn draw(&self, clean: &Tensor, rng: &mut Generator) -> Result<Draw> {
        let batch = clean.dim(0)?;
        let noise = Tensor::from_vec(rng.randn(clean.elem_count()), clean.dims(), clean.device())?;
        let timesteps = rng.randint(batch, 0, self.len() as i64)?;
        let levels = timesteps.into_iter().map(|t| t as f32).collect();
        Ok(Draw { noise, levels: Tensor::from_vec(levels, batch, clean.device())? })
    }

    /// `sqrt(ᾱ) clean + sqrt(1 - ᾱ) noise` (Ho et al. 2020, equation 4).
    pub(crate) fn add_noise(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        check_same("the noise", noise, clean)?;
        let alphas = self.of_levels(&levels_of(levels, clean)?)?;
        weighted(clean, &alphas, |alpha| alpha.sqrt(), noise, |alpha| (1.0 - alpha).sqrt())
    }

    /// The shares of image and noise at a timestep.
    pub(crate) fn shares(&self, t: f32) -> (f32, f32) {
        let alpha = self.of_call(t as i64);
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    /// `clean + σ noise` (Karras et al. 2022), between timesteps with σ in between.
    pub(crate) fn add_noise_by_sigma(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        check_same("the noise", noise, clean)?;
        let sigmas = self.sigmas_of_levels(&levels_of(levels, clean)?)?;
        Ok((clean + noise.broadcast_mul(&per_image(sigmas, clean)?)?)?)
    }

    /// `sample / sqrt(σ² + 1)`: what a model wants to see of [`add_noise_by_sigma`](Self::add_noise_by_sigma).
    pub(crate) fn scale_by_sigma(&self, sample: &Tensor, levels: &Tensor) -> Result<Tensor> {
        let sigmas = self.sigmas_of_levels(&levels_of(levels, sample)?)?;
        let factors = sigmas.into_iter().map(|sigma| 1.0 / (sigma * sigma + 1.0).sqrt()).collect();
        Ok(sample.broadcast_mul(&per_image(factors, sample)?)?)
    }

    /// What the model has to predict. The velocity is `sqrt(ᾱ) noise - sqrt(1 - ᾱ) clean` (Salimans and Ho 2022).
    pub(crate) fn target(
        &self,
        prediction_type: PredictionType,
        clean: &Tensor,
        noise: &Tensor,
        levels: &Tensor,
    ) -> Result<Tensor> {
        check_same("the noise", noise, clean)?;
        let levels = levels_of(levels, clean)?;
        match prediction_type {
            PredictionType::Epsilon => Ok(noise.clone()),
            PredictionType::Sample => Ok(clean.clone()),
            PredictionType::FlowPrediction => Ok((noise - clean)?),
            PredictionType::VPrediction => {
                let alphas = self.of_levels(&levels)?;
                weighted(noise, &alphas, |alpha| alpha.sqrt(), clean, |alpha| -(1.0 - alpha).sqrt())
            }
        }
    }

    /// The signal-to-noise ratio `ᾱ / (1 - ᾱ)` of each level `[b]`.
    pub(crate) fn snr(&self, levels: &Tensor) -> Result<Tensor> {
        let ratios = self.of_levels(&levels.to_vec1::<f32>()?)?.into_iter().map(|alpha| alpha / (1.0 - alpha));
        Ok(Tensor::from_vec(ratios.collect(), levels.dims(), levels.device())?)
    }

    fn of_levels(&self, levels: &[f32]) -> Result<Vec<f32>> {
        levels.iter().map(|&level| self.of_level(level)).collect()
    }

    /// ᾱ of a timestep, or that of the σ between two.
    fn of_level(&self, level: f32) -> Result<f32> {
        match self.cumprod.get(level.max(0.0) as usize) {
            Some(&alpha) if level.fract() == 0.0 && level >= 0.0 => Ok(alpha),
            _ => Ok(1.0 / (self.sigma_of_level(level)?.powi(2) + 1.0)),
        }
    }

    fn sigmas_of_levels(&self, levels: &[f32]) -> Result<Vec<f32>> {
        levels.iter().map(|&level| self.sigma_of_level(level)).collect()
    }

    fn sigma_of_level(&self, level: f32) -> Result<f32> {
        let last = self.len() - 1;
        match (0.0..=last as f32).contains(&level) {
            true => Ok(interpolate(level.into(), &self.sigmas) as f32),
            false => Err(Error::Level { level, last }),
        }
    }
}

/// `a(ᾱ) x + b(ᾱ) y`, with each image's own ᾱ.
fn weighted(x: &Tensor, alphas: &[f32], a: impl Fn(f32) -> f32, y: &Tensor, b: impl Fn(f32) -> f32) -> Result<Tensor> {
    let a = per_image(alphas.iter().map(|&alpha| a(alpha)).collect(), x)?;
    let b = per_image(alphas.iter().map(|&alpha| b(alpha)).collect(), y)?;
    Ok((x.broadcast_mul(&a)? + y.broadcast_mul(&b)?)?)
}

/// `torch.cumprod(1 - betas)`: torch multiplies in f64 and rounds each product.
fn cumulative_product(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0;
    let next = |beta: &f32| {
        product *= f64::from(1.0 - beta);
        product as f32
    };
    betas.iter().map(next).collect()
}

/// Betas whose last ᾱ is 0 and whose first is as before (Lin et al. 2023, algorithm 1).
fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative_product(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return vec![] };
    let factor = first / (first - last);
    let alphas: Vec<f32> = roots.iter().map(|root| ((root - last) * factor).powi(2)).collect();
    let before = std::iter::once(1.0).chain(alphas.iter().copied());
    alphas.iter().zip(before).map(|(alpha, before)| 1.0 - alpha / before).collect()
}
