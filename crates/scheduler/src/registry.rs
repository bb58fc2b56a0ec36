use std::collections::BTreeMap;
use std::sync::Arc;

use kakusan_config::{DIFFUSERS_VERSION, did_you_mean, nearest, types_in_words};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    CMStochasticIterativeConfig, DDIMConfig, DDIMInverseConfig, DDPMConfig, DEISMultistepConfig,
    DPMSolverMultistepConfig, DPMSolverMultistepInverseConfig, DPMSolverSDEConfig, DPMSolverSinglestepConfig,
    EDMDPMSolverMultistepConfig, EDMEulerConfig, Error, EulerAncestralDiscreteConfig, EulerDiscreteConfig, Family,
    FlowMatchEulerDiscreteConfig, FlowMatchHeunDiscreteConfig, HeunDiscreteConfig, IPNDMConfig,
    KDPM2AncestralDiscreteConfig, KDPM2DiscreteConfig, KarrasVeConfig, LCMConfig, LMSDiscreteConfig, LinearMixConfig,
    Method, PNDMConfig, RePaintConfig, Result, SASolverConfig, Sampler, Scheduler, ScoreSdeVeConfig, ScoreSdeVpConfig,
    TCDConfig, UnCLIPConfig, UniPCMultistepConfig,
};

/// Builds a scheduler from a configuration that may be another class's, as [`Sampler::from_config`] does: keys that are
/// absent, or listed in `_use_default_values`, take the class's own defaults.
pub type Constructor = fn(&Map<String, Value>) -> Result<Arc<dyn Scheduler>>;

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
        registry.add::<CMStochasticIterativeConfig>();
        registry.add::<DDIMConfig>();
        registry.add::<DDIMInverseConfig>();
        registry.add::<DDPMConfig>();
        registry.add::<DEISMultistepConfig>();
        registry.add::<DPMSolverMultistepConfig>();
        registry.add::<DPMSolverMultistepInverseConfig>();
        registry.add::<DPMSolverSDEConfig>();
        registry.add::<DPMSolverSinglestepConfig>();
        registry.add::<EDMDPMSolverMultistepConfig>();
        registry.add::<EDMEulerConfig>();
        registry.add::<EulerAncestralDiscreteConfig>();
        registry.add::<EulerDiscreteConfig>();
        registry.add::<FlowMatchEulerDiscreteConfig>();
        registry.add::<FlowMatchHeunDiscreteConfig>();
        registry.add::<HeunDiscreteConfig>();
        registry.add::<IPNDMConfig>();
        registry.add::<KDPM2AncestralDiscreteConfig>();
        registry.add::<KDPM2DiscreteConfig>();
        registry.add::<KarrasVeConfig>();
        registry.add::<LCMConfig>();
        registry.add::<LMSDiscreteConfig>();
        registry.add::<LinearMixConfig>();
        registry.add::<PNDMConfig>();
        registry.add::<RePaintConfig>();
        registry.add::<SASolverConfig>();
        registry.add::<ScoreSdeVeConfig>();
        registry.add::<ScoreSdeVpConfig>();
        registry.add::<TCDConfig>();
        registry.add::<UnCLIPConfig>();
        registry.add::<UniPCMultistepConfig>();
        registry
    }
}

impl Registry {
    /// Adds the scheduler of a [`Method`], or replaces the one of its name.
    pub fn add<M: Method>(&mut self) {
        self.register(M::CLASS_NAME, Sampler::<M>::construct);
    }

    /// Adds a scheduler under its `_class_name`, or replaces the one of that name.
    pub fn register(&mut self, class_name: &str, constructor: Constructor) {
        self.constructors.insert(class_name.to_owned(), constructor);
    }

    /// The registered names in alphabetical order.
    pub fn class_names(&self) -> Vec<String> {
        self.constructors.keys().cloned().collect()
    }

