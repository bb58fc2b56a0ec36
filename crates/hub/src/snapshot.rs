use std::path::PathBuf;

use crate::cache::Cache;
use crate::fetch::Fetch;
use crate::name::{Kind, RepoFile};
use crate::{Error, Hub};

/// The files of a repository at one commit. All of them are fetched at that commit, even if the branch moves meanwhile.
///
/// ```no_run
/// use kakusan_hub::{Hub, HubConfig};
///
/// # fn main() -> Result<(), kakusan_hub::Error> {
/// let hub = Hub::new(HubConfig::from_env()?);
/// let snapshot = hub.model_snapshot("google/ddpm-cifar10-32", "main")?;
/// let names: Vec<&str> = snapshot.files().iter().map(String::as_str).filter(|name| name.ends_with(".json")).collect();
/// for path in snapshot.fetch_all(&names)? {
///     println!("{}", path.display());
/// }
/// snapshot.keep()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Snapshot<'h> {
    hub: &'h Hub,
    kind: Kind,
    repo_id: String,
    revision: String,
    commit: String,
    files: Vec<String>,
    /// Whether the Hub listed the files just now.
    listed: bool,
}

/// The Hub numbers the files of a data set with four digits.
const MAX_SHARDS: usize = 10_000;

/// The name of the `n`th file of a numbered data set, for servers without a listing.
type ShardName<'a> = &'a dyn Fn(usize) -> String;

impl<'h> Snapshot<'h> {
    pub(crate) fn new(
        hub: &'h Hub,
        kind: Kind,
        repo_id: &str,
        revision: &str,
        shard: Option<ShardName>,
    ) -> Result<Self, Error> {
        // messages name this file; it is not fetched
        let name = shard.map_or_else(|| "model_index.json".to_owned(), |shard| shard(0));
        let file = RepoFile::new(kind, repo_id, revision, &name)?;
        let cache = Cache::new(&hub.config().cache_dir, kind, repo_id);
        let cached = || {
            // A data set needs all its files, a model only those that were chosen.
            let (commit, listing) = match kind {
                Kind::Model => (cache.commit(revision)?, None),
                Kind::Dataset => {
                    let commit = cache.commit(revision).or_else(|| cache.listed(revision))?;
                    let listing = cache.listing(&commit);
                    (commit, listing)
                }
            };
            let files = listing.unwrap_or_else(|| cache.files(&commit));
            (!files.is_empty()).then_some((commit, files))
        };
        let offline = || Error::Offline { file: file.to_string(), cache: hub.config().cache_dir.clone() };
        let online = || {
            let listed = Fetch::new(hub.config(), &hub.watcher, file).list();
            match (listed, shard) {
                (Err(Error::NotFound { .. }), Some(shard)) => Self::probe(hub, file, shard),
                (listed, _) => listed,
            }
        };
        let ((commit, files), listed) = match hub.config().offline {
            true => (cached().ok_or_else(offline)?, false),
            false => match online() {
                Ok(listed) => (listed, true),
                Err(error @ (Error::NotFound { .. } | Error::Config { .. })) => return Err(error),
                Err(error) => (cached().ok_or(error)?, false),
            },
        };
        Ok(Self { hub, kind, repo_id: repo_id.to_owned(), revision: revision.to_owned(), commit, files, listed })
    }

    /// Requests one numbered file after the other until one does not exist.
    fn probe(hub: &Hub, file: RepoFile, shard: ShardName) -> Result<(String, Vec<String>), Error> {
        let (mut commit, mut files) = (None, Vec::new());
        while files.len() < MAX_SHARDS {
            let name = shard(files.len());
            let file = RepoFile::new(file.kind, file.repo_id, file.revision, &name)?;
            let fetch = Fetch::new(hub.config(), &hub.watcher, file);
            let head = match (fetch.head(), &commit) {
                (Ok(head), _) => head,
                (Err(Error::NotFound { .. }), Some(_)) => break,
                (Err(error), _) => return Err(error),
            };
            let first = commit.get_or_insert_with(|| head.commit.clone());
            if *first != head.commit {
                return Err(fetch.protocol(format!("its files are of the commits {first} and {}", head.commit)));
            }
            files.push(name);
        }
        Ok((commit.unwrap_or_default(), files))
    }

    /// The paths of the files in the repository.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The commit, 40 hexadecimal digits.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder in the cache that holds the fetched files.
    pub fn folder(&self) -> PathBuf {
        self.cache().snapshot(&self.commit)
    }

    /// Fetches one file unless it is cached, and returns its local path.
    ///
    /// # Errors
    /// As [`Hub::model_file`].
    pub fn fetch(&self, filename: &str) -> Result<PathBuf, Error> {
        self.hub.file(RepoFile::new(self.kind, &self.repo_id, &self.commit, filename)?)
    }

    /// Fetches several files and returns their local paths when all of them are there. For a data set, the list of its
    /// files is recorded in the cache first, so that an incomplete download is recognised later.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if some are missing offline; else as [`fetch`](Self::fetch).
    pub fn fetch_all(&self, filenames: &[&str]) -> Result<Vec<PathBuf>, Error> {
        if let (Kind::Dataset, true) = (self.kind, self.listed) {
            self.cache().note_listing(&self.revision, &self.commit, &self.files);
        }
        if self.hub.config().offline {
            let missing: Vec<&str> =
                filenames.iter().copied().filter(|name| !self.folder().join(name).is_file()).collect();
            if let Some(first) = missing.first() {
                return Err(Error::Incomplete {
                    repo: self.repo_id.clone(),
                    revision: self.revision.clone(),
                    missing: missing.len(),
                    of: filenames.len(),
                    first: (*first).to_owned(),
                    cache: self.hub.config().cache_dir.clone(),
                });
            }
        }
        filenames.iter().map(|name| self.fetch(name)).collect()
    }

    /// Records in the cache that the revision is at this commit. Call it after all needed files were fetched: offline,
    /// the last complete version is then found.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep(&self) -> Result<(), Error> {
        match self.hub.config().offline || self.revision == self.commit {
            true => Ok(()),
            false => self.cache().refer(&self.revision, &self.commit),
        }
    }

    fn cache(&self) -> Cache {
        Cache::new(&self.hub.config().cache_dir, self.kind, &self.repo_id)
    }
}
