use std::fmt;
use std::sync::Arc;

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

type Watch = dyn Fn(Download) + Send + Sync;

/// Who is told of downloads, if anybody.
#[derive(Clone, Default)]
pub(crate) struct Watcher(Option<Arc<Watch>>);

impl Watcher {
    pub(crate) fn new(watch: impl Fn(Download) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    pub(crate) fn tell(&self, download: Download) {
        if let Self(Some(watch)) = self {
            watch(download);
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.0.is_some() { "watched" } else { "unwatched" })
    }
}
