use std::collections::BTreeMap;
use std::path::Path;

use super::save::save_tensors;
use crate::{Checkpoint, Error, Result, SaveOptions, legacy};

/// Saves a checkpoint's tensors in `dir` as safetensors, in the type, the pieces and under the variant that `options`
/// says, whatever model they are of. All tensors are kept, those that are no floats as they are; the old names of
/// attention layers become today's ([`legacy::attention_name`]), which diffusers expects of shards. One tensor at a time
/// is in memory.
///
/// # Errors
/// When a tensor cannot be read or does not fit the type asked for, two would get the same name, or a file cannot be
/// written. What was in `dir` before is then still there.
pub fn convert(checkpoint: &Checkpoint, dir: &Path, options: &SaveOptions) -> Result<()> {
    let refused = |problem: String| Error::Mismatch { path: checkpoint.path().to_owned(), problems: vec![problem] };
    let (mut tensors, mut origins) = (vec![], BTreeMap::new());
    for (name, info) in checkpoint.tensors() {
        let new = legacy::attention_name(name);
        if let Some(other) = origins.insert(new.clone(), name) {
            return Err(refused(format!("{name}: its name today is {new}, and so is that of {other}")));
        }
        tensors.push((new, info.clone()));
    }
    save_tensors(dir, &tensors, options, |name| {
        let origin = origins.get(name).copied().unwrap_or(name);
        checkpoint.bytes(origin).map_err(|reason| refused(format!("{origin}: {reason}")))
    })
}
