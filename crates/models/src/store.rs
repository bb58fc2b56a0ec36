//! The way to disk and back: models in diffusers' folders, weights in safetensors and in PyTorch's own format.

mod checkpoint;
mod choose;
mod convert;
mod file;
mod index;
mod order;
mod pickle;
mod safetensors_file;
mod save;
mod torch_file;
mod zip;

use std::path::Path;

use candle_core::Device;
use kakusan_config::Config;

use crate::{Error, Model, ModelConfig, Result, UNet2DModel, Weights};

pub use checkpoint::{Checkpoint, TensorInfo};
pub use choose::{WeightsFile, choose as choose_weights};
pub use convert::convert;
pub(crate) use file::write_file;
pub(crate) use save::save_file;
pub use save::{FloatType, SaveOptions, parse_size};

/// The name of a model's configuration in its folder.
pub const CONFIG_FILE: &str = "config.json";
/// The name of a model's weights in its folder.
pub const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";

/// The longest configuration that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// Saves a model's configuration and weights in `dir` as diffusers lays them out: as [`save_with`] does with the
/// default [`SaveOptions`].
///
/// # Errors
/// As [`save_with`].
pub fn save(config: &ModelConfig, weights: &Weights, dir: &Path) -> Result<()> {
    save_with(config, weights, dir, &SaveOptions::default())
}

/// Saves a model's configuration and weights in `dir`, the configuration last. Each file appears whole or not at all,
/// and all are written before the first appears; what an earlier save of the same variant left there in other pieces is
/// deleted at the end. Shards that replace shards do so one by one: who is stopped in between is told by the missing index.
///
/// # Errors
/// When the folder or a file cannot be written, or a value does not fit the type asked for.
pub fn save_with(config: &ModelConfig, weights: &Weights, dir: &Path, options: &SaveOptions) -> Result<()> {
    let mut tensors = weights.infos();
    if config.class_name() == UNet2DModel::CLASS_NAME {
        tensors.sort_by_key(|(name, _)| order::state_dict_order(name));
    }
    save::save_tensors(dir, &tensors, options, |name| weights.bytes(name))?;
    write_file(&dir.join(CONFIG_FILE), config.to_json_as_in(&options.fields).as_bytes())
}

/// Loads the model saved in `dir`, as diffusers' `from_pretrained` does of a model by itself: its configuration, the weights
/// as [`Checkpoint::find`] finds them (of `variant` where one is named), and the network that they train.
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
/// let (again, weights, model) = from_pretrained(dir.path(), None, &Device::Cpu)?;
/// assert_eq!((&again, &model.config(), weights.parameter_count()), (&config, &config, 309_057));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`load_config`], [`Checkpoint::find`] and [`Weights::from_checkpoint`].
pub fn from_pretrained(
    dir: &Path,
    variant: Option<&str>,
    device: &Device,
) -> Result<(ModelConfig, Weights, Box<dyn Model>)> {
    let config = load_config(dir)?;
    let rename = |name: &str| config.tensor_name(name);
    let checkpoint = Checkpoint::find(dir, variant)?;
    let (weights, model) = Weights::from_checkpoint(checkpoint, device, rename, |vb| config.build(vb))?;
    Ok((config, weights, model))
}

/// Reads the configuration of the model saved in `dir`.
///
/// # Errors
/// When the file cannot be read or is not a model's configuration.
pub fn load_config(dir: &Path) -> Result<ModelConfig> {
    Ok(load_config_and_fields(dir)?.0)
}

/// Reads the configuration of the model saved in `dir`, and the fields as the file has them, which
/// [`SaveOptions::fields`] takes.
///
/// # Errors
/// As [`load_config`].
pub fn load_config_and_fields(dir: &Path) -> Result<(ModelConfig, Config)> {
    let path = dir.join(CONFIG_FILE);
    let origin = path.display().to_string();
    let text = file::read_text(&path, MAX_CONFIG)?
        .ok_or_else(|| Error::Config { origin: origin.clone(), reason: "it is no text, or too long".into() })?;
    let config = ModelConfig::from_json(&text, &origin)?;
    let fields = kakusan_config::from_json(&text).map_err(|e| Error::Config { origin, reason: e.to_string() })?;
    Ok((config, fields))
}
