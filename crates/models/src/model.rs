use candle_core::Tensor;
use kakusan_config::{Config, DIFFUSERS_VERSION, as_in_file};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::outline::outline;
use crate::{
    BasicUNet, BasicUNetConfig, ClassConditionedUnet, ClassConditionedUnetConfig, Dropout, Error, Result, UNet2DConfig,
    UNet2DModel, VarBuilder, legacy,
};

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

    /// [`forward`](Self::forward) in training: drops what the configuration says, as `dropout` draws it.
    ///
    /// A model that drops nothing leaves it at this.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_train(&self, x: &Tensor, level: &Tensor, labels: Option<&Tensor>, dropout: Dropout) -> Result<Tensor> {
        let _ = dropout;
        self.forward(x, level, labels)
    }

    /// diffusers' `enable_gradient_checkpointing`: from then on [`forward_train`](Self::forward_train) takes less memory and
    /// more time, because what blocks compute is computed anew on the way back.
    ///
    /// # Errors
    /// [`Error::NoGradientCheckpointing`] for a model that cannot, as is the case unless it says otherwise.
    fn enable_gradient_checkpointing(&mut self) -> Result<()> {
        Err(Error::NoGradientCheckpointing(self.config().class_name()))
    }
}

/// What the names of tensors begin with that belong to a network within the model.
const INNER: &str = "model.";

/// A part of a network: a layer or a block that its configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The beginning of its tensors' names, e.g. `down_blocks.0`.
    pub name: String,
    /// What it is, e.g. `AttnDownBlock2D`, where the configuration says so.
    pub class_name: Option<String>,
    /// The number of its parameters.
    pub parameters: usize,
}

/// A model's class and configuration: what diffusers keeps in `config.json`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ModelConfig {
    /// The tutorial's [`BasicUNet`].
    BasicUNet(BasicUNetConfig),
    /// diffusers' [`UNet2DModel`].
    UNet2DModel(Box<UNet2DConfig>),
    /// The diffusion course's [`ClassConditionedUnet`].
    ClassConditionedUnet(Box<ClassConditionedUnetConfig>),
}

impl ModelConfig {
    /// A number below which no output of the model can be, where its architecture has such a bound: a `BasicUNet` ends with
    /// SiLU.
    pub fn lowest_output(&self) -> Option<f32> {
        const LEAST_OF_SILU: f32 = -0.278_465;
        matches!(self, Self::BasicUNet(_)).then_some(LEAST_OF_SILU)
    }

    /// The names of the classes that [`from_map`](Self::from_map) knows.
    pub const CLASS_NAMES: &[&str] =
        &[BasicUNet::CLASS_NAME, UNet2DModel::CLASS_NAME, ClassConditionedUnet::CLASS_NAME];

