use crate::prelude::*;

/// Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, algorithm 4): diffusers'
/// `TCDScheduler`.
///
/// A step goes down to timestep `(1 - η) t'` and, but for the last, from there back up to the next timestep `t'` with
/// new noise; η, the paper's γ, is [`RunOptions::eta`], 0.3 where it is not set.
pub type TCDScheduler = Sampler<TCDConfig>;

/// The configuration of [`TCDScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TCDConfig {
    /// The process, and what the model was distilled on.
    #[serde(flatten)]
    pub distilled: DistilledConfig,
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
        self.distilled.alphas().preserving(self.distilled.prediction_type)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=self.distilled.original_inference_steps
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let eta = options.eta.unwrap_or(0.3);
        if !(0.0..=1.0).contains(&eta) {
            return Err(Error::OptionValue { option: "eta", value: eta, expected: "it must be between 0 and 1" });
        }
        let (alphas, timesteps) = (self.distilled.alphas(), self.distilled.timesteps(options)?);
        let prediction_type = self.distilled.prediction_type;
        alphas.check_calls(&timesteps, options.start, prediction_type, false)?;
        let plan = Plan::preserving(timesteps, &alphas);
        Sampling::begin(plan, options.start, TCDStep { prediction_type, alphas, eta: eta as f32 })
    }
}

#[derive(Debug)]
struct TCDStep {
    prediction_type: PredictionType,
    alphas: Alphas,
    eta: f32,
}

impl Step for TCDStep {
    fn step(&mut self, call: &Call, rng: &mut dyn Noise) -> Result<StepOutput> {
        let next = call.next_timestep();
        let prev_t = next.unwrap_or(0.0);
        let s = ((1.0 - self.eta) * prev_t).floor();
        let (alpha_prod_prev, alpha_prod_s) = (self.alphas.at(prev_t as i64, 1.0), self.alphas.at(s as i64, 1.0));

        let x0 = call.x0(self.prediction_type)?;
        let epsilon = call.epsilon(self.prediction_type)?;
        let x_s = mix(alpha_prod_s.sqrt(), &x0, (1.0 - alpha_prod_s).sqrt(), &epsilon)?;
        if self.eta <= 0.0 || next.is_none() {
            return Ok(StepOutput { prev_sample: x_s, pred_original_sample: x0 });
        }
        let kept = alpha_prod_prev / alpha_prod_s;
        let prev_sample = mix(kept.sqrt(), &x_s, (1.0 - kept).sqrt(), &noise_like(call.sample, rng)?)?;
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }
}
