use crate::{Error, Result};

/// Where a run is: what the model is conditioned on at each call, and which call comes next.
#[derive(Debug, Clone)]
pub struct Steps {
    timesteps: Vec<f32>,
    next: usize,
}

impl Steps {
    /// A run over `timesteps` that leaves out the first `start` of them.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn new(class_name: &str, timesteps: Vec<f32>, start: usize) -> Result<Self> {
        let steps = timesteps.len();
        if start >= steps {
            let reason = match steps {
                0 => "at least one is needed".into(),
                _ => format!("{start} of them are to be left out, and at least one has to be done"),
            };
            return Err(Error::Steps { class_name: class_name.to_owned(), steps, reason });
        }
        Ok(Self { timesteps, next: start })
    }

    /// A run that calls the model twice in each step but the last, and leaves out the first `start` steps.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn with_second_calls(class_name: &str, timesteps: Vec<f32>, start: usize) -> Result<Self> {
        let firsts = timesteps.iter().step_by(2).copied().collect();
        let next = 2 * Self::new(class_name, firsts, start)?.next;
        Ok(Self { timesteps, next })
    }

    /// What the model is conditioned on at every call, first to last, those left out included.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// What the model is conditioned on at the next call, or `None` when the run is over.
    pub fn timestep(&self) -> Option<f32> {
        self.timesteps.get(self.next).copied()
    }

    /// Which model call comes next, counted from 0.
    ///
    /// # Errors
    /// [`Error::RunIsOver`] after the last.
    pub fn index(&self) -> Result<usize> {
        let steps = self.timesteps.len();
        if self.next < steps { Ok(self.next) } else { Err(Error::RunIsOver { steps }) }
    }

    /// Goes on to the next model call.
    pub fn advance(&mut self) {
        self.next += 1;
    }
}
