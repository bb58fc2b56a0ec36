use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::Tensor;
use kakusan_config::{DIFFUSERS_VERSION, did_you_mean};
use kakusan_rng::Generator;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    CMStochasticIterativeScheduler, DDIMInverseScheduler, DDIMScheduler, DDPMScheduler, DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler, DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler, Draw, EDMDPMSolverMultistepScheduler, EDMEulerScheduler, Error,
    EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler, HeunDiscreteScheduler, IPNDMScheduler, KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler, KarrasVeScheduler, LCMScheduler, LMSDiscreteScheduler, LinearMixScheduler, PNDMScheduler,
    PixelRange, RePaintScheduler, Result, Run, RunOptions, SASolverScheduler, Scheduler, ScoreSdeVeScheduler,
    ScoreSdeVpScheduler, TCDScheduler, UnCLIPScheduler, UniPCMultistepScheduler,
};

/// Builds a scheduler from its configuration; keys that are absent take the class's own defaults. It is only given keys
/// that the scheduler of an empty configuration has in its [`Scheduler::config`].
pub type Constructor = fn(Map<String, Value>) -> Result<Arc<dyn Scheduler>>;

/// Schedulers by their `_class_name`: how a configuration becomes a scheduler.
///
/// ```
/// use kakusan_scheduler::Registry;
///
/// # fn main() -> kakusan_scheduler::Result<()> {
/// let registry = Registry::default();
/// let ddpm = registry.from_json(r#"{"_class_name": "DDPMScheduler", "beta_end": 0.012}"#)?;
/// // another sampler for a model that was trained so
/// let euler = registry.from_config("EulerDiscreteScheduler", &ddpm.config())?;
/// assert_eq!(euler.config()["beta_end"], 0.012);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Registry {
    constructors: BTreeMap<String, Constructor>,
}

impl Default for Registry {
    /// A registry that knows the schedulers of this crate.
    fn default() -> Self {
        let mut registry = Self { constructors: BTreeMap::new() };
        let ours: &[(&str, Constructor)] = &[
            (CMStochasticIterativeScheduler::CLASS_NAME, |config| {
                construct(config, CMStochasticIterativeScheduler::new)
            }),
            (DDIMInverseScheduler::CLASS_NAME, |config| construct(config, DDIMInverseScheduler::new)),
            (DDIMScheduler::CLASS_NAME, |config| construct(config, DDIMScheduler::new)),
            (DDPMScheduler::CLASS_NAME, |config| construct(config, DDPMScheduler::new)),
            (DEISMultistepScheduler::CLASS_NAME, |config| construct(config, DEISMultistepScheduler::new)),
            (DPMSolverMultistepInverseScheduler::CLASS_NAME, |config| {
                construct(config, DPMSolverMultistepInverseScheduler::new)
            }),
            (DPMSolverMultistepScheduler::CLASS_NAME, |config| construct(config, DPMSolverMultistepScheduler::new)),
            (DPMSolverSDEScheduler::CLASS_NAME, |config| construct(config, DPMSolverSDEScheduler::new)),
            (DPMSolverSinglestepScheduler::CLASS_NAME, |config| construct(config, DPMSolverSinglestepScheduler::new)),
            (EDMDPMSolverMultistepScheduler::CLASS_NAME, |config| {
                construct(config, EDMDPMSolverMultistepScheduler::new)
            }),
            (EDMEulerScheduler::CLASS_NAME, |config| construct(config, EDMEulerScheduler::new)),
            (EulerAncestralDiscreteScheduler::CLASS_NAME, |config| {
                construct(config, EulerAncestralDiscreteScheduler::new)
            }),
            (EulerDiscreteScheduler::CLASS_NAME, |config| construct(config, EulerDiscreteScheduler::new)),
            (FlowMatchEulerDiscreteScheduler::CLASS_NAME, |config| {
                construct(config, FlowMatchEulerDiscreteScheduler::new)
            }),
            (FlowMatchHeunDiscreteScheduler::CLASS_NAME, |config| {
                construct(config, FlowMatchHeunDiscreteScheduler::new)
            }),
            (HeunDiscreteScheduler::CLASS_NAME, |config| construct(config, HeunDiscreteScheduler::new)),
            (IPNDMScheduler::CLASS_NAME, |config| construct(config, IPNDMScheduler::new)),
            (KDPM2AncestralDiscreteScheduler::CLASS_NAME, |config| {
                construct(config, KDPM2AncestralDiscreteScheduler::new)
            }),
            (KDPM2DiscreteScheduler::CLASS_NAME, |config| construct(config, KDPM2DiscreteScheduler::new)),
            (KarrasVeScheduler::CLASS_NAME, |config| construct(config, KarrasVeScheduler::new)),
            (LCMScheduler::CLASS_NAME, |config| construct(config, LCMScheduler::new)),
            (LMSDiscreteScheduler::CLASS_NAME, |config| construct(config, LMSDiscreteScheduler::new)),
            (LinearMixScheduler::CLASS_NAME, |config| construct(config, Ok::<LinearMixScheduler, Error>)),
            (PNDMScheduler::CLASS_NAME, |config| construct(config, PNDMScheduler::new)),
            (RePaintScheduler::CLASS_NAME, |config| construct(config, RePaintScheduler::new)),
            (SASolverScheduler::CLASS_NAME, |config| construct(config, SASolverScheduler::new)),
            (ScoreSdeVeScheduler::CLASS_NAME, |config| construct(config, ScoreSdeVeScheduler::new)),
            (ScoreSdeVpScheduler::CLASS_NAME, |config| construct(config, ScoreSdeVpScheduler::new)),
            (TCDScheduler::CLASS_NAME, |config| construct(config, TCDScheduler::new)),
            (UnCLIPScheduler::CLASS_NAME, |config| construct(config, UnCLIPScheduler::new)),
            (UniPCMultistepScheduler::CLASS_NAME, |config| construct(config, UniPCMultistepScheduler::new)),
        ];
        ours.iter().for_each(|(class_name, constructor)| registry.register(class_name, *constructor));
        registry
    }
}

