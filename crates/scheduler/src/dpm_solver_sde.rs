use crate::prelude::*;

/// The stochastic DPM-Solver++ of second order, in one step of two model calls (Lu et al. 2022, with noise after
/// k-diffusion's `sample_dpmpp_sde`): diffusers' `DPMSolverSDEScheduler`.
///
/// Its noise is the increments of one Brownian motion over σ, from which both halves of a step take theirs. The motion
/// is determined by seeds alone: by `noise_sampler_seed`, or by numbers drawn at the first step, one motion for each
/// image. So runs from the same seed follow the same motion in whatever number of steps. diffusers takes its motion
/// from torchsde, whose numbers these are not; where there is no noise (`s_noise` 0) the samples are diffusers'.
///
/// Of [`RunOptions::churn`] it takes `s_noise`, by which the noise is multiplied.
pub type DPMSolverSDEScheduler = Sampler<DPMSolverSDEConfig>;

config! {
    /// The configuration of [`DPMSolverSDEScheduler`], under diffusers' names.
    pub struct DPMSolverSDEConfig {
        /// The process, and which timesteps or noise levels a sampling visits. The model predicts ε or a velocity.
        #[serde(flatten)]
        pub k: KDiffusionConfig = KDiffusionConfig::latent(),
        /// What the noise is drawn from in place of the run's generator.
        pub noise_sampler_seed: Option<u64> = None,
    }
}

impl Method for DPMSolverSDEConfig {
    const CLASS_NAME: &'static str = "DPMSolverSDEScheduler";
    const SUMMARY: &'static str =
        "the stochastic DPM-Solver++ of second order, two model calls a step (after k-diffusion)";
    const SUPPORTS: &'static [Supports] = &[Supports::Churn];

    fn check(&self) -> Result<()> {
        self.k.check(PredictionType::EPSILON_OR_V, BetaSchedule::USUAL)
    }

    fn process(&self) -> Process {
        self.k.process()
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let churn = options.churn.unwrap_or_default();
        let expected = "this scheduler takes s_noise of it alone, and 0 for s_churn";
        ensure(churn == (Churn { s_noise: churn.s_noise, ..Churn::default() }), || Error::OptionValue {
            option: "churn",
            value: churn.s_churn,
            expected,
        })?;
        let (alphas, n) = (process.alphas().clone(), options.num_steps());
        // in f64, where the other classes have timesteps in f32
        let timesteps = self.k.spacing.exact(alphas.len(), n)?;
        let (timesteps, sigmas) = sigmas_at(timesteps, alphas.sigmas(), self.k.sigma.conversion(), [None, None], n);
        check_calls(&timesteps, &sigmas)?;
        let plan = self.k.calls_within(&timesteps, to_zero(sigmas), halfway, alphas.sigmas());
        let (prediction_type, s_noise) = (self.k.prediction_type, churn.s_noise as f32);
        let predict = move |call: &Call| prediction_type.denoised(&call.output, call.sample, call.alpha_sigma().1);
        let mut own_rng = self.noise_sampler_seed.map(Generator::new);
        let mut motion = None; // where the noise comes from, begun at the first step
        let mut begin = None; // within a step the sample that it began with

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (sigma, next_sigma) = call.sigmas();
            let (_, next_at) = call.noise_levels();
            if next_sigma == 0.0 {
                return Ok(StepOutput { prev_sample: x0.clone(), pred_original_sample: x0 });
            }
            let (x, to, is_first) = match begin.take() {
                None => (call.sample.clone(), next_at, true),
                Some(begin) => (begin, next_sigma, false),
            };
            let (sigma_down, sigma_up) = ancestral_step(sigma, to);
            let down = euler(&x, &x0, sigma, sigma_down)?;
            let motion = match &mut motion {
                Some(motion) => motion,
                None => {
                    let rng = own_rng.as_mut().map_or(rng, |own| own as &mut dyn Noise);
                    motion.insert(BrownianMotion::new(call.sample.dims(), alphas.sigmas(), rng)?)
                }
            };
            let noise = motion.increment(sigma, to, call.sample)?;
            begin = is_first.then_some(x);
            let prev_sample = mix(1.0, &down, sigma_up * s_noise, &noise)?;
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
