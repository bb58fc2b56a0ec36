//! How files are changed, here and in the folders of trainings, so that a crash leaves nothing half written.
//!
//! A file is written under a temporary name, synced, and renamed; folders whose names matter are synced, too. Each
//! change is announced before it is made, so that a test can make it fail, or take a copy of what a kill would leave
//! right there ([`with_faults`]).

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;

/// A file that is written atomically: it gets its name when it is committed, and is deleted when it is dropped before.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    file: AtomicWriteFile,
}

impl WholeFile {
    /// Begins a file that is to be called `path`.
    ///
    /// # Errors
    /// When it cannot be made in the folder.
    pub fn create(path: &Path) -> Result<Self> {
        announce("create", path, &[])?;
        Ok(Self { path: path.to_owned(), file: AtomicWriteFile::open(path)? })
    }

    /// Writes on.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        announce("write", &self.path, bytes)?;
        self.file.write_all(bytes)
    }

    /// Syncs it and gives it its name, in place of the file that had it.
    ///
    /// # Errors
    /// When that fails; the other file is then untouched.
    pub fn commit(self) -> Result<()> {
        announce("commit", &self.path, &[])?;
        self.file.commit()
    }
}

/// Writes a file atomically.
///
/// # Errors
/// As those of [`WholeFile`]; a file that was there before is then untouched.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

/// Writes at the end of an open file.
///
/// # Errors
/// As `write(2)`.
pub fn append(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    announce("append", path, bytes)?;
    file.write_all(bytes)
}

/// Syncs an open file.
///
/// # Errors
/// As `fsync(2)`.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    announce("sync", path, &[])?;
    file.sync_all()
}

/// Syncs the names in a folder.
///
/// # Errors
/// As `fsync(2)`; none for a folder that may be written in but not be read, which cannot be opened.
pub fn sync_folder(dir: &Path) -> Result<()> {
    announce("sync", dir, &[])?;
    // elsewhere a folder cannot be opened, and its names need no such care
    if cfg!(unix) {
        match File::open(dir) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {}
            opened => opened?.sync_all()?,
        }
    }
    Ok(())
}

/// Creates a folder and its parents, and syncs their names.
///
/// # Errors
/// As `mkdir(2)`; none where it is there already.
pub fn create_folders(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent(dir);
    if let Some(parent) = parent {
        create_folders(parent)?;
    }
    announce("create", dir, &[])?;
    match fs::create_dir(dir) {
        Err(e) if !dir.is_dir() => return Err(e), // another process may have been faster
        _ => {}
    }
    parent.map_or(Ok(()), sync_folder)
}

/// Renames a file or folder within its folder, and syncs the names.
///
/// # Errors
/// As `rename(2)`.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    announce("rename", from, &[])?;
    fs::rename(from, to)?;
    parent(to).map_or(Ok(()), sync_folder)
}

/// Deletes a file, if it is there.
///
/// # Errors
/// As `unlink(2)`.
pub fn remove_file(path: &Path) -> Result<()> {
    announce("delete", path, &[])?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Deletes a folder and all that is in it, if it is there; links are deleted, not followed.
///
/// # Errors
/// Of the first thing that cannot be deleted.
pub fn remove_folder(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folder(&entry.path())?;
        } else {
            remove_file(&entry.path())?;
        }
    }
    announce("delete", dir, &[])?;
    fs::remove_dir(dir)
}

/// The folder that a path lies in.
fn parent(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

/// A change that is about to be made.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What is done: `create`, `write`, `commit`, `append`, `sync`, `rename` or `delete`.
    pub action: &'static str,
    /// To which file or folder.
    pub path: &'a Path,
    /// What is written.
    pub bytes: &'a [u8],
}

/// What looks at each change before it is made, and may refuse it.
type Fault = Box<dyn FnMut(Change) -> Result<()>>;

thread_local! {
    static FAULT: RefCell<Option<Fault>> = const { RefCell::new(None) };
}

/// For tests: asks `fault` before each change that `work` makes on this thread; what it refuses fails with its error.
#[doc(hidden)]
pub fn with_faults<R>(fault: impl FnMut(Change) -> Result<()> + 'static, work: impl FnOnce() -> R) -> R {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            FAULT.with(|fault| fault.take());
        }
    }
    FAULT.with(|place| place.replace(Some(Box::new(fault))));
    let _restore = Restore;
    work()
}

fn announce(action: &'static str, path: &Path, bytes: &[u8]) -> Result<()> {
    FAULT.with(|fault| match &mut *fault.borrow_mut() {
        Some(fault) => fault(Change { action, path, bytes }),
        None => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_with_those_around_them_and_go_with_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_folders(&deep).unwrap();
        create_folders(&deep).unwrap();
        write_whole(&deep.join("file"), b"x").unwrap();
        fs::write(dir.path().join("kept"), "y").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(dir.path().join("kept"), deep.join("link")).unwrap();
        assert!(create_folders(&deep.join("file")).is_err());
        remove_folder(&dir.path().join("a")).unwrap();
        remove_folder(&dir.path().join("a")).unwrap();
        remove_file(&dir.path().join("a")).unwrap();
        assert!(dir.path().join("kept").is_file() && !dir.path().join("a").exists());
    }

    #[test]
    fn a_change_that_is_refused_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_whole(&path, b"old").unwrap();
        for refused in ["create", "write", "commit"] {
            let fault = move |change: Change| {
                if change.action == refused { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
            };
            let error = with_faults(fault, || write_whole(&path, b"new")).unwrap_err();
            assert_eq!(
                (error.kind(), fs::read(&path).unwrap().as_slice()),
                (ErrorKind::StorageFull, b"old".as_slice())
            );
        }
        write_whole(&path, b"new").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half is left");
    }
}
