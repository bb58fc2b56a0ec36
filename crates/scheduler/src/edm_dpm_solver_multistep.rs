use crate::prelude::*;

/// DPM-Solver++ with earlier outputs (Lu et al. 2022, "DPM-Solver++", algorithm 2) for models with EDM's
/// preconditioning (Karras et al. 2022): diffusers' `EDMDPMSolverMultistepScheduler`.
///
/// Noise levels may be asked for by hand, which diffusers does not offer.
pub type EDMDPMSolverMultistepScheduler = Sampler<EDMDPMSolverMultistepConfig>;

config! {
    /// The configuration of [`EDMDPMSolverMultistepScheduler`], under diffusers' names.
    pub struct EDMDPMSolverMultistepConfig {
        /// The noise levels and the preconditioning.
        #[serde(flatten)]
        pub edm: EDMConfig = EDMConfig::default(),
        /// The equation and its order: `dpmsolver++`, or `sde-dpmsolver++` of the second order at most.
        #[serde(flatten)]
        pub dpm: DPMSolverConfig = DPMSolverConfig::default(),
        /// Thresholding of predicted images.
        #[serde(flatten)]
        pub threshold: ThresholdConfig = ThresholdConfig::default(),
        /// Whether the last steps of runs of less than 15 are of lower orders.
        pub lower_order_final: bool = true,
        /// Whether the last step is of the first order, however many there are.
        pub euler_at_final: bool = false,
        /// The noise level that the last step leads to; `sigma_min` is that at which it begins.
        pub final_sigmas_type: FinalSigmasType = FinalSigmasType::Zero,
    }
}

impl Method for EDMDPMSolverMultistepConfig {
    const CLASS_NAME: &'static str = "EDMDPMSolverMultistepScheduler";
    const SUMMARY: &'static str =
        "DPM-Solver++ for models with EDM's preconditioning (Lu et al. 2022, Karras et al. 2022)";
    const SUPPORTS: &'static [Supports] = &[Supports::Sigmas];

    fn check(&self) -> Result<()> {
        self.edm.check()?;
        self.threshold.check()?;
        self.dpm.check()?;
        match self.dpm.algorithm_type {
            DPMAlgorithmType::DPMSolver | DPMAlgorithmType::SdeDPMSolver => {
                Err(Error::config("its model predicts images, so its algorithm_type is dpmsolver++ or sde-dpmsolver++"))
            }
            DPMAlgorithmType::SdeDPMSolverPlusPlus if self.dpm.solver_order == 3 => {
                Err(Error::config("algorithm_type sde-dpmsolver++ has no solver_order 3 here; take 2, or dpmsolver++"))
            }
            _ => Ok(()),
        }
    }

    fn process(&self) -> Process {
        self.edm.process()
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let plan = self.edm.plan(&options.schedule, |_| self.final_sigmas_type.of(self.edm.sigma_min))?;
        let (edm, threshold) = (self.edm.clone(), self.threshold);
        let mut solver = DPMMultistep::new(self.dpm, self.lower_order_final, self.euler_at_final);
        let predict = move |call: &Call| threshold.apply(edm.denoised(&call.output, call.sample, call.sigmas().0)?);

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (sigma, next_sigma) = call.sigmas();
            // the sample itself is not scaled, so that all of the image is in it
            let between = [sigma, next_sigma].map(|sigma| Point { alpha: 1.0, sigma: sigma.into() });
            let prev_sample = solver.step(call, between, x0.clone(), rng)?;
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
