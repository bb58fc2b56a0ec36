//! The requests to the Hub: a file's metadata (HEAD), its bytes (GET), and the listing of a repository.
//!
//! hf-hub streams the bytes. We send HEAD ourselves, because hf-hub's public function follows the redirect to the
//! storage host and loses the Hub's headers. We write the cache ourselves, because hf-hub's stores error pages,
//! compares neither size nor checksum, uses any etag as a path, and may wait forever.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use hf_hub::{HFClient, HFError, HFRepository, RepoType};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, DATE, ETAG, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Url, redirect};

use crate::cache::at;
use crate::name::{Kind, RepoFile, is_commit, is_hex};
use crate::watch::{Download, Wait, Watcher};
use crate::{Error, HubConfig};

/// Pauses before the second and the third attempt after a temporary failure.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// After this many more bytes, an interrupted download gets its attempts back.
const PROGRESS: u64 = 1 << 20;
const MAX_REDIRECTS: usize = 5;

/// A file's metadata.
pub(crate) struct Head {
    /// The checksum of its bytes, or another identifier from a mirror; valid as a file name.
    pub(crate) etag: String,
    pub(crate) commit: String,
    /// In bytes.
    pub(crate) size: u64,
}

impl Head {
    /// Whether the etag is a checksum, so that a partial download may be kept.
    pub(crate) fn has_checksum(&self) -> bool {
        is_hex(&self.etag, 64) || is_hex(&self.etag, 40)
    }
}

/// A request for one file.
pub(crate) struct Fetch<'a> {
    pub(crate) config: &'a HubConfig,
    pub(crate) watcher: &'a Watcher,
    pub(crate) file: RepoFile<'a>,
}

