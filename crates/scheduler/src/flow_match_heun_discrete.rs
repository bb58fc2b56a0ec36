use crate::prelude::*;

/// Heun's method along the paths of a flow (Karras et al. 2022, algorithm 2; Lipman et al. 2022): diffusers'
/// `FlowMatchHeunDiscreteScheduler`.
///
/// A step from σ to σ' calls the model at both and goes by the mean of the two velocities; the last, to 0, calls it
/// once. [`RunOptions::start`] counts steps, not calls.
pub type FlowMatchHeunDiscreteScheduler = Sampler<FlowMatchHeunDiscreteConfig>;

config! {
    /// The configuration of [`FlowMatchHeunDiscreteScheduler`], under diffusers' names.
    pub struct FlowMatchHeunDiscreteConfig {
        /// T: the model is conditioned on `T σ`.
        pub num_train_timesteps: usize = 1000,
        /// By how much noise levels are shifted up.
        pub shift: f64 = 1.0,
    }
}

impl FlowMatchHeunDiscreteConfig {
    fn flow(&self) -> Flow {
        Flow { num_train_timesteps: self.num_train_timesteps, shift: self.shift, inverted: false }
    }
}

impl Method for FlowMatchHeunDiscreteConfig {
    const CLASS_NAME: &'static str = "FlowMatchHeunDiscreteScheduler";
    const SUMMARY: &'static str = "Heun's method for flows, two model calls a step (Karras et al. 2022)";
    const SUPPORTS: &'static [Supports] = &[Supports::Churn];

    fn check(&self) -> Result<()> {
        self.flow().check()
    }

    fn process(&self) -> Process {
        self.flow().process()
    }

    fn run(&self, _: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let (flow, n) = (self.flow(), check_count(options.num_steps())?);
        let sigmas: Vec<f32> =
            flow.spaced(n).into_iter().map(|sigma| flow.shifted(sigma) as f32).chain([0.0]).collect();
        // at both ends of each step, but for the last, which leads to 0
        let calls: Vec<f32> = sigmas.array_windows().flat_map(|&[from, to]| [from, to]).take(2 * n - 1).collect();
        let timesteps = calls.iter().map(|&sigma| flow.timestep(sigma)).collect();
        let alpha_sigma = calls.iter().map(|&sigma| flow.alpha_sigma(sigma)).collect();
        let plan = Plan { sigmas, alpha_sigma, calls: 2, ..Plan::new(timesteps) };
        let churn = options.churn.unwrap_or_default();
        // where a step began, its derivative there, and how far it goes
        let mut first: Option<(Tensor, Tensor, f32)> = None;
        let predict = move |call: &Call| {
            let (begin, end) = call.sigmas();
            let sigma = if call.i.is_multiple_of(2) { begin } else { end };
            flow.original_sample(&call.output, call.sample, sigma)
        };

        Sampling::begin(plan, options.start, predict, move |call, x0, rng| {
            let (sigma, next_sigma) = call.sigmas();
            // drawn at the second call, too, where it makes no difference
            let (x_hat, sigma_hat) = churn.raise(call.sample, sigma, call.plan.timesteps.len(), rng)?;

            if let Some((x, d, dt)) = &first {
                check_same("the sample", call.sample, x)?;
                let mean = mix(0.5, d, 0.5, &call.output)?;
                let prev_sample = mix(1.0, x, *dt, &mean)?;
                first = None;
                return Ok(StepOutput { prev_sample, pred_original_sample: x0 });
            }
            let x0 = if sigma_hat == sigma { x0 } else { flow.original_sample(&call.output, &x_hat, sigma)? };
            let d = scale(&call.output, sigma / sigma_hat)?; // (x̂ - x₀) / σ̂
            let dt = next_sigma - sigma_hat;
            let prev_sample = mix(1.0, &x_hat, dt, &d)?;
            first = (next_sigma > 0.0).then_some((x_hat, d, dt));
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}
