use std::io::Write;
use std::path::Path;

use atomic_write_file::AtomicWriteFile;

use crate::{Error, Result};

/// Writes a file whole or not at all: beside its place first, then to the disk, and only then under its name.
///
/// # Errors
/// When it cannot be written; a file that was there before is then untouched.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().map_err(Error::io("write", path))
}

/// Whether a file of this name is what a killed [`write_whole`] left beside its place: `.name.` and six letters.
pub(crate) fn is_leftover(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
    parts.is_some_and(|(name, end)| {
        !name.is_empty() && end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Brings the names in a folder to the disk.
pub(crate) fn sync_folder(dir: &Path) -> Result<()> {
    // elsewhere a folder cannot be opened, and its names need no such care
    if cfg!(unix) {
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("write", dir))?;
    }
    Ok(())
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}
