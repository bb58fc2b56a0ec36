//! The index of a sharded checkpoint: which file holds which tensor.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::{TensorFile, open_file};
use crate::file::read_text;
use crate::{Error, Result};

/// A million tensors' worth.
const MAX_INDEX: u64 = 100_000_000;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the shards that an index names. Each has the tensors that the index places in it, and none that it places in
/// another; what the index does not know may be there, too, as in Python.
pub(crate) fn open(path: &Path) -> Result<Vec<TensorFile>> {
    let refused = |problems| Error::Shards { path: path.to_owned(), problems };
    let text =
        read_text(path, MAX_INDEX)?.ok_or_else(|| refused(vec!["it is not text, or too long for an index".into()]))?;
    let index: Index =
        serde_json::from_str(&text).map_err(|e| refused(vec![format!("it is not an index of tensors: {e}")]))?;

    let mut shards = BTreeMap::<&str, Vec<&str>>::new();
    for (tensor, file) in &index.weight_map {
        shards.entry(file).or_default().push(tensor);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut problems = vec![];
    for file in shards.keys() {
        if !is_plain(file) {
            problems.push(format!("{file:?} leads out of the folder; a shard lies beside its index"));
        } else if !folder.join(file).is_file() {
            problems.push(format!("it names {file}, which does not exist"));
        }
    }
    if shards.is_empty() {
        problems.push("its weight_map is empty".to_owned());
    }
    if !problems.is_empty() {
        return Err(refused(problems));
    }

    let mut opened = vec![];
    for (file, tensors) in &shards {
        let shard = open_file(&folder.join(file))?;
        let held: BTreeMap<&str, ()> = shard.1.iter().map(|(name, _)| (name.as_str(), ())).collect();
        let missing = tensors.iter().filter(|name| !held.contains_key(**name));
        problems.extend(missing.map(|name| format!("{name}: it is not in {file}, where the index places it")));
        let stray = held.keys().filter(|name| index.weight_map.get(**name).is_some_and(|place| place != file));
        problems.extend(stray.map(|name| format!("{name}: it is in {file}, but the index does not place it there")));
        opened.push(shard);
    }
    if problems.is_empty() { Ok(opened) } else { Err(refused(problems)) }
}

/// Whether a name is one file's in the same folder.
fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', ':', '\0'])
}
