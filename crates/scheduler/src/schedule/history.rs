use std::collections::VecDeque;

use crate::prelude::*;

/// The model outputs that a multistep solver remembers, each with the λ it was made at. `[0]` is the latest.
#[derive(Debug, Clone)]
pub(crate) struct History {
    entries: VecDeque<(f64, Tensor)>,
    capacity: usize,
}

impl History {
    /// That of a solver which looks at so many.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::with_capacity(capacity), capacity }
    }

    /// Remembers an output; one at the same λ gives way, for there is no slope between the two.
    pub(crate) fn push(&mut self, lambda: f64, output: Tensor) {
        if self.entries.front().is_some_and(|&(latest, _)| latest == lambda) {
            self.entries.pop_front();
        }
        self.entries.truncate(self.capacity.saturating_sub(1));
        self.entries.push_front((lambda, output));
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn lambda(&self, i: usize) -> f64 {
        self.entries[i].0
    }

    pub(crate) fn output(&self, i: usize) -> &Tensor {
        &self.entries[i].1
    }
}

/// The order of the step from a call: as many outputs as there are, of `solver_order` at most, and fewer at the end of
/// short runs with `lower_order_final`. The last step is of the first order with `euler_at_final`.
pub(crate) fn multistep_order(
    call: &Call,
    history: &History,
    solver_order: usize,
    lower_order_final: bool,
    euler_at_final: bool,
) -> usize {
    let (i, n) = (call.i, call.plan.timesteps.len());
    let lower = lower_order_final && n < 15;
    let most = match n - i {
        1 if lower || euler_at_final => 1,
        2 if lower => 2,
        _ => solver_order,
    };
    most.min(solver_order).min(history.len())
}
