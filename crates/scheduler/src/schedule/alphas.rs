use crate::prelude::*;

/// ᾱ_t, the part of the image's variance that is left at timestep `t`, for every timestep of training.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alphas {
    cumprod: Arc<[f32]>,
    sigmas: Arc<[f32]>,
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
        let mut cumprod = Self::new(config, zero_snr).cumprod.to_vec();
        if let (true, Some(last)) = (zero_snr, cumprod.last_mut()) {
            *last = 2f32.powi(-24);
        }
        Self::from_cumprod(cumprod)
    }

    fn from_cumprod(cumprod: Vec<f32>) -> Self {
        let sigmas = cumprod.iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect();
        Self { cumprod: cumprod.into(), sigmas }
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

    /// ᾱ at which the model is called. Timestep -1, at which a `trailing` run may end, counts from the end, as in
    /// diffusers.
    pub(crate) fn of_call(&self, t: i64) -> f32 {
        self.at(if t < 0 { self.len() as i64 + t } else { t }, f32::NAN)
    }

    /// Refuses ᾱ that are not finite: betas that cannot be rescaled.
    pub(crate) fn check(&self) -> Result<()> {
        let is_finite = self.cumprod.iter().all(|alpha| alpha.is_finite());
        ensure(is_finite, || {
            Error::config(
                "rescale_betas_zero_snr cannot rescale these betas: there have to be two timesteps or more, and of the \
                 image less at the last than at the first, but something before the last",
            )
        })
    }

    /// The same, and an infinite σ.
    pub(crate) fn check_sigmas(&self) -> Result<()> {
        self.check()?;
        let Some(t) = self.sigmas.iter().position(|sigma| !sigma.is_finite()) else { return Ok(()) };
        Err(Error::config(format!(
            "the betas leave nothing of the image at timestep {t}, so that its noise level against the image is \
             infinite: take smaller ones, or fewer timesteps"
        )))
    }

    pub(crate) fn cumprod(&self) -> &[f32] {
        &self.cumprod
    }

    /// σ_t = sqrt((1 - ᾱ_t) / ᾱ_t) of every timestep, in ascending order.
    pub(crate) fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// Refuses model calls where ᾱ is 0 and the model predicts ε: x₀ = (x - σ ε) / sqrt(ᾱ) would be 0 / 0. With `clips`
    /// it is what that is clipped to.
    pub(crate) fn check_calls(
        &self,
        timesteps: &[f32],
        start: usize,
        prediction: PredictionType,
        clips: bool,
    ) -> Result<()> {
        match timesteps.iter().skip(start).find(|&&t| self.of_call(t as i64) == 0.0) {
            Some(t) if prediction == PredictionType::Epsilon && !clips => Err(Error::unsupported(format!(
                "call the model at timestep {t} with prediction_type epsilon: that sample is noise alone and does not \
                 tell of an image (Lin et al. 2023); train for v_prediction, or space timesteps leading, or set clip_sample"
            ))),
            _ => Ok(()),
        }
    }

    /// The variance preserving process: `sqrt(ᾱ) x₀ + sqrt(1 - ᾱ) ε` at each timestep (Ho et al. 2020, equation 4).
    pub(crate) fn preserving(&self, prediction: PredictionType) -> Process {
        let [mix, snr] = [(); 2].map(|()| self.clone());
        Process::new(Levels::timesteps(self.len()), prediction, move |t| roots(mix.at_level(t)))
            .with_snr(move |t| snr.snr_at_level(t))
            .of_family(Family::Diffusion(prediction))
            .with_alphas(self)
    }

    /// The same as a variance exploding process (Karras et al. 2022): `x₀ + σ ε`, of which the model sees
    /// `x / sqrt(σ² + 1)`, the sample of [`preserving`](Self::preserving). A velocity is that of what the model sees.
    pub(crate) fn exploding(&self, prediction: PredictionType) -> Process {
        let [mix, input, snr, target] = [(); 4].map(|()| self.clone());
        let process = Process::new(Levels::timesteps(self.len()), prediction, move |t| (1.0, mix.sigma_at_level(t)))
            .model_input(move |t| (c_in(input.sigma_at_level(t)), 0.0))
            .with_snr(move |t| snr.snr_at_level(t))
            .of_family(Family::Diffusion(prediction))
            .with_alphas(self);
        if prediction != PredictionType::VPrediction {
            return process;
        }
        process.target_weights(move |t| {
            let (alpha, sigma) = roots(target.at_level(t));
            (-sigma, alpha)
        })
    }

    /// `(sqrt(ᾱ), sqrt(1 - ᾱ))` of a sample at a model call.
    pub(crate) fn alpha_sigma(&self, t: f32) -> (f32, f32) {
        roots(self.of_call(t as i64))
    }

    /// ᾱ of a timestep, or that of the σ between two.
    fn at_level(&self, level: f32) -> f32 {
        match self.cumprod.get(level as usize) {
            Some(&alpha_prod) if level.fract() == 0.0 => alpha_prod,
            _ => 1.0 / (self.sigma_at_level(level).powi(2) + 1.0),
        }
    }

    fn snr_at_level(&self, level: f32) -> f32 {
        self.at_level(level) / (1.0 - self.at_level(level))
    }

    fn sigma_at_level(&self, level: f32) -> f32 {
        interpolate(level.into(), &self.sigmas) as f32
    }
}

/// `(sqrt(ᾱ), sqrt(1 - ᾱ))`
fn roots(alpha_prod: f32) -> (f32, f32) {
    (alpha_prod.sqrt(), (1.0 - alpha_prod).sqrt())
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
