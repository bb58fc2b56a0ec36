use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use kakusan_weights::disk;

use crate::{Error, Result};

/// Writes a file atomically: under a temporary name next to it, synced to disk, then renamed. A device such as
/// `/dev/null` is written to directly, and for a link its target is replaced.
///
/// # Errors
/// When the file cannot be written; an existing file is then unchanged.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let place = place(path);
    let written = if is_device(&place) { std::fs::write(place, bytes) } else { disk::write_whole(&place, bytes) };
    written.map_err(Error::io("write", path))
}

/// Checks that [`write_whole`] can write a file, before the work whose result it will hold; changes nothing.
///
/// # Errors
/// When the folder does not exist or is not writable, or if `path` is a folder.
pub fn check_writable(path: &Path) -> Result<()> {
    let place = place(path);
    if path.is_dir() || place.file_name().is_none() {
        return Err(Error::Unfit(format!("cannot write {}: it is a folder; name a file in it", path.display())));
    }
    match place.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        Some(parent) => {
            let (path, parent) = (path.display(), parent.display());
            Err(Error::Unfit(format!("cannot write {path}: there is no folder {parent}; create it first")))
        }
        None if is_device(&place) => Ok(()),
        None => AtomicWriteFile::open(&place).and_then(AtomicWriteFile::discard).map_err(Error::io("write", path)),
    }
}

/// The path of the file itself: links are followed to their end.
fn place(path: &Path) -> PathBuf {
    let end = if path.is_symlink() { std::fs::canonicalize(path).ok() } else { None };
    end.unwrap_or_else(|| path.to_owned())
}

/// Whether the path exists and is neither a file nor a folder, so that it must not be replaced.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Creates a folder and its parents, and syncs their names to disk.
pub(crate) fn create_folders(dir: &Path) -> Result<()> {
    disk::create_folders(dir).map_err(Error::io("create", dir))
}

/// Deletes a folder and its contents, if it exists.
pub(crate) fn delete_folder(dir: &Path) -> Result<()> {
    disk::remove_folder(dir).map_err(Error::io("delete", dir))
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn devices_and_links_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        check_writable(&link).unwrap();
        write_whole(&link, b"new").unwrap();
        assert!(link.is_symlink() && std::fs::read(&file).unwrap() == b"new");
        // through a link to a device, so that a failure here does not replace the device itself
        let null = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        check_writable(&null).unwrap();
        write_whole(&null, b"nothing").unwrap();
        assert!(null.is_symlink() && is_device(Path::new("/dev/null")));
    }

    #[test]
    fn what_cannot_be_written_is_said_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |name: &str| check_writable(&dir.path().join(name)).unwrap_err().to_string();
        assert!(refused("no/file.png").contains("there is no folder"));
        assert!(refused("").contains("it is a folder") && refused("..").contains("it is a folder"));
        check_writable(&dir.path().join("file.png")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
