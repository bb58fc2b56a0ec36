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
        let (config, ets, sum, begin) = (self.clone(), vec![], None, None);
        let mut method = PNDMStep { config, alphas, stride, ets, sum, begin };

        Sampling::begin(plan, 0, move |call, _| {
            let x0 = call.x0(method.config.prediction_type)?;
            let transfer = if call.i < prk_calls { method.runge_kutta(call)? } else { method.multistep(call)? };
            Ok(StepOutput { prev_sample: method.transfer(&transfer)?, pred_original_sample: x0 })
        })
    }
}

/// What a run remembers.
struct PNDMStep {
    config: PNDMConfig,
    alphas: Alphas,
    /// By how many timesteps of training a step leads down.
    stride: i64,
    /// The model's output at the beginning of the last four steps, the newest last.
    ets: Vec<Tensor>,
    /// The outputs of a Runge-Kutta step so far, weighted.
    sum: Option<Tensor>,
    /// The sample that a step of several calls began with.
    begin: Option<Tensor>,
}

/// A transfer: the output to go by, the sample to begin with, and the timesteps between which it leads.
struct Transfer {
    output: Tensor,
    sample: Tensor,
    t: i64,
    prev_t: i64,
}

impl PNDMStep {
    /// A call of a Runge-Kutta step (equation 13).
    fn runge_kutta(&mut self, call: &Call) -> Result<Transfer> {
        let first = call.i / 4 * 4;
        let (t, here) = (call.plan.timesteps[first] as i64, call.timestep() as i64);
        let prev_t = if call.i.is_multiple_of(2) { here - self.stride / 2 } else { here };
        let weighted = scale(&call.output, if matches!(call.i % 4, 0 | 3) { 1.0 / 6.0 } else { 1.0 / 3.0 })?;
        let sum = match self.sum.take() {
            Some(sum) => (sum + weighted)?,
            None => weighted,
        };
        if call.i == first {
            self.ets.push(call.output.clone());
        }
        let sample = self.begin.take().unwrap_or_else(|| call.sample.clone());
        if call.i % 4 == 3 {
            return Ok(Transfer { output: sum, sample, t, prev_t });
        }
        (self.sum, self.begin) = (Some(sum), Some(sample.clone()));
        Ok(Transfer { output: call.output.clone(), sample, t, prev_t })
    }

    /// A call of the linear multistep method (equation 12).
    fn multistep(&mut self, call: &Call) -> Result<Transfer> {
        let t = call.timestep() as i64;
        if let (1, [first], Some(begin)) = (call.i, self.ets.as_slice(), &self.begin) {
            // the first step again, by the mean of both its ends
            let output = ((&call.output + first)? / 2.0)?;
            let sample = begin.clone();
            self.begin = None;
            return Ok(Transfer { output, sample, t: t + self.stride, prev_t: t });
        }
        if call.i == 0 {
            self.begin = Some(call.sample.clone());
        }
        self.ets.push(call.output.clone());
        if self.ets.len() > 4 {
            self.ets.remove(0);
        }
        let mut output = call.output.zeros_like()?;
        for (et, &weight) in self.ets.iter().zip(adams_bashforth(self.ets.len()).iter().rev()) {
            output = mix(1.0, &output, weight, et)?;
        }
        Ok(Transfer { output, sample: call.sample.clone(), t, prev_t: t - self.stride })
    }

    /// From timestep `t` to `prev_t` (equation 9).
    fn transfer(&self, Transfer { output, sample, t, prev_t }: &Transfer) -> Result<Tensor> {
        let Self { config, alphas, .. } = self;
        let final_alpha = if config.set_alpha_to_one { 1.0 } else { alphas.at(0, 1.0) };
        let (alpha_prod, alpha_prod_prev) = (alphas.of_call(*t), alphas.at(*prev_t, final_alpha));
        let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);
        let epsilon = config.prediction_type.epsilon(output, sample, alpha_prod.sqrt(), beta_prod.sqrt())?;
        let divisor = alpha_prod * beta_prod_prev.sqrt() + (alpha_prod * beta_prod * alpha_prod_prev).sqrt();
        // without noise at both ends there is none to take away
        let of_epsilon = if divisor > 0.0 { (alpha_prod_prev - alpha_prod) / divisor } else { 0.0 };
        mix((alpha_prod_prev / alpha_prod).sqrt(), sample, -of_epsilon, &epsilon)
    }
}
