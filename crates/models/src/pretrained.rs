//! A model in a folder, as diffusers saves it: `config.json` and weights.

use std::path::Path;

use candle_core::Device;
use kakusan_config::Config;
use kakusan_weights::{Checkpoint, SaveOptions, read_text, save_tensors, write_file};
use serde_json::Value;

use crate::model::no_class_name;
use crate::unet_2d::state_dict_order;
use crate::{Error, Model, ModelConfig, Result, UNet2DModel, Warning, Weights};

/// The name of a model's configuration in its folder.
pub const CONFIG_FILE: &str = "config.json";

/// The longest configuration that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// Saves a model's configuration and weights in `dir` as diffusers lays them out: as [`save_with`] does with the
/// default [`SaveOptions`].
///
/// # Errors
/// As [`save_with`].
pub fn save(config: &ModelConfig, weights: &Weights, dir: &Path) -> Result<()> {
    save_with(config, weights, dir, &SaveOptions::default(), &Config::new())
}

/// Saves a model's configuration and weights in `dir`, the configuration last. Each file is written atomically, and all
/// are written before the first gets its name; what an earlier save of the same variant left there in other pieces is
/// deleted at the end. Shards replace older shards one by one: after an interruption the index is missing, and loading
/// says so.
///
/// `fields` are those of the `config.json` that the model was loaded from, if it was: the way in which they write numbers
/// is kept, and fields that say nothing of the model.
///
/// # Errors
/// When the folder or a file cannot be written, or a value does not fit the type asked for.
pub fn save_with(
    config: &ModelConfig,
    weights: &Weights,
    dir: &Path,
    options: &SaveOptions,
    fields: &Config,
) -> Result<()> {
    let mut tensors = weights.infos();
    if config.class_name() == UNet2DModel::CLASS_NAME {
        tensors.sort_by_key(|(name, _)| state_dict_order(name));
    }
    save_tensors(dir, &tensors, options, |name| weights.bytes(name))?;
    Ok(write_file(&dir.join(CONFIG_FILE), config.to_json_as_in(fields).as_bytes())?)
}

/// A model as it was saved, and what was odd about it.
#[non_exhaustive]
pub struct Pretrained {
    /// Its configuration.
    pub config: ModelConfig,
    /// The fields as the file has them, for [`save_with`].
    pub fields: Config,
    /// Its weights.
    pub weights: Weights,
    /// The network that the weights train.
    pub model: Box<dyn Model>,
    /// What the files hold beside the model, and was passed over.
    pub warnings: Vec<Warning>,
}

/// Loads the model saved in `dir`, as diffusers' `from_pretrained` does of a model by itself: its configuration, and the
/// weights as [`Checkpoint::find`] finds them (of `variant` where one is named). Whoever knows the class from elsewhere, as
/// from a pipeline's index, names it: it is built whatever the file's own `_class_name` says.
///
/// Fields that the class does not have, and tensors that the model does not have, are passed over as diffusers does, with a
/// [`Warning`] that names them; a tensor that is missing is not.
///
/// ```
/// use candle_core::Device;
/// use kakusan_models::{BasicUNetConfig, ModelConfig, Weights, from_pretrained, save};
/// use kakusan_rng::Generator;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// let config = ModelConfig::BasicUNet(BasicUNetConfig::default());
/// let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
/// save(&config, &weights, dir.path())?;
/// let again = from_pretrained(dir.path(), None, None, &Device::Cpu)?;
/// assert_eq!((&again.config, again.weights.parameter_count()), (&config, 309_057));
/// assert!(again.warnings.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`Checkpoint::find`] and [`Weights::from_checkpoint`], and [`Error::Config`] for a file that is not a model's
/// configuration.
pub fn from_pretrained(
    dir: &Path,
    class_name: Option<&str>,
    variant: Option<&str>,
    device: &Device,
) -> Result<Pretrained> {
    let (path, mut warnings) = (dir.join(CONFIG_FILE), vec![]);
    let refused = |reason: String| Error::Config { origin: path.display().to_string(), reason };
    let fields = kakusan_config::from_json(&read_config(&path)?).map_err(|e| refused(e.to_string()))?;
    let found = fields.get("_class_name");
    let class_name = match (class_name, found.and_then(Value::as_str)) {
        (None, Some(own)) => own.to_owned(),
        (None, None) => return Err(refused(no_class_name(found))),
        (Some(_), _) if fields.is_empty() => return Err(refused(no_class_name(None))), // nothing is left of it
        (Some(named), own) => {
            if own != Some(named) {
                let found = found.map(Value::to_string);
                warnings.push(Warning::OtherClass { path: path.clone(), found, class_name: named.to_owned() });
            }
            named.to_owned()
        }
    };
    let (config, unknown) = ModelConfig::from_file(&class_name, fields.clone(), &path.display().to_string())?;
    if !unknown.is_empty() {
        warnings.push(Warning::UnknownFields { path, class_name, fields: unknown });
    }
    let checkpoint = Checkpoint::find(dir, variant)?;
    let path = checkpoint.path().to_owned();
    let rename = |name: &str| config.tensor_name(name);
    let (weights, model, names) = Weights::from_checkpoint(checkpoint, device, rename, |vb| config.build(vb))?;
    if !names.is_empty() {
        warnings.push(Warning::UnexpectedTensors { path, names });
    }
    Ok(Pretrained { config, fields, weights, model, warnings })
}

/// Reads the configuration of the model saved in `dir`.
///
/// # Errors
/// When the file cannot be read or is not a model's configuration, as where it has a field that the class does not have:
/// [`from_pretrained`] passes over those.
pub fn load_config(dir: &Path) -> Result<ModelConfig> {
    Ok(load_config_and_fields(dir)?.0)
}

/// Reads the configuration of the model saved in `dir`, and the fields as the file has them, for [`save_with`].
///
/// # Errors
/// As [`load_config`].
pub fn load_config_and_fields(dir: &Path) -> Result<(ModelConfig, Config)> {
    let path = dir.join(CONFIG_FILE);
    let (text, origin) = (read_config(&path)?, path.display().to_string());
    let config = ModelConfig::from_json(&text, &origin)?;
    let fields = kakusan_config::from_json(&text).map_err(|e| Error::Config { origin, reason: e.to_string() })?;
    Ok((config, fields))
}

fn read_config(path: &Path) -> Result<String> {
    read_text(path, MAX_CONFIG)?.ok_or_else(|| Error::Config {
        origin: path.display().to_string(),
        reason: "it is no text, or too long".into(),
    })
}
