use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use axum::middleware;
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;

use crate::body::Bodies;
use crate::draws::Draws;
use crate::folders::{Folders, is_name};
use crate::models::Models;
use crate::refusal::Refusal;
use crate::runs::Runs;
use crate::settings::Settings;
use crate::{guard, listen, page, routes, worker};

/// How long the server waits for the step in work when it stops.
const GRACE: Duration = Duration::from_secs(5);
/// The fewest letters of a token.
const TOKEN_LETTERS: usize = 16;
/// How often requests whose clients have gone are looked for.
const ROUND: Duration = Duration::from_secs(1);

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// The port cannot be opened.
    #[error("cannot listen at {host}:{port}: {source}{}", advice(source))]
    Listen {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The system's error.
        source: std::io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start the server: {0}")]
    Start(std::io::Error),
}

impl Error {
    /// Whether the settings are the cause, not something that happened.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Settings(_))
    }
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            ". Another program listens there, perhaps an earlier server: stop it, or choose another port with --port"
        }
        std::io::ErrorKind::PermissionDenied => ". Choose a port of 1024 or above with --port",
        _ => "",
    }
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) port: u16,
    pub(crate) models: Arc<Models>,
    pub(crate) draws: Arc<Draws>,
    pub(crate) runs: Arc<Runs>,
    /// Places for streams of events.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) bodies: Bodies,
    /// Places for requests whose pictures are decoded.
    pub(crate) decoding: Semaphore,
    pub(crate) stop: watch::Receiver<bool>,
    loopback: bool,
}

impl Shared {
    /// A place for a stream of events.
    pub(crate) fn stream_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let place = self.streams.clone().try_acquire_owned();
        place.map_err(|_| Refusal::busy("too many pages watch at once: close one, or try again later"))
    }

    /// Whether the server is called by this name. An address is never the name of another site's page.
    pub(crate) fn answers_to(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_own = |own: &str| own.eq_ignore_ascii_case(host);
        match host.parse::<IpAddr>() {
            Ok(address) => !self.loopback || address.is_loopback(),
            Err(_) => {
                is_own("localhost")
                    || is_own(&self.settings.host)
                    || self.settings.allowed_hosts.iter().any(|own| is_own(own))
            }
        }
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Stop,
}

/// Stops a server: from a signal handler, or from another thread.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Refuses new requests from now on, gives up the batch in work after its step, answers those that wait with 503,
    /// and lets [`Server::run`] return within seconds.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Server {
    /// Opens the port.
    ///
    /// # Errors
    /// When the settings cannot be used (a host that others can reach, without a token), or the port is taken.
    pub fn bind(settings: Settings) -> Result<Self, Error> {
        check(&settings)?;
        let Settings { host, port, .. } = &settings;
        let failed = |source| Error::Listen { host: host.clone(), port: *port, source };
        let addresses: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs().map_err(failed)?.collect();
        let loopback = addresses.iter().all(|address| address.ip().is_loopback());
        if !loopback && settings.token.is_none() {
            return Err(Error::Settings(format!(
                "--host {host} can be reached by others: set a token that they have to know, by --token or in the \
                 variable KAKUSAN_TOKEN"
            )));
        }
        let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (sender, receiver) = watch::channel(false);
        let folder = settings.models.clone().unwrap_or_else(|| settings.runs.clone());
        let shared = Shared {
            port: address.port(),
            models: Arc::new(Models::new(Folders::new(folder, settings.named.clone()))),
            draws: Arc::new(Draws::new(settings.limits.clone())),
            runs: Arc::new(Runs::new(settings.runs.clone())),
            streams: Arc::new(Semaphore::new(settings.limits.max_streams)),
            bodies: Bodies::new(&settings.limits),
            decoding: Semaphore::new(2),
            stop: receiver,
            loopback,
            settings,
        };
        Ok(Self { listener, shared: Arc::new(shared), address, stop: Stop(Arc::new(sender)) })
    }

    /// The address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address for a browser; with a token, one that brings it along.
    pub fn url(&self) -> String {
        let address = match self.address.ip() {
            ip if ip.is_unspecified() => format!("127.0.0.1:{}", self.address.port()),
            _ => self.address.to_string(),
        };
        match &self.shared.settings.token {
            None => format!("http://{address}/"),
            Some(token) => format!("http://{address}/?token={token}"),
        }
    }

    /// The names of the models that can be drawn from now.
    pub fn models(&self) -> Vec<String> {
        self.shared.models.all().iter().map(|model| model.name.clone()).collect()
    }

    /// What stops the server.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Answers until it is stopped.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn run(self) -> Result<(), Error> {
        let Self { listener, shared, stop: _stop, .. } = self;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .thread_name("kakusan-serve")
            .enable_all()
            .build()
            .map_err(Error::Start)?;
        let (ended, end) = channel::<()>();
        let (draws, limits, device) =
            (shared.draws.clone(), shared.settings.limits.clone(), shared.settings.device.clone());
        let work = move || {
            let _ended = ended; // dropped when the thread ends, however it ends
            worker::work(&draws, &limits, device);
        };
        thread::Builder::new().name("kakusan-draw".into()).stack_size(16 << 20).spawn(work).map_err(Error::Start)?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Start)?;
            let draws = shared.draws.clone();
            let reaper = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(ROUND).await;
                    draws.reap();
                }
            });
            let router = router().0.merge(page::routes()).with_state(shared.clone());
            let router = router.layer(middleware::from_fn_with_state(shared.clone(), guard::guard));
            let (limits, stop) = (&shared.settings.limits, shared.stop.clone());
            listen::listen(listener, router, limits, stop, || shared.draws.close()).await;
            reaper.abort();
            Ok(())
        })?;
        // a step that takes longer ends with the process
        let _: Result<(), RecvTimeoutError> = end.recv_timeout(GRACE);
        runtime.shutdown_timeout(Duration::from_secs(1));
        Ok(())
    }
}

/// The routes of the API, and their description.
fn router() -> (axum::Router<Arc<Shared>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(routes::description()).merge(routes::routes()).split_for_parts()
}

/// The description of the API: what `GET /api/openapi.json` answers.
pub fn openapi() -> String {
    router().1.to_pretty_json().unwrap_or_default() // our structs have a JSON form
}

fn check(settings: &Settings) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Settings(reason));
    if let Some(token) = &settings.token {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if token.len() < TOKEN_LETTERS || !token.chars().all(is_plain) {
            return refuse(format!(
                "a token consists of at least {TOKEN_LETTERS} letters, digits, `-`, `.`, `_` or `~`, for example from \
                 `openssl rand -hex 16`"
            ));
        }
    }
    let mut names: Vec<&str> = settings.named.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse(format!("two models are named `{}`: give one of them another name", pair[0]));
    }
    for (name, dir) in &settings.named {
        if !is_name(name) {
            return refuse(format!("`{name}` cannot be the name of a model: take letters, digits and `-`"));
        }
        if !dir.is_dir() {
            return refuse(format!("the model {name}: there is no folder {}", dir.display()));
        }
    }
    match &settings.models {
        Some(folder) if !folder.is_dir() => refuse(format!(
            "there is no folder {}: name one that holds models, each in its own folder",
            folder.display()
        )),
        _ => Ok(()),
    }
}
