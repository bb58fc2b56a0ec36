use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::registry::{read_config, set_values, to_map, with_not_set};
use crate::schedule::MOST_STEPS;
use crate::{Error, Family, FittedSteps, Process, Result, Run, RunOptions, Schedule, Supports};

/// When and how much noise: diffusers' `SchedulerMixin`, with the training side made explicit.
///
/// Object-safe, immutable and free of hidden randomness: the same generator state gives the same numbers. A downstream
/// crate implements it, or rather a [`Method`], [registers](crate::Registry::register) its class name, and trains,
/// samples, saves and loads with it; [`conformance::check`](crate::conformance::check) says whether it keeps the
/// contract.
pub trait Scheduler: Debug + Send + Sync {
    /// diffusers' `_class_name`, e.g. `DDPMScheduler`.
    fn class_name(&self) -> &str;

    /// The configuration, without `_class_name`: what `scheduler_config.json` holds and what the registered
    /// constructor builds an equal scheduler from.
    ///
    /// As in diffusers, a key `_use_default_values` may list the keys that were not set, so that another class built
    /// from this configuration takes its own default for them
    /// ([`Registry::from_config`](crate::Registry::from_config)); it is not saved. A scheduler without that list hands
    /// on every key.
    fn config(&self) -> Map<String, Value>;

    /// What it is, in one line.
    fn summary(&self) -> &str {
        ""
    }

    /// How images are noised in training, and what the model has to predict.
    fn process(&self) -> Process;

    /// The models that it trains and samples: its process's family, or else one that it shares with no other class. A
    /// sampler for models of another class has a process [of their family](Process::of_family).
    fn family(&self) -> Family {
        self.process().family().cloned().unwrap_or_else(|| Family::Own(self.class_name().to_owned()))
    }

    /// How many steps a run can have, from the fewest to the most; the default knows no bounds but that one is needed.
    ///
    /// A scheduler that cannot do with few, or with many, says so here, and refuses others by
    /// [`Error::Steps`](crate::Error::Steps).
    fn inference_steps(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    /// Begins a sampling.
    ///
    /// # Errors
    /// When the scheduler cannot sample in so many steps ([`inference_steps`](Self::inference_steps)), of which zero
    /// are always refused; when it does not support an option that is set ([`RunOptions::only`]).
    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>>;

    /// Begins a sampling of `num_inference_steps` steps.
    ///
    /// # Errors
    /// As [`run_with`](Self::run_with).
    fn run(&self, num_inference_steps: usize) -> Result<Box<dyn Run>> {
        self.run_with(&RunOptions::steps(num_inference_steps))
    }
}

/// A scheduler as its configuration: what is not the same for all. [`Sampler`] makes a [`Scheduler`] of it.
///
/// Its fields are the keys of `scheduler_config.json`, its [`Default`] the class's own. Errors may leave the class's
/// name empty: it is filled in.
pub trait Method: Debug + Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The `_class_name`.
    const CLASS_NAME: &'static str;
    /// What it is, in one line.
    const SUMMARY: &'static str = "";
    /// The options that a run may be asked for.
    const SUPPORTS: &'static [Supports] = &[];

    /// Says what is out of range, or does not go together. Only a configuration that passes becomes a scheduler.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config), which names the key.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// [`Scheduler::process`]. A scheduler makes it once.
    fn process(&self) -> Process;

    /// [`Scheduler::inference_steps`], of this [`process`](Self::process); the default is as many as training has
    /// timesteps, if these are its levels.
    fn inference_steps(&self, process: &Process) -> RangeInclusive<usize> {
        1..=process.num_timesteps().unwrap_or(MOST_STEPS)
    }

    /// [`Scheduler::run_with`] back along this [`process`](Self::process), where no other options are set than those of
    /// [`SUPPORTS`](Self::SUPPORTS).
    ///
    /// # Errors
    /// As there.
    fn run(&self, process: &Process, options: &RunOptions) -> Result<Box<dyn Run>>;
}

