//! Downloads from the Hugging Face Hub, verified and cached, with the environment variables and the cache layout of
//! Python's `huggingface_hub`, and pushes to it. The only crate of Kakusan that uses the network.
//!
//! A file is used only if its size and checksum are those that the Hub gives; the checksum of a cached file is verified
//! each time it is requested. An error page, an incomplete download or a modified blob is never mistaken for the file.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod cache;
mod client;
mod config;
mod error;
mod fetch;
mod name;
mod push;
mod snapshot;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

pub use config::{DEFAULT_ENDPOINT, HubConfig};
pub use error::Error;
pub use push::{PushFile, PushOptions, Pushed};
pub use snapshot::Snapshot;
pub use watch::{Download, PushStep, Wait};

use cache::Cache;
use fetch::Fetch;
use name::{Kind, RepoFile};
use watch::Watcher;

/// The Hub, reached by one configuration. Creating it opens no connection and no file; the first request does.
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
    /// The Hub reached by `config`.
    pub fn new(config: HubConfig) -> Self {
        Self { config, watcher: Watcher::default() }
    }

    /// Calls `watch` as the bytes of a download arrive.
    pub fn on_download(mut self, watch: impl Fn(Download) + Send + Sync + 'static) -> Self {
        self.watcher.downloads = Some(Arc::new(watch));
        self
    }

    /// Calls `watch` at the start of each wait that the Hub asks for (`Retry-After`).
    pub fn on_wait(mut self, watch: impl Fn(Wait) + Send + Sync + 'static) -> Self {
        self.watcher.waits = Some(Arc::new(watch));
        self
    }

    /// The configuration in use.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// The local path of `filename` in dataset `repo_id` (`owner/name`) at `revision` (branch, tag, `refs/…` or
    /// commit). The file is downloaded unless its current version is cached.
    ///
    /// As in Python, the Hub is asked first, unless `revision` is a cached commit. If the Hub cannot be reached or
    /// refuses, the last known version of the revision is taken from the cache.
    ///
    /// # Errors
    /// Every variant of [`Error`]; none leaves anything in the cache that a later call would use.
    pub fn dataset_file(&self, repo_id: &str, revision: &str, filename: &str) -> Result<PathBuf, Error> {
        self.file(RepoFile::new(Kind::Dataset, repo_id, revision, filename)?)
    }

    /// The local path of `filename` in model `repo_id` at `revision`, as for [`dataset_file`](Self::dataset_file).
    ///
    /// # Errors
    /// As [`dataset_file`](Self::dataset_file).
    pub fn model_file(&self, repo_id: &str, revision: &str, filename: &str) -> Result<PathBuf, Error> {
        self.file(RepoFile::new(Kind::Model, repo_id, revision, filename)?)
    }

    /// The files of model `repo_id` at `revision`; each is downloaded when it is requested. If the Hub cannot be
    /// reached, or offline: the cached files of the revision's last known version.
    ///
    /// # Errors
    /// As [`dataset_file`](Self::dataset_file).
    pub fn model_snapshot(&self, repo_id: &str, revision: &str) -> Result<Snapshot<'_>, Error> {
        Snapshot::new(self, Kind::Model, repo_id, revision, None)
    }

    /// The files of dataset `repo_id` at `revision`; each is downloaded when it is requested. If the Hub cannot be
    /// reached, or offline: all files of the revision's last known version, whether cached or not.
    ///
    /// Some mirrors serve files but no listing (they answer 404). They are asked for `shard(0)`, `shard(1)` and so on,
    /// until one does not exist.
    ///
    /// # Errors
    /// As [`dataset_file`](Self::dataset_file).
    pub fn dataset_snapshot(
        &self,
        repo_id: &str,
        revision: &str,
        shard: &dyn Fn(usize) -> String,
    ) -> Result<Snapshot<'_>, Error> {
        Snapshot::new(self, Kind::Dataset, repo_id, revision, Some(shard))
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
        let fetch = Fetch::new(&self.config, &self.watcher, file);
        match fetch.head() {
            Ok(head) => cache.store(&file, &head, |path| fetch.download(&head, path)),
            Err(error @ (Error::NotFound { .. } | Error::Config { .. })) => Err(error),
            Err(error) => cache.lookup(&file)?.ok_or(error),
        }
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
