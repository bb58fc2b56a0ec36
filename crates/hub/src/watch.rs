use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The progress of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download<'a> {
    /// The file's path in its repository.
    pub file: &'a str,
    /// The number of bytes received, including those of earlier attempts.
    pub received: u64,
    /// The size of the file in bytes.
    pub size: u64,
}

/// A wait that the Hub asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait<'a> {
    /// The path of the requested file in its repository.
    pub file: &'a str,
    /// The HTTP status: 429 for too many requests, 503 for a busy Hub.
    pub status: u16,
    /// The duration of the wait.
    pub time: Duration,
}

type OfDownloads = dyn Fn(Download) + Send + Sync;
type OfWaits = dyn Fn(Wait) + Send + Sync;

/// The callbacks for downloads and waits.
#[derive(Clone, Default)]
pub(crate) struct Watcher {
    pub(crate) downloads: Option<Arc<OfDownloads>>,
    pub(crate) waits: Option<Arc<OfWaits>>,
}

impl Watcher {
    pub(crate) fn report_download(&self, download: Download) {
        if let Some(watch) = &self.downloads {
            watch(download);
        }
    }

    pub(crate) fn report_wait(&self, wait: Wait) {
        if let Some(watch) = &self.waits {
            watch(wait);
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.downloads.is_some() || self.waits.is_some() { "watched" } else { "unwatched" })
    }
}
