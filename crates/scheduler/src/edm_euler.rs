use crate::prelude::*;

/// Euler's method on the probability flow ODE with EDM's preconditioning, with noise added before a step where asked
/// for (Karras et al. 2022, algorithm 2 without its correction): diffusers' `EDMEulerScheduler`.
///
/// Noise levels asked for by hand are those of the run. (diffusers takes its `sigmas` for places between 0 and 1 on the
/// schedule, and one step on an `exponential` schedule begins with its lowest noise; here with its highest.)
pub type EDMEulerScheduler = Sampler<EDMEulerConfig>;

/// The configuration of [`EDMEulerScheduler`], under diffusers' names.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EDMEulerConfig {
    /// The noise levels and what the model's output stands for.
    #[serde(flatten)]
    pub edm: EDMConfig,
    /// The noise level that the last step leads to.
    pub final_sigmas_type: FinalSigmasType,
}

impl Method for EDMEulerConfig {
    const CLASS_NAME: &'static str = "EDMEulerScheduler";
    const SUMMARY: &'static str = "Euler's method for models with EDM's preconditioning (Karras et al. 2022)";
    const SUPPORTS: &'static [Supports] = &[Supports::Sigmas, Supports::Churn];

    fn check(&self) -> Result<()> {
        self.edm.check()
    }

    fn process(&self) -> Process {
        self.edm.process()
    }

    fn run(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let plan = self.edm.plan(&options.schedule, |sigmas| match self.final_sigmas_type {
            FinalSigmasType::Zero => 0.0,
            FinalSigmasType::SigmaMin => sigmas[sigmas.len() - 1],
        })?;
        let churn = options.churn.unwrap_or_default();
        Sampling::begin(plan, options.start, EDMEuler { edm: self.edm.clone(), churn })
    }
}

#[derive(Debug)]
struct EDMEuler {
    edm: EDMConfig,
    churn: Churn,
}

impl Step for EDMEuler {
    fn step(&mut self, call: &Call, rng: &mut dyn Noise) -> Result<StepOutput> {
        let (sigma, next_sigma) = call.sigmas();
        let (x_hat, sigma_hat) = self.churn.raise(call.sample, sigma, call.plan.sigmas.len() - 1, rng)?;
        let x0 = self.edm.denoised(&call.output, &x_hat, sigma_hat)?;
        Ok(StepOutput { prev_sample: euler(&x_hat, &x0, sigma_hat, next_sigma)?, pred_original_sample: x0 })
    }
}
