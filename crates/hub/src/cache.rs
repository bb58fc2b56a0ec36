//! The cache on disk, in the layout that Python's `huggingface_hub` reads and writes:
//!
//! ```text
//! datasets--owner--name/blobs/<etag>                 the bytes, named by their checksum
//!                       snapshots/<commit>/<path>    a link to its blob
//!                       refs/<revision>              the commit that a branch stood at
//!                       trees/<commit>.json          all files of the commit, where Python listed them
//!                       .listings/<commit>.json      the same, where we did
//! .locks/datasets--owner--name/<etag>.lock           one writer a blob
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

/// One repository's part of the cache.
pub(crate) struct Cache {
    root: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(crate) fn new(cache_dir: &Path, kind: Kind, repo_id: &str) -> Self {
        let folder = format!("{}--{}", kind.plural(), repo_id.replace('/', "--"));
        Self { root: cache_dir.join(&folder), locks: cache_dir.join(".locks").join(folder) }
    }

    /// The file as the cache last saw it, without a network. A blob that is not what its name says is an error.
    pub(crate) fn lookup(&self, file: &RepoFile) -> Result<Option<PathBuf>, Error> {
        let Some(commit) = self.commit(file.revision) else { return Ok(None) };
        let pointer = self.snapshot(&commit).join(file.filename);
        if !pointer.is_file() {
            return Ok(None);
        }
        let blob = fs::canonicalize(&pointer).map_err(at(&pointer))?;
        // Where links cannot be made, a snapshot holds the file itself, and no name tells its checksum.
        if blob.parent() == fs::canonicalize(self.root.join("blobs")).ok().as_deref()
            && let Some(etag) = blob.file_name().and_then(|name| name.to_str())
            && let Some(reason) = fault(&blob, etag).map_err(at(&blob))?
        {
            let remedy = format!("delete {} or run once with a network, and it is fetched anew", blob.display());
            return Err(Error::Integrity { file: file.to_string(), reason, remedy });
        }
        Ok(Some(pointer))
    }

    /// Brings the file that `head` describes into the cache, by `download` into the path it is given where it is not there yet.
    /// What `download` leaves counts only once its checksum is right: the blob appears whole or not at all.
    pub(crate) fn store(
        &self,
        file: &RepoFile,
        head: &Head,
        download: impl Fn(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let blob = self.root.join("blobs").join(&head.etag);
        let part = self.root.join("blobs").join(format!("{}.incomplete", head.etag));
        let _lock = self.lock(&head.etag)?;
        if damage(&blob, head).map_err(at(&blob))?.is_some() {
            make_parent(&part)?;
            let bring = || {
                download(&part)?;
                match damage(&part, head).map_err(at(&part))? {
                    None => fs::rename(&part, &blob).map_err(at(&blob)),
                    Some(reason) => Err(Error::Integrity {
                        file: file.to_string(),
                        reason,
                        remedy: "what came is not kept: try again, and check HF_ENDPOINT and proxies".to_owned(),
                    }),
                }
            };
            let begun = fs::metadata(&part).is_ok_and(|part| part.len() > 0);
            let mut result = bring();
            if begun && matches!(result, Err(Error::Integrity { .. })) {
                // The beginning that an earlier download left may be the damaged half.
                fs::remove_file(&part).map_err(at(&part))?;
                result = bring();
            }
            let begun = fs::metadata(&part).is_ok_and(|part| part.len() > 0);
            if let Err(error) = &result
                && !(begun && head.has_checksum() && error.is_broken_off())
            {
                // Best effort: the next writer begins this file anew, and no reader looks at it.
                let _ = fs::remove_file(&part);
            }
            result?;
        }
        self.link(file, head)
    }

    /// The commit that the revision stood at when it was last fetched.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => fs::read_to_string(self.root.join("refs").join(revision)).ok()?.trim().to_owned(),
        };
        is_commit(&commit).then_some(commit)
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The files of a commit that the cache has, by their paths.
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

    /// Notes what a commit consists of before any of it is fetched, so that a part of it never passes for the whole. Best effort: where
    /// this cannot be written, no file of it can.
    pub(crate) fn note_listing(&self, revision: &str, commit: &str, files: &[String]) {
        let listing = json!({ "revision": revision, "files": files });
        let path = self.root.join(LISTINGS).join(format!("{commit}.json"));
        if read_json(&path).is_none_or(|noted| noted != listing) {
            let _ = self.write(&path, format!("{listing:#}\n").as_bytes());
            let _ = fs::create_dir_all(self.snapshot(commit)); // a repository without any is damaged in Python's eyes
        }
    }

    /// All files of a commit, by their paths, where they were listed.
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

    /// The commit that was listed last for a revision of which no commit was ever fetched whole.
    pub(crate) fn listed(&self, revision: &str) -> Option<String> {
        let entries = fs::read_dir(self.root.join(LISTINGS)).ok()?.flatten();
        let of_revision = entries.filter_map(|entry| {
            let commit = entry.path().file_stem()?.to_str().filter(|name| is_commit(name))?.to_owned();
            let time = entry.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            (read_json(&entry.path())?.get("revision")?.as_str()? == revision).then_some((time, commit))
        });
        of_revision.max().map(|(_, commit)| commit)
    }

    /// Waits until no other process writes this blob; the lock ends with the file handle, or with the process.
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

    /// Points the snapshot at the blob, then the revision at the commit; each by a rename, so that neither is ever half there.
    fn link(&self, file: &RepoFile, head: &Head) -> Result<PathBuf, Error> {
        let temporary = self.root.join(format!(".{}.tmp", head.etag)); // under the blob's lock: nobody else's
        let pointer = self.snapshot(&head.commit).join(file.filename);
        make_parent(&pointer)?;
        point(&pointer, &self.root, file.filename, &head.etag, &temporary).map_err(at(&pointer))?;

        if !file.is_pinned() {
            self.refer(file.revision, &head.commit)?;
        }
        Ok(pointer)
    }

    /// Notes that the revision stands at the commit.
    pub(crate) fn refer(&self, revision: &str, commit: &str) -> Result<(), Error> {
        let reference = self.root.join("refs").join(revision);
        if fs::read_to_string(&reference).ok().as_deref() == Some(commit) {
            return Ok(());
        }
        self.write(&reference, commit.as_bytes())
    }

    /// Writes a small file beside its place and renames it. Others may do the same at the same time, so no two names are alike.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        static WRITTEN: AtomicUsize = AtomicUsize::new(0);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let temporary = self.root.join(format!(".{}-{number}.tmp", std::process::id()));
        make_parent(path)?;
        let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
        written.inspect_err(|_| drop(fs::remove_file(&temporary))).map_err(at(path))
    }
}

/// Where we keep what a commit consists of: Python looks at no such folder.
const LISTINGS: &str = ".listings";

/// What is in a file, if it is there and JSON.
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
    // Left over where an earlier run was killed right here.
    let _ = fs::remove_file(temporary);
    std::os::unix::fs::symlink(target, temporary)?;
    fs::rename(temporary, pointer)
}

#[cfg(not(unix))]
fn point(pointer: &Path, root: &Path, _filename: &str, etag: &str, temporary: &Path) -> io::Result<()> {
    fs::copy(root.join("blobs").join(etag), temporary)?;
    fs::rename(temporary, pointer)
}

/// What keeps `path` from being the file that `head` describes.
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

/// What tells the bytes of `path` from the checksum `etag`: SHA-256 for large files, git's blob hash for small ones. Other etags
/// (some mirrors have them) tell nothing of the bytes.
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

fn digest<D: Digest>(mut digest: D, mut file: File) -> io::Result<String> {
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
