//! What all requests share: the HTTP client, attempts and waits, and the errors of the connection.

use std::time::{Duration, SystemTime};

use hf_hub::{HFClient, HFError};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{ClientBuilder, redirect};

use crate::watch::{Wait, Watcher};
use crate::{Error, HubConfig};

/// Pauses before the second and the third attempt after a temporary failure.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
const USER_AGENT: &str = concat!("kakusan/", env!("CARGO_PKG_VERSION"));
/// The longest reason of the Hub that a message shows, in characters.
const MAX_REASON: usize = 300;

/// The requests for one purpose.
pub(crate) struct Client<'a> {
    pub(crate) config: &'a HubConfig,
    pub(crate) watcher: &'a Watcher,
    /// The purpose, for errors: "`train.parquet` of dataset `owner/name` at `main`".
    pub(crate) what: String,
    /// The file or repository, for waits.
    pub(crate) name: &'a str,
}

/// An HTTP status other than success.
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The Hub's `X-Error-Code`, or an empty text.
    pub(crate) code: String,
    pub(crate) retry_after: Option<Duration>,
    /// The Hub's reason: one line without the token, or an empty text.
    pub(crate) reason: String,
}

/// Why a request of hf-hub failed.
pub(crate) enum Failure {
    Refused(Refusal),
    /// Large files could not be sent or received.
    Transfer(String),
    Other(Error),
}

impl Client<'_> {
    /// hf-hub's client. Its requests end after `silence` without a byte, if that is given.
    pub(crate) fn hub(&self, silence: Option<Duration>) -> Result<HFClient, Error> {
        let mut client = self.http();
        if let Some(silence) = silence {
            client = client.read_timeout(silence);
        }
        HFClient::builder()
            .client(self.build(client)?)
            .user_agent(USER_AGENT)
            .endpoint(self.config.endpoint.as_str())
            // Without a token, hf-hub 1.0 searches the environment. A token that is invalid in a header is not sent.
            .token(self.config.token.as_deref().unwrap_or("\n"))
            .cache_dir(&self.config.cache_dir)
            .cache_enabled(false)
            .retry_max_attempts(0)
            .build()
            .map_err(|error| self.protocol(root_cause(&error)))
    }

    fn http(&self) -> ClientBuilder {
        reqwest::Client::builder().user_agent(USER_AGENT).connect_timeout(self.config.etag_timeout)
    }

    /// A client that follows no redirects.
    pub(crate) fn without_redirects(&self) -> Result<reqwest::Client, Error> {
        self.build(self.http().read_timeout(self.config.download_timeout).redirect(redirect::Policy::none()))
    }

    fn build(&self, client: ClientBuilder) -> Result<reqwest::Client, Error> {
        client.build().map_err(|error| Error::Config { reason: format!("no HTTP client: {}", root_cause(&error)) })
    }

    /// Runs `attempt` as [`retry`](Self::retry) does, to its end.
    pub(crate) fn with_retries<T: Send>(
        &self,
        retryable: fn(&Error) -> bool,
        attempt: impl AsyncFn() -> Result<T, Error> + Sync,
    ) -> Result<T, Error> {
        self.run(async || self.retry(retryable, &attempt).await)
    }

    /// Runs `work` to its end, on a thread of its own so that the caller may itself be in an async runtime.
    pub(crate) fn run<T: Send>(&self, work: impl AsyncFn() -> Result<T, Error> + Sync) -> Result<T, Error> {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Error::Config { reason: format!("no async runtime: {error}") })?;
            let result = runtime.block_on(work());
            // Do not wait for a name look-up that hangs.
            runtime.shutdown_background();
            result
        };
        let result = std::thread::scope(|scope| scope.spawn(work).join());
        result.unwrap_or_else(|_| Err(self.protocol("the HTTP client failed on it".to_owned())))
    }

    /// Repeats `attempt` until it succeeds: up to three times for failures that `retryable` accepts, and after each
    /// wait that the Hub asks for.
    pub(crate) async fn retry<T>(
        &self,
        retryable: fn(&Error) -> bool,
        attempt: impl AsyncFn() -> Result<T, Error>,
    ) -> Result<T, Error> {
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
                    self.watcher.report_wait(Wait { file: self.name, status, time });
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
    }

    /// What an error of hf-hub says. `limit` is the time limit of the request.
    pub(crate) fn failure(&self, error: HFError, limit: Duration) -> Failure {
        let (context, retry_after) = match error {
            HFError::Http { context } | HFError::AuthRequired { context } | HFError::Forbidden { context } => {
                (context, None)
            }
            HFError::Conflict { context } => (context, None),
            HFError::RateLimited { retry_after, context } => (context, retry_after),
            HFError::RepoNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::EntryNotFound { context: Some(context), .. } => (context, None),
            HFError::Request { source, .. } => return Failure::Other(self.transport(&source, limit)),
            HFError::Xet { source, .. } => return Failure::Transfer(self.in_public(&root_cause(source.as_ref()))),
            other => return Failure::Other(self.protocol(root_cause(&other))),
        };
        Failure::Refused(Refusal {
            status: context.status.as_u16(),
            code: context.error_code.clone().unwrap_or_default(),
            retry_after,
            reason: self.in_public(context.server_message.as_deref().unwrap_or_default()),
        })
    }

    /// A text of the server as a message may show it: one short line, without the token.
    fn in_public(&self, text: &str) -> String {
        let text = match self.config.token.as_deref().filter(|token| !token.is_empty()) {
            Some(token) => text.replace(token, "…"),
            None => text.to_owned(),
        };
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect()
    }

    pub(crate) fn transport(&self, error: &reqwest::Error, limit: Duration) -> Error {
        let (endpoint, file, reason) = (self.endpoint(), self.what.clone(), root_cause(error));
        if error.is_timeout() {
            self.timeout(limit)
        } else if error.is_connect() {
            Error::Unreachable { endpoint, file, reason }
        } else {
            Error::Interrupted { endpoint, file, reason }
        }
    }

    pub(crate) fn protocol(&self, reason: String) -> Error {
        Error::Protocol { endpoint: self.endpoint(), file: self.what.clone(), reason }
    }

    pub(crate) fn timeout(&self, after: Duration) -> Error {
        Error::Timeout { endpoint: self.endpoint(), file: self.what.clone(), after }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.config.endpoint.clone()
    }
}

pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The wait that the Hub asks for: in seconds, or until a date, by the Hub's clock if it sends the time.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
