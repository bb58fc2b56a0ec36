//! Data sets of the Hugging Face Hub, which also stores each of them as parquet files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use kakusan_hub::Hub;

use crate::{
    DataConfig, DatasetName, Error,
    parquet::{self, Classes, Columns},
    photos::{self, Transform},
    source::{Answer, of_pictures},
    tables,
    tree::Pictures,
};

/// The branch on which the Hub stores every data set as parquet.
const REVISION: &str = "refs/convert/parquet";
/// More than the bytes of the pictures of any set that is known by name.
const KNOWN_BYTES: u64 = 1 << 30;

/// Loads the set from the Hub. The error is the reason why this is not possible.
pub(crate) fn from_hub(config: &DataConfig, hub: &Hub) -> Result<Answer, String> {
    let repo = config.hub_repo().unwrap_or_default();
    let (config_name, image, shape) = match config.name {
        DatasetName::Mnist => ("mnist", "image", [1, 28, 28]),
        DatasetName::FashionMnist => ("fashion_mnist", "image", [1, 28, 28]),
        DatasetName::Cifar10 => ("plain_text", "img", [3, 32, 32]),
        DatasetName::Folder | DatasetName::Hub => {
            let (found, description) = find_pictures(config, hub)?;
            return of_pictures(found, description, Path::new(repo), config).map_err(|error| error.to_string());
        }
    };
    let (files, _) = files_on_hub(hub, repo, config_name, config.split.as_deref().unwrap_or("train"))?;
    let description = format!("the Hub's data set {repo}");
    let read = |files: &[PathBuf]| -> Result<Answer, Error> {
        let (columns, names) = (Columns { image: Some(image), label: Some("label") }, config.name.class_names());
        let rows = parquet::read(files, columns, Classes::Known(&names), KNOWN_BYTES)?;
        let (images, _) = photos::image_set(rows.entries, names, Transform::none(shape[0]), Path::new(repo))?;
        match images.shape() == shape {
            true => Ok(Answer::good(images, description)),
            false => Err(Error::Images {
                path: repo.into(),
                reason: format!("holds images of {:?} (channels, height, width); expected {shape:?}", images.shape()),
            }),
        }
    };
    read(&files).map_err(|error| error.to_string())
}

/// The pictures of a set that is not known by name, not decoded yet, and a description of them. The error is the reason
/// why there are none.
pub(crate) fn find_pictures(config: &DataConfig, hub: &Hub) -> Result<(Pictures, String), String> {
    let (repo, split) = (config.repo.as_deref().unwrap_or_default(), config.split.as_deref().unwrap_or("train"));
    let config_name = config.config_name.as_deref().unwrap_or("default");
    let (files, splits) = files_on_hub(hub, repo, config_name, split)?;
    let description = format!("the Hub's data set {repo} ({config_name}, {split}; {} files)", files.len());
    let found = tables::read(&files, Path::new(repo), config).map_err(|error| error.to_string())?;
    Ok((Pictures { splits: splits.into_iter().map(|split| (split, None)).collect(), ..found }, description))
}

/// Fetches all files of a split, all from the same commit. Returns them, and all splits of the configuration.
fn files_on_hub(hub: &Hub, repo: &str, config: &str, split: &str) -> Result<(Vec<PathBuf>, BTreeSet<String>), String> {
    let snapshot = |split: &str| {
        let shard = |number| format!("{config}/{split}/{number:04}.parquet");
        hub.dataset_snapshot(repo, REVISION, &shard)
    };
    let whole = snapshot(split).map_err(|error| match error {
        // A server that lists no files was asked for the first file.
        kakusan_hub::Error::NotFound { .. } if snapshot(&partial(split)).is_ok() => {
            format!("{repo} has no split \"{split}\" of \"{config}\"; there is {}", beginning_of(split))
        }
        error => error.to_string(),
    })?;
    let mut files: Vec<&str> = whole.files().iter().map(String::as_str).collect();
    files.retain(|file| place(file) == Some((config, split)));
    files.sort_unstable();
    if files.is_empty() {
        return Err(lacks(whole.files(), repo, config, split));
    }
    let all = whole.files().iter().filter_map(|file| place(file)).filter(|(of, _)| *of == config);
    let splits = all.map(|(_, split)| split.to_owned()).collect();
    let paths = whole.fetch_all(&files).and_then(|paths| whole.keep().map(|()| paths));
    Ok((paths.map_err(|error| error.to_string())?, splits))
}

/// The configuration and the split of a file.
fn place(file: &str) -> Option<(&str, &str)> {
    let (config, rest) = file.split_once('/')?;
    let (split, name) = rest.split_once('/')?;
    (name.ends_with(".parquet") && !name.contains('/')).then_some((config, split))
}

/// The Hub's name for a split of which it converted only the beginning.
fn partial(split: &str) -> String {
    format!("partial-{split}")
}

fn beginning_of(split: &str) -> String {
    let partial = partial(split);
    format!("\"{partial}\", its beginning (the Hub converts no more of a large set): set split = \"{partial}\"")
}

/// The message for a missing split: what the repository has instead.
fn lacks(files: &[String], repo: &str, config: &str, split: &str) -> String {
    const MOST: usize = 20;
    let mut places: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (config, split) in files.iter().filter_map(|file| place(file)) {
        places.entry(config).or_default().insert(split);
    }
    let splits = |splits: &BTreeSet<&str>| splits.iter().copied().collect::<Vec<_>>().join(", ");
    match places.get(config) {
        _ if places.is_empty() => format!("{repo} has no parquet files at {REVISION}"),
        Some(found) if found.contains(partial(split).as_str()) => {
            format!("{repo} has no split \"{split}\" of \"{config}\"; there is {}", beginning_of(split))
        }
        Some(found) => format!("{repo} has no split \"{split}\" of \"{config}\"; `split` is one of {}", splits(found)),
        None => {
            let known = places.iter().take(MOST).map(|(config, found)| format!("{config} ({})", splits(found)));
            let more = if places.len() > MOST { ", …" } else { "" };
            let known = known.collect::<Vec<_>>().join(", ");
            format!(
                "{repo} has no configuration \"{config}\"; `config_name` is one of these (with their splits): {known}{more}"
            )
        }
    }
}
