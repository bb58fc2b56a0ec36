//! Connections: HTTP/1.1, a limited number of them, and none that is slow to say what it wants.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower_service::Service;

use crate::guard::Client;
use crate::settings::Limits;

/// How long the server waits for its last answers to be sent.
const GRACE: Duration = Duration::from_secs(3);
/// The largest head of a request.
const MAX_HEAD_BYTES: usize = 1 << 16;
/// The answer when there are too many connections.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n\
                    Connection: close\r\nContent-Length: 77\r\n\r\n\
                    {\"error\":\"too many connections are open: try again in a moment\",\"field\":null}";

/// Waits until the server is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await; // or its handle is gone
}

/// Answers on all connections until the server is to stop, then calls `close`, and waits for the last answers.
pub(crate) async fn listen(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
    close: impl FnOnce(),
) {
    let places = Arc::new(Semaphore::new(limits.max_connections));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match (accepted, places.clone().try_acquire_owned()) {
            (Ok((stream, client)), Ok(place)) => {
                tokio::spawn(answer(stream, client, router.clone(), limits.max_read_time, stop.clone(), place));
            }
            (Ok((stream, _)), Err(_)) => drop(tokio::spawn(refuse(stream))),
            // no file descriptors are left: some will be, when connections close
            (Err(_), _) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    drop(listener);
    close();
    let all = places.acquire_many(limits.max_connections as u32);
    let _ = tokio::time::timeout(GRACE, all).await;
}

async fn answer(
    stream: TcpStream,
    client: SocketAddr,
    router: Router,
    read_time: Duration,
    mut stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true); // an event is sent when it happens
    let service = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Client(client.ip()));
        async move { router.call(request).await }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(read_time)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopped(&mut stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}

async fn refuse(mut stream: TcpStream) {
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(FULL.as_bytes())).await;
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_length_of_the_answer_is_right() {
        let (head, body) = super::FULL.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"].is_string());
    }
}