impl Registry {
    /// Adds a scheduler under its `_class_name`, or replaces the one of that name.
    pub fn register(&mut self, class_name: &str, constructor: Constructor) {
        self.constructors.insert(class_name.to_owned(), constructor);
    }

    /// The registered names in alphabetical order.
    pub fn class_names(&self) -> Vec<String> {
        self.constructors.keys().cloned().collect()
    }

    /// The class that somebody means by `name`: `ddim` is `DDIMScheduler`, `euler` is `EulerDiscreteScheduler`, `unipc` is
    /// `UniPCMultistepScheduler`. Case and signs do not count; the beginning of a name does where it is the only one.
    ///
    /// # Errors
    /// When no class, or more than one, is called so.
    pub fn resolve(&self, name: &str) -> Result<&str> {
        let plain = |name: &str| -> String {
            let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            let lower = letters.to_lowercase();
            lower.strip_suffix("scheduler").unwrap_or(&lower).to_owned()
        };
        let wanted = plain(name);
        let short = |class_name: &str| plain(class_name).trim_end_matches("discrete").to_owned();
        let names = || self.constructors.keys().map(String::as_str);
        if let Some(class_name) = names().find(|&known| plain(known) == wanted || short(known) == wanted) {
            return Ok(class_name);
        }
        let mut beginning = names().filter(|known| !wanted.is_empty() && plain(known).starts_with(&wanted));
        match (beginning.next(), beginning.next()) {
            (Some(class_name), None) => Ok(class_name),
            _ => Err(Error::UnknownClass { name: name.to_owned(), known: self.class_names() }),
        }
    }

    /// Builds the scheduler `class_name` from a configuration that was written for it: a key that it does not know is
    /// refused. Keys that begin with `_` are ignored, as in diffusers.
    ///
    /// # Errors
    /// For a class that is not registered, and for a configuration that its class refuses.
    pub fn build(&self, class_name: &str, config: &Map<String, Value>) -> Result<Arc<dyn Scheduler>> {
        let (scheduler, unknown) = self.construct(class_name, config)?;
        match unknown.first() {
            None => Ok(scheduler),
            Some(key) => {
                let known = self.construct(class_name, &Map::new())?.0.config();
                let known: Vec<&str> = known.keys().map(String::as_str).collect();
                let reason = format!("there is no key `{key}`{}", did_you_mean(key, &known));
                Err(Error::Config { class_name: class_name.to_owned(), reason })
            }
        }
    }

    /// Builds the scheduler `class_name` from a configuration that may be another class's, as diffusers'
    /// `X.from_config(y.config)` does of a `y` that was loaded: the keys that both know are used, absent ones take
    /// the class's default, and the others are kept and saved again.
    ///
    /// # Errors
    /// For a class that is not registered, and for a configuration that its class refuses.
    pub fn from_config(&self, class_name: &str, config: &Map<String, Value>) -> Result<Arc<dyn Scheduler>> {
        let (inner, _) = self.construct(class_name, config)?;
        let given = config.iter().filter(|(key, _)| !key.starts_with('_'));
        let given = given.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Arc::new(AsGiven { inner, given }))
    }

    /// Builds a scheduler from the text of a `scheduler_config.json`.
    ///
    /// # Errors
    /// When the text is not a JSON object with a `_class_name`, and as [`from_config`](Self::from_config).
    pub fn from_json(&self, text: &str) -> Result<Arc<dyn Scheduler>> {
        let config = kakusan_config::from_json(text).map_err(|e| Error::Json(e.to_string()))?;
        let Some(Value::String(class_name)) = config.get("_class_name") else {
            return Err(Error::Json("it has no `_class_name`".into()));
        };
        self.from_config(class_name, &config)
    }

    /// The scheduler, and the keys that its class does not know.
    fn construct(&self, class_name: &str, config: &Map<String, Value>) -> Result<(Arc<dyn Scheduler>, Vec<String>)> {
        let Some(constructor) = self.constructors.get(class_name) else {
            return Err(Error::UnknownClass { name: class_name.to_owned(), known: self.class_names() });
        };
        let defaults = constructor(Map::new())?.config();
        let own = config.iter().filter(|(key, _)| !key.starts_with('_'));
        let (known, unknown): (Vec<_>, Vec<_>) = own.partition(|(key, _)| defaults.contains_key(*key));
        let known = known.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let named = |e: Error| match e {
            Error::Config { class_name: _, reason } => Error::Config { class_name: class_name.to_owned(), reason },
            other => other,
        };
        Ok((constructor(known).map_err(named)?, unknown.into_iter().map(|(key, _)| key.clone()).collect()))
    }
}

