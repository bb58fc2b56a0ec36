use crate::prelude::*;

config! {
    /// The noise levels and the preconditioning of EDM (Karras et al. 2022, table 1), under diffusers' names.
    ///
    /// The model is conditioned on `ln(σ) / 4` and sees `x / sqrt(σ² + σ_data²)`; its output `F` stands for the image
    /// `c_skip x + c_out F`.
    pub struct EDMConfig {
        /// The lowest noise level.
        pub sigma_min: f64 = 0.002,
        /// The highest noise level.
        pub sigma_max: f64 = 80.0,
        /// The standard deviation of the images' pixels.
        pub sigma_data: f64 = 0.5,
        /// How the noise levels lie between the two.
        pub sigma_schedule: SigmaSchedule = SigmaSchedule::Karras,
        /// How many steps the levels that training draws are apart: there is one more of them.
        pub num_train_timesteps: usize = 1000,
        /// `epsilon`, or `v_prediction`, which turns the sign of the model's output.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// ρ, how much closer together the levels of `karras` lie where there is little noise.
        pub rho: f64 = 7.0,
    }
}

/// How noise levels lie between the highest and the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SigmaSchedule {
    /// Evenly in `σ^(1/ρ)` (Karras et al. 2022, equation 5).
    Karras,
    /// Evenly in `log σ`.
    Exponential,
}

impl EDMConfig {
    /// Says what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        self.prediction_type.only(&[PredictionType::Epsilon, PredictionType::VPrediction])?;
        check_sigma_range(self.sigma_min, self.sigma_max)?;
        check_positive(&[("sigma_data", self.sigma_data), ("rho", self.rho)])?;
        check_train_timesteps(self.num_train_timesteps, 1)
    }

    /// `n` noise levels, descending from the highest to the lowest.
    pub(crate) fn sigmas(&self, n: usize) -> Vec<f64> {
        match self.sigma_schedule {
            SigmaSchedule::Karras => karras(self.sigma_max, self.sigma_min, self.rho, n),
            SigmaSchedule::Exponential => {
                linspace_f64(self.sigma_max.ln(), self.sigma_min.ln(), n).into_iter().map(f64::exp).collect()
            }
        }
    }

    /// What the model is conditioned on: `ln(σ) / 4`.
    fn c_noise(&self, sigma: f32) -> f32 {
        0.25 * sigma.ln()
    }

    /// What the sample is scaled by for the model: `1 / sqrt(σ² + σ_data²)`.
    fn c_in(&self, sigma: f32) -> f32 {
        1.0 / (sigma * sigma + (self.sigma_data * self.sigma_data) as f32).sqrt()
    }

    /// The plan of a run, whose last step begins at the `lowest` level and leads to `last(lowest)`.
    pub(crate) fn plan(&self, schedule: &Schedule, last: impl Fn(f64) -> f64) -> Result<Plan> {
        let sigmas = match schedule {
            Schedule::Sigmas(sigmas) => {
                check_descending(sigmas)?;
                sigmas.clone()
            }
            schedule => {
                let mut sigmas = self.sigmas(check_count(schedule.num_steps())?);
                sigmas.push(last(sigmas[sigmas.len() - 1]));
                sigmas
            }
        };
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).collect();
        let calls = sigmas[..sigmas.len() - 1].to_vec();
        let timesteps = calls.iter().map(|&sigma| self.c_noise(sigma)).collect();
        let plan = Plan::exploding(timesteps, sigmas, &calls, |sigma| self.c_in(sigma));
        Ok(Plan { init_noise_sigma: (self.sigma_max * self.sigma_max + 1.0).sqrt() as f32, ..plan })
    }

    /// The clean image that a model's output for `sample` stands for.
    pub(crate) fn denoised(&self, output: &Tensor, sample: &Tensor, sigma: f32) -> Result<Tensor> {
        let (c_skip, c_out) = self.c_skip_out(sigma);
        mix(c_skip, sample, c_out, output)
    }

    /// The weights of the sample and of the model's output in the image.
    fn c_skip_out(&self, sigma: f32) -> (f32, f32) {
        let (sigma_data, variance_data) = (self.sigma_data as f32, (self.sigma_data * self.sigma_data) as f32);
        let c_out = sigma * sigma_data / (sigma * sigma + variance_data).sqrt();
        let sign = if self.prediction_type == PredictionType::VPrediction { -1.0 } else { 1.0 };
        (variance_data / (sigma * sigma + variance_data), sign * c_out)
    }

    /// The process of models with this preconditioning: `x₀ + σ ε`, whose target is the output that stands for the
    /// clean image, `(x₀ - c_skip x) / c_out`. The signal-to-noise ratio is `1 / σ²`, whatever the images' own
    /// variance.
    pub(crate) fn process(&self) -> Process {
        let levels = self.sigmas(self.num_train_timesteps + 1).into_iter().map(|sigma| self.c_noise(sigma as f32));
        let (levels, [target, input]) = (Levels::one_of(levels), [(); 2].map(|()| self.clone()));
        let sigma_data = self.sigma_data as f32;
        let sign = if self.prediction_type == PredictionType::VPrediction { -1.0 } else { 1.0 };
        Process::new(levels, self.prediction_type, |level| (1.0, sigma_of(level)))
            .target_weights(move |level| {
                let c_in = sign * target.c_in(sigma_of(level));
                (c_in * sigma_of(level) / sigma_data, -c_in * sigma_data)
            })
            .model_input(move |level| (input.c_in(sigma_of(level)), 0.0))
            .with_snr(|level| sigma_of(level).powi(-2))
            .of_family(Family::Edm(self.prediction_type))
    }
}

/// σ of a level, which is `ln(σ) / 4`.
fn sigma_of(level: f32) -> f32 {
    (4.0 * f64::from(level)).exp() as f32
}
