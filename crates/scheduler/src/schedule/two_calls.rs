use std::fmt::Debug;

use super::timesteps_of;

/// The noise levels of a sampler that calls the model at the beginning of each step and again within it, but for the last
/// step, which leads to the image at once.
#[derive(Debug)]
pub(crate) struct TwoCalls {
    sigmas: Vec<f32>,
    second: Vec<f32>,
}

impl TwoCalls {
    /// Steps between `sigmas`, the last 0, with their second call at `second(from, to)`; and the timesteps of all calls.
    pub(crate) fn new(
        timesteps: &[f32],
        sigmas: Vec<f32>,
        second: impl Fn(f32, f32) -> f32,
        training: &[f32],
    ) -> (Self, Vec<f32>) {
        let steps = timesteps.len().saturating_sub(1);
        let second: Vec<f32> = sigmas.array_windows().take(steps).map(|[from, to]| second(*from, *to)).collect();
        let levels: Vec<f64> = second.iter().map(|&sigma| sigma.into()).collect();
        let calls = with_second_calls(timesteps, &timesteps_of(&levels, training));
        (Self { sigmas, second }, calls)
    }

    /// The levels between which the steps lead.
    pub(crate) fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// The levels between which the step of a call leads.
    pub(crate) fn step_of(&self, call: usize) -> (f32, f32) {
        (self.sigmas[call / 2], self.sigmas[call / 2 + 1])
    }

    /// The level of the second call in the step of a call; in the last step 0.
    pub(crate) fn second_of(&self, call: usize) -> f32 {
        self.second.get(call / 2).copied().unwrap_or(0.0)
    }

    /// The level of a call.
    pub(crate) fn at(&self, call: usize) -> f32 {
        if call.is_multiple_of(2) { self.step_of(call).0 } else { self.second_of(call) }
    }
}

/// The timesteps of all calls, `[t₀, m₀, t₁, m₁, .. t]`, from those of the first and of the second calls.
pub(crate) fn with_second_calls(first: &[f32], second: &[f32]) -> Vec<f32> {
    let Some((last, before)) = first.split_last() else { return vec![] };
    before.iter().zip(second).flat_map(|(&first, &second)| [first, second]).chain([*last]).collect()
}
