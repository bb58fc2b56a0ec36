//! Pipelines on the Hugging Face Hub.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::Device;
use kakusan_hub::{Hub, Snapshot};
use kakusan_models::CONFIG_FILE;
use kakusan_weights::choose_weights;
use serde_json::Value;

use crate::files::read_text;
use crate::layout::{INDEX_FILE, Index, SCHEDULER_FILE};
use crate::{DDPMPipeline, Error, Registry, Result};

impl DDPMPipeline {
    /// Downloads a pipeline from the repository `repo_id` (`owner/name`) of the Hub and returns its folder in the
    /// cache, for [`from_pretrained_variant`](Self::from_pretrained_variant). Of the weights it downloads only those
    /// that this function would load.
    ///
    /// # Errors
    /// When a file cannot be downloaded, and when the repository holds no such pipeline.
    pub fn download(repo_id: &str, revision: &str, variant: Option<&str>, hub: &Hub) -> Result<PathBuf> {
        Ok(download(hub, repo_id, revision, variant)?.0)
    }

    /// Loads a pipeline from the repository `repo_id` (`owner/name`) of the Hub, through the cache.
    ///
    /// # Errors
    /// As [`download`](Self::download) and [`from_pretrained`](Self::from_pretrained).
    pub fn from_hub(repo_id: &str, revision: &str, hub: &Hub, registry: &Registry, device: &Device) -> Result<Self> {
        Self::from_pretrained(&Self::download(repo_id, revision, None, hub)?, registry, device)
    }
}

/// Downloads all files of a pipeline from the repository `repo_id` of the Hub into the cache. Returns the folder and
/// the commit.
pub(crate) fn download(hub: &Hub, repo_id: &str, revision: &str, variant: Option<&str>) -> Result<(PathBuf, String)> {
    let snapshot = hub.model_snapshot(repo_id, revision)?;
    let dir = snapshot.folder();
    let has = |file: &str| snapshot.files().iter().any(|name| name == file);
    if !has(INDEX_FILE) {
        let reason = format!("{repo_id} has no {INDEX_FILE} at {revision}");
        return Err(Error::NotAPipeline { dir: repo_id.into(), reason });
    }
    snapshot.fetch(INDEX_FILE)?;
    Index::read(&dir)?; // before the large files

    let unet = folder_of(&snapshot, "unet");
    snapshot.fetch(&format!("{unet}{CONFIG_FILE}"))?;
    let names = snapshot.files().iter().filter_map(|name| name.strip_prefix(&unet)).filter(|name| !name.contains('/'));
    let chosen = choose_weights(names, variant).map_err(|reason| {
        let dir = PathBuf::from(repo_id).join(&unet);
        Error::Weights(kakusan_weights::Error::NoWeights { dir, reason })
    })?;
    let weights = snapshot.fetch(&format!("{unet}{}", chosen.name))?;
    if chosen.name.ends_with(".json") {
        for shard in shards(&weights)?.iter().map(|shard| format!("{unet}{shard}")).filter(|shard| has(shard)) {
            snapshot.fetch(&shard)?; // a missing shard is reported when the index is read
        }
    }
    snapshot.fetch(&format!("{}{SCHEDULER_FILE}", folder_of(&snapshot, "scheduler")))?;
    snapshot.keep()?;
    Ok((dir, snapshot.commit().to_owned()))
}

/// `unet/`, or an empty string if the repository has all files in its root.
fn folder_of(snapshot: &Snapshot, component: &str) -> String {
    let folder = format!("{component}/");
    if snapshot.files().iter().any(|name| name.starts_with(&folder)) { folder } else { String::new() }
}

/// The files that an index names. Errors in it are reported when it is opened.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let index = kakusan_config::from_json(&read_text(index)?).unwrap_or_default();
    let shards = index.get("weight_map").and_then(Value::as_object).into_iter().flat_map(|map| map.values());
    Ok(shards.filter_map(Value::as_str).filter(|shard| !shard.contains('/')).map(str::to_owned).collect())
}
