//! The cache on disk, in the layout that Python's `huggingface_hub` reads and writes:
//!
//! ```text
//! datasets--owner--name/blobs/<etag>                 the file's bytes, named by their checksum
//!                       snapshots/<commit>/<path>    a link to the blob
//!                       refs/<revision>              the commit of the branch when it was last fetched
//!                       trees/<commit>.json          all files of the commit, if Python listed them
//!                       .listings/<commit>.json      all files of the commit, if we listed them
//! .locks/datasets--owner--name/<etag>.lock           held by the process that writes the blob
//! ```

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::fetch::Head;
use crate::name::{Kind, RepoFile, is_commit, is_hex};

/// The cache of one repository.
pub(crate) struct Cache {
    root: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(crate) fn new(cache_dir: &Path, kind: Kind, repo_id: &str) -> Self {
        let folder = format!("{}--{}", kind.plural(), repo_id.replace('/', "--"));
        Self { root: cache_dir.join(&folder), locks: cache_dir.join(".locks").join(folder) }
    }

    /// The cached version of the file; uses no network. A blob whose checksum differs from its name is an error.
    pub(crate) fn lookup(&self, file: &RepoFile) -> Result<Option<PathBuf>, Error> {
        let Some(commit) = self.commit(file.revision) else { return Ok(None) };
        let pointer = self.snapshot(&commit).join(file.filename);
        if !pointer.is_file() {
            return Ok(None);
        }
        let blob = fs::canonicalize(&pointer).map_err(at(&pointer))?;
        // On systems without links the snapshot holds the file itself, whose name does not tell a checksum.
        if blob.parent() == fs::canonicalize(self.root.join("blobs")).ok().as_deref()
            && let Some(etag) = blob.file_name().and_then(|name| name.to_str())
            && let Some(reason) = fault(&blob, etag).map_err(at(&blob))?
        {
            let remedy = format!("delete {}, or run once with a network to fetch it again", blob.display());
            return Err(Error::Integrity { file: file.to_string(), reason, remedy });
        }
        Ok(Some(pointer))
    }

    /// Stores the file that `head` describes, calling `download` with a temporary path if it is not cached yet. The
    /// blob appears atomically, after its checksum was verified.
    pub(crate) fn store(
        &self,
        file: &RepoFile,
        head: &Head,
        download: impl Fn(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let blob = self.root.join("blobs").join(&head.etag);
        let incomplete = self.root.join("blobs").join(format!("{}.incomplete", head.etag));
        let _lock = self.lock(&head.etag)?;
        if damage(&blob, head).map_err(at(&blob))?.is_some() {
            make_parent(&incomplete)?;
            let bring = || {
                download(&incomplete)?;
                match damage(&incomplete, head).map_err(at(&incomplete))? {
                    None => fs::rename(&incomplete, &blob).map_err(at(&blob)),
                    Some(reason) => Err(Error::Integrity {
                        file: file.to_string(),
                        reason,
                        remedy: "the download was discarded: try again, and check HF_ENDPOINT and proxies".to_owned(),
                    }),
                }
            };
            let begun = fs::metadata(&incomplete).is_ok_and(|incomplete| incomplete.len() > 0);
            let mut result = bring();
            if begun && matches!(result, Err(Error::Integrity { .. })) {
                // The damage may be in what an earlier download left: start over.
                fs::remove_file(&incomplete).map_err(at(&incomplete))?;
                result = bring();
            }
            let begun = fs::metadata(&incomplete).is_ok_and(|incomplete| incomplete.len() > 0);
            if let Err(error) = &result
                && !(begun && head.has_checksum() && error.is_interrupted())
            {
                // Best effort: the next writer starts this file over, and readers ignore it.
                let _ = fs::remove_file(&incomplete);
            }
            result?;
        }
        self.link(file, head)
    }

    /// The commit of the revision when it was last fetched.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => fs::read_to_string(self.root.join("refs").join(revision)).ok()?.trim().to_owned(),
        };
        is_commit(&commit).then_some(commit)
    }

    /// The folder that holds the files of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The paths of the cached files of a commit.
    pub(crate) fn files(&self, commit: &str) -> Vec<String> {
        let root = self.snapshot(commit);
        let (mut files, mut open) = (vec![], vec![root.clone()]);
        while let Some(folder) = open.pop() {
            for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    open.push(path);
                } else if let Some(name) = path.strip_prefix(&root).ok().and_then(Path::to_str) {
                    files.push(name.replace('\\', "/"));
                }
            }
        }
        files.sort();
        files
    }

    /// Records the files of a commit before any of them is fetched, so that an incomplete download is recognised as
    /// such. Best effort: if this cannot be written, no file of the commit can be written either.
    pub(crate) fn note_listing(&self, revision: &str, commit: &str, files: &[String]) {
        let listing = json!({ "revision": revision, "files": files });
        let path = self.root.join(LISTINGS).join(format!("{commit}.json"));
        if read_json(&path).is_none_or(|noted| noted != listing) {
            let _ = self.write(&path, format!("{listing:#}\n").as_bytes());
            let _ = fs::create_dir_all(self.snapshot(commit)); // Python reports a repository without one as damaged
        }
    }

    /// The paths of all files of a commit, if they were listed.
    pub(crate) fn listing(&self, commit: &str) -> Option<Vec<String>> {
        let name = format!("{commit}.json");
        let trees = || {
            Some(read_json(&self.root.join("trees").join(&name))?.get("files")?.as_object()?.keys().cloned().collect())
        };
        let ours = || {
            let listing = read_json(&self.root.join(LISTINGS).join(&name))?;
            listing.get("files")?.as_array()?.iter().map(|file| file.as_str().map(str::to_owned)).collect()
        };
        trees().or_else(ours)
    }

    /// The commit of the revision that was listed last, for a revision of which no commit was fetched completely.
    pub(crate) fn listed(&self, revision: &str) -> Option<String> {
        let entries = fs::read_dir(self.root.join(LISTINGS)).ok()?.flatten();
        let of_revision = entries.filter_map(|entry| {
            let commit = entry.path().file_stem()?.to_str().filter(|name| is_commit(name))?.to_owned();
            let time = entry.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            (read_json(&entry.path())?.get("revision")?.as_str()? == revision).then_some((time, commit))
        });
        of_revision.max().map(|(_, commit)| commit)
    }

    /// Waits until no other process writes this blob. The lock is released with the file handle, or when the process
    /// ends.
    fn lock(&self, etag: &str) -> Result<File, Error> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_parent(&path)?;
        let lock = File::create(&path).map_err(at(&path))?;
        match lock.lock() {
            // A file system without locks: the checksum still guards the blob.
            Err(error) if error.kind() != ErrorKind::Unsupported => Err(at(&path)(error)),
            _ => Ok(lock),
        }
    }

    /// Points the snapshot at the blob, then the revision at the commit, each atomically.
    fn link(&self, file: &RepoFile, head: &Head) -> Result<PathBuf, Error> {
        let temporary = self.root.join(format!(".{}.tmp", head.etag)); // unique, because we hold the blob's lock
        let pointer = self.snapshot(&head.commit).join(file.filename);
        make_parent(&pointer)?;
        point(&pointer, &self.root, file.filename, &head.etag, &temporary).map_err(at(&pointer))?;

        if !file.is_pinned() {
            self.refer(file.revision, &head.commit)?;
        }
        Ok(pointer)
    }

    /// Records that the revision is at this commit.
    pub(crate) fn refer(&self, revision: &str, commit: &str) -> Result<(), Error> {
        let reference = self.root.join("refs").join(revision);
        if fs::read_to_string(&reference).ok().as_deref() == Some(commit) {
            return Ok(());
        }
        self.write(&reference, commit.as_bytes())
    }

    /// Writes a small file atomically. The temporary name is unique, because other threads and processes may write it
    /// too.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        static WRITTEN: AtomicUsize = AtomicUsize::new(0);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let temporary = self.root.join(format!(".{}-{number}.tmp", std::process::id()));
        make_parent(path)?;
        let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
        written.inspect_err(|_| drop(fs::remove_file(&temporary))).map_err(at(path))
    }
}

