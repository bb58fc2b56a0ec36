use std::collections::BTreeMap;
use std::path::Path;

use crate::{Checkpoint, Error, Result, SaveOptions, save_tensors};

/// Saves a checkpoint's tensors in `dir` as safetensors, in the type, the pieces and under the variant that `options`
/// says, whatever model they are of. All tensors are kept, those that are no floats as they are; `rename` gives a
/// tensor's new name. One tensor at a time is in memory.
///
/// # Errors
/// When a tensor cannot be read or does not fit the type asked for, two would get the same name, or a file cannot be
/// written. What was in `dir` before is then still there.
pub fn convert(
    checkpoint: &Checkpoint,
    dir: &Path,
    options: &SaveOptions,
    rename: impl Fn(&str) -> String,
) -> Result<()> {
    let (mut tensors, mut origins) = (vec![], BTreeMap::new());
    for (name, info) in checkpoint.tensors() {
        let new = rename(name);
        if let Some(other) = origins.insert(new.clone(), name) {
            let reason = format!("its current name is {new}, which {other} also becomes");
            return Err(Error::Tensor { path: checkpoint.path().to_owned(), name: name.to_owned(), reason });
        }
        tensors.push((new, info.clone()));
    }
    save_tensors(dir, &tensors, options, |name| checkpoint.bytes(origins.get(name).copied().unwrap_or(name)))
}
