//! Reads the body of a request, within limits of size and time.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::refusal::Refusal;
use crate::settings::Limits;

/// The memory of all bodies that are read at the same time, as a multiple of the largest one.
const AT_ONCE: usize = 4;
/// The unit in which it is shared out.
const UNIT: usize = 1024;

/// The memory for the bodies of requests.
#[derive(Debug)]
pub(crate) struct Bodies(Semaphore);

/// The body of a request. Its memory counts as used until this is dropped.
pub(crate) struct Body<'a> {
    pub(crate) bytes: Vec<u8>,
    _memory: SemaphorePermit<'a>,
}

impl Bodies {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Semaphore::new((AT_ONCE * limits.max_body_bytes).div_ceil(UNIT)))
    }

    /// The body of a request that says that it is JSON.
    pub(crate) async fn json(&self, request: Request, limits: &Limits) -> Result<Body<'_>, Refusal> {
        check_type(request.headers())?;
        let length = request.headers().get(header::CONTENT_LENGTH);
        let Some(length) = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok()) else {
            let reason = "the body has to say how long it is: send it with the header `Content-Length`";
            return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, reason));
        };
        if length > limits.max_body_bytes {
            return Err(too_large(limits.max_body_bytes));
        }
        let memory = self.0.try_acquire_many(length.div_ceil(UNIT) as u32);
        let memory =
            memory.map_err(|_| Refusal::busy("too many large requests arrive at once: try again in a moment"))?;
        let bytes = in_time(request.into_body(), length, limits).await?;
        Ok(Body { bytes, _memory: memory })
    }
}

async fn in_time(body: axum::body::Body, length: usize, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    match tokio::time::timeout(limits.max_read_time, read(body, length)).await {
        Ok(bytes) => bytes,
        Err(_) => {
            let seconds = limits.max_read_time.as_secs();
            let reason = format!("the body did not arrive within {seconds} seconds");
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason))
        }
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|given| given.to_str().ok()).unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let reason = "the body has to be JSON: send it with the header `Content-Type: application/json`";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason))
}

async fn read(body: axum::body::Body, most: usize) -> Result<Vec<u8>, Refusal> {
    let (mut stream, mut bytes) = (body.into_data_stream(), vec![]);
    while let Some(chunk) = stream.next().await {
        let broken = |e: axum::Error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body broke off: {e}"));
        let chunk = chunk.map_err(broken)?;
        if bytes.len() + chunk.len() > most {
            return Err(too_large(most));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_large(most: usize) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {most} bytes: send smaller pictures"))
}