    /// From a class name and its fields; fields that begin with `_` are ignored, absent ones take their default.
    ///
    /// # Errors
    /// For a class that does not exist, an unknown field, a wrong type, a value out of range.
    pub fn from_map(class_name: &str, fields: &Map<String, Value>) -> Result<Self> {
        let own = fields.iter().filter(|(key, _)| !key.starts_with('_'));
        let own: Map<String, Value> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
        match class_name {
            BasicUNet::CLASS_NAME => {
                let config: BasicUNetConfig = parse(class_name, own)?;
                config.validate()?;
                Ok(Self::BasicUNet(config))
            }
            UNet2DModel::CLASS_NAME => {
                let config: Box<UNet2DConfig> = parse(class_name, own)?;
                config.validate()?;
                Ok(Self::UNet2DModel(config))
            }
            ClassConditionedUnet::CLASS_NAME => {
                let config = ClassConditionedUnetConfig::from_fields(own, |fields| parse(class_name, fields))?;
                config.validate()?;
                Ok(Self::ClassConditionedUnet(Box::new(config)))
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
        let fields = kakusan_config::from_json(text).map_err(|e| refused(e.to_string()))?;
        let class_name = match fields.get("_class_name") {
            Some(Value::String(class_name)) => class_name.clone(),
            found => return Err(refused(no_class_name(found))),
        };
        let (config, unknown) = Self::from_file(&class_name, fields, origin)?;
        if !unknown.is_empty() {
            let known = Self::field_names(&class_name);
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let all = unknown.iter().map(|key| format!("`{key}`{}", kakusan_config::did_you_mean(key, &known)));
            let all = all.collect::<Vec<_>>().join(", ");
            return Err(refused(format!("{class_name} has no field {all}")));
        }
        Ok(config)
    }

    /// From the fields of a `config.json` that is read as one of the class `class_name`, and those of them that the class
    /// does not have.
    pub(crate) fn from_file(class_name: &str, mut fields: Config, origin: &str) -> Result<(Self, Vec<String>)> {
        let version = fields.get("_diffusers_version").and_then(Value::as_str).map(str::to_owned);
        legacy::fill_defaults(class_name, version.as_deref(), &mut fields);
        let known = Self::field_names(class_name);
        let unknown = fields.keys().filter(|key| !known.contains(key) && !legacy::is_harmless(key)).cloned().collect();
        fields.retain(|key, _| known.contains(key));
        let config = Self::from_map(class_name, &fields);
        let config = config.map_err(|e| Error::Config { origin: origin.to_owned(), reason: e.to_string() })?;
        Ok((config, unknown))
    }

    /// The names of a class's fields; none for a class that does not exist.
    fn field_names(class_name: &str) -> Vec<String> {
        let fields = match class_name {
            BasicUNet::CLASS_NAME => BasicUNetConfig::default().to_map(),
            UNet2DModel::CLASS_NAME => UNet2DConfig::default().to_map(),
            ClassConditionedUnet::CLASS_NAME => ClassConditionedUnetConfig::default().to_map(),
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
            Self::UNet2DModel(_) => UNet2DModel::CLASS_NAME,
            Self::ClassConditionedUnet(_) => ClassConditionedUnet::CLASS_NAME,
        }
    }

    /// The fields, without `_class_name`.
    pub fn to_map(&self) -> Map<String, Value> {
        match self {
            Self::BasicUNet(config) => config.to_map(),
            Self::UNet2DModel(config) => config.to_map(),
            Self::ClassConditionedUnet(config) => config.to_map(),
        }
    }

    /// The fields of the class's default configuration, without `_class_name`.
    pub fn default_map(&self) -> Map<String, Value> {
        match self {
            Self::BasicUNet(_) => BasicUNetConfig::default().to_map(),
            Self::UNet2DModel(_) => UNet2DConfig::default().to_map(),
            Self::ClassConditionedUnet(_) => ClassConditionedUnetConfig::default().to_map(),
        }
    }

    /// The shape of one image `[c, h, w]` that the model takes.
    ///
    /// # Errors
    /// [`Error::NoSampleSize`] where the configuration leaves the size open.
    pub fn sample_shape(&self) -> Result<[usize; 3]> {
        let unet = match self {
            Self::BasicUNet(config) => return Ok([config.in_channels, config.sample_size, config.sample_size]),
            Self::UNet2DModel(config) => config,
            Self::ClassConditionedUnet(config) => &config.unet,
        };
        let size = unet.sample_size.ok_or(Error::NoSampleSize(self.class_name()))?;
        let [height, width] = size.height_and_width();
        Ok([unet.in_channels, height, width])
    }

    /// How many classes the model can be told, where it knows any.
    pub fn num_classes(&self) -> Option<usize> {
        match self {
            Self::BasicUNet(_) => None,
            Self::UNet2DModel(config) => config.num_class_embeds.filter(|_| config.class_embed_type.is_none()),
            Self::ClassConditionedUnet(config) => Some(config.num_classes),
        }
    }

    /// Whether the model cannot do without labels, be they classes or something else.
    pub fn wants_labels(&self) -> bool {
        match self {
            Self::BasicUNet(_) => false,
            Self::UNet2DModel(config) => config.class_embed_type.is_some() || config.num_class_embeds.is_some(),
            Self::ClassConditionedUnet(_) => true,
        }
    }

    /// Refuses levels that the model cannot be told, as its [`forward`](Model::forward) would.
    ///
    /// # Errors
    /// [`Error::Input`], with the first of them.
    pub fn check_levels(&self, levels: &[f32]) -> Result<()> {
        match self {
            Self::BasicUNet(_) => Ok(()),
            Self::UNet2DModel(config) => config.check_levels(levels),
            Self::ClassConditionedUnet(config) => config.unet.check_levels(levels),
        }
    }

    /// Whether [`Model::enable_gradient_checkpointing`] has an effect.
    pub fn supports_gradient_checkpointing(&self) -> bool {
        matches!(self, Self::UNet2DModel(_) | Self::ClassConditionedUnet(_))
    }

    /// Builds the network from a store of weights.
    ///
    /// # Errors
    /// When the store lacks a tensor, or has it in another shape.
    pub fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        match self {
            Self::BasicUNet(config) => Ok(Box::new(BasicUNet::new(config, vb)?)),
            Self::UNet2DModel(config) => Ok(Box::new(UNet2DModel::new(config, vb)?)),
            Self::ClassConditionedUnet(config) => Ok(Box::new(ClassConditionedUnet::new(config, vb)?)),
        }
    }

    /// The parts of the network in order, with their parameters, without building it.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn parts(&self) -> Result<Vec<Part>> {
        let tensors = match self {
            Self::BasicUNet(config) => outline(|vb| BasicUNet::new(config, vb))?,
            Self::UNet2DModel(config) => config.outline()?,
            Self::ClassConditionedUnet(config) => config.outline()?,
        };
        let mut parts: Vec<Part> = vec![];
        for (tensor, parameters) in tensors {
            let (within, name) = tensor.split_at(if tensor.starts_with(INNER) { INNER.len() } else { 0 });
            let mut words = name.split('.');
            let first = words.next().unwrap_or_default();
            let name = match words.next().filter(|word| word.parse::<usize>().is_ok()) {
                Some(number) => format!("{within}{first}.{number}"),
                None => format!("{within}{first}"),
            };
            match parts.last_mut().filter(|part| part.name == name) {
                Some(part) => part.parameters += parameters,
                None => parts.push(Part { class_name: self.class_of(&name), name, parameters }),
            }
        }
        Ok(parts)
    }

