//! `train.freeze`: the parts of the network that are not trained.

use std::collections::BTreeSet;

use kakusan_config::did_you_mean;
use kakusan_models::{ModelConfig, Outline};

/// Refuses parts that the network does not have, and to freeze all of it. The message names the key in backticks.
pub(crate) fn check(parts: &[String], model: &dyn ModelConfig) -> Result<(), String> {
    if parts.is_empty() {
        return Ok(());
    }
    let outline = model.outline().map_err(|e| e.to_string())?;
    if let Some(wrong) = parts.iter().find(|part| outline.part(part).next().is_none()) {
        let known = all_parts(&outline);
        let known: Vec<&str> = known.iter().copied().collect();
        let meant = did_you_mean(wrong, &known);
        let mut top: Vec<&str> = outline.tensors().iter().map(|tensor| first_word(&tensor.name)).collect();
        top.dedup();
        let (class_name, top) = (model.class_name(), top.join(", "));
        return Err(format!("`freeze`: a {class_name} has no part `{wrong}` here, only parts of {top}{meant}"));
    }
    let frozen: BTreeSet<&str> =
        parts.iter().flat_map(|part| outline.part(part)).map(|tensor| tensor.name.as_str()).collect();
    let mut trained = outline.tensors().iter().filter(|tensor| tensor.spec.trained);
    if trained.all(|tensor| frozen.contains(tensor.name.as_str())) {
        return Err("`freeze` leaves nothing to train: remove a part from it".into());
    }
    Ok(())
}

fn first_word(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Every part: `down_blocks.0.resnets.0.conv1.weight` and all that it lies in.
fn all_parts(outline: &Outline) -> BTreeSet<&str> {
    let within = |name: &'_ str| name.match_indices('.').map(|(end, _)| end).chain([name.len()]).collect::<Vec<_>>();
    let names = outline.tensors().iter().map(|tensor| tensor.name.as_str());
    names.flat_map(|name| within(name).into_iter().map(move |end| &name[..end])).collect()
}
