use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Error, Result, disk};

/// A file that is read in pieces, each checked to lie within the file before memory is allocated for it.
#[derive(Debug)]
pub(crate) struct DataFile {
    path: PathBuf,
    len: u64,
    file: Mutex<File>,
}

impl DataFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || -> std::io::Result<Self> {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Ok(Self { path: path.to_owned(), len, file: Mutex::new(file) })
        };
        open().map_err(unreadable(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// In bytes, when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The `len` bytes from `start` on; `None` where the file does not have so many.
    pub(crate) fn read(&self, start: u64, len: u64) -> Result<Option<Vec<u8>>> {
        let Some(size) = usize::try_from(len).ok().filter(|_| self.holds(start, len)) else { return Ok(None) };
        let mut bytes = vec![0; size];
        self.read_into(start, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Fills `bytes` from `start` on, all of which the file [`holds`](Self::holds).
    pub(crate) fn read_into(&self, start: u64, bytes: &mut [u8]) -> Result<()> {
        let mut file = self.locked();
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(bytes));
        read.map_err(unreadable(&self.path))
    }

    /// A reader from `start` on, where the length is not known.
    pub(crate) fn reader(&self, start: u64) -> Result<BufReader<File>> {
        let reader = || {
            let mut file = self.locked().try_clone()?;
            file.seek(SeekFrom::Start(start))?;
            Ok(BufReader::new(file))
        };
        reader().map_err(unreadable(&self.path))
    }

    /// Whether the file has `len` bytes from `start` on.
    pub(crate) fn holds(&self, start: u64, len: u64) -> bool {
        start.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Whether it is the note that git leaves in a large file's place.
    pub(crate) fn is_lfs_pointer(&self) -> bool {
        const BEGINNING: &[u8] = b"version https://git-lfs";
        matches!(self.read(0, BEGINNING.len() as u64), Ok(Some(bytes)) if bytes == BEGINNING)
    }

    fn locked(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner) // each reading seeks first
    }
}

/// What to do about a file of which [`DataFile::is_lfs_pointer`] is true.
pub(crate) const LFS_REMEDY: &str = "it is a Git LFS pointer, not the file itself: run `git lfs pull` there";

pub(crate) fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action: "read", path, source }
}

/// The text of a file of at most `limit` bytes; `None` where it is longer, or not text.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read.
pub fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let file = DataFile::open(path)?;
    let bytes = if file.len() > limit { None } else { file.read(0, file.len())? };
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
}

/// Writes a file atomically ([`disk::write_whole`]).
///
/// # Errors
/// [`Error::Io`] where it cannot be written; a file that was there before is then untouched.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    disk::write_whole(path, bytes).map_err(unwritable(path))
}

pub(crate) fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action: "write", path: path.clone(), source }
}
