//! Image sets in parquet files.

use std::path::{Path, PathBuf};

#[cfg(feature = "parquet")]
use crate::parquet::{self, Classes, Columns};
use crate::{DataConfig, Error, tree::Pictures};

/// Reads the rows of parquet files: their pictures, not decoded yet, and labels.
#[cfg(feature = "parquet")]
pub(crate) fn read(files: &[PathBuf], _place: &Path, config: &DataConfig) -> Result<Pictures, Error> {
    let columns = Columns { image: config.image_column.as_deref(), label: config.label_column.as_deref() };
    let classes = config.classes.as_deref().map_or(Classes::Any, Classes::Some);
    let rows = parquet::read(files, columns, classes, config.transform().cache_bytes)?;
    let parquet::Rows { entries, class_names, unlabelled } = rows;
    Ok(Pictures { entries, class_names, split: None, notes: vec![], unlabelled, splits: vec![] })
}

/// Returns an error: parquet files need the feature `parquet`.
#[cfg(not(feature = "parquet"))]
pub(crate) fn read(_: &[PathBuf], place: &Path, _: &DataConfig) -> Result<Pictures, Error> {
    let reason = "is to be read from parquet files, but this program is built without the feature `parquet`";
    Err(Error::Images { path: place.to_owned(), reason: reason.to_owned() })
}
