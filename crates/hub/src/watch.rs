use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A download on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download<'a> {
    /// The file's path in its repository.
    pub file: &'a str,
    /// Bytes that are there, those of an earlier attempt included.
    pub received: u64,
    /// Bytes that the file has.
    pub size: u64,
}

/// A wait that the Hub asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait<'a> {
    /// The path in its repository of the file that is waited for.
    pub file: &'a str,
    /// The HTTP status: 429 for too many requests, 503 for a Hub that is busy.
    pub status: u16,
    /// How long.
    pub time: Duration,
}

type OfDownloads = dyn Fn(Download) + Send + Sync;
type OfWaits = dyn Fn(Wait) + Send + Sync;

/// Who is told of downloads and of waits, if anybody.
#[derive(Clone, Default)]
pub(crate) struct Watcher {
    pub(crate) downloads: Option<Arc<OfDownloads>>,
    pub(crate) waits: Option<Arc<OfWaits>>,
}

impl Watcher {
    pub(crate) fn tell(&self, download: Download) {
        if let Some(watch) = &self.downloads {
            watch(download);
        }
    }

    pub(crate) fn tell_of_wait(&self, wait: Wait) {
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
