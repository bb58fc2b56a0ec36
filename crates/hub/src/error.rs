//! The errors of the Hub's client, with their remedies.

use std::path::PathBuf;
use std::time::Duration;

/// Why a file of the Hub is not available, or a push failed.
///
/// `file` is a full description: "`train.parquet` of dataset `owner/name` at `main`", or "the push to `owner/name` at
/// `main`". No message contains a token. From the server, messages contain its status, its error code and, where it
/// refuses a commit as invalid, one short line of its reason.
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
        "the Hub at {endpoint} sent nothing for {} s for {file}: try again later, \
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
    /// A push without a token.
    #[error(
        "there is no token to push to {repo}: create one that may write at {endpoint}/settings/tokens, and set HF_TOKEN to \
         it (or run `hf auth login`)"
    )]
    NoToken {
        /// The Hub's address.
        endpoint: String,
        /// The repository.
        repo: String,
    },
    /// A push while offline.
    #[error("HF_HUB_OFFLINE forbids the push to {repo}: unset it and try again with a network; nothing was sent")]
    OfflinePush {
        /// The repository.
        repo: String,
    },
    /// A file to be pushed that cannot be read.
    #[error("cannot read {} to push it: {source}; nothing was sent", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The repository exists, and the push was to create it, or to create it as a private one.
    #[error("{repo} exists already{}: {remedy}; nothing was sent", if *public { " and is public" } else { "" })]
    Exists {
        /// The repository.
        repo: String,
        /// Whether it is public, where it was to be private.
        public: bool,
        /// What to do.
        remedy: String,
    },
    /// The Hub says that the name is taken, and shows no model of this name.
    #[error(
        "{repo} cannot be created at {endpoint}: the name is taken, and not by a model that HF_TOKEN may see (a data set, a \
         space, or a private model of another account): choose another name"
    )]
    Taken {
        /// The Hub's address.
        endpoint: String,
        /// The repository.
        repo: String,
    },
    /// There is no room for the files: 402, 413, 507, or a refusal that names a storage limit.
    #[error(
        "the Hub at {endpoint} has no room for {file} (HTTP {status}): delete files or repositories that are not needed, or \
         see {endpoint}/settings/billing; nothing was committed"
    )]
    Full {
        /// The Hub's address.
        endpoint: String,
        /// What was pushed.
        file: String,
        /// The HTTP status.
        status: u16,
    },
    /// 409 or 412: the branch moved during the push, or another change of the repository is in progress.
    #[error(
        "{file}: the repository changed meanwhile (HTTP {status}): look at what changed and push again; nothing was \
         committed"
    )]
    Moved {
        /// What was pushed.
        file: String,
        /// The HTTP status.
        status: u16,
    },
    /// The Hub refuses the content, such as metadata of the model card.
    #[error("the Hub at {endpoint} refuses {file} as invalid (HTTP {status}): {reason}; nothing was committed")]
    Invalid {
        /// The Hub's address.
        endpoint: String,
        /// What was pushed.
        file: String,
        /// The HTTP status.
        status: u16,
        /// The Hub's reason: one line of at most 300 characters, without the token.
        reason: String,
    },
    /// The storage for large files failed.
    #[error(
        "{file}: the large files could not be sent to the storage of {endpoint} ({reason}): check the network and push \
         again; nothing was committed, and what has arrived is not sent twice"
    )]
    Upload {
        /// The Hub's address.
        endpoint: String,
        /// What was pushed.
        file: String,
        /// The client's reason.
        reason: String,
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
            Self::Interrupted { .. } | Self::Moved { .. } => true,
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
