use crate::prelude::*;

config! {
    /// The noise levels of a flow (Liu et al. 2022), under diffusers' names: `x = (1 - σ) x₀ + σ ε` in place of a
    /// diffusion's `sqrt(ᾱ) x₀ + sqrt(1 - ᾱ) ε`.
    #[derive(Copy)]
    pub struct FlowConfig {
        /// Whether images are noised as in a flow; timestep `t` of T then has the noise level `t / T`.
        pub use_flow_sigmas: bool = false,
        /// How much more of a sampling is spent at high noise levels: `s σ / (1 + (s - 1) σ)` in place of σ; 1 is even.
        pub flow_shift: f64 = 1.0,
    }
}

/// A shift of a flow's schedule for each run, under diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DynamicShiftConfig {
    /// Whether the run's [`mu`](crate::RunOptions::mu) takes the place of `flow_shift`.
    pub use_dynamic_shifting: bool,
    /// What `mu` is.
    pub time_shift_type: TimeShiftType,
}

/// What `mu` is to the shift of a flow's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimeShiftType {
    /// Its logarithm.
    #[default]
    Exponential,
    /// The shift itself.
    Linear,
}

impl FlowConfig {
    /// Says what is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        check_positive(&[("flow_shift", self.flow_shift)])
    }
}

impl DynamicShiftConfig {
    /// Refuses what has no flow to shift, and types that the scheduler does not know.
    pub(crate) fn check(&self, flow: &FlowConfig, known: &[TimeShiftType]) -> Result<()> {
        if !self.use_dynamic_shifting {
            return Ok(());
        }
        ensure(flow.use_flow_sigmas, || {
            Error::config("use_dynamic_shifting shifts the noise levels of a flow, but use_flow_sigmas is false")
        })?;
        ensure(known.contains(&self.time_shift_type), || {
            Error::config(format!("it has no time_shift_type {:?}; it knows {known:?}", self.time_shift_type))
        })
    }

    /// The shift of a run; `None` where it is to be the configuration's.
    pub(crate) fn shift(&self, mu: Option<f64>) -> Result<Option<f64>> {
        let Some(mu) = mu else { return Ok(None) };
        ensure(self.use_dynamic_shifting, || Error::unsupported("shift by `mu` unless use_dynamic_shifting is true"))?;
        self.time_shift_type.shift(mu).map(Some)
    }
}

impl TimeShiftType {
    /// The shift that `mu` stands for.
    pub(crate) fn shift(self, mu: f64) -> Result<f64> {
        let (shift, expected) = match self {
            Self::Exponential => (mu.exp(), "it must be a number, and its exponential neither 0 nor infinite"),
            Self::Linear => (mu, "it must be a number above 0"),
        };
        ensure(shift.is_finite() && shift > 0.0, || Error::OptionValue { option: "mu", value: mu, expected })?;
        Ok(shift)
    }
}

/// The straight paths of rectified flow and flow matching (Liu et al. 2022; Lipman et al. 2022): at noise level σ the
/// sample is `(1 - σ) clean + σ noise`, and the model, which is conditioned on `T σ`, predicts the velocity `noise -
/// clean`.
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
    pub(crate) fn check(&self) -> Result<()> {
        check_train_timesteps(self.num_train_timesteps, 1)?;
        check_positive(&[("shift", self.shift)])
    }

    pub(crate) fn shifted(&self, sigma: f64) -> f64 {
        shifted(sigma, self.shift)
    }

    /// `n` noise levels from the highest of training down to the lowest. As in diffusers they are shifted twice: first
    /// those of training, between which they lie, and then themselves.
    pub(crate) fn spaced(&self, n: usize) -> Vec<f64> {
        let t = self.num_train_timesteps as f64;
        // in f32, as the levels of training are
        let [max, min] = [1.0, 1.0 / t].map(|sigma| f64::from(self.shifted(sigma) as f32));
        linspace_f64(max * t, min * t, n).into_iter().map(|timestep| timestep / t).collect()
    }

    /// What the model is conditioned on.
    pub(crate) fn timestep(&self, sigma: f32) -> f32 {
        sigma * self.num_train_timesteps as f32
    }

    /// The process of training, which draws from the shifted levels.
    pub(crate) fn process(self) -> Process {
        let (t, shift) = (self.num_train_timesteps, self.shift);
        let level = move |i: usize| {
            let sigma = shifted(i as f64 / t as f64, shift) as f32;
            self.timestep(if self.inverted { 1.0 - sigma } else { sigma })
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

/// Noise levels stretched so that the last is `terminal`, where that is above 0.
pub(crate) fn stretched_to(sigmas: Vec<f64>, terminal: Option<f64>) -> Result<Vec<f64>> {
    let (Some(terminal), Some(last)) = (terminal.filter(|terminal| *terminal > 0.0), sigmas.last()) else {
        return Ok(sigmas);
    };
    // in numpy's order, which decides where timesteps are cut off
    let divisor = (1.0 - last) / (1.0 - terminal);
    ensure(divisor != 0.0, || {
        let reason = format!("shift_terminal is {terminal}, but its only step begins at 1; more would do");
        Error::steps(sigmas.len(), reason)
    })?;
    Ok(sigmas.iter().map(|sigma| 1.0 - (1.0 - sigma) / divisor).collect())
}

/// The same, and a noise level at which nothing is left of the image, so that its λ is infinite, is brought below.
pub(crate) fn stretched(sigmas: Vec<f64>, terminal: Option<f64>) -> Result<Vec<f64>> {
    let mut sigmas = stretched_to(sigmas, terminal)?;
    if let Some(first) = sigmas.first_mut().filter(|first| (**first - 1.0).abs() < 1e-6) {
        *first -= 1e-6;
    }
    Ok(sigmas)
}

/// Refuses a `shift_terminal` that is no noise level.
pub(crate) fn check_terminal(terminal: Option<f64>) -> Result<()> {
    match terminal.filter(|terminal| !(0.0..1.0).contains(terminal)) {
        Some(terminal) => Err(Error::config(format!(
            "shift_terminal is {terminal}; it must be a noise level of at least 0 and below 1"
        ))),
        None => Ok(()),
    }
}

/// Refuses levels asked for by hand that do not descend, or do not lie between 0 and `highest`.
pub(crate) fn check_flow_levels(levels: &[f64], highest: f64) -> Result<()> {
    let refuse = |reason: String| Err(Error::steps(levels.len(), reason));
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

/// The noise level that the shift `s` puts in the place of `sigma`.
pub(crate) fn shifted(sigma: f64, s: f64) -> f64 {
    s * sigma / (1.0 + (s - 1.0) * sigma)
}

/// The same in the order in which diffusers computes it for a run's own shift.
pub(crate) fn shifted_by_run(sigma: f64, s: f64) -> f64 {
    s / (s + (1.0 / sigma - 1.0))
}
