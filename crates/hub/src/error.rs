//! The errors of the Hub's client, with their remedies.

use std::path::PathBuf;
use std::time::Duration;

/// Why a file of the Hub is not available.
///
/// `file` is a full description: "`train.parquet` of dataset `owner/name` at `main`". No message contains a token, or
/// anything from the server except its status and its error code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An environment variable or a field of [`HubConfig`](crate::HubConfig) that cannot be used.
    #[error("Hub configuration: {reason}")]
    Config {
        /// What is wrong, and what is expected.
        reason: String,
    },
    /// A repository id, revision or file name that is not valid on the Hub.
    #[error("{what} {value:?} is not valid: {reason}")]
    Name {
        /// "repository id", "revision" or "file name".
        what: &'static str,
        /// The name as given.
        value: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// Offline, and the file is not in the cache.
    #[error(
        "{file} is not in the cache {}, and HF_HUB_OFFLINE forbids fetching it: \
         unset HF_HUB_OFFLINE and run once with a network, or use files of your own",
        cache.display()
    )]
    Offline {
        /// The file asked for.
        file: String,
        /// The cache folder that was searched.
        cache: PathBuf,
    },
    /// Offline, and only some of the files are in the cache.
    #[error(
        "{missing} of the {of} files of {repo} at {revision} are missing in the cache {}, among them {first}, \
         and HF_HUB_OFFLINE forbids fetching them: unset HF_HUB_OFFLINE and run once with a network",
        cache.display()
    )]
    Incomplete {
        /// The repository.
        repo: String,
        /// The revision asked for.
        revision: String,
        /// The number of missing files.
        missing: usize,
        /// The number of all files.
        of: usize,
        /// The first missing file.
        first: String,
        /// The cache folder that was searched.
        cache: PathBuf,
    },
    /// No connection: refused, no route, or the host's name does not resolve.
    #[error(
        "the Hub at {endpoint} cannot be reached for {file} ({reason}): check the network and HF_ENDPOINT, \
         or use files of your own"
    )]
    Unreachable {
        /// The Hub's address.
        endpoint: String,
        /// The file asked for.
        file: String,
        /// The system's reason.
        reason: String,
    },
    /// The Hub accepted the connection and then sent nothing.
    #[error(
        "the Hub at {endpoint} sent nothing for {} s while fetching {file}: try again later, \
         or raise HF_HUB_ETAG_TIMEOUT or HF_HUB_DOWNLOAD_TIMEOUT (seconds)",
        after.as_secs_f32()
    )]
    Timeout {
        /// The Hub's address.
        endpoint: String,
        /// The file asked for.
        file: String,
        /// The time limit.
        after: Duration,
    },
    /// 401 or 403: the file needs a token, or this token may not read it.
    #[error("the Hub at {endpoint} refuses {file} (HTTP {status}): {remedy}")]
    Denied {
        /// The Hub's address.
        endpoint: String,
        /// The file asked for.
        file: String,
        /// The HTTP status.
        status: u16,
        /// What to do.
        remedy: String,
    },
    /// 404: no such repository, revision or file.
    #[error("the Hub at {endpoint} has no {missing} for {file}: check the spelling, and HF_TOKEN if it is private")]
    NotFound {
        /// The Hub's address.
        endpoint: String,
        /// The file asked for.
        file: String,
        /// What is missing, as far as the Hub says: "repository", "revision", "file" or "such repository, revision or
        /// file".
        missing: &'static str,
    },
    /// 429: too many requests.
    #[error("the Hub at {endpoint} asks us to slow down (HTTP 429): {}, or set HF_TOKEN for a higher limit", wait(*retry_after))]
    RateLimited {
        /// The Hub's address.
        endpoint: String,
        /// The time the Hub asks for, where it says one.
        retry_after: Option<Duration>,
    },
    /// Any other HTTP status that is not a success.
    #[error(
        "the Hub at {endpoint} answers HTTP {status} for {file}: {}, or look at the Hub's status page",
        wait(*retry_after)
    )]
    Status {
        /// The Hub's address.
        endpoint: String,
        /// The file asked for.
        file: String,
        /// The HTTP status.
        status: u16,
        /// The time the Hub asks for, where it says one.
        retry_after: Option<Duration>,
    },
    /// The connection was interrupted, or the answer is not HTTP.
    #[error(
        "the Hub at {endpoint} sent no complete answer for {file} ({reason}): try again, and check HF_ENDPOINT and proxies"
    )]
    Interrupted {
        /// The Hub's address.
        endpoint: String,
        /// The file asked for.
        file: String,
        /// The HTTP client's reason.
        reason: String,
    },
    /// The answer is HTTP, but not the Hub's protocol.
    #[error("{endpoint} does not answer as a Hub does for {file} ({reason}): check HF_ENDPOINT and proxies")]
    Protocol {
        /// The address.
        endpoint: String,
        /// The file asked for.
        file: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// The size or checksum of a download or of a cached file is wrong. A wrong download is discarded.
    #[error("{file} is damaged: {reason}; {remedy}")]
    Integrity {
        /// The file asked for.
        file: String,
        /// Expected and found.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The cache cannot be read or written.
    #[error("{}: {source}; check the permissions and the free space there, or set HF_HUB_CACHE to another folder", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether a download was interrupted, so that another attempt may continue it.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_temporary() || matches!(self, Self::Timeout { .. } | Self::Unreachable { .. })
    }

    /// Whether another attempt, soon, may succeed.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Interrupted { .. } => true,
            _ => matches!(self.status(), Some(408 | 425 | 429 | 500..)),
        }
    }

    /// Whether the Hub refuses temporarily; it may send the time until which.
    pub(crate) fn asks_to_wait(&self) -> bool {
        matches!(self.status(), Some(429 | 503))
    }

    /// The HTTP status of a refusal that may be temporary.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::RateLimited { .. } => Some(429),
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// How long the Hub asks us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn wait(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(time) => format!("try again in {} s", time.as_secs()),
        None => "try again in a few minutes".to_owned(),
    }
}