/// The scheduler of a [`Method`], and which keys of its configuration were set.
#[derive(Debug, Clone)]
pub struct Sampler<M> {
    method: M,
    process: Process,
    /// What was set, as it was given, with the keys that only other classes know.
    given: Map<String, Value>,
    /// Steps that were fitted to a model, by their number.
    fitted: BTreeMap<usize, Schedule>,
}

/// Keys whose value a class replaces by its own name for it, where it knows another class's (`logrho` for `midpoint`).
/// diffusers writes its own name into the configuration; any other value stays as it was given.
const RENAMED: [&str; 2] = ["algorithm_type", "solver_type"];

impl<M: Method> Default for Sampler<M> {
    fn default() -> Self {
        Self::unchecked(M::default(), Map::new())
    }
}

impl<M: Method> Sampler<M> {
    /// Its `_class_name`.
    pub const CLASS_NAME: &'static str = M::CLASS_NAME;

    /// The scheduler of a configuration. A struct does not say which of its fields were set: those that differ from the
    /// default are taken to be.
    ///
    /// # Errors
    /// When a value is out of its range, or of no use to this scheduler.
    pub fn new(config: M) -> Result<Self> {
        let defaults = to_map(&M::default());
        let given = to_map(&config).into_iter().filter(|(key, value)| defaults.get(key) != Some(value)).collect();
        Self::checked(config, given)
    }

    /// Builds it from a configuration that may be another scheduler's: keys that it does not know are kept and saved
    /// again; absent ones, and those in `_use_default_values`, take their default.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when a value is of the wrong type.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self> {
        let (given, known) = (set_values(config), to_map(&M::default()));
        let of_class = given.clone().into_iter().filter(|(key, _)| known.contains_key(key)).collect();
        Self::checked(read_config(M::CLASS_NAME, of_class)?, given)
    }

    /// The same for a [`Registry`](crate::Registry).
    pub(crate) fn construct(config: &Map<String, Value>) -> Result<Arc<dyn Scheduler>> {
        Ok(Arc::new(Self::from_config(config)?))
    }

    fn checked(method: M, given: Map<String, Value>) -> Result<Self> {
        method.check().map_err(|e| e.in_class(M::CLASS_NAME))?;
        let fitted = FittedSteps::of(&given).map_err(|e| e.in_class(M::CLASS_NAME))?.of_class(M::CLASS_NAME);
        let sampler = Self { fitted, ..Self::unchecked(method, given) };
        for (&n, schedule) in &sampler.fitted {
            let taken = sampler.run_with(&RunOptions { schedule: schedule.clone(), ..RunOptions::default() });
            taken.map_err(|e| {
                let reason = format!("the {n} fitted steps do not go with the other keys: {e}; fit them again");
                Error::config(reason).in_class(M::CLASS_NAME)
            })?;
        }
        Ok(sampler)
    }

    fn unchecked(method: M, given: Map<String, Value>) -> Self {
        Self { process: method.process(), method, given, fitted: BTreeMap::new() }
    }

    /// The configuration that it was built from.
    pub fn method(&self) -> &M {
        &self.method
    }
}

impl<M: Method> Scheduler for Sampler<M> {
    fn class_name(&self) -> &str {
        M::CLASS_NAME
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = to_map(&self.method);
        let renamed = |key: &str| RENAMED.contains(&key) && config.contains_key(key);
        let given: Map<_, _> = self.given.clone().into_iter().filter(|(key, _)| !renamed(key)).collect();
        config.extend(given);
        with_not_set(config, |key| self.given.contains_key(key))
    }

    fn summary(&self) -> &str {
        M::SUMMARY
    }

    fn process(&self) -> Process {
        self.process.clone()
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        self.method.inference_steps(&self.process)
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        let begin =
            |options: &RunOptions| options.only(M::SUPPORTS).and_then(|()| self.method.run(&self.process, options));
        let run = match &options.schedule {
            // steps were fitted without a shift of the run's own
            Schedule::Steps(n) if !options.unfitted && options.mu.is_none() => match self.fitted.get(n) {
                Some(schedule) => begin(&RunOptions { schedule: schedule.clone(), ..options.clone() }),
                None => begin(options),
            },
            _ => begin(options),
        };
        run.map_err(|e| e.in_class(M::CLASS_NAME))
    }
}
