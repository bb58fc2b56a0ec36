use std::sync::Arc;

use kakusan_config::{Config, did_you_mean, types_in_words};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{BasicUNetConfig, ClassConditionedUnetConfig, Error, ModelConfig, Outline, Result, UNet2DConfig, legacy};

/// Models by their `_class_name`: how fields become a configuration, which builds the network.
///
/// ```
/// use kakusan_models::Registry;
///
/// # fn main() -> kakusan_models::Result<()> {
/// let registry = Registry::default();
/// let config = registry.from_json(r#"{"_class_name": "BasicUNet", "sample_size": 32}"#, "config.json")?;
/// assert_eq!(config.sample_shape()?, [1, 32, 32]);
/// assert_eq!(config.outline()?.parameter_count(), 309_057);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Registry {
    classes: Vec<Class>,
}

/// Reads all fields of a configuration, or says what is wrong with them.
type Constructor = fn(Map<String, Value>) -> std::result::Result<Arc<dyn ModelConfig>, String>;

#[derive(Debug, Clone)]
struct Class {
    name: String,
    constructor: Constructor,
    /// The fields of its default configuration.
    defaults: fn() -> Map<String, Value>,
}

/// What a `config.json` says.
pub(crate) struct Read {
    pub(crate) config: Arc<dyn ModelConfig>,
    pub(crate) outline: Outline,
    /// The fields that the class does not have.
    pub(crate) unknown: Vec<String>,
}

impl Default for Registry {
    /// A registry that knows the models of this crate.
    fn default() -> Self {
        let mut registry = Self { classes: vec![] };
        registry.register::<BasicUNetConfig>();
        registry.register::<UNet2DConfig>();
        registry.register::<ClassConditionedUnetConfig>();
        registry
    }
}

impl Registry {
    /// Adds a class of models under the [`class_name`](ModelConfig::class_name) of its default configuration, or
    /// replaces the class of that name. Fields that are absent take the default configuration's values.
    pub fn register<C>(&mut self)
    where
        C: ModelConfig + Default + DeserializeOwned + 'static,
    {
        let name = C::default().class_name().to_owned();
        self.classes.retain(|class| class.name != name);
        let constructor: Constructor = |fields| Ok(Arc::new(parse::<C>(fields)?) as Arc<dyn ModelConfig>);
        self.classes.push(Class { name, constructor, defaults: || C::default().default_map() });
    }

    /// The registered names.
    pub fn class_names(&self) -> Vec<&str> {
        self.classes.iter().map(|class| class.name.as_str()).collect()
    }

    /// The fields of a class's default configuration, without `_class_name`.
    ///
    /// # Errors
    /// For a class that is not registered.
    pub fn defaults(&self, class_name: &str) -> Result<Map<String, Value>> {
        Ok((self.class(class_name)?.defaults)())
    }

    /// From a class name and its fields; fields that begin with `_` are ignored, absent ones take their default. What
    /// is read can be built.
    ///
    /// # Errors
    /// For a class that is not registered, an unknown field, a wrong type, a value out of range.
    pub fn from_map(&self, class_name: &str, fields: &Map<String, Value>) -> Result<Arc<dyn ModelConfig>> {
        Ok(self.read(class_name, fields)?.0)
    }

    fn read(&self, class_name: &str, fields: &Map<String, Value>) -> Result<(Arc<dyn ModelConfig>, Outline)> {
        let class = self.class(class_name)?;
        let mut all = (class.defaults)();
        let known: Vec<String> = all.keys().cloned().collect();
        let own = fields.iter().filter(|(key, _)| !key.starts_with('_'));
        all.extend(own.map(|(key, value)| (key.clone(), value.clone())));
        let unknown = all.keys().find(|key| !known.contains(key)).cloned();
        let refused = |reason| Error::Config { origin: class_name.to_owned(), reason };
        let config = (class.constructor)(all).map_err(refused)?;
        if let Some(key) = unknown {
            let known = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            return Err(refused(format!("unknown field `{key}`, expected one of {known}")));
        }
        let outline = config.outline()?;
        Ok((config, outline))
    }

    /// From the text of a `config.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`from_map`](Self::from_map), and when the text is not a JSON object with a `_class_name`.
    pub fn from_json(&self, text: &str, origin: &str) -> Result<Arc<dyn ModelConfig>> {
        let refused = |reason: String| Error::Config { origin: origin.to_owned(), reason };
        let fields = kakusan_config::from_json(text).map_err(|e| refused(e.to_string()))?;
        let class_name = match fields.get("_class_name") {
            Some(Value::String(class_name)) => class_name.clone(),
            found => return Err(refused(self.no_class_name(found))),
        };
        let Read { config, unknown, .. } = self.read_file(&class_name, fields, origin)?;
        if !unknown.is_empty() {
            let known = self.defaults(&class_name)?;
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            let all = unknown.iter().map(|key| format!("`{key}`{}", did_you_mean(key, &known)));
            let all = all.collect::<Vec<_>>().join(", ");
            return Err(refused(format!("{class_name} has no field {all}")));
        }
        Ok(config)
    }

    /// From the fields of a `config.json` that is read as one of the class `class_name`.
    pub(crate) fn read_file(&self, class_name: &str, mut fields: Config, origin: &str) -> Result<Read> {
        let version = fields.get("_diffusers_version").and_then(Value::as_str).map(str::to_owned);
        legacy::fill_defaults(class_name, version.as_deref(), &mut fields);
        let known = self.class(class_name).map(|class| (class.defaults)()).unwrap_or_default();
        let is_unknown = |key: &String| !known.contains_key(key) && !legacy::is_harmless(key);
        let unknown = fields.keys().filter(|key| is_unknown(key)).cloned().collect();
        fields.retain(|key, _| known.contains_key(key));
        let read = self.read(class_name, &fields);
        let refused = |e: Error| Error::Config { origin: origin.to_owned(), reason: e.to_string() };
        let (config, outline) = read.map_err(refused)?;
        Ok(Read { config, outline, unknown })
    }

    /// What is wrong with a `_class_name` that is not the name of a class.
    pub(crate) fn no_class_name(&self, found: Option<&Value>) -> String {
        let known = self.class_names().join(", ");
        match found {
            None => format!("it has no `_class_name`, one of {known}"),
            Some(other) => format!("its `_class_name` is {other}, expected one of {known}"),
        }
    }

    fn class(&self, name: &str) -> Result<&Class> {
        let found = self.classes.iter().find(|class| class.name == name);
        found.ok_or_else(|| Error::UnknownClass {
            name: name.to_owned(),
            known: self.class_names().into_iter().map(str::to_owned).collect(),
        })
    }
}

/// The fields of a configuration, or what is wrong with them, naming the key.
pub(crate) fn parse<T: DeserializeOwned>(fields: Map<String, Value>) -> std::result::Result<T, String> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|e| {
        let (path, reason) = (e.path().to_string(), types_in_words(&e.inner().to_string()));
        if path == "." { reason } else { format!("{path}: {reason}") }
    })
}
