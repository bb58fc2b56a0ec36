//! A model in a folder, as diffusers saves it: `config.json` and weights.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use kakusan_config::Config;
use kakusan_weights::{Checkpoint, SaveOptions, read_text, save_tensors, write_file};
use serde_json::Value;

use crate::registry::Read;
use crate::{Error, ModelConfig, Outline, Registry, Result, Warning, Weights};

/// The name of a model's configuration in its folder.
pub const CONFIG_FILE: &str = "config.json";

/// The longest configuration that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// Saves a model's configuration and weights in `dir` as diffusers lays them out: as [`save_with`] does with the
/// default [`SaveOptions`].
///
/// # Errors
/// As [`save_with`].
pub fn save(config: &dyn ModelConfig, weights: &Weights, dir: &Path) -> Result<()> {
    save_with(config, weights, dir, &SaveOptions::default(), &Config::new())
}

/// Saves a model's configuration and weights in `dir`, the configuration last. Each file is written atomically, and all
/// are written before the first gets its name; what an earlier save of the same variant left there in other pieces is
/// deleted at the end. Shards replace older shards one by one: after an interruption the index is missing, and loading
/// says so.
///
/// `fields` are those of the `config.json` that the model was loaded from, if it was: the way in which they write
/// numbers is kept, and so are fields that do not concern the model.
///
/// # Errors
/// When the folder or a file cannot be written, or a value does not fit the type asked for.
pub fn save_with(
    config: &dyn ModelConfig,
    weights: &Weights,
    dir: &Path,
    options: &SaveOptions,
    fields: &Config,
) -> Result<()> {
    let mut tensors = weights.infos();
    tensors.sort_by_key(|(name, _)| config.state_dict_order(name));
    save_tensors(dir, &tensors, options, |name| weights.bytes(name))?;
    Ok(write_file(&dir.join(CONFIG_FILE), config.to_json_as_in(fields).as_bytes())?)
}

/// A loaded model.
#[non_exhaustive]
pub struct Pretrained {
    /// Its configuration.
    pub config: Arc<dyn ModelConfig>,
    /// The fields as the file has them, for [`save_with`].
    pub fields: Config,
    /// Its weights.
    pub weights: Weights,
    /// Warnings about unexpected content in its files.
    pub warnings: Vec<Warning>,
}

/// Loads the model saved in `dir`, as diffusers' `from_pretrained` does of a model by itself: its configuration, whose
/// class is looked up in `registry`, and the weights as [`Checkpoint::find`] finds them (of `variant` where one is
/// named). A `class_name` that is known from elsewhere, as from a pipeline's index, counts instead of the file's own
/// `_class_name`.
///
/// Fields that the class does not have, and tensors that the model does not have, are ignored as in diffusers,
/// with a [`Warning`] that names them; a tensor that is missing is not.
///
/// ```
/// use candle_core::Device;
/// use kakusan_models::{BasicUNetConfig, ModelConfig, Registry, Weights, from_pretrained, save};
/// use kakusan_rng::Generator;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// let config = BasicUNetConfig::default();
/// let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
/// save(&config, &weights, dir.path())?;
/// let again = from_pretrained(dir.path(), None, None, &Registry::default(), &Device::Cpu)?;
/// assert_eq!((again.config.to_map(), again.weights.parameter_count()), (config.to_map(), 309_057));
/// assert!(again.warnings.is_empty());
/// let model = again.weights.frozen(|vb| again.config.build(vb))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`Checkpoint::find`] and [`Weights::from_checkpoint`], and [`Error::Config`] for a file that is not a
/// model's configuration.
pub fn from_pretrained(
    dir: &Path,
    class_name: Option<&str>,
    variant: Option<&str>,
    registry: &Registry,
    device: &Device,
) -> Result<Pretrained> {
    let PretrainedConfig { config, fields, outline, mut warnings } = pretrained_config(dir, class_name, registry)?;
    let checkpoint = Checkpoint::find(dir, variant)?;
    let rename = |name: &str| config.tensor_name(name);
    let (weights, names) = Weights::from_checkpoint(&checkpoint, &outline, device, rename)?;
    if !names.is_empty() {
        warnings.push(Warning::UnexpectedTensors { path: checkpoint.path().to_owned(), names });
    }
    Ok(Pretrained { config, fields, weights, warnings })
}

/// The configuration of a saved model, as [`from_pretrained`] reads it.
#[non_exhaustive]
pub struct PretrainedConfig {
    /// The configuration.
    pub config: Arc<dyn ModelConfig>,
    /// The fields as the file has them, for [`save_with`].
    pub fields: Config,
    /// The network's tensors.
    pub outline: Outline,
    /// Warnings about unexpected content.
    pub warnings: Vec<Warning>,
}

/// Reads the configuration of the model saved in `dir` as [`from_pretrained`] does, without its weights.
///
/// # Errors
/// [`Error::Config`] for a file that is not a model's configuration.
pub fn pretrained_config(dir: &Path, class_name: Option<&str>, registry: &Registry) -> Result<PretrainedConfig> {
    let (path, mut warnings) = (dir.join(CONFIG_FILE), vec![]);
    let refused = |reason: String| Error::Config { origin: path.display().to_string(), reason };
    let fields = kakusan_config::from_json(&read_config(&path)?).map_err(|e| refused(e.to_string()))?;
    let found = fields.get("_class_name");
    let class_name = match (class_name, found.and_then(Value::as_str)) {
        (None, Some(own)) => own.to_owned(),
        (None, None) => return Err(refused(registry.no_class_name(found))),
        (Some(_), _) if fields.is_empty() => return Err(refused(registry.no_class_name(None))), // nothing is left of it
        (Some(named), own) => {
            if own != Some(named) {
                let found = found.map(Value::to_string);
                warnings.push(Warning::OtherClass { path: path.clone(), found, class_name: named.to_owned() });
            }
            named.to_owned()
        }
    };
    let Read { config, outline, unknown } =
        registry.read_file(&class_name, fields.clone(), &path.display().to_string())?;
    if !unknown.is_empty() {
        warnings.push(Warning::UnknownFields { path, class_name, fields: unknown });
    }
    Ok(PretrainedConfig { config, fields, outline, warnings })
}

/// Reads the configuration of the model saved in `dir`, and the fields as the file has them, for [`save_with`].
///
/// # Errors
/// When the file cannot be read or is not a model's configuration, as where it has a field that the class does not
/// have: [`from_pretrained`] ignores those.
pub fn load_config(dir: &Path, registry: &Registry) -> Result<(Arc<dyn ModelConfig>, Config)> {
    let path = dir.join(CONFIG_FILE);
    let (text, origin) = (read_config(&path)?, path.display().to_string());
    let config = registry.from_json(&text, &origin)?;
    let fields = kakusan_config::from_json(&text).map_err(|e| Error::Config { origin, reason: e.to_string() })?;
    Ok((config, fields))
}

fn read_config(path: &Path) -> Result<String> {
    read_text(path, MAX_CONFIG)?.ok_or_else(|| Error::Config {
        origin: path.display().to_string(),
        reason: "it is not text, or too long for a configuration".into(),
    })
}
