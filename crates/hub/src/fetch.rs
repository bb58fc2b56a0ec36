//! The requests to the Hub: a file's metadata (HEAD), its bytes (GET), and the listing of a repository.
//!
//! hf-hub streams the bytes. We send HEAD ourselves, because hf-hub's public function follows the redirect to the
//! storage host and loses the Hub's headers. We write the cache ourselves, because hf-hub's stores error pages,
//! compares neither size nor checksum, uses any etag as a path, and may wait forever.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use hf_hub::{HFClient, HFError, HFRepository, RepoType};
use reqwest::Url;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, LOCATION};

use crate::cache::at;
use crate::client::{Client, Failure, Refusal, header, retry_after};
use crate::name::{Kind, RepoFile, is_commit, is_hex};
use crate::watch::{Download, Watcher};
use crate::{Error, HubConfig};

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
    client: Client<'a>,
    file: RepoFile<'a>,
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(config: &'a HubConfig, watcher: &'a Watcher, file: RepoFile<'a>) -> Self {
        Self { client: Client { config, watcher, what: file.to_string(), name: file.filename }, file }
    }

    /// The file's metadata. Redirects are followed only within the endpoint: a redirect to another host points at the
    /// bytes, and its headers are the metadata.
    pub(crate) fn head(&self) -> Result<Head, Error> {
        let endpoint = self.client.config.check()?;
        let limit = self.client.config.etag_timeout;
        self.client.with_retries(Error::is_temporary, async || self.ask_within(limit, &endpoint).await)
    }

    /// As [`head`](Self::head), once, within an async runtime.
    pub(crate) async fn ask_within(&self, limit: Duration, endpoint: &Url) -> Result<Head, Error> {
        let client = self.client.without_redirects()?;
        match tokio::time::timeout(limit, self.ask(&client, endpoint)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timeout(limit)),
        }
    }

    async fn ask(&self, client: &reqwest::Client, endpoint: &Url) -> Result<Head, Error> {
        let mut url = self.file.url(endpoint);
        for _ in 0..=MAX_REDIRECTS {
            // With compression, the length would not be the file's.
            let mut request = client.head(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = &self.client.config.token {
                request = request.bearer_auth(token);
            }
            let limit = self.client.config.etag_timeout;
            let answer = request.send().await.map_err(|error| self.client.transport(&error, limit))?;
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
            let result = self.client.with_retries(Error::is_interrupted, async || {
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
                let asked = self.ask_within(self.client.config.etag_timeout, &self.client.config.check()?).await;
                Err(asked.err().filter(|asked| asked.retry_after().is_some()).unwrap_or(error))
            }
            result => result,
        }
    }

    async fn stream<T: RepoType>(&self, repo: HFRepository<T>, head: &Head, path: &Path) -> Result<(), Error> {
        let (limit, size) = (self.client.config.download_timeout, head.size);
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
                let (endpoint, file) = (self.client.endpoint(), self.file.to_string());
                return Err(Error::Interrupted { endpoint, file, reason: "it cannot resume a download".to_owned() });
            }
            if written > size {
                return Err(self.protocol(format!("it sends more than the {size} bytes it announced")));
            }
            out.write_all(&chunk).map_err(at(path))?;
            self.client.watcher.report_download(Download { file: self.file.filename, received: written, size });
        }
        Ok(())
    }

    /// The commit of the revision and the paths of its files.
    pub(crate) fn list(&self) -> Result<(String, Vec<String>), Error> {
        self.client.with_retries(Error::is_temporary, async || self.with_retry_after(self.listing().await).await)
    }

    async fn listing(&self) -> Result<(String, Vec<String>), Error> {
        let hub = self.hub()?;
        let (owner, name) = hf_hub::split_id(self.file.repo_id);
        let limit = self.client.config.etag_timeout + self.client.config.download_timeout;
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
        self.client.hub(Some(self.client.config.download_timeout))
    }

    fn translate(&self, error: HFError) -> Error {
        match self.client.failure(error, self.client.config.download_timeout) {
            Failure::Refused(Refusal { status, code, retry_after, .. }) => self.refusal(status, &code, retry_after),
            Failure::Transfer(reason) => self.protocol(reason),
            Failure::Other(error) => error,
        }
    }

    /// The error for an HTTP status other than success, with the Hub's `X-Error-Code`.
    fn refusal(&self, status: u16, code: &str, retry_after: Option<Duration>) -> Error {
        let (endpoint, file, repo) = (self.client.endpoint(), self.file.to_string(), self.file.repo_id);
        let login = match self.client.config.token {
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
        self.client.protocol(reason)
    }

    fn timeout(&self, after: Duration) -> Error {
        self.client.timeout(after)
    }
}
