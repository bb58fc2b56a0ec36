use std::fmt::Debug;
use std::sync::Arc;

use kakusan_config::{Config, DIFFUSERS_VERSION, as_in_file};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Error, Model, Outline, Result, VarBuilder};

/// A model's configuration: the content of diffusers' `config.json`, and what follows from it without weights.
///
/// The name, the fields and their defaults, the network, and the images' shape are required. By default a model has no
/// classes, takes any timestep, and is saved under the names that its constructor gives its tensors.
pub trait ModelConfig: Debug + Send + Sync {
    /// diffusers' `_class_name`.
    fn class_name(&self) -> &str;

    /// The fields, without `_class_name`: for a struct of fields, [`fields`].
    fn to_map(&self) -> Map<String, Value>;

    /// The fields of the class's default configuration: for a struct, [`fields`] of `Self::default()`.
    fn default_map(&self) -> Map<String, Value>;

    /// Builds the network from its weights. Called on weights without values to check a configuration ([`Outline`]), so
    /// each layer refuses sizes that it cannot have.
    ///
    /// # Errors
    /// When a value is out of its range or does not fit the others, naming the key; when a tensor is missing.
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>>;

    /// The shape of one image `[c, h, w]` that the model takes.
    ///
    /// # Errors
    /// [`Error::NoSampleSize`] where the configuration leaves the size open.
    fn sample_shape(&self) -> Result<[usize; 3]>;

    /// The number of classes that the model is conditioned on, if it is.
    fn num_classes(&self) -> Option<usize> {
        None
    }

    /// Whether the model needs labels, be they classes or something else.
    fn wants_labels(&self) -> bool {
        self.num_classes().is_some()
    }

    /// The tensor with a row for each class, if the model has one.
    fn class_table(&self) -> Option<&str> {
        None
    }

    /// Refuses timesteps that the model does not know, as its [`forward`](Model::forward) would.
    ///
    /// # Errors
    /// [`Error::Input`], with the first of them.
    fn check_timesteps(&self, timesteps: &[f32]) -> Result<()> {
        let _ = timesteps;
        Ok(())
    }

    /// The same network, but told in training how its images were changed, by `augment_dim` numbers that are 0 for an
    /// image that was not; with 0, the network as it is without that, and so in sampling. `None` where the class cannot
    /// be told.
    fn with_augment_dim(&self, augment_dim: usize) -> Option<Arc<dyn ModelConfig>> {
        let _ = augment_dim;
        None
    }

    /// A number below which no output of the model can be, where its architecture has such a bound.
    fn lowest_output(&self) -> Option<f32> {
        None
    }

    /// Whether [`Model::enable_gradient_checkpointing`] has an effect.
    fn supports_gradient_checkpointing(&self) -> bool {
        false
    }

    /// The name that this crate gives a tensor which a file may hold under an older name.
    fn tensor_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Where a tensor stands in Python's `state_dict`, whose order decides the shard that it is saved in. Tensors of
    /// the same place keep the constructor's order, as do all of them by default.
    fn state_dict_order(&self, name: &str) -> Vec<usize> {
        let _ = name;
        vec![]
    }
}

/// Two configurations are equal when they are of the same class and all fields are equal.
impl PartialEq for dyn ModelConfig + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.class_name() == other.class_name() && self.to_map() == other.to_map()
    }
}

/// The prefix of the tensors of a network within the model.
const INNER: &str = "model.";
/// More parameters than any model has, and small enough that their bytes do not overflow.
const MAX_PARAMETERS: usize = 1 << 33;

/// A submodule of a network in PyTorch's sense: `conv_in`, or one of its `down_blocks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submodule {
    /// The prefix of its tensors' names, e.g. `down_blocks.0`.
    pub name: String,
    /// Its class, e.g. `AttnDownBlock2D`, if the configuration names it.
    pub class_name: Option<String>,
    /// The number of its parameters.
    pub parameters: usize,
}

impl dyn ModelConfig + '_ {
    /// The network's tensors. A configuration that has an outline can be built and run.
    ///
    /// # Errors
    /// When the configuration is refused, naming the key.
    pub fn outline(&self) -> Result<Outline> {
        let outline = Outline::of(|vb| self.build(vb))?;
        let count = outline.parameter_count();
        if count > MAX_PARAMETERS {
            let reason = format!("the network would have {count} parameters; at most {MAX_PARAMETERS} are accepted");
            return Err(Error::Config { origin: self.class_name().to_owned(), reason });
        }
        Ok(outline)
    }

    /// The network's submodules in order, with their parameters, without building it.
    ///
    /// # Errors
    /// As `outline`.
    pub fn submodules(&self) -> Result<Vec<Submodule>> {
        let mut submodules: Vec<Submodule> = vec![];
        for tensor in self.outline()?.tensors() {
            let (within, name) = tensor.name.split_at(if tensor.name.starts_with(INNER) { INNER.len() } else { 0 });
            let mut words = name.split('.');
            let first = words.next().unwrap_or_default();
            let name = match words.next().filter(|word| word.parse::<usize>().is_ok()) {
                Some(number) => format!("{within}{first}.{number}"),
                None => format!("{within}{first}"),
            };
            let parameters = tensor.shape.elem_count();
            match submodules.last_mut().filter(|submodule| submodule.name == name) {
                Some(submodule) => submodule.parameters += parameters,
                None => submodules.push(Submodule { class_name: self.class_of(&name), name, parameters }),
            }
        }
        Ok(submodules)
    }

    fn class_of(&self, submodule: &str) -> Option<String> {
        let (key, i) = match submodule.trim_start_matches(INNER).split_once('.')? {
            ("down_blocks", i) => ("down_block_types", i),
            ("up_blocks", i) => ("up_block_types", i),
            _ => return None,
        };
        Some(self.to_map().get(key)?.get(i.parse::<usize>().ok()?)?.as_str()?.to_owned())
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
}

/// The fields of a configuration, for [`ModelConfig::to_map`].
pub fn fields(config: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(), // a struct of plain fields is always an object
    }
}
