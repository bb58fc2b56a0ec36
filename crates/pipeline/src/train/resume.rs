//! Resuming a run with its own configuration, from its newest valid checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use super::run_folder::{Metrics, RunFolder};
use super::{averages, checkpoint};
use crate::layout::RUN_CONFIG_FILE;
use crate::{Error, Event, Record, Registry, Result, RunConfig, Trainer};

/// The location of the images may change: `data.json` identifies the images.
pub(crate) const FREE: [&str; 2] = ["data.dir", "data.sources"];
/// The length of a training may change, unless its learning rates depend on it.
const LENGTH: [&str; 2] = ["train.epochs", "train.max_steps"];
/// If one of these changes, a training cannot continue from its checkpoint.
const FIXED: [&str; 5] = ["train.seed", "train.optimizer", "train.freeze", "train.use_ema", "train.ema_sigma_rel"];
/// The tables whose other settings may change, if changes are allowed.
const CHANGEABLE: [&str; 3] = ["train.", "sample.", "data."];

/// Checks that `config` is the run's configuration, so that resuming gives the same bytes as an uninterrupted training.
/// `allow_changes` accepts other settings if the training can continue with them, and returns a description of each.
pub(crate) fn check_same(
    folder: &RunFolder,
    config: &RunConfig,
    allow_changes: bool,
    registry: &Registry,
) -> Result<Vec<String>> {
    let own = RunConfig::load_recorded(&folder.dir().join(RUN_CONFIG_FILE), &[], registry)?;
    let (own, new) = (settings(&own)?, settings(config)?);
    let (mut differences, mut accepted) = (vec![], vec![]);
    let mut changeable = true;
    for key in own.keys().chain(new.keys().filter(|key| !own.contains_key(*key))) {
        let is_free = FREE.contains(&key.as_str())
            || (LENGTH.contains(&key.as_str()) && !config.train.lr_scheduler.knows_the_end());
        if is_free || own.get(key) == new.get(key) {
            continue;
        }
        let is_changeable = !FIXED.contains(&key.as_str()) && CHANGEABLE.iter().any(|table| key.starts_with(table));
        let show = |value: Option<&String>| value.map_or("not set".to_owned(), |value| format!("`{value}`"));
        let difference = format!("{key} is {}, but {} in the run", show(new.get(key)), show(own.get(key)));
        if allow_changes && is_changeable {
            accepted.push(difference);
        } else {
            differences.push(difference);
            changeable &= is_changeable;
        }
    }
    if differences.is_empty() {
        return Ok(accepted);
    }
    Err(Error::OtherConfig { dir: folder.dir().to_owned(), differences, changeable })
}

/// A configuration's values by dotted keys.
pub(crate) fn settings(config: &RunConfig) -> Result<BTreeMap<String, String>> {
    let unreadable = |e: toml::de::Error| Error::Unfit(format!("a configuration has no TOML form: {e}"));
    let tables: toml::Table = config.to_toml()?.parse().map_err(unreadable)?;
    let values = tables.iter().filter_map(|(table, values)| Some((table, values.as_table()?)));
    let dotted = |(table, values): (&String, &toml::Table)| -> Vec<(String, String)> {
        values.iter().map(|(key, value)| (format!("{table}.{key}"), value.to_string())).collect()
    };
    Ok(values.flat_map(dotted).collect())
}

/// Loads the newest valid checkpoint, or that of step `from`, and truncates the log to it.
pub(crate) fn go_on(
    folder: &RunFolder,
    trainer: &mut Trainer,
    from: Option<usize>,
    allow_changes: bool,
    observe: &mut dyn FnMut(&Event) -> Result<()>,
) -> Result<(Metrics, Vec<Record>)> {
    let checkpoints = folder.checkpoints();
    checkpoint::sweep(&checkpoints)?;
    folder.sweep()?;
    let found = checkpoint::newest_first(&checkpoints)?;
    let chosen = from.map(|step| checkpoint::find(&checkpoints, step)).transpose()?;
    let first = found.iter().position(|(_, dir)| chosen.as_ref().is_none_or(|chosen| chosen == dir)).unwrap_or(0);
    let mut refused = None;
    for (i, (_, dir)) in found.iter().enumerate().skip(first) {
        let loaded = match allow_changes {
            true => trainer.load_changed_checkpoint(dir),
            false => trainer.load_checkpoint(dir),
        };
        match loaded {
            Ok(()) => {
                let why = if chosen.is_some() { "later" } else { "damaged" };
                found[..i].iter().try_for_each(|(_, newer)| checkpoint::set_aside(newer, why))?;
                checkpoint::prune(&checkpoints, trainer.keep())?; // a kill may have prevented it before
                let steps = trainer.steps_done();
                averages::delete_after(folder.dir(), steps)?;
                let (metrics, records) = folder.resume_metrics(steps)?;
                if records.len() < steps {
                    let (path, missing) = (metrics.path(), steps - records.len());
                    observe(&Event::LogIncomplete { path, missing, steps })?;
                }
                return Ok((metrics, records));
            }
            Err(e) if chosen.is_some() => return Err(e),
            Err(e) => {
                observe(&Event::CheckpointSkipped(&e))?;
                refused.get_or_insert(e);
            }
        }
    }
    match refused {
        // it was stopped before its first checkpoint
        None => {
            averages::delete_after(folder.dir(), 0)?;
            Ok((folder.new_metrics()?, vec![]))
        }
        Some(Error::Checkpoint { dir, reason }) => {
            let reason = format!("{reason}; the run has no other usable checkpoint, so start again with --overwrite");
            Err(Error::Checkpoint { dir, reason })
        }
        Some(other) => Err(other),
    }
}

/// Adds the newest checkpoint to the error of a training that diverged or needs more memory.
pub(crate) fn with_last_checkpoint(mut error: Error, checkpoints: &Path) -> Error {
    if let Error::Diverged { last_checkpoint, .. }
    | Error::Unsound { last_checkpoint, .. }
    | Error::OutOfMemory { last_checkpoint, .. } = &mut error
    {
        let newest = checkpoint::newest_first(checkpoints).ok().and_then(|found| found.into_iter().next());
        *last_checkpoint = newest.map(|(_, dir)| dir);
    }
    error
}