    /// The class that somebody means by `name`: `ddim` is `DDIMScheduler`, `euler` is `EulerDiscreteScheduler`, `unipc`
    /// is `UniPCMultistepScheduler`. Case and signs do not count; the beginning of a name does where it is the only
    /// one.
    ///
    /// # Errors
    /// When no class, or more than one, is called so.
    pub fn resolve(&self, name: &str) -> Result<&str> {
        let wanted = plain(name);
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

    /// The registered class that was probably meant by a wrong name: by what others call it (`dpmsolver`, `k_euler`),
    /// or else by its letters.
    pub fn nearest(&self, name: &str) -> Option<String> {
        self.resolve(name).map(str::to_owned).ok().or_else(|| meant(name, &self.class_names()).map(str::to_owned))
    }

    /// Builds the scheduler `class_name` from a configuration that was written for it: a key that it does not know is
    /// refused. Keys that begin with `_` are ignored, as in diffusers.
    ///
    /// # Errors
    /// For a class that is not registered, and for a configuration that its class refuses.
    pub fn build(&self, class_name: &str, config: &Map<String, Value>) -> Result<Arc<dyn Scheduler>> {
        let given = config.iter().filter(|(key, _)| !key.starts_with('_'));
        let given: Map<_, _> = given.map(|(key, value)| (key.clone(), value.clone())).collect();
        let constructor = self.constructor(class_name)?;
        let known = constructor(&Map::new())?.config();
        if let Some(key) = given.keys().find(|key| !known.contains_key(*key)) {
            let known: Vec<&str> = known.keys().map(String::as_str).filter(|key| !key.starts_with('_')).collect();
            let reason = format!("there is no key `{key}`{}", did_you_mean(key, &known));
            return Err(Error::Config { class_name: class_name.to_owned(), reason });
        }
        constructor(&given)
    }

    /// Builds the scheduler `class_name` from a configuration that may be another class's, as diffusers'
    /// `X.from_config(y.config)` does. Keys that both know are used. Keys that were not set in `config`, because they
    /// are absent or listed in its `_use_default_values` (see [`Scheduler::config`]), take this class's default. Keys
    /// that only other classes know are kept and saved again.
    ///
    /// In memory only what was set is handed on; a configuration that was saved and loaded has every key set.
    ///
    /// It differs from diffusers where that fails later or draws no images. Null counts as false for `use_*_sigmas`,
    /// and as the default for UnCLIP's `variance_type`, which fail there. What is only refused there when a run begins
    /// is refused here at once, and so is `flow_prediction` without `use_flow_sigmas`. `sigma_min` and `sigma_max` that
    /// only another class knows do not bound `use_*_sigmas`. A run never changes the configuration (there, odd numbers
    /// of steps set `lower_order_final` of `DPMSolverSinglestepScheduler`).
    ///
    /// # Errors
    /// For a class that is not registered, and for a configuration that its class refuses.
    pub fn from_config(&self, class_name: &str, config: &Map<String, Value>) -> Result<Arc<dyn Scheduler>> {
        self.constructor(class_name)?(config)
    }

    /// Builds the scheduler `class_name` for a model that was trained with `trained`, as
    /// [`from_config`](Self::from_config) of its configuration. For a model that has learned a flow, a solver that can
    /// do so is set to sample one: `use_flow_sigmas`, `prediction_type` and the shift, which diffusers leaves to the
    /// caller.
    ///
    /// # Errors
    /// [`Error::UnknownClass`], and [`Error::Misfit`] where such a scheduler cannot sample such a model.
    pub fn swap(&self, class_name: &str, trained: &dyn Scheduler) -> Result<Arc<dyn Scheduler>> {
        let scheduler = self.convert(class_name, trained).map_err(|e| match e {
            Error::Config { class_name, reason } => {
                let reason = format!("the model was trained with {}: {reason}", trained.class_name());
                Error::Misfit { class_name, reason, fitting: self.fitting(trained) }
            }
            other => other,
        })?;
        self.check_fit(scheduler.as_ref(), trained)?;
        Ok(scheduler)
    }

    /// Refuses a `sampler` for a model that was trained with `trained` where they are not of one [`Family`].
    ///
    /// # Errors
    /// [`Error::Misfit`], which names the classes that fit.
    pub fn check_fit(&self, sampler: &dyn Scheduler, trained: &dyn Scheduler) -> Result<()> {
        if sampler.family() == trained.family() {
            return Ok(());
        }
        let (samples, trained_with, family) = (sampler.family(), trained.class_name(), trained.family());
        Err(Error::Misfit {
            class_name: sampler.class_name().to_owned(),
            reason: format!("it is for {samples}, and the model was trained with {trained_with}, {family}"),
            fitting: self.fitting(trained),
        })
    }

    /// The classes that can sample a model that was trained with `trained`.
    fn fitting(&self, trained: &dyn Scheduler) -> Vec<String> {
        let fits = |name: &String| self.convert(name, trained).is_ok_and(|other| other.family() == trained.family());
        self.class_names().into_iter().filter(fits).collect()
    }

    fn convert(&self, class_name: &str, trained: &dyn Scheduler) -> Result<Arc<dyn Scheduler>> {
        let mut config = trained.config();
        if let Family::Flow(prediction) = trained.family() {
            let shift = ["shift", "flow_shift"].into_iter().find_map(|key| config.get(key).cloned());
            let keys = self.constructor(class_name)?(&Map::new())?.config();
            let solves_flows = keys.contains_key("use_flow_sigmas");
            let flow = [
                ("use_flow_sigmas", Some(true.into())),
                ("prediction_type", solves_flows.then(|| prediction.to_string().into())),
                ("flow_shift", shift.clone()),
                ("shift", shift),
            ];
            let mut set = set_values(&config);
            for (key, value) in flow.into_iter().filter(|(key, _)| keys.contains_key(*key)) {
                set.extend(value.map(|value| (key.to_owned(), value)));
            }
            config = set;
        }
        self.from_config(class_name, &config)
    }

    /// Builds a scheduler from the text of a `scheduler_config.json`.
    ///
    /// # Errors
    /// When the text is not a JSON object with a `_class_name`, and as [`from_config`](Self::from_config).
    pub fn from_json(&self, text: &str) -> Result<Arc<dyn Scheduler>> {
        let config = kakusan_config::from_json(text).map_err(|e| Error::Json(e.to_string()))?;
        match config.get("_class_name") {
            Some(Value::String(class_name)) => self.from_config(class_name, &config),
            Some(other) => Err(Error::Json(format!("its `_class_name` is {other}, not the name of a class"))),
            None => Err(Error::Json("it has no `_class_name`".into())),
        }
    }

    fn constructor(&self, class_name: &str) -> Result<Constructor> {
        let unknown = || Error::UnknownClass { name: class_name.to_owned(), known: self.class_names() };
        self.constructors.get(class_name).copied().ok_or_else(unknown)
    }
}

/// What others call schedulers: k-diffusion, the web interfaces for Stable Diffusion, papers and older versions of
/// diffusers.
const ALIASES: &[(&str, &[&str])] = &[
    ("CMStochasticIterativeScheduler", &["consistency", "consistencymodel"]),
    (
        "DPMSolverMultistepScheduler",
        &[
            "dpm",
            "dpm2m",
            "dpm2msde",
            "dpm3msde",
            "dpmmultistep",
            "dpmsolver",
            "dpmsolver1",
            "dpmsolver2",
            "dpmsolver3",
        ],
    ),
    ("DPMSolverSDEScheduler", &["dpmsde", "sde"]),
    ("DPMSolverSinglestepScheduler", &["dpm2s", "dpm2sa", "dpm2sancestral", "dpmsinglestep"]),
    ("EDMEulerScheduler", &["edm"]),
    ("EulerAncestralDiscreteScheduler", &["ancestral", "eulera"]),
    ("FlowMatchEulerDiscreteScheduler", &["flow", "flowmatch", "flowmatching", "rectifiedflow"]),
    ("KDPM2AncestralDiscreteScheduler", &["dpm2a", "dpm2ancestral"]),
    ("KDPM2DiscreteScheduler", &["dpm2"]),
    ("LinearMixScheduler", &["tutorial"]),
    ("PNDMScheduler", &["plms"]),
    ("ScoreSdeVeScheduler", &["sdeve"]),
    ("ScoreSdeVpScheduler", &["sdevp"]),
    ("UniPCMultistepScheduler", &["uni", "unipcbh2"]),
];

/// The letters and digits of a scheduler's name: `k_euler`, `Euler` and `EulerScheduler` differ in the first letter
/// only.
fn plain(name: &str) -> String {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let lower = letters.to_lowercase();
    lower.strip_suffix("scheduler").unwrap_or(&lower).to_owned()
}

/// A class's name without what is left out where it is talked about.
fn short(class_name: &str) -> String {
    plain(class_name).trim_end_matches("discrete").trim_end_matches("multistep").to_owned()
}

/// The one of the `known` classes that was probably meant by a name that none of them has.
pub(crate) fn meant<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let name = name.to_lowercase();
    // "DPM++ 2M Karras" is a sampler and a spacing of noise levels; "dpmpp" and "dpm++" are the newer "dpm"
    let name = ["karras", "exponential"].iter().fold(name, |name, spacing| name.replace(spacing, ""));
    let name =
        plain(&name).replace("dpmpp", "dpm").replace("dpmsolverpp", "dpmsolver").replace("dpmsolversde", "dpmsde");
    let of = |name: &str| {
        let alias = ALIASES.iter().find(|(_, aliases)| aliases.contains(&name)).map(|(class_name, _)| *class_name);
        let is_it = |class_name: &&'a String| {
            alias == Some(class_name.as_str()) || alias.is_none() && short(class_name) == name
        };
        known.iter().find(is_it).map(String::as_str)
    };
    let k = name.strip_prefix("sample").unwrap_or(&name).trim_start_matches('k');
    of(&name).or_else(|| of(k)).or_else(|| {
        let shorts: Vec<String> = known.iter().map(|class_name| short(class_name)).collect();
        let shorts: Vec<&str> = shorts.iter().map(String::as_str).collect();
        let near = nearest(&name, &shorts)?;
        known.iter().find(|class_name| short(class_name) == near).map(String::as_str)
    })
}

