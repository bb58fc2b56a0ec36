//! Image sets in parquet files.

use std::path::{Path, PathBuf};

use crate::{DataConfig, Error, source::Answer};
#[cfg(feature = "parquet")]
use crate::{
    parquet::{self, Classes, Columns},
    photos,
};

/// Reads the parquet files of a folder.
pub(crate) fn of_folder(
    files: &[PathBuf],
    split: Option<&str>,
    dir: &Path,
    config: &DataConfig,
) -> Result<Answer, Error> {
    let split = split.map(|split| format!(" (split {split})")).unwrap_or_default();
    let count = if files.len() == 1 { "a parquet file".to_owned() } else { format!("{} parquet files", files.len()) };
    of_rows(files, dir, format!("{count} in {}{split}", dir.display()), config)
}

/// Reads the images and labels of parquet files.
#[cfg(feature = "parquet")]
pub(crate) fn of_rows(
    files: &[PathBuf],
    place: &Path,
    description: String,
    config: &DataConfig,
) -> Result<Answer, Error> {
    let columns = Columns { image: config.image_column.as_deref(), label: config.label_column.as_deref() };
    let transform = config.transform();
    let classes = config.classes.as_deref().map_or(Classes::Any, Classes::Some);
    let rows = parquet::read(files, columns, classes, transform.cache_bytes)?;
    let set = photos::image_set(rows.entries, rows.class_names, transform, place)?;
    Ok(Answer { unlabelled: rows.unlabelled, ..Answer::of_pictures(set, description) })
}

/// Returns an error: parquet files need the feature `parquet`.
#[cfg(not(feature = "parquet"))]
pub(crate) fn of_rows(_: &[PathBuf], place: &Path, _: String, _: &DataConfig) -> Result<Answer, Error> {
    let reason = "is to be read from parquet files, but this program is built without the feature `parquet`";
    Err(Error::Images { path: place.to_owned(), reason: reason.to_owned() })
}
