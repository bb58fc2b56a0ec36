//! The requests to the Hub: a file's metadata (HEAD), its bytes (GET), and the listing of a repository.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, DATE, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, Url, redirect};
use serde_json::Value;

use crate::cache::at;
use crate::name::{RepoFile, is_commit, is_hex};
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
            let request = self.request(client.head(url.clone()));
            let answer = request.send().await.map_err(|error| self.transport(&error, self.config.etag_timeout))?;
            let (status, headers) = (answer.status(), answer.headers());
            let next = header(headers, LOCATION.as_str()).and_then(|location| url.join(location).ok());
            match next.filter(|next| status.is_redirection() && next.origin() == endpoint.origin()) {
                Some(next) => url = next,
                None if status.is_success() || status.is_redirection() => {
                    return self.read(status.is_success(), headers);
                }
                None => return Err(self.refusal(&answer)),
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
        let there = || std::fs::metadata(path).map_or(0, |part| part.len());
        loop {
            let before = there();
            let result = self.with_retries(Error::is_interrupted, async || self.receive(head, path).await);
            match result {
                Err(error) if error.is_interrupted() && head.has_checksum() && there() >= before + PROGRESS => {}
                result => return result,
            }
        }
    }

    async fn receive(&self, head: &Head, path: &Path) -> Result<(), Error> {
        let (limit, size) = (self.config.download_timeout, head.size);
        let mut out = File::options().append(true).create(true).open(path).map_err(at(path))?;
        let mut written = out.metadata().map_err(at(path))?.len();
        if written >= size || !head.has_checksum() {
            out.set_len(0).map_err(at(path))?;
            written = 0;
        }
        let begun = written > 0;
        let client = self.build(self.client())?;
        let mut request = self.request(client.get(self.file.url(&self.config.check()?)));
        if begun {
            request = request.header(RANGE, format!("bytes={written}-{}", size - 1));
        }
        let mut answer = self.send(request, limit).await?;
        loop {
            let chunk = tokio::time::timeout(limit, answer.chunk()).await.map_err(|_| self.timeout(limit))?;
            let Some(chunk) = chunk.map_err(|error| self.transport(&error, limit))? else { break };
            written += chunk.len() as u64;
            if written > size && begun {
                // The server ignores ranges and sends the whole file: the next attempt starts over.
                out.set_len(0).map_err(at(path))?;
                let (endpoint, file) = (self.endpoint(), self.file.to_string());
                return Err(Error::Interrupted {
                    endpoint,
                    file,
                    reason: "it does not go on with a download".to_owned(),
                });
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
        self.with_retries(Error::is_temporary, async || self.listing().await)
    }

    async fn listing(&self) -> Result<(String, Vec<String>), Error> {
        let limit = self.config.etag_timeout + self.config.download_timeout;
        let client = self.build(self.client())?;
        let request = self.request(client.get(self.file.listing_url(&self.config.check()?)));
        let body = async { self.send(request, limit).await?.bytes().await.map_err(|e| self.transport(&e, limit)) };
        let body = tokio::time::timeout(limit, body).await.map_err(|_| self.timeout(limit))??;
        let listing: Value = serde_json::from_slice(&body).map_err(|error| self.protocol(error.to_string()))?;
        let commit = listing["sha"].as_str().filter(|commit| is_commit(commit)).map(str::to_owned);
        let files = listing["siblings"].as_array();
        let files = files.and_then(|files| files.iter().map(|f| Some(f["rfilename"].as_str()?.to_owned())).collect());
        commit.zip(files).ok_or_else(|| self.protocol("its listing has no commit or no files".to_owned()))
    }

    /// A request with the token, if there is one. With compression, the length would not be the file's.
    fn request(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header(ACCEPT_ENCODING, "identity");
        match &self.config.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request, and turns any status but success into an error.
    async fn send(&self, request: RequestBuilder, limit: Duration) -> Result<Response, Error> {
        let answer = tokio::time::timeout(limit, request.send()).await.map_err(|_| self.timeout(limit))?;
        let answer = answer.map_err(|error| self.transport(&error, self.config.download_timeout))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    fn client(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(self.config.etag_timeout)
            .read_timeout(self.config.download_timeout)
    }

    fn build(&self, client: ClientBuilder) -> Result<Client, Error> {
        // The provider of the process, if the application has chosen one. ring compiles in seconds, aws-lc in minutes.
        let _ = rustls::crypto::ring::default_provider().install_default();
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

    /// The error for an answer with a status other than success.
    fn refusal(&self, answer: &Response) -> Error {
        let (status, headers) = (answer.status().as_u16(), answer.headers());
        let code = header(headers, "x-error-code").unwrap_or_default();
        let retry_after = retry_after(headers);
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