impl Fetch<'_> {
    /// The file's metadata. Redirects are followed only within the endpoint: a redirect to another host points at the
    /// bytes, and its headers are the metadata.
    pub(crate) fn head(&self) -> Result<Head, Error> {
        let endpoint = self.config.check()?;
        let limit = self.config.etag_timeout;
        self.with_retries(Error::is_temporary, async || self.ask_within(limit, &endpoint).await)
    }

    async fn ask_within(&self, limit: Duration, endpoint: &Url) -> Result<Head, Error> {
        let client = self.build(self.client().redirect(redirect::Policy::none()))?;
        match tokio::time::timeout(limit, self.ask(&client, endpoint)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timeout(limit)),
        }
    }

    async fn ask(&self, client: &Client, endpoint: &Url) -> Result<Head, Error> {
        let mut url = self.file.url(endpoint);
        for _ in 0..=MAX_REDIRECTS {
            // With compression, the length would not be the file's.
            let mut request = client.head(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = &self.config.token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.map_err(|error| self.transport(&error, self.config.etag_timeout))?;
            let (status, headers) = (answer.status(), answer.headers());
            let next = header(headers, LOCATION.as_str()).and_then(|location| url.join(location).ok());
            match next.filter(|next| status.is_redirection() && next.origin() == endpoint.origin()) {
                Some(next) => url = next,
                None if status.is_success() || status.is_redirection() => {
                    return self.read(status.is_success(), headers);
                }
                None => {
                    let code = header(headers, "x-error-code").unwrap_or_default();
                    return Err(self.refusal(status.as_u16(), code, retry_after(headers)));
                }
            }
        }
        Err(self.protocol(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Reads the headers. `own_length`: `Content-Length` is the file's, not that of a redirect's body.
    fn read(&self, own_length: bool, headers: &HeaderMap) -> Result<Head, Error> {
        let elsewhere = header(headers, LOCATION.as_str()).and_then(|location| Url::parse(location).ok());
        let elsewhere = elsewhere.map(|url| format!(", and it sends us to {}", url.origin().ascii_serialization()));
        let elsewhere = elsewhere.unwrap_or_default();
        let missing = |what: &str| self.protocol(format!("its answer has no usable {what}{elsewhere}"));
        let etag = header(headers, "x-linked-etag").or_else(|| header(headers, ETAG.as_str()));
        let etag = etag.map(|etag| etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"'));
        let is_name = |etag: &&str| {
            let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            (1..=128).contains(&etag.len()) && !etag.starts_with('.') && etag.bytes().all(safe)
        };
        let etag = etag.filter(is_name).ok_or_else(|| missing("ETag"))?;
        let commit = header(headers, "x-repo-commit").filter(|commit| is_commit(commit));
        let commit = commit.ok_or_else(|| missing("X-Repo-Commit"))?;
        if self.file.is_pinned() && commit != self.file.revision {
            return Err(self.protocol(format!("its answer is of the commit {commit}")));
        }
        let length = own_length.then(|| header(headers, CONTENT_LENGTH.as_str())).flatten();
        let size = header(headers, "x-linked-size").or(length).and_then(|size| size.parse().ok());
        let size = size.ok_or_else(|| missing("X-Linked-Size or Content-Length"))?;
        Ok(Head { etag: etag.to_owned(), commit: commit.to_owned(), size })
    }

    /// Writes the file's bytes to `path`, at most as many as `head` gives. If the etag is a checksum, it continues a
    /// partial download.
    pub(crate) fn download(&self, head: &Head, path: &Path) -> Result<(), Error> {
        let there = || std::fs::metadata(path).map_or(0, |file| file.len());
        loop {
            let before = there();
            let result = self.with_retries(Error::is_interrupted, async || {
                let hub = self.hub()?;
                let (owner, name) = hf_hub::split_id(self.file.repo_id);
                let result = match self.file.kind {
                    Kind::Model => self.stream(hub.model(owner, name), head, path).await,
                    Kind::Dataset => self.stream(hub.dataset(owner, name), head, path).await,
                };
                self.with_retry_after(result).await
            });
            match result {
                Err(error) if error.is_interrupted() && head.has_checksum() && there() >= before + PROGRESS => {}
                result => return result,
            }
        }
    }

    /// hf-hub reports `Retry-After` only for 429 and in seconds; for all others we ask again by HEAD.
    async fn with_retry_after<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            Err(error) if error.asks_to_wait() && error.retry_after().is_none() => {
                let asked = self.ask_within(self.config.etag_timeout, &self.config.check()?).await;
                Err(asked.err().filter(|asked| asked.retry_after().is_some()).unwrap_or(error))
            }
            result => result,
        }
    }

    async fn stream<T: RepoType>(&self, repo: HFRepository<T>, head: &Head, path: &Path) -> Result<(), Error> {
        let (limit, size) = (self.config.download_timeout, head.size);
        let mut out = File::options().append(true).create(true).open(path).map_err(at(path))?;
        let mut written = out.metadata().map_err(at(path))?.len();
        if written >= size || !head.has_checksum() {
            out.set_len(0).map_err(at(path))?;
            written = 0;
        }
        let begun = written > 0;
        let request = repo.download_file_stream().filename(self.file.filename).revision(self.file.revision);
        let request = request.maybe_range(begun.then_some(written..size)).send();
        let answer = tokio::time::timeout(limit, request).await.map_err(|_| self.timeout(limit))?;
        let (_, mut chunks) = answer.map_err(|error| self.translate(error))?;
        while let Some(chunk) = tokio::time::timeout(limit, chunks.next()).await.map_err(|_| self.timeout(limit))? {
            let chunk = chunk.map_err(|error| self.translate(error))?;
            written += chunk.len() as u64;
            if written > size && begun {
                // The server ignores ranges and sends the whole file: the next attempt starts over.
                out.set_len(0).map_err(at(path))?;
                let (endpoint, file) = (self.endpoint(), self.file.to_string());
                return Err(Error::Interrupted { endpoint, file, reason: "it cannot resume a download".to_owned() });
            }
            if written > size {
                return Err(self.protocol(format!("it sends more than the {size} bytes it announced")));
            }
            out.write_all(&chunk).map_err(at(path))?;
            self.watcher.report_download(Download { file: self.file.filename, received: written, size });
        }
        Ok(())
    }

    /// The commit of the revision and the paths of its files.
    pub(crate) fn list(&self) -> Result<(String, Vec<String>), Error> {
        self.with_retries(Error::is_temporary, async || self.with_retry_after(self.listing().await).await)
    }

    async fn listing(&self) -> Result<(String, Vec<String>), Error> {
        let hub = self.hub()?;
        let (owner, name) = hf_hub::split_id(self.file.repo_id);
        let limit = self.config.etag_timeout + self.config.download_timeout;
        let expand = ["sha", "siblings"].map(str::to_owned).to_vec();
        let revision = self.file.revision;
        let request = async {
            match self.file.kind {
                Kind::Model => {
                    let repo = hub.model(owner, name);
                    repo.info().revision(revision).expand(expand).send().await.map(|info| (info.sha, info.siblings))
                }
                Kind::Dataset => {
                    let repo = hub.dataset(owner, name);
                    repo.info().revision(revision).expand(expand).send().await.map(|info| (info.sha, info.siblings))
                }
            }
        };
        let answer = tokio::time::timeout(limit, request).await.map_err(|_| self.timeout(limit))?;
        let (commit, files) = answer.map_err(|error| self.translate(error))?;
        let commit = commit.filter(|commit| is_commit(commit));
        let (commit, files) =
            commit.zip(files).ok_or_else(|| self.protocol("its listing has no commit or no files".to_owned()))?;
        Ok((commit, files.into_iter().map(|file| file.rfilename).collect()))
    }

    fn hub(&self) -> Result<HFClient, Error> {
        HFClient::builder()
            .client(self.build(self.client())?)
            .user_agent(USER_AGENT)
            .endpoint(self.config.endpoint.as_str())
            // Without a token, hf-hub 1.0 searches the environment. A token that is invalid in a header is not sent.
            .token(self.config.token.as_deref().unwrap_or("\n"))
            .cache_dir(&self.config.cache_dir)
            .cache_enabled(false)
            .retry_max_attempts(0)
            .build()
            .map_err(|error| self.translate(error))
    }

    fn client(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(self.config.etag_timeout)
            .read_timeout(self.config.download_timeout)
    }

    fn build(&self, client: ClientBuilder) -> Result<Client, Error> {
        client.build().map_err(|error| Error::Config { reason: format!("no HTTP client: {}", root_cause(&error)) })
    }

    /// Runs `attempt` until it succeeds: up to three times for failures that `retryable` accepts, and after each wait
    /// that the Hub asks for. It runs on a separate thread, so that the caller may itself be in an async runtime.
    fn with_retries<T: Send>(
        &self,
        retryable: fn(&Error) -> bool,
        attempt: impl AsyncFn() -> Result<T, Error> + Sync,
    ) -> Result<T, Error> {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Error::Config { reason: format!("no async runtime: {error}") })?;
            let result = runtime.block_on(async {
                let (mut pauses, mut left) = (PAUSES.into_iter(), self.config.max_wait);
                loop {
                    let error = match attempt().await {
                        Ok(result) => return Ok(result),
                        Err(error) => error,
                    };
                    let pause = match error.retry_after().filter(|time| !time.is_zero()) {
                        Some(time) => {
                            let Some(rest) = left.checked_sub(time) else { return Err(error) };
                            left = rest;
                            let status = error.status().unwrap_or_default();
                            self.watcher.report_wait(Wait { file: self.file.filename, status, time });
                            time
                        }
                        None if !retryable(&error) => return Err(error),
                        None => match pauses.next() {
                            Some(pause) => pause,
                            None => return Err(error),
                        },
                    };
                    tokio::time::sleep(pause).await;
                }
            });
            // Do not wait for a name look-up that hangs.
            runtime.shutdown_background();
            result
        };
        let result = std::thread::scope(|scope| scope.spawn(work).join());
        result.unwrap_or_else(|_| Err(self.protocol("the HTTP client failed on it".to_owned())))
    }

    fn translate(&self, error: HFError) -> Error {
        let (context, wait) = match error {
            HFError::Http { context } | HFError::AuthRequired { context } | HFError::Forbidden { context } => {
                (context, None)
            }
            HFError::Conflict { context } => (context, None),
            HFError::RateLimited { retry_after, context } => (context, retry_after),
            HFError::RepoNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::EntryNotFound { context: Some(context), .. } => (context, None),
            HFError::Request { source, .. } => return self.transport(&source, self.config.download_timeout),
            other => return self.protocol(root_cause(&other)),
        };
        self.refusal(context.status.as_u16(), context.error_code.as_deref().unwrap_or_default(), wait)
    }

    fn transport(&self, error: &reqwest::Error, limit: Duration) -> Error {
        let (endpoint, file, reason) = (self.endpoint(), self.file.to_string(), root_cause(error));
        if error.is_timeout() {
            self.timeout(limit)
        } else if error.is_connect() {
            Error::Unreachable { endpoint, file, reason }
        } else {
            Error::Interrupted { endpoint, file, reason }
        }
    }

    /// The error for an HTTP status other than success, with the Hub's `X-Error-Code`.
    fn refusal(&self, status: u16, code: &str, retry_after: Option<Duration>) -> Error {
        let (endpoint, file, repo) = (self.endpoint(), self.file.to_string(), self.file.repo_id);
        let login = match self.config.token {
            Some(_) => "HF_TOKEN may not read it",
            None => "HF_TOKEN is not set",
        };
        let remedy = match (status, code) {
            (401 | 403, "GatedRepo") => {
                format!("accept its conditions on the page of {repo}, with the account of HF_TOKEN ({login})")
            }
            (401, _) => format!("{repo} does not exist there, or it is private and {login}"),
            _ => format!("{login}, or the Hub or a proxy denies access"),
        };
        match status {
            401 | 403 => Error::Denied { endpoint, file, status, remedy },
            404 => {
                let missing = match code {
                    "RepoNotFound" => "repository",
                    "RevisionNotFound" => "revision",
                    "EntryNotFound" => "file",
                    _ => "such repository, revision or file",
                };
                Error::NotFound { endpoint, file, missing }
            }
            429 => Error::RateLimited { endpoint, retry_after },
            _ => Error::Status { endpoint, file, status, retry_after },
        }
    }

    pub(crate) fn protocol(&self, reason: String) -> Error {
        Error::Protocol { endpoint: self.endpoint(), file: self.file.to_string(), reason }
    }

    fn timeout(&self, after: Duration) -> Error {
        Error::Timeout { endpoint: self.endpoint(), file: self.file.to_string(), after }
    }

    fn endpoint(&self) -> String {
        self.config.endpoint.clone()
    }
}

const USER_AGENT: &str = concat!("kakusan/", env!("CARGO_PKG_VERSION"));

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The wait that the Hub asks for: in seconds, or until a date, by the Hub's clock if it sends the time.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = header(headers, RETRY_AFTER.as_str())?.trim();
    let until = |date| {
        let now = header(headers, DATE.as_str()).and_then(|now| httpdate::parse_http_date(now).ok());
        let now = now.unwrap_or_else(SystemTime::now);
        SystemTime::duration_since(&date, now).unwrap_or_default()
    };
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| httpdate::parse_http_date(text).ok().map(until))
}

/// The innermost cause, which is the informative one; the outer ones repeat the URL.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
