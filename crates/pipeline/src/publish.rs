//! Which files of a folder make up a pipeline, to publish them: neither checkpoints nor logs.

use std::collections::BTreeSet;
use std::path::Path;

use kakusan_config::from_json;

use crate::files::read_text;
use crate::layout::{INDEX_FILE, Index, SCHEDULER_FILE};
use crate::{Error, Result};

/// The beginning of the names of all files of weights.
const WEIGHTS: &str = "diffusion_pytorch_model";
const COMPONENTS: [&str; 2] = ["unet", "scheduler"];

/// The files of the pipeline in `dir`, as paths relative to it with `/`: `model_index.json`, and the configurations and
/// weights of its components. Further files of the folder are not among them.
///
/// # Errors
/// When the folder holds no finished pipeline, or cannot be read.
pub fn pipeline_files(dir: &Path) -> Result<Vec<String>> {
    Index::read(dir)?;
    let index = from_json(&read_text(&dir.join(INDEX_FILE))?).unwrap_or_default(); // `Index` has read it
    let mut files = BTreeSet::from([INDEX_FILE.to_owned()]);
    let mut is_flat = true;
    for component in index.keys().filter(|name| !name.starts_with('_') && !name.contains(['/', '\\', '.'])) {
        if dir.join(component).is_dir() {
            files.extend(names(&dir.join(component))?.into_iter().map(|name| format!("{component}/{name}")));
            is_flat &= !COMPONENTS.contains(&component.as_str());
        }
    }
    if is_flat {
        let belongs = |name: &String| name == "config.json" || name == SCHEDULER_FILE || name.starts_with(WEIGHTS);
        files.extend(names(dir)?.into_iter().filter(belongs));
    }
    Ok(files.into_iter().collect())
}

/// The names of a folder's files, except hidden ones: those are leftovers of killed processes.
fn names(dir: &Path) -> Result<Vec<String>> {
    let unreadable = || Error::io("read", dir);
    let mut names = vec![];
    for entry in std::fs::read_dir(dir).map_err(unreadable())? {
        let path = entry.map_err(unreadable())?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        names.extend(name.filter(|name| path.is_file() && !name.starts_with('.')).map(str::to_owned));
    }
    Ok(names)
}

/// Whether `path`, a file of an earlier version of a published pipeline, would be loaded instead of the `files` of the
/// present one, or mixed with them: other shards or another format of the same weights, or folders of components
/// where the present version has none.
///
/// ```
/// use kakusan_pipeline::is_superseded;
///
/// let files = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"].map(String::from);
/// assert!(is_superseded("unet/diffusion_pytorch_model.safetensors.index.json", &files));
/// assert!(is_superseded("unet/diffusion_pytorch_model-00001-of-00002.safetensors", &files));
/// assert!(!is_superseded("unet/diffusion_pytorch_model.fp16.safetensors", &files)); // another variant
/// assert!(!is_superseded("images/mine.png", &files));
/// ```
pub fn is_superseded(path: &str, files: &[String]) -> bool {
    if files.iter().any(|file| file == path) {
        return false;
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let split = |file: &'_ String| {
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
        (folder.to_owned(), name.to_owned())
    };
    let in_folders = files.iter().any(|file| split(file).0 == "unet");
    if COMPONENTS.contains(&folder) && !in_folders {
        return files.iter().any(|file| variant(file).is_some()); // a flat pipeline
    }
    let Some(own) = variant(name) else { return false };
    files.iter().map(split).any(|(other, name)| other == folder && variant(&name) == Some(own.clone()))
}

/// The variant that the name of a file of weights, a shard or an index says, or an empty text; `None` for other files.
fn variant(name: &str) -> Option<String> {
    let rest = name.strip_prefix(WEIGHTS)?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    // `-00001-of-00002`, at the end of a part of the name
    let without_shard = |part: &str| match part.len().checked_sub(15).and_then(|at| Some((at, part.get(at..)?))) {
        Some((at, shard)) => match shard.strip_prefix('-').and_then(|shard| shard.split_once("-of-")) {
            Some((number, count)) if is_number(number) && is_number(count) => part[..at].to_owned(),
            _ => part.to_owned(),
        },
        None => part.to_owned(),
    };
    let parts = rest.split('.').map(without_shard);
    let variant: Vec<String> =
        parts.filter(|part| !["", "safetensors", "bin", "index", "json"].contains(&part.as_str())).collect();
    Some(variant.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_found_in_every_form_of_a_name() {
        for (name, expected) in [
            ("diffusion_pytorch_model.safetensors", Some("")),
            ("diffusion_pytorch_model.bin", Some("")),
            ("diffusion_pytorch_model-00001-of-00002.safetensors", Some("")),
            ("diffusion_pytorch_model.safetensors.index.json", Some("")),
            ("diffusion_pytorch_model.fp16.safetensors", Some("fp16")),
            ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", Some("fp16")),
            ("diffusion_pytorch_model-00001-of-00002.fp16.safetensors", Some("fp16")),
            ("diffusion_pytorch_model.safetensors.index.fp16.json", Some("fp16")),
            ("config.json", None),
        ] {
            assert_eq!(variant(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn only_what_the_present_files_replace_is_superseded() {
        let files = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let flat = files(&["model_index.json", "config.json", "diffusion_pytorch_model.safetensors"]);
        for (path, expected) in [
            ("unet/config.json", true), // it would be loaded instead
            ("scheduler/scheduler_config.json", true),
            ("diffusion_pytorch_model.bin", true),
            ("diffusion_pytorch_model.safetensors", false),
            ("README.md", false),
        ] {
            assert_eq!(is_superseded(path, &flat), expected, "{path}");
        }
        let half = files(&["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"]);
        assert!(!is_superseded("unet/diffusion_pytorch_model.safetensors", &half));
        assert!(is_superseded("unet/diffusion_pytorch_model.safetensors.index.fp16.json", &half));
        assert!(!is_superseded("scheduler/scheduler_config.json", &half));
    }
}
