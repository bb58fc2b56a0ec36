use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use kakusan_weights::disk;

use crate::{Error, Result};

/// Writes a file atomically: under a temporary name next to it, synced to the disk, then renamed. A device
/// such as `/dev/null` is written to as it is, and a link leads to its file.
///
/// # Errors
/// When it cannot be written; a file that was there before is then untouched.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let place = place(path);
    let written = if is_device(&place) { std::fs::write(place, bytes) } else { disk::write_whole(&place, bytes) };
    written.map_err(Error::io("write", path))
}

/// Makes sure that [`write_whole`] can write a file, before the work whose result it is to hold; changes nothing.
///
/// # Errors
/// When the folder is not there or cannot be written to, or `path` is a folder itself.
pub fn check_writable(path: &Path) -> Result<()> {
    let place = place(path);
    if path.is_dir() || place.file_name().is_none() {
        return Err(Error::Unfit(format!("cannot write {}: it is a folder; name a file in it", path.display())));
    }
    match place.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
        Some(parent) => {
            let (path, parent) = (path.display(), parent.display());
            Err(Error::Unfit(format!("cannot write {path}: there is no folder {parent}; make it first")))
        }
        None if is_device(&place) => Ok(()),
        None => AtomicWriteFile::open(&place).and_then(AtomicWriteFile::discard).map_err(Error::io("write", path)),
    }
}

/// Where a file is: the end of a link.
fn place(path: &Path) -> PathBuf {
    let end = if path.is_symlink() { std::fs::canonicalize(path).ok() } else { None };
    end.unwrap_or_else(|| path.to_owned())
}

/// Whether this is there and neither a file nor a folder, so that nothing may take its place.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Makes a folder and those that it lies in, whose names are then on the disk.
pub(crate) fn create_folders(dir: &Path) -> Result<()> {
    disk::create_folders(dir).map_err(Error::io("create", dir))
}

/// Deletes a folder and what is in it, if it is there.
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
        // a link to a device, lest a failure here replace the device itself
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
