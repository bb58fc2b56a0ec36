use crate::prelude::*;

/// Pseudo numerical methods on manifolds (Liu et al. 2022): diffusers' `PNDMScheduler`.
///
/// Three steps by a Runge-Kutta method of four model calls each, then a linear multistep method of one (algorithm 2).
/// With `skip_prk_steps` the multistep method begins at once, and calls the model twice in its first step.
///
/// As in diffusers every step leads `T / N` timesteps down, rounded to whole ones, whatever the spacing. A run that
/// leaves out steps at its beginning has its own Runge-Kutta steps, or its own doubled step, where it begins; its
/// timesteps are those that it calls the model at. (diffusers goes on there as if it had begun with noise, at wrong
/// timesteps.)
pub type PNDMScheduler = Sampler<PNDMConfig>;

config! {
    /// The configuration of [`PNDMScheduler`], under diffusers' names.
    pub struct PNDMConfig {
        /// The variances of the forward process.
        #[serde(flatten)]
        pub beta: BetaConfig = BetaConfig::default(),
        /// What the model predicts: ε or a velocity.
        pub prediction_type: PredictionType = PredictionType::Epsilon,
        /// Whether to do without the Runge-Kutta steps.
        pub skip_prk_steps: bool = false,
        /// Whether the last step leads to the image; otherwise to the first timestep.
        pub set_alpha_to_one: bool = false,
        /// Which timesteps a sampling visits.
        #[serde(flatten)]
        pub spacing: SpacingConfig = SpacingConfig::default(),
    }
}

impl PNDMConfig {
    /// The timesteps of the Runge-Kutta calls, and of the multistep ones, for steps from these `timesteps` on.
    fn calls(&self, timesteps: &[f32], stride: i64) -> Result<(Vec<f32>, Vec<f32>)> {
        if self.skip_prk_steps {
            let doubled = timesteps.get(1).copied();
            let multistep = timesteps.iter().take(2).copied().chain(doubled).chain(timesteps.iter().skip(2).copied());
            return Ok((vec![], multistep.collect()));
        }
        let &[a, b, c, d, ..] = timesteps else {
            let reason = format!(
                "its Runge-Kutta steps need at least 4 to go on from, and there are {}; skip_prk_steps does without",
                timesteps.len()
            );
            return Err(Error::steps(timesteps.len(), reason));
        };
        let half = (stride / 2) as f32;
        let step = |from: f32, to: f32| [from, to + half, to + half, to];
        Ok(([step(a, b), step(b, c), step(c, d)].concat(), timesteps[3..].to_vec()))
    }
}

impl Method for PNDMConfig {
    const CLASS_NAME: &'static str = "PNDMScheduler";
    const SUMMARY: &'static str =
        "Runge-Kutta and linear multistep methods of fourth order in DDIM's terms (Liu et al. 2022)";

    fn check(&self) -> Result<()> {
        self.prediction_type.only(PredictionType::EPSILON_OR_V)?;
        self.beta.check(BetaSchedule::USUAL)?;
        self.process().alphas().check()
    }

    fn process(&self) -> Process {
        Alphas::new(&self.beta, false).preserving(self.prediction_type)
    }

    /// At least 4 with Runge-Kutta steps, which the multistep method goes on from.
    fn inference_steps(&self, _: &Process) -> RangeInclusive<usize> {
        let t = self.beta.num_train_timesteps;
        if self.skip_prk_steps { 1..=t } else { 4..=t.max(4) }
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let alphas = process.alphas().clone();
        let timesteps = self.spacing.whole(alphas.len(), options.num_steps())?;
        let stride = (alphas.len() / options.num_steps()) as i64;
        let kept = Steps::new(timesteps, options.start)?;
        let (runge_kutta, multistep) = self.calls(&kept.timesteps()[options.start..], stride)?;
        let prk_calls = runge_kutta.len();
        let calls = [runge_kutta, multistep].concat();
        if let Some(t) = calls.iter().find(|&&t| alphas.of_call(t as i64) == 0.0) {
            return Err(Error::unsupported(format!(
                "call the model at timestep {t}, where the betas leave nothing of the image: take smaller ones"
            )));
        }
        let plan = Plan::preserving(calls, &alphas);
        let final_alpha = if self.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) };
        let (prediction_type, ets, sum, begin) = (self.prediction_type, vec![], None, None);
        let predict = move |call: &Call| call.x0(prediction_type);
        let mut method = PseudoNumerical { prediction_type, alphas, final_alpha, stride, ets, sum, begin };

        Sampling::begin(plan, 0, predict, move |call, x0, _| {
            let transfer = if call.i < prk_calls { method.runge_kutta(call)? } else { method.multistep(call)? };
            Ok(StepOutput { prev_sample: method.transfer(&transfer)?, pred_original_sample: x0 })
        })
    }
}
