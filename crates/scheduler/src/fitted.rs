use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{Error, Result, Schedule};

/// The key of a configuration that holds them. Python's diffusers ignores keys that begin with `_`, without a warning.
const KEY: &str = "_fitted_steps";

/// Steps that were fitted to a model, in the configuration of a scheduler: by the class that they are for, and by their
/// number.
///
/// A scheduler of that class takes them where a run asks for that many steps ([`Schedule::Steps`]), unless
/// [`RunOptions::unfitted`](crate::RunOptions::unfitted) says otherwise. Like any key that was set, they are handed on
/// to schedulers that are built from the configuration, and saved.
///
/// ```
/// use kakusan_scheduler::{FittedSteps, Registry, Schedule, Scheduler};
///
/// let mut fitted = FittedSteps::default();
/// fitted.insert("DDPMScheduler", Schedule::Timesteps(vec![999.0, 400.0, 90.0]));
/// let mut config = serde_json::Map::new();
/// fitted.set_in(&mut config);
/// let scheduler = Registry::default().from_config("DDPMScheduler", &config)?;
/// assert_eq!(scheduler.run(3)?.timesteps(), [999.0, 400.0, 90.0]);
/// assert_eq!(scheduler.run(4)?.timesteps(), [750.0, 500.0, 250.0, 0.0]);
/// # Ok::<(), kakusan_scheduler::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FittedSteps(BTreeMap<String, BTreeMap<usize, Schedule>>);

impl FittedSteps {
    /// Those in a configuration; none if it has none.
    ///
    /// # Errors
    /// When the key holds something else.
    pub fn of(config: &Map<String, Value>) -> Result<Self> {
        let Some(value) = config.get(KEY) else { return Ok(Self::default()) };
        let refuse = |reason: String| {
            let expected = "expected {a scheduler's class: {a number of steps: {\"timesteps\": [...]}}}";
            Error::config(format!("`{KEY}`: {reason}; {expected}: remove the key, or fit the steps again"))
        };
        let by_class: BTreeMap<String, BTreeMap<usize, Schedule>> =
            serde_json::from_value(value.clone()).map_err(|e| refuse(e.to_string()))?;
        for (steps, schedule) in by_class.values().flatten() {
            if matches!(schedule, Schedule::Steps(_)) || schedule.num_steps() != *steps {
                return Err(refuse(format!("{schedule:?} does not list {steps} steps")));
            }
        }
        Ok(Self(by_class))
    }

    /// Puts them into a configuration, in the place of those that it has.
    pub fn set_in(&self, config: &mut Map<String, Value>) {
        config.insert(KEY.to_owned(), serde_json::to_value(&self.0).unwrap_or_default());
    }

    /// The steps of a class of this number.
    pub fn get(&self, class_name: &str, steps: usize) -> Option<&Schedule> {
        self.0.get(class_name)?.get(&steps)
    }

    /// All steps of a class, by their number.
    pub(crate) fn of_class(&self, class_name: &str) -> BTreeMap<usize, Schedule> {
        self.0.get(class_name).cloned().unwrap_or_default()
    }

    /// The classes for which this number of steps was fitted.
    pub fn classes(&self, steps: usize) -> Vec<&str> {
        let has = |(_, by_number): &(&String, &BTreeMap<usize, Schedule>)| by_number.contains_key(&steps);
        self.0.iter().filter(has).map(|(class_name, _)| class_name.as_str()).collect()
    }

    /// Adds steps of a class, in the place of those of the same number.
    pub fn insert(&mut self, class_name: &str, schedule: Schedule) {
        self.0.entry(class_name.to_owned()).or_default().insert(schedule.num_steps(), schedule);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Registry, Scheduler, to_json};

    fn build(class_name: &str, fitted: Value) -> Result<std::sync::Arc<dyn Scheduler>> {
        Registry::default().from_config(class_name, &Map::from_iter([(KEY.to_owned(), fitted)]))
    }

    #[test]
    fn they_are_saved_and_handed_on() {
        let dpm = json!({"DPMSolverMultistepScheduler": {"2": {"timesteps": [999.0, 100.0]}}});
        let ddpm = build("DDPMScheduler", dpm.clone()).unwrap();
        assert_eq!(ddpm.run(2).unwrap().timesteps(), [500.0, 0.0]);
        let again = Registry::default().from_json(&to_json(ddpm.as_ref())).unwrap();
        let dpm = Registry::default().swap("DPMSolverMultistepScheduler", again.as_ref()).unwrap();
        assert_eq!(dpm.run(2).unwrap().timesteps(), [999.0, 100.0]);
        assert_ne!(
            dpm.run_with(&crate::RunOptions { unfitted: true, ..crate::RunOptions::steps(2) }).unwrap().timesteps(),
            [999.0, 100.0]
        );
        let fitted = FittedSteps::of(&dpm.config()).unwrap();
        assert_eq!(fitted.classes(2), ["DPMSolverMultistepScheduler"]);
        assert!(fitted.classes(3).is_empty());
    }

    #[test]
    fn damaged_ones_are_refused() {
        for fitted in [
            json!([5]),
            json!({"DDPMScheduler": {"five": {"timesteps": [9.0]}}}),
            json!({"DDPMScheduler": {"2": {"timesteps": [9.0]}}}),
            json!({"DDPMScheduler": {"2": {"steps": 2}}}),
            json!({"DDPMScheduler": {"1": {"levels": [9.0]}}}),
        ] {
            let message = build("DDPMScheduler", fitted).unwrap_err().to_string();
            assert!(message.contains("`_fitted_steps`: ") && message.contains("remove the key"), "{message}");
        }
        for levels in [json!({"timesteps": [9.0, 90.0]}), json!({"sigmas": [9.0, 1.0, 0.0]})] {
            let message = build("DDPMScheduler", json!({"DDPMScheduler": {"2": levels}})).unwrap_err().to_string();
            assert!(message.starts_with("DDPMScheduler: the 2 fitted steps"), "{message}");
        }
    }
}
