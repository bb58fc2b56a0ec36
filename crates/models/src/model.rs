use candle_core::Tensor;
use candle_nn::VarBuilder;
use kakusan_config::DIFFUSERS_VERSION;
use serde_json::{Map, Value};

use crate::{BasicUNet, BasicUNetConfig, Error, Result};

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
        let fields: Map<String, Value> =
            kakusan_config::from_json(text).map_err(|e| refused(format!("not a model's configuration: {e}")))?;
        let Some(Value::String(class_name)) = fields.get("_class_name") else {
            return Err(refused("it has no `_class_name`".into()));
        };
        Self::from_map(class_name, &fields).map_err(|e| refused(e.to_string()))
    }

    /// The text of `config.json`, byte for byte as diffusers writes it.
    pub fn to_json(&self) -> String {
        let mut fields = self.to_map();
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

    /// The fields of the class's default configuration, without `_class_name`.
    pub fn default_map(&self) -> Map<String, Value> {
        match self {
            Self::BasicUNet(_) => BasicUNetConfig::default().to_map(),
        }
    }

    /// The shape of one image `[c, h, w]` that the model takes.
    pub fn sample_shape(&self) -> [usize; 3] {
        match self {
            Self::BasicUNet(config) => [config.in_channels, config.sample_size, config.sample_size],
        }
    }

    /// How many classes the model can be told, where it knows any.
    pub fn num_classes(&self) -> Option<usize> {
        match self {
            Self::BasicUNet(_) => None,
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
