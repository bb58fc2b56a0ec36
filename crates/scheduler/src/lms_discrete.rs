use std::collections::VecDeque;

use crate::prelude::*;

/// A linear multistep method in σ, by the integrals of the polynomial through earlier derivatives (Adams and Bashforth,
/// for uneven steps; after k-diffusion's `sample_lms`): diffusers' `LMSDiscreteScheduler`.
///
/// [`RunOptions::order`] is how many derivatives it looks at, 4 if not said otherwise. A run that leaves out its first
/// steps has no derivatives before it; as in diffusers it takes those for 0, which its first steps feel.
pub type LMSDiscreteScheduler = Sampler<LMSDiscreteConfig>;

config! {
    /// The configuration of [`LMSDiscreteScheduler`], under diffusers' names.
    pub struct LMSDiscreteConfig {
        /// The process, and which timesteps or noise levels a sampling visits.
        #[serde(flatten)]
        pub k: KDiffusionConfig = KDiffusionConfig::default(),
    }
}

/// Polynomials of higher order than this swing too far to be of use.
const MAX_ORDER: usize = 20;

impl Method for LMSDiscreteConfig {
    const CLASS_NAME: &'static str = "LMSDiscreteScheduler";
    const SUMMARY: &'static str =
        "a linear multistep method in noise levels, one model call a step (after k-diffusion)";
    const SUPPORTS: &'static [Supports] = &[Supports::Order];

    fn check(&self) -> Result<()> {
        self.k.check(PredictionType::NO_FLOW, BetaSchedule::USUAL)
    }

    fn process(&self) -> Process {
        self.k.process()
    }

    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>> {
        let order = options.order.unwrap_or(4);
        let expected = "at least 1, Euler's method, and at most 20; 4 is usual";
        ensure((1..=MAX_ORDER).contains(&order), || Error::OptionValue {
            option: "order",
            value: order as f64,
            expected,
        })?;
        let (timesteps, sigmas) = self.k.schedule(process.alphas().sigmas(), options.num_steps())?;
        let prediction_type = self.k.prediction_type;
        let predict = move |call: &Call| prediction_type.denoised(&call.output, call.sample, call.sigmas().0);
        let mut derivatives = VecDeque::new(); // the newest first, one a noise level

        Sampling::begin(self.k.plan(timesteps, sigmas), options.start, predict, move |call, x0, _| {
            let (i, sigmas) = (call.i, &call.plan.sigmas);
            if i > 0 && sigmas[i - 1] == sigmas[i] {
                derivatives.pop_front(); // a call at the same level again
            }
            derivatives.push_front(scale(&(call.sample - &x0)?, 1.0 / sigmas[i])?);
            derivatives.truncate(order);
            // as in diffusers those, too, at which a run that begins in the middle has no derivative
            let mut levels: Vec<f32> = sigmas[..=i].iter().rev().copied().collect();
            levels.dedup();
            levels.truncate(order);
            let mut prev_sample = call.sample.clone();
            for (weight, d) in coefficients(&levels, sigmas[i + 1]).into_iter().zip(&derivatives) {
                prev_sample = mix(1.0, &prev_sample, weight as f32, d)?;
            }
            Ok(StepOutput { prev_sample, pred_original_sample: x0 })
        })
    }
}

/// What the derivatives at these noise levels, the newest first, add to the step from the newest to `to`: the integral
/// over the step of the polynomial that is 1 at its σ and 0 at the others'. (diffusers integrates numerically.)
fn coefficients(levels: &[f32], to: f32) -> Vec<f64> {
    let order = levels.len();
    let (from, length) = (f64::from(levels[0]), f64::from(to) - f64::from(levels[0]));
    if length == 0.0 {
        return vec![0.0; order];
    }
    // in units of the step, which is then from 0 to 1
    let nodes: Vec<f64> = levels.iter().map(|&level| (f64::from(level) - from) / length).collect();
    let integral = |j: usize| {
        let powers = lagrange(&nodes, j).into_iter().enumerate().map(|(power, a)| a / (power + 1) as f64);
        length * powers.sum::<f64>()
    };
    (0..order).map(integral).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_integrate_polynomials_exactly() {
        let sigmas = [9.0f64, 7.0, 4.0, 2.5, 1.0];
        for order in 1..=4 {
            let weights = coefficients(&[2.5, 4.0, 7.0, 9.0][..order], 1.0);
            for power in 0..order as i32 {
                // of σ^power, from 2.5 to 1
                let ours: f64 = weights.iter().enumerate().map(|(k, w)| w * sigmas[3 - k].powi(power)).sum();
                let exact = (1.0 - 2.5f64.powi(power + 1)) / f64::from(power + 1);
                assert!(
                    (ours - exact).abs() < 1e-12 * exact.abs().max(1.0),
                    "order {order}, σ^{power}: {ours} {exact}"
                );
            }
        }
        // Adams and Bashforth's own for even steps
        let even = coefficients(&[1.0, 2.0, 3.0, 4.0], 0.0);
        for (ours, theirs) in even.iter().zip([55.0, -59.0, 37.0, -9.0]) {
            assert!((ours + theirs / 24.0).abs() < 1e-12, "{ours}");
        }
    }
}
