//! The Hugging Face Hub: single files, and models of many files, fetched, checked and cached, with the switches and the cache
//! layout of Python's `huggingface_hub`. The only crate of Kakusan that talks to the network.
//!
//! A file is used only once its size and its checksum are what the Hub says, and the checksum of a cached file is tested each time
//! it is asked for: an error page, a download cut short or a blob that somebody changed never passes for the file.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod cache;
mod config;
mod error;
mod fetch;
mod name;
mod snapshot;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

pub use config::{DEFAULT_ENDPOINT, HubConfig};
pub use error::Error;
pub use snapshot::Snapshot;
pub use watch::{Download, Wait};

use cache::Cache;
use fetch::Fetch;
use name::{Kind, RepoFile};
use watch::Watcher;

/// The Hub as one configuration sees it. Making one costs nothing: no socket, no file, no HTTP client until a file is asked for.
///
/// ```
/// use kakusan_hub::{Error, Hub, HubConfig};
///
/// let mut config = HubConfig::new("https://huggingface.co", "no/such/cache");
/// config.offline = true;
/// let error = Hub::new(config).dataset_file("ylecun/mnist", "main", "README.md").unwrap_err();
/// assert!(matches!(error, Error::Offline { .. }));
/// ```
#[derive(Clone, Debug)]
pub struct Hub {
    config: HubConfig,
    watcher: Watcher,
}

impl Hub {
    /// A Hub reached by `config`.
    pub fn new(config: HubConfig) -> Self {
        Self { config, watcher: Watcher::default() }
    }

    /// The same, telling `watch` of every download as its bytes come in.
    pub fn watched(mut self, watch: impl Fn(Download) + Send + Sync + 'static) -> Self {
        self.watcher.downloads = Some(Arc::new(watch));
        self
    }

    /// The same, telling `watch` of every wait that the Hub asks for (`Retry-After`) as it begins.
    pub fn telling_of_waits(mut self, watch: impl Fn(Wait) + Send + Sync + 'static) -> Self {
        self.watcher.waits = Some(Arc::new(watch));
        self
    }

    /// The configuration in use.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// The path of `filename` in dataset `repo_id` (`owner/name`) at `revision` (branch, tag, `refs/…` or commit), fetched where the
    /// cache does not hold the Hub's present version.
    ///
    /// As Python does, the Hub is asked first, unless `revision` is a commit that the cache holds; a Hub that is away or refuses is
    /// overlooked where the cache holds the revision's last known version.
    ///
    /// # Errors
    /// Every variant of [`Error`]; none leaves anything in the cache that a later call would use.
    pub fn dataset_file(&self, repo_id: &str, revision: &str, filename: &str) -> Result<PathBuf, Error> {
        self.file(RepoFile::new(Kind::Dataset, repo_id, revision, filename)?)
    }

    /// The path of `filename` in model `repo_id` at `revision`: as [`dataset_file`](Self::dataset_file).
    ///
    /// # Errors
    /// As [`dataset_file`](Self::dataset_file).
    pub fn model_file(&self, repo_id: &str, revision: &str, filename: &str) -> Result<PathBuf, Error> {
        self.file(RepoFile::new(Kind::Model, repo_id, revision, filename)?)
    }

    /// The files that model `repo_id` has at `revision`, by their names; each is fetched when it is asked for. Offline, or where
    /// the Hub is away: those that the cache holds of the revision's last known version.
    ///
    /// # Errors
    /// As [`dataset_file`](Self::dataset_file).
    pub fn model_snapshot(&self, repo_id: &str, revision: &str) -> Result<Snapshot<'_>, Error> {
        Snapshot::new(self, Kind::Model, repo_id, revision, None)
    }

    /// The files that dataset `repo_id` has at `revision`, by their names, each of them fetched when it is asked for. Offline, or where
    /// the Hub is away: those of the revision's last known version, also those that the cache lacks.
    ///
    /// Some mirrors serve files and list none (they answer 404): these are asked for `part(0)`, `part(1)` and so on until there is none.
    ///
    /// # Errors
    /// As [`dataset_file`](Self::dataset_file).
    pub fn dataset_snapshot(
        &self,
        repo_id: &str,
        revision: &str,
        part: &dyn Fn(usize) -> String,
    ) -> Result<Snapshot<'_>, Error> {
        Snapshot::new(self, Kind::Dataset, repo_id, revision, Some(part))
    }

    fn file(&self, file: RepoFile) -> Result<PathBuf, Error> {
        let cache = Cache::new(&self.config.cache_dir, file.kind, file.repo_id);
        if self.config.offline {
            let missing = || Error::Offline { file: file.to_string(), cache: self.config.cache_dir.clone() };
            return cache.lookup(&file)?.ok_or_else(missing);
        }
        if file.is_pinned()
            && let Ok(Some(path)) = cache.lookup(&file)
        {
            return Ok(path);
        }
        let fetch = Fetch { config: &self.config, watcher: &self.watcher, file };
        match fetch.head() {
            Ok(head) => cache.store(&file, &head, |path| fetch.download(&head, path)),
            Err(error @ (Error::NotFound { .. } | Error::Config { .. })) => Err(error),
            Err(error) => cache.lookup(&file)?.ok_or(error),
        }
    }
}
