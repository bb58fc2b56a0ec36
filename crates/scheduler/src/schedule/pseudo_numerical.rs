use crate::prelude::*;

/// The Runge-Kutta and the linear multistep method of PNDM (Liu et al. 2022), and what they remember.
#[derive(Debug)]
pub(crate) struct PseudoNumerical {
    pub(crate) prediction_type: PredictionType,
    pub(crate) alphas: Alphas,
    /// ᾱ that the last step leads to.
    pub(crate) final_alpha: f32,
    /// By how many timesteps of training a step leads down.
    pub(crate) stride: i64,
    /// The model's output at the beginning of the last four steps, the newest last.
    pub(crate) ets: Vec<Tensor>,
    /// The outputs of a Runge-Kutta step so far, weighted.
    pub(crate) sum: Option<Tensor>,
    /// The sample that a step of several calls began with.
    pub(crate) begin: Option<Tensor>,
}

/// A transfer: the output to go by, the sample to begin with, and the timesteps between which it leads.
pub(crate) struct Transfer {
    output: Tensor,
    sample: Tensor,
    t: i64,
    prev_t: i64,
}

impl PseudoNumerical {
    /// A call of a Runge-Kutta step (equation 13).
    pub(crate) fn runge_kutta(&mut self, call: &Call) -> Result<Transfer> {
        let first = call.i / 4 * 4;
        let (t, here) = (call.plan.timesteps[first] as i64, call.timestep() as i64);
        let prev_t = if call.i.is_multiple_of(2) { here - self.stride / 2 } else { here };
        let weighted = scale(&call.output, if matches!(call.i % 4, 0 | 3) { 1.0 / 6.0 } else { 1.0 / 3.0 })?;
        let sum = match self.sum.take() {
            Some(sum) => (sum + weighted)?,
            None => weighted,
        };
        if call.i == first {
            self.ets.push(call.output.clone());
        }
        let sample = self.begin.take().unwrap_or_else(|| call.sample.clone());
        if call.i % 4 == 3 {
            return Ok(Transfer { output: sum, sample, t, prev_t });
        }
        (self.sum, self.begin) = (Some(sum), Some(sample.clone()));
        Ok(Transfer { output: call.output.clone(), sample, t, prev_t })
    }

    /// A call of the linear multistep method (equation 12).
    pub(crate) fn multistep(&mut self, call: &Call) -> Result<Transfer> {
        let t = call.timestep() as i64;
        if let (1, [first], Some(begin)) = (call.i, self.ets.as_slice(), &self.begin) {
            // the first step again, by the mean of both its ends
            let output = ((&call.output + first)? / 2.0)?;
            let sample = begin.clone();
            self.begin = None;
            return Ok(Transfer { output, sample, t: t + self.stride, prev_t: t });
        }
        if call.i == 0 {
            self.begin = Some(call.sample.clone());
        }
        self.ets.push(call.output.clone());
        if self.ets.len() > 4 {
            self.ets.remove(0);
        }
        let mut output = call.output.zeros_like()?;
        for (et, &weight) in self.ets.iter().zip(adams_bashforth(self.ets.len()).iter().rev()) {
            output = mix(1.0, &output, weight, et)?;
        }
        Ok(Transfer { output, sample: call.sample.clone(), t, prev_t: t - self.stride })
    }

    /// From timestep `t` to `prev_t` (equation 9).
    pub(crate) fn transfer(&self, Transfer { output, sample, t, prev_t }: &Transfer) -> Result<Tensor> {
        let (alpha_prod, alpha_prod_prev) = (self.alphas.of_call(*t), self.alphas.at(*prev_t, self.final_alpha));
        let (beta_prod, beta_prod_prev) = (1.0 - alpha_prod, 1.0 - alpha_prod_prev);
        let epsilon = self.prediction_type.epsilon(output, sample, alpha_prod.sqrt(), beta_prod.sqrt())?;
        let divisor = alpha_prod * beta_prod_prev.sqrt() + (alpha_prod * beta_prod * alpha_prod_prev).sqrt();
        // without noise at both ends there is none to take away
        let of_epsilon = if divisor > 0.0 { (alpha_prod_prev - alpha_prod) / divisor } else { 0.0 };
        mix((alpha_prod_prev / alpha_prod).sqrt(), sample, -of_epsilon, &epsilon)
    }
}
