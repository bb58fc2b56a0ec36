use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{Error, LinearMixScheduler, Result, Scheduler};

/// Builds a scheduler from its configuration, without `_class_name` and other keys that begin with `_`.
pub type Constructor = fn(Map<String, Value>) -> Result<Arc<dyn Scheduler>>;

/// The version of diffusers whose file format we write, as `_diffusers_version`.
pub const DIFFUSERS_VERSION: &str = "0.42.1";

/// Schedulers by their `_class_name`: how a configuration file becomes a scheduler.
///
/// ```
/// use kakusan_scheduler::Registry;
///
/// # fn main() -> kakusan_scheduler::Result<()> {
/// let registry = Registry::default();
/// let scheduler = registry.from_json(r#"{"_class_name": "LinearMixScheduler"}"#)?;
/// assert_eq!(scheduler.class_name(), "LinearMixScheduler");
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
        registry.register(LinearMixScheduler::CLASS_NAME, from_config::<LinearMixScheduler>);
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

    /// Builds the scheduler `class_name` from its configuration; keys that begin with `_` are ignored, as in diffusers.
    ///
    /// # Errors
    /// For a class that is not registered, and for a configuration that its class refuses.
    pub fn build(&self, class_name: &str, config: &Map<String, Value>) -> Result<Arc<dyn Scheduler>> {
        let Some(constructor) = self.constructors.get(class_name) else {
            return Err(Error::UnknownClass { name: class_name.to_owned(), known: self.class_names() });
        };
        let own = config.iter().filter(|(key, _)| !key.starts_with('_'));
        constructor(own.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Builds a scheduler from the text of a `scheduler_config.json`.
    ///
    /// # Errors
    /// When the text is not a JSON object with a `_class_name`, and as [`build`](Self::build).
    pub fn from_json(&self, text: &str) -> Result<Arc<dyn Scheduler>> {
        let config: Map<String, Value> = serde_json::from_str(text).map_err(|e| Error::Json(e.to_string()))?;
        let Some(Value::String(class_name)) = config.get("_class_name") else {
            return Err(Error::Json("it has no `_class_name`".into()));
        };
        self.build(class_name, &config)
    }
}

/// The text of the scheduler's `scheduler_config.json`, as diffusers writes it: sorted keys, two spaces, a last newline.
///
/// # Errors
/// When the configuration cannot be written as JSON.
pub fn to_json(scheduler: &dyn Scheduler) -> Result<String> {
    let mut config = scheduler.config();
    config.insert("_class_name".into(), scheduler.class_name().into());
    config.insert("_diffusers_version".into(), DIFFUSERS_VERSION.into());
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::Json(e.to_string()))?;
    Ok(text + "\n")
}

/// The constructor of a scheduler whose configuration is itself.
fn from_config<S>(config: Map<String, Value>) -> Result<Arc<dyn Scheduler>>
where
    S: Scheduler + serde::de::DeserializeOwned + Default + 'static,
{
    match serde_json::from_value::<S>(Value::Object(config)) {
        Ok(scheduler) => Ok(Arc::new(scheduler)),
        Err(e) => Err(Error::Config { class_name: S::default().class_name().to_owned(), reason: e.to_string() }),
    }
}
