//! Learning rate schedules, as in diffusers' `optimization.py`.

use std::f64::consts::PI;

use crate::{LrScheduler, TrainConfig};

/// The final learning rate of [`LrScheduler::Polynomial`]: diffusers' `lr_end`.
const LR_END: f64 = 1e-7;

/// The learning rate of every step of a training.
#[derive(Debug, Clone)]
pub(crate) struct LrSchedule {
    kind: LrScheduler,
    learning_rate: f64,
    warmup_steps: usize,
    total_steps: usize,
    num_cycles: f64,
    power: f64,
    /// Pairs of a step (exclusive) and the multiple that holds up to it.
    rules: Vec<(usize, f64)>,
    /// The multiple after the last rule.
    last: f64,
}

impl LrSchedule {
    /// The schedule of a training of `total_steps` optimiser steps. The error message for invalid settings begins with
    /// the key.
    pub(crate) fn new(config: &TrainConfig, total_steps: usize) -> Result<Self, String> {
        let (rules, last) = match (&config.lr_step_rules, config.lr_scheduler) {
            (Some(text), LrScheduler::PiecewiseConstant) => step_rules(text)?,
            _ => (vec![], 1.0),
        };
        Ok(Self {
            kind: config.lr_scheduler,
            learning_rate: config.learning_rate,
            warmup_steps: config.lr_warmup_steps.unwrap_or(0),
            total_steps,
            num_cycles: config.lr_num_cycles.unwrap_or(1) as f64,
            power: config.lr_power.unwrap_or(1.0),
            rules,
            last,
        })
    }

    /// The learning rate of the step after `done` steps.
    pub(crate) fn at(&self, done: usize) -> f64 {
        self.learning_rate * self.multiple(done)
    }

    fn multiple(&self, done: usize) -> f64 {
        if done < self.warmup_steps {
            return done as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (done - self.warmup_steps) as f64 / decay_steps;
        match self.kind {
            LrScheduler::Constant | LrScheduler::ConstantWithWarmup => 1.0,
            LrScheduler::Linear => (self.total_steps as f64 - done as f64).max(0.0) / decay_steps,
            LrScheduler::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
            LrScheduler::CosineWithRestarts if progress >= 1.0 => 0.0,
            LrScheduler::CosineWithRestarts => {
                (0.5 * (1.0 + (PI * ((self.num_cycles * progress) % 1.0)).cos())).max(0.0)
            }
            LrScheduler::Polynomial if done > self.total_steps => LR_END / self.learning_rate,
            LrScheduler::Polynomial => {
                let range = self.learning_rate - LR_END;
                (range * (1.0 - progress).powf(self.power) + LR_END) / self.learning_rate
            }
            LrScheduler::PiecewiseConstant => {
                self.rules.iter().find(|(until, _)| done < *until).map_or(self.last, |(_, multiple)| *multiple)
            }
        }
    }
}

/// Parses `1:10,0.1:20,0.01`: pairs of a multiple and the step up to which it holds, then the multiple for the rest.
fn step_rules(text: &str) -> Result<(Vec<(usize, f64)>, f64), String> {
    let wrong = |reason: &str| {
        format!(
            "`lr_step_rules` is \"{text}\"{reason}; expected multiples of the learning rate and the steps up to which \
             they hold, rising, and a last multiple: \"1:1000,0.1:2000,0.01\""
        )
    };
    let multiple = |text: &str| text.trim().parse().ok().filter(|m: &f64| *m >= 0.0 && m.is_finite());
    let (rules, last) = text.rsplit_once(',').unwrap_or(("", text));
    let mut pairs: Vec<(usize, f64)> = vec![];
    for rule in rules.split(',').filter(|rule| !rule.is_empty()) {
        let (value, until) = rule.split_once(':').ok_or_else(|| wrong(&format!(", where `{rule}` has no step")))?;
        let value = multiple(value).ok_or_else(|| wrong(&format!(", where `{value}` is not a number")))?;
        let until = until.trim().parse().map_err(|_| wrong(&format!(", where `{until}` is not a step")))?;
        if pairs.last().is_some_and(|(before, _)| *before >= until) {
            return Err(wrong(&format!(", where step {until} does not come after the one before")));
        }
        pairs.push((until, value));
    }
    let last = multiple(last).ok_or_else(|| wrong(&format!(", where the last multiple, `{last}`, is not a number")))?;
    Ok((pairs, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The learning rates of diffusers' `get_scheduler`, written by tests/golden/training.py.
    #[test]
    fn a_thousand_steps_are_diffusers() {
        let text = include_str!("../../../../tests/golden/training.json");
        let golden: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = golden["lr"].as_array().unwrap();
        assert!(cases.len() >= 10);
        for case in cases {
            let config: TrainConfig = serde_json::from_value(case["config"].clone()).unwrap();
            config.check().unwrap();
            let schedule = LrSchedule::new(&config, case["total_steps"].as_u64().unwrap() as usize).unwrap();
            let every = case["every"].as_u64().unwrap() as usize;
            for (i, theirs) in case["lr"].as_array().unwrap().iter().enumerate() {
                let (ours, theirs) = (schedule.at(i * every), theirs.as_f64().unwrap());
                let near = (ours - theirs).abs() <= 1e-12 * config.learning_rate;
                assert!(near, "{:?}, step {}: {ours}, diffusers {theirs}", config.lr_scheduler, i * every);
            }
        }
    }

    #[test]
    fn rules_that_are_none_are_refused() {
        for (text, word) in [
            ("", "the last multiple, ``, is not a number"),
            ("1:10", "the last multiple, `1:10`, is not a number"),
            ("1,0.1", "has no step"),
            ("1:ten,0.1", "`ten` is not a step"),
            ("-1:10,0.1", "`-1` is not a number"),
            ("1:10,0.5:10,0.1", "does not come after"),
        ] {
            let message = step_rules(text).unwrap_err();
            assert!(message.starts_with("`lr_step_rules`") && message.contains(word), "{message}");
        }
    }
}
