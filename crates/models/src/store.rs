use std::io::Write;
use std::path::Path;

use atomic_write_file::AtomicWriteFile;

use crate::{Error, ModelConfig, Result, Weights};

/// The name of a model's configuration in its folder.
pub const CONFIG_FILE: &str = "config.json";
/// The name of a model's weights in its folder.
pub const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";

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
    let text = String::from_utf8(read_file(&path)?)
        .map_err(|_| Error::Config { origin: origin.clone(), reason: "it is not text".into() })?;
    ModelConfig::from_json(&text, &origin)
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })
}

/// Writes a file beside its place, brings it to the disk, and only then gives it its name.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
}
