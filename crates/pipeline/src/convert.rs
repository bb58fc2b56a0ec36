use std::fs;
use std::path::Path;

use kakusan_config::{Config, from_json};
use kakusan_models::legacy::attention_name;
use kakusan_weights::{Checkpoint, SaveOptions};

use crate::files::{create_folders, delete_folder, read_text, write_whole};
use crate::layout::INDEX_FILE;
use crate::{Error, Result};

/// The extensions of a pipeline's or model's files other than its weights.
const BESIDE: [&str; 3] = ["json", "md", "txt"];
/// Larger files are not part of a model's configuration.
const MAX_BESIDE: u64 = 10 << 20;

/// Copies `from` into the new folder `to` and writes its weights as `options` says: safetensors instead of
/// PyTorch's `.bin`, another type, other shards, a variant. `from` is the folder of a pipeline (with any components),
/// the folder of a model, or a weight file. If `variant` is given, a folder's weights of that variant are read.
/// Configurations are copied unchanged. Returns the number of checkpoints that were converted.
///
/// Weights of a kind that diffusers does not save (a text encoder's) are refused, not skipped.
///
/// # Errors
/// When `to` exists and is not empty, when `from` has no weights or they cannot be read, and when a value does
/// not fit the requested type. What was written to `to` is deleted then.
pub fn convert(from: &Path, variant: Option<&str>, to: &Path, options: &SaveOptions) -> Result<usize> {
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) || to.is_file() {
        return Err(Error::Unfit(format!("{} already exists; choose another folder", to.display())));
    }
    let was_there = to.is_dir();
    convert_all(from, variant, to, options).inspect_err(|_| {
        // leftovers would block the next attempt; if deleting fails too, the first error is more useful
        if delete_folder(to).is_ok() && was_there {
            let _ = create_folders(to);
        }
    })
}

fn convert_all(from: &Path, variant: Option<&str>, to: &Path, options: &SaveOptions) -> Result<usize> {
    if !from.is_dir() {
        kakusan_weights::convert(&Checkpoint::open(from)?, to, options, attention_name)?;
        return Ok(1);
    }
    let index = from.join(INDEX_FILE);
    let unfit = |reason: String| Error::NotAPipeline { dir: from.to_owned(), reason };
    let components = match index.is_file() {
        true => from_json(&read_text(&index)?).map_err(|e| unfit(format!("{INDEX_FILE} is damaged: {e}")))?,
        false => Config::new(),
    };
    let mut converted = 0;
    for component in components.keys().filter(|name| !name.starts_with('_')) {
        if component.contains(['/', '\\', ':']) || component == ".." || component == "." {
            return Err(unfit(format!(
                "{INDEX_FILE} names the component {component:?}; a component is a folder beside {INDEX_FILE}"
            )));
        }
        let dir = from.join(component);
        if dir.is_dir() {
            converted += convert_folder(&dir, variant, &to.join(component), options)?;
        }
    }
    converted += convert_folder(from, variant, to, options)?;
    if converted == 0 {
        Checkpoint::find(from, variant)?; // its error says what it expects
    }
    if index.is_file() {
        copy(&index, &to.join(INDEX_FILE))?; // last: a folder with an index is complete
    }
    Ok(converted)
}

/// Converts the weights of a folder, if it has any, and copies its other files.
fn convert_folder(from: &Path, variant: Option<&str>, to: &Path, options: &SaveOptions) -> Result<usize> {
    let unreadable = || Error::io("read", from);
    let (mut beside, mut weights) = (vec![], vec![]);
    for entry in fs::read_dir(from).map_err(unreadable())? {
        let path = entry.map_err(unreadable())?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_owned();
        let is_weights = ["safetensors", "bin"].contains(&extension.as_str()) && path.is_file();
        if name.starts_with("diffusion_pytorch_model") || is_weights {
            weights.push(path);
        } else if BESIDE.contains(&extension.as_str()) && name != INDEX_FILE && path.is_file() {
            beside.push(path);
        }
    }
    fs::create_dir_all(to).map_err(Error::io("create", to))?;
    if !weights.is_empty() {
        kakusan_weights::convert(&Checkpoint::find(from, variant)?, to, options, attention_name)?;
    }
    for path in beside {
        if fs::metadata(&path).is_ok_and(|file| file.len() <= MAX_BESIDE)
            && let Some(name) = path.file_name()
        {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(usize::from(!weights.is_empty()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    write_whole(to, &fs::read(from).map_err(Error::io("read", from))?)
}
