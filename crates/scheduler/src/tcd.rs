use crate::prelude::*;

/// Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, algorithm 4): diffusers'
/// `TCDScheduler`.
///
/// A step goes down to timestep `(1 - η) t'` and, but for the last, from there back up to the next timestep `t'` with
/// new noise; η, the paper's γ, is [`RunOptions::eta`], 0.3 where it is not set.
pub type TCDScheduler = Sampler<TCDConfig>;

config! {
    /// The configuration of [`TCDScheduler`], under diffusers' names.
    pub struct TCDConfig {
        /// The process, and what the model was distilled on.
        #[serde(flatten)]
        pub distilled: DistilledConfig = DistilledConfig::default(),
    }
}

impl Method for TCDConfig {
    const CLASS_NAME: &'static str = "TCDScheduler";
    const SUMMARY: &'static str =
        "the sampler of trajectory consistency models, for few steps and for many (Zheng et al. 2024)";
    const SUPPORTS: &'static [Supports] = &[Supports::Timesteps, Supports::Eta];

    fn check(&self) -> Result<()> {
        self.distilled.check()
    }

    fn process(&self) -> Process {
        self.distilled.process()
    }

    fn inference_steps(&self, _: &Process) -> RangeInclusive<usize> {
        1..=self.distilled.original_inference_steps
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let eta = options.eta.unwrap_or(0.3);
        check_eta(eta)?;
        let (alphas, timesteps) = (process.alphas().clone(), self.distilled.timesteps(options)?);
        let (eta, prediction_type) = (eta as f32, self.distilled.prediction_type);
        alphas.check_calls(&timesteps, options.start, prediction_type, false)?;
        let plan = Plan::preserving(timesteps, &alphas);
        let predict = move |call: &Call| call.x0(prediction_type);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let next = call.next_timestep();
            let prev_t = next.unwrap_or(0.0);
            let s = ((1.0 - eta) * prev_t).floor();
            let (alpha_prod_prev, alpha_prod_s) = (alphas.at(prev_t as i64, 1.0), alphas.at(s as i64, 1.0));

            let epsilon = call.epsilon(prediction_type)?;
            let x_s = mix(alpha_prod_s.sqrt(), &x0, (1.0 - alpha_prod_s).sqrt(), &epsilon)?;
            if eta <= 0.0 || next.is_none() {
                return Ok(StepOutput { prev_sample: x_s, pred_original_sample: x0 });
            }
            let kept = alpha_prod_prev / alpha_prod_s;
            let prev_sample = mix(kept.sqrt(), &x_s, (1.0 - kept).sqrt(), &noise_like(call.sample, rng)?)?;
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
