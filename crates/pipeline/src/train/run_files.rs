//! Renaming and deleting files of a run, with this crate's errors.

use std::path::Path;

use kakusan_weights::disk;

use crate::{Error, Result};

/// Whether a file of this name is a leftover of a killed [`write_whole`](crate::write_whole), which lies next to its
/// target: `.name.` and six letters.
pub(crate) fn is_leftover(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
    parts.is_some_and(|(name, end)| {
        !name.is_empty() && end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Syncs a folder's entries to the disk.
pub(crate) fn sync_folder(dir: &Path) -> Result<()> {
    disk::sync_folder(dir).map_err(Error::io("write", dir))
}

/// Renames a file or folder and syncs its folder.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    disk::rename(from, to).map_err(Error::io("rename", from))
}

/// Deletes a file if it exists.
pub(crate) fn delete_file(path: &Path) -> Result<()> {
    disk::remove_file(path).map_err(Error::io("delete", path))
}
