use candle_core::Tensor;
use candle_nn::VarBuilder;
use kakusan_config::{Config, DIFFUSERS_VERSION, as_in_file};
use serde_json::{Map, Value};

use crate::{BasicUNet, BasicUNetConfig, Error, Result, legacy};

/// What predicts: from corrupted images and their level to what the scheduler calls the target.
pub trait Model: Send + Sync {
    /// The configuration that builds a network like this one.
    fn config(&self) -> ModelConfig;

    /// Predicts for `x` `[b, c, h, w]` at `level` `[b]`, of the classes `labels` `[b]` where the model knows classes.
    ///
    /// The models of this crate are [`network`](kakusan_ops::network)s: [`kakusan_ops::backward`] goes back through them.
    ///
    /// # Errors
    /// When a shape does not fit the model.
    fn forward(&self, x: &Tensor, level: &Tensor, labels: Option<&Tensor>) -> Result<Tensor>;
}

/// A model's class and configuration: what diffusers keeps in `config.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelConfig {
    /// The tutorial's [`BasicUNet`].
    BasicUNet(BasicUNetConfig),
}

impl ModelConfig {
    /// The names of the classes that [`from_map`](Self::from_map) knows.
    pub const CLASS_NAMES: &[&str] = &[BasicUNet::CLASS_NAME];

    /// From a class name and its fields; fields that begin with `_` are ignored, absent ones take their default.
    ///
    /// # Errors
    /// For a class that does not exist, an unknown field, a wrong type, a value out of range.
    pub fn from_map(class_name: &str, fields: &Map<String, Value>) -> Result<Self> {
        let own = fields.iter().filter(|(key, _)| !key.starts_with('_'));
        let own = Value::Object(own.map(|(key, value)| (key.clone(), value.clone())).collect());
        let refused = |e: serde_json::Error| Error::Config { origin: class_name.to_owned(), reason: e.to_string() };
        match class_name {
            BasicUNet::CLASS_NAME => {
                let config: BasicUNetConfig = serde_json::from_value(own).map_err(refused)?;
                config.validate()?;
                Ok(Self::BasicUNet(config))
            }
            _ => {
                let known = Self::CLASS_NAMES.iter().map(|&name| name.to_owned()).collect();
                Err(Error::UnknownClass { name: class_name.to_owned(), known })
            }
        }
    }

    /// From the text of a `config.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`from_map`](Self::from_map), and when the text is not a JSON object with a `_class_name`.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let refused = |reason: String| Error::Config { origin: origin.to_owned(), reason };
        let mut fields =
            kakusan_config::from_json(text).map_err(|e| refused(format!("not a model's configuration: {e}")))?;
        let Some(Value::String(class_name)) = fields.get("_class_name") else {
            return Err(refused("it has no `_class_name`".into()));
        };
        let class_name = class_name.clone();
        let version = fields.get("_diffusers_version").and_then(Value::as_str).map(str::to_owned);
        legacy::fill_defaults(&class_name, version.as_deref(), &mut fields);
        let known = Self::field_names(&class_name);
        fields.retain(|key, _| known.contains(key) || !legacy::is_harmless(key));
        let unknown: Vec<&str> = fields.keys().filter(|key| !known.contains(key)).map(String::as_str).collect();
        if !unknown.is_empty() && !known.is_empty() {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let all = unknown.iter().map(|key| format!("`{key}`{}", kakusan_config::did_you_mean(key, &known)));
            let all = all.collect::<Vec<_>>().join(", ");
            return Err(refused(format!("{class_name} has no field {all}")));
        }
        Self::from_map(&class_name, &fields).map_err(|e| refused(e.to_string()))
    }

    /// The names of a class's fields; none for a class that does not exist.
    fn field_names(class_name: &str) -> Vec<String> {
        let fields = match class_name {
            BasicUNet::CLASS_NAME => BasicUNetConfig::default().to_map(),
            _ => Map::new(),
        };
        fields.into_iter().map(|(key, _)| key).collect()
    }

    /// The text of `config.json`, byte for byte as diffusers writes it.
    pub fn to_json(&self) -> String {
        self.to_json_as_in(&Config::new())
    }

    /// As [`to_json`](Self::to_json), in the words of the file that it was read from ([`as_in_file`]).
    pub(crate) fn to_json_as_in(&self, file: &Config) -> String {
        let mut fields = as_in_file(self.to_map(), file);
        fields.insert("_class_name".into(), self.class_name().into());
        fields.insert("_diffusers_version".into(), DIFFUSERS_VERSION.into());
        kakusan_config::to_json(&fields)
    }

    /// diffusers' `_class_name`.
    pub fn class_name(&self) -> &'static str {
        match self {
            Self::BasicUNet(_) => BasicUNet::CLASS_NAME,
        }
    }

    /// The fields, without `_class_name`.
    pub fn to_map(&self) -> Map<String, Value> {
        match self {
            Self::BasicUNet(config) => config.to_map(),
        }
    }

    /// The shape of one image `[c, h, w]` that the model takes.
    pub fn sample_shape(&self) -> [usize; 3] {
        match self {
            Self::BasicUNet(config) => [config.in_channels, config.sample_size, config.sample_size],
        }
    }

    /// Builds the network from a store of weights.
    ///
    /// # Errors
    /// When the store lacks a tensor, or has it in another shape.
    pub fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        match self {
            Self::BasicUNet(config) => Ok(Box::new(BasicUNet::new(config, vb)?)),
        }
    }

    /// The name that this crate gives a tensor which a file may hold under an older name.
    pub fn tensor_name(&self, name: &str) -> String {
        match self {
            Self::BasicUNet(_) => BasicUNet::tensor_name(name),
        }
    }
}
