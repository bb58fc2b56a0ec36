use std::path::PathBuf;

use crate::cache::Cache;
use crate::fetch::Fetch;
use crate::name::{Kind, RepoFile};
use crate::{Error, Hub};

/// A model's files as they are at one commit: what is fetched together belongs together, whatever happens to the branch
/// meanwhile.
///
/// ```no_run
/// use kakusan_hub::{Hub, HubConfig};
///
/// # fn main() -> Result<(), kakusan_hub::Error> {
/// let hub = Hub::new(HubConfig::from_env()?);
/// let snapshot = hub.model_snapshot("google/ddpm-cifar10-32", "main")?;
/// for name in snapshot.files().iter().filter(|name| name.ends_with(".json")) {
///     println!("{}", snapshot.fetch(name)?.display());
/// }
/// snapshot.keep()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Snapshot<'h> {
    hub: &'h Hub,
    repo_id: String,
    revision: String,
    commit: String,
    files: Vec<String>,
}

impl<'h> Snapshot<'h> {
    pub(crate) fn new(hub: &'h Hub, repo_id: &str, revision: &str) -> Result<Self, Error> {
        // the name stands for all of them in messages; it is not fetched
        let file = RepoFile::new(Kind::Model, repo_id, revision, "model_index.json")?;
        let cache = Cache::new(&hub.config().cache_dir, Kind::Model, repo_id);
        let cached = || {
            let commit = cache.commit(revision)?;
            let files = cache.files(&commit);
            (!files.is_empty()).then_some((commit, files))
        };
        let (commit, files) = match hub.config().offline {
            true => cached()
                .ok_or_else(|| Error::Offline { file: file.to_string(), cache: hub.config().cache_dir.clone() })?,
            false => match (Fetch { config: hub.config(), watcher: &hub.watcher, file }).list() {
                Ok(listed) => listed,
                Err(error @ (Error::NotFound { .. } | Error::Config { .. })) => return Err(error),
                Err(error) => cached().ok_or(error)?,
            },
        };
        Ok(Self { hub, repo_id: repo_id.to_owned(), revision: revision.to_owned(), commit, files })
    }

    /// The paths of the files, as the repository has them.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The commit, 40 hexadecimal digits.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder in the cache under which the files that were fetched lie by their paths.
    pub fn folder(&self) -> PathBuf {
        Cache::new(&self.hub.config().cache_dir, Kind::Model, &self.repo_id).snapshot(&self.commit)
    }

    /// Fetches one file where the cache does not hold it, and gives its path.
    ///
    /// # Errors
    /// As [`Hub::model_file`].
    pub fn fetch(&self, filename: &str) -> Result<PathBuf, Error> {
        self.hub.model_file(&self.repo_id, &self.commit, filename)
    }

    /// Notes in the cache that the revision stands at this commit: called once all that is needed has been fetched, so that
    /// the last whole version is the one found offline.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep(&self) -> Result<(), Error> {
        match self.hub.config().offline || self.revision == self.commit {
            true => Ok(()),
            false => {
                Cache::new(&self.hub.config().cache_dir, Kind::Model, &self.repo_id).refer(&self.revision, &self.commit)
            }
        }
    }
}
