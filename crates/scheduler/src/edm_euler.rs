use crate::prelude::*;

/// Euler's method on the probability flow ODE with EDM's preconditioning, with noise added before a step where asked
/// for (Karras et al. 2022, algorithm 2 without its correction): diffusers' `EDMEulerScheduler`.
///
/// Noise levels asked for by hand are those of the run. (diffusers takes its `sigmas` for places between 0 and 1 on the
/// schedule, and one step on an `exponential` schedule begins with its lowest noise; here with its highest.)
pub type EDMEulerScheduler = Sampler<EDMEulerConfig>;

config! {
    /// The configuration of [`EDMEulerScheduler`], under diffusers' names.
    pub struct EDMEulerConfig {
        /// The noise levels and what the model's output stands for.
        #[serde(flatten)]
        pub edm: EDMConfig = EDMConfig::default(),
        /// The noise level that the last step leads to.
        pub final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
    }
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

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let plan = self.edm.plan(&options.schedule, |lowest| self.final_sigmas_type.of(lowest))?;
        let (edm, churn) = (self.edm.clone(), options.churn.unwrap_or_default());
        let unchurned = edm.clone();
        let predict = move |call: &Call| unchurned.denoised(&call.output, call.sample, call.sigmas().0);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (sigma, next_sigma) = call.sigmas();
            let (x_hat, sigma_hat) = churn.raise(call.sample, sigma, call.plan.sigmas.len() - 1, rng)?;
            let x0 = if sigma_hat == sigma { x0 } else { edm.denoised(&call.output, &x_hat, sigma_hat)? };
            Ok(StepOutput { prev_sample: euler(&x_hat, &x0, sigma_hat, next_sigma)?, pred_original_sample: x0 })
        })
    }
}