    fn class_of(&self, part: &str) -> Option<String> {
        let (key, i) = match part.trim_start_matches(INNER).split_once('.')? {
            ("down_blocks", i) => ("down_block_types", i),
            ("up_blocks", i) => ("up_block_types", i),
            _ => return None,
        };
        Some(self.to_map().get(key)?.get(i.parse::<usize>().ok()?)?.as_str()?.to_owned())
    }

    /// The name that this crate gives a tensor which a file may hold under an older name.
    pub fn tensor_name(&self, name: &str) -> String {
        match self {
            Self::BasicUNet(_) => BasicUNet::tensor_name(name),
            Self::UNet2DModel(_) | Self::ClassConditionedUnet(_) => legacy::attention_name(name),
        }
    }
}

/// What is wrong with a `_class_name` that is not the name of a class.
pub(crate) fn no_class_name(found: Option<&Value>) -> String {
    match found {
        None => format!("it has no `_class_name`, one of {}", ModelConfig::CLASS_NAMES.join(", ")),
        Some(other) => format!("its `_class_name` is {other}, expected one of {}", ModelConfig::CLASS_NAMES.join(", ")),
    }
}

/// The fields of a configuration; errors name the key.
fn parse<T: DeserializeOwned>(class_name: &str, fields: Map<String, Value>) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|e| {
        let (path, reason) = (e.path().to_string(), kakusan_config::types_in_words(&e.inner().to_string()));
        let reason = if path == "." { reason } else { format!("{path}: {reason}") };
        Error::Config { origin: class_name.to_owned(), reason }
    })
}
