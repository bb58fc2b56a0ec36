//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc::Receiver;

/// A comment is sent after so much silence, so that a client that has gone is noticed.
const BEAT: Duration = Duration::from_secs(5);

/// One event as text.
pub(crate) fn event(name: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".into()); // our structs have a JSON form
    format!("event: {name}\ndata: {data}\n\n")
}

/// The answer that sends these events as they come, until there are no more or the client goes. Whatever is bound to
/// `guard` is dropped then.
pub(crate) fn stream<G: Send + 'static>(events: Receiver<String>, guard: G) -> Response {
    let next = |(mut events, guard): (Receiver<String>, G)| async move {
        let text = match tokio::time::timeout(BEAT, events.recv()).await {
            Ok(text) => text?,
            Err(_) => ": still here\n\n".to_owned(),
        };
        Some((Ok::<_, Infallible>(text), (events, guard)))
    };
    let body = Body::from_stream(futures_util::stream::unfold((events, guard), next));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // a proxy must not wait for more
    response
}
