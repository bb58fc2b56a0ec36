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

/// The progress of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushStep<'a> {
    /// The repository, or a branch of it, was created.
    Created {
        /// `owner/name`, or the name of the branch.
        name: &'a str,
        /// Whether it is a branch.
        branch: bool,
    },
    /// Large files are being sent.
    Sending {
        /// The bytes that have been sent.
        sent: u64,
        /// The bytes of all files of the commit.
        size: u64,
    },
    /// The Hub is asked to make the commit.
    Committing,
}

type OfDownloads = dyn Fn(Download) + Send + Sync;
type OfWaits = dyn Fn(Wait) + Send + Sync;
type OfPushes = dyn Fn(PushStep) + Send + Sync;

/// The callbacks for downloads, waits and pushes.
#[derive(Clone, Default)]
pub(crate) struct Watcher {
    pub(crate) downloads: Option<Arc<OfDownloads>>,
    pub(crate) waits: Option<Arc<OfWaits>>,
    pub(crate) pushes: Option<Arc<OfPushes>>,
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

    pub(crate) fn report_push(&self, step: PushStep) {
        if let Some(watch) = &self.pushes {
            watch(step);
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let watched = self.downloads.is_some() || self.waits.is_some() || self.pushes.is_some();
        f.write_str(if watched { "watched" } else { "unwatched" })
    }
}