/// The text of the scheduler's `scheduler_config.json`, byte for byte as diffusers writes it.
pub fn to_json(scheduler: &dyn Scheduler) -> String {
    let mut config = scheduler.config();
    config.insert("_class_name".into(), scheduler.class_name().into());
    config.insert("_diffusers_version".into(), DIFFUSERS_VERSION.into());
    kakusan_config::to_json(&config)
}

/// Builds a scheduler from its class's default configuration with `given` laid over it.
fn construct<C, S>(given: Map<String, Value>, new: impl Fn(C) -> Result<S>) -> Result<Arc<dyn Scheduler>>
where
    C: Serialize + DeserializeOwned + Default,
    S: Scheduler + 'static,
{
    Ok(Arc::new(new(read_config("", given)?)?))
}

/// A class's default configuration with `given` laid over it, all of whose keys it knows.
pub(crate) fn read_config<C>(class_name: &str, given: Map<String, Value>) -> Result<C>
where
    C: Serialize + DeserializeOwned + Default,
{
    let read = |given: Map<String, Value>| -> std::result::Result<C, String> {
        let mut config = to_map(&C::default());
        config.extend(given);
        serde_json::from_value(Value::Object(config)).map_err(|e| e.to_string())
    };
    let refuse = |reason: String| Error::Config { class_name: class_name.to_owned(), reason };
    // serde does not say which of the flattened keys it was
    read(given.clone()).map_err(|whole| {
        let which = given.into_iter().find_map(|(key, value)| {
            let reason = read(Map::from_iter([(key.clone(), value)])).err()?;
            Some(format!("`{key}`: {reason}"))
        });
        refuse(which.unwrap_or(whole))
    })
}

/// A configuration as the map that its file holds.
pub(crate) fn to_map(config: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(), // a struct of plain fields is always an object
    }
}

/// A scheduler that saves its configuration as it was given, with the keys that only other classes know.
#[derive(Debug)]
struct AsGiven {
    inner: Arc<dyn Scheduler>,
    given: Map<String, Value>,
}

impl Scheduler for AsGiven {
    fn class_name(&self) -> &str {
        self.inner.class_name()
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = self.inner.config();
        config.extend(self.given.clone());
        config
    }

    fn summary(&self) -> &str {
        self.inner.summary()
    }

    fn pixel_range(&self) -> PixelRange {
        self.inner.pixel_range()
    }

    fn draw(&self, clean: &Tensor, rng: &mut Generator) -> Result<Draw> {
        self.inner.draw(clean, rng)
    }

    fn add_noise(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        self.inner.add_noise(clean, noise, levels)
    }

    fn target(&self, clean: &Tensor, noise: &Tensor, levels: &Tensor) -> Result<Tensor> {
        self.inner.target(clean, noise, levels)
    }

    fn loss_weight(&self, levels: &Tensor) -> Result<Option<Tensor>> {
        self.inner.loss_weight(levels)
    }

    fn scale_model_input(&self, noisy: &Tensor, levels: &Tensor) -> Result<Tensor> {
        self.inner.scale_model_input(noisy, levels)
    }

    fn snr(&self, levels: &Tensor) -> Result<Option<Tensor>> {
        self.inner.snr(levels)
    }

    fn pred_original_sample(&self, model_output: &Tensor, noisy: &Tensor, levels: &Tensor) -> Result<Tensor> {
        self.inner.pred_original_sample(model_output, noisy, levels)
    }

    fn timesteps(&self, levels: &Tensor) -> Result<Tensor> {
        self.inner.timesteps(levels)
    }

    fn inference_steps(&self) -> RangeInclusive<usize> {
        self.inner.inference_steps()
    }

    fn run_with(&self, options: &RunOptions) -> Result<Box<dyn Run>> {
        self.inner.run_with(options)
    }
}