/// The folder of our listings, which Python ignores.
const LISTINGS: &str = ".listings";

/// The content of a JSON file, if it exists and is valid.
fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(unix)]
fn point(pointer: &Path, _root: &Path, filename: &str, etag: &str, temporary: &Path) -> io::Result<()> {
    let up = "../".repeat(filename.split('/').count() + 1);
    let target = PathBuf::from(format!("{up}blobs/{etag}"));
    if fs::read_link(pointer).is_ok_and(|old| old == target) {
        return Ok(());
    }
    // An earlier process that was killed at this point may have left one.
    let _ = fs::remove_file(temporary);
    std::os::unix::fs::symlink(target, temporary)?;
    fs::rename(temporary, pointer)
}

#[cfg(not(unix))]
fn point(pointer: &Path, root: &Path, _filename: &str, etag: &str, temporary: &Path) -> io::Result<()> {
    fs::copy(root.join("blobs").join(etag), temporary)?;
    fs::rename(temporary, pointer)
}

/// How `path` differs from the file that `head` describes.
fn damage(path: &Path, head: &Head) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(found) if found.len() != head.size => {
            Ok(Some(format!("{} bytes where the Hub says {}", found.len(), head.size)))
        }
        Ok(_) => fault(path, &head.etag),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some("missing".to_owned())),
        Err(error) => Err(error),
    }
}

/// How the checksum of `path` differs from `etag`: SHA-256 for large files, git's blob hash for small ones. Other
/// etags, which some mirrors send, are not checksums.
fn fault(path: &Path, etag: &str) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let (name, found) = if is_hex(etag, 64) {
        ("SHA-256", digest(Sha256::new(), file)?)
    } else if is_hex(etag, 40) {
        let header = format!("blob {}\0", file.metadata()?.len());
        ("git hash", digest(Sha1::new_with_prefix(header), file)?)
    } else {
        return Ok(None);
    };
    Ok((found != etag).then(|| format!("its {name} is {found} where the Hub says {etag}")))
}

/// The checksum of a file or of bytes, in hex.
pub(crate) fn digest<D: Digest>(mut digest: D, mut file: impl Read) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn make_parent(path: &Path) -> Result<(), Error> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(at(folder)),
        None => Ok(()),
    }
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
