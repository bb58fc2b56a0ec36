//! The way to disk and back: models in diffusers' folders, weights in safetensors and in PyTorch's own format.

mod checkpoint;
mod choose;
mod file;
mod index;
mod pickle;
mod safetensors_file;
mod torch_file;
mod zip;

use std::path::Path;

use crate::{Error, ModelConfig, Result, Weights};

pub use checkpoint::{Checkpoint, TensorInfo};
pub use choose::{WeightsFile, choose as choose_weights};
pub(crate) use file::write_file;

/// The name of a model's configuration in its folder.
pub const CONFIG_FILE: &str = "config.json";
/// The name of a model's weights in its folder.
pub const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";

/// The longest configuration that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// Saves a model's configuration and weights in `dir` as diffusers lays them out; each file appears whole or not at all.
///
/// # Errors
/// When the folder or a file cannot be written.
pub fn save(config: &ModelConfig, weights: &Weights, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io { action: "create", path: dir.to_owned(), source })?;
    weights.save(&dir.join(WEIGHTS_FILE))?;
    write_file(&dir.join(CONFIG_FILE), config.to_json().as_bytes())
}

/// Reads the configuration of the model saved in `dir`.
///
/// # Errors
/// When the file cannot be read or is not a model's configuration.
pub fn load_config(dir: &Path) -> Result<ModelConfig> {
    let path = dir.join(CONFIG_FILE);
    let origin = path.display().to_string();
    let text = file::read_text(&path, MAX_CONFIG)?
        .ok_or_else(|| Error::Config { origin: origin.clone(), reason: "it is no text, or too long".into() })?;
    ModelConfig::from_json(&text, &origin)
}