/// Lists the keys of a configuration that were not set: diffusers' name for it.
const NOT_SET: &str = "_use_default_values";
/// Keys that say something of a file or an object, not of the scheduler: they are not handed on.
const NOT_HANDED_ON: [&str; 5] =
    ["_class_name", "_diffusers_version", "_ignore_files", "_pre_quantization_dtype", NOT_SET];
/// What was set in a configuration: what another class built from it takes over.
pub(crate) fn set_values(config: &Map<String, Value>) -> Map<String, Value> {
    let not_set: Vec<&str> =
        config.get(NOT_SET).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let is_set = |key: &str| !NOT_HANDED_ON.contains(&key) && !not_set.contains(&key);
    config.iter().filter(|(key, _)| is_set(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What the scheduler's `scheduler_config.json` holds, without `_class_name` and version: every key of its
/// [`config`](Scheduler::config) with its value, whether set or left to the default.
pub fn saved_config(scheduler: &dyn Scheduler) -> Map<String, Value> {
    let mut config = scheduler.config();
    config.remove(NOT_SET);
    config
}

/// What was set in the scheduler's configuration: what another class that is built from it takes over.
pub fn set_config(scheduler: &dyn Scheduler) -> Map<String, Value> {
    set_values(&scheduler.config())
}

/// The text of the scheduler's `scheduler_config.json`, byte for byte as diffusers writes it.
pub fn to_json(scheduler: &dyn Scheduler) -> String {
    let mut config = saved_config(scheduler);
    config.insert("_class_name".into(), scheduler.class_name().into());
    config.insert("_diffusers_version".into(), DIFFUSERS_VERSION.into());
    kakusan_config::to_json(&config)
}

/// A class's default configuration with `given` laid over it, all of whose keys it knows.
pub(crate) fn read_config<C>(class_name: &str, given: Map<String, Value>) -> Result<C>
where
    C: Serialize + DeserializeOwned + Default,
{
    let read = |given: Map<String, Value>| -> std::result::Result<C, String> {
        let defaults = to_map(&C::default());
        let mut config = defaults.clone();
        config.extend(given);
        replace_nulls(&mut config, &defaults);
        serde_json::from_value(Value::Object(config)).map_err(|e| types_in_words(&e.to_string()))
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

/// Puts in the place of null what diffusers makes of it: false for a flag, no bound for `sample_max_value`, and the
/// default for a key that the other keys leave without effect. A null that has an effect stays, and is refused.
fn replace_nulls(config: &mut Map<String, Value>, defaults: &Map<String, Value>) {
    let nulls = config.iter().filter(|(_, value)| value.is_null());
    let nulls: Vec<String> = nulls.map(|(key, _)| key.clone()).collect();
    let is_off = |key: &str| matches!(config.get(key), None | Some(Value::Null | Value::Bool(false)));
    let has = |key: &str| config.get(key).is_some_and(|value| !value.is_null());
    let word = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    let has_no_effect = |key: &str| match key {
        "dynamic_thresholding_ratio" => is_off("thresholding"),
        "clip_sample_range" => is_off("clip_sample"),
        "flow_shift" => is_off("use_flow_sigmas"),
        "time_shift_type" => is_off("use_dynamic_shifting"),
        "timestep_spacing" => has("original_inference_steps"),
        "steps_offset" => word("timestep_spacing") != "leading" || has("original_inference_steps"),
        "beta_schedule" => has("trained_betas"),
        "beta_start" | "beta_end" => {
            has("trained_betas") || ["squaredcos_cap_v2", "laplace", "exp"].contains(&word("beta_schedule"))
        }
        // null differs from one value of these only, which is not the default
        "timestep_type" | "variance_type" => true,
        "base_shift" | "max_shift" | "base_image_seq_len" | "max_image_seq_len" => true,
        _ => false,
    };
    let mut replaced = vec![];
    for key in nulls {
        match defaults.get(&key) {
            Some(Value::Bool(_)) => replaced.push((key, Value::Bool(false))),
            Some(_) if key == "sample_max_value" => replaced.push((key, f64::MAX.into())), // no bound
            Some(default) if has_no_effect(&key) => replaced.push((key, default.clone())),
            _ => {}
        }
    }
    config.extend(replaced);
}

/// A configuration as the map that its file holds.
pub(crate) fn to_map(config: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(), // a struct of plain fields is always an object
    }
}

/// `config`, with the keys that were not set listed in it.
pub(crate) fn with_not_set(mut config: Map<String, Value>, is_set: impl Fn(&str) -> bool) -> Map<String, Value> {
    let not_set: Vec<Value> =
        config.keys().filter(|key| !key.starts_with('_') && !is_set(key)).map(|key| key.as_str().into()).collect();
    if !not_set.is_empty() {
        config.insert(NOT_SET.to_owned(), not_set.into());
    }
    config
}
