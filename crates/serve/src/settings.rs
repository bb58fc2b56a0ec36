use std::path::PathBuf;
use std::time::Duration;

use kakusan::candle::Device;

/// What a server offers, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address or name to listen at. Any other than the loopback address needs a [`token`](Self::token).
    pub host: String,
    /// The port; 0 takes one that is free.
    pub port: u16,
    /// The folder of the runs that can be watched.
    pub runs: PathBuf,
    /// The folder of the models that can be drawn from, each in a folder of its own; `None` for that of the runs.
    pub models: Option<PathBuf>,
    /// Further models, by name.
    pub named: Vec<(String, PathBuf)>,
    /// What a client has to know: at least 16 letters, digits, `-`, `.`, `_` or `~`.
    pub token: Option<String>,
    /// Names of this machine under which browsers may call the server, besides its addresses: a page of another name
    /// that resolves to this machine (DNS rebinding) is refused.
    pub allowed_hosts: Vec<String>,
    /// What draws.
    pub device: Device,
    /// How the command is called, for the commands that the page shows.
    pub program: String,
    /// The limits.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 7860,
            runs: "runs".into(),
            models: None,
            named: vec![],
            token: None,
            allowed_hosts: vec![],
            device: Device::Cpu,
            program: "kakusan".into(),
            limits: Limits::default(),
        }
    }
}

/// How much clients may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Images of one request, and of one batch.
    pub max_images: usize,
    /// Sampling steps.
    pub max_steps: usize,
    /// Requests that wait.
    pub max_queue: usize,
    /// Requests of one address that wait or are drawn.
    pub max_per_client: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Pixels of a picture in a request.
    pub max_picture_pixels: u64,
    /// The longest time that drawing a batch may take.
    pub max_time: Duration,
    /// The longest time that a client may take for sending the head of a request, and for its body.
    pub max_read_time: Duration,
    /// Streams of events that are open at once.
    pub max_streams: usize,
    /// Connections that are open at once.
    pub max_connections: usize,
    /// Bytes of finished images and of their steps that are kept; the oldest are dropped first.
    pub kept_bytes: usize,
    /// Finished requests that are kept.
    pub kept_draws: usize,
    /// Models that are held in memory.
    pub held_models: usize,
    /// After this time without anybody who listens or asks, a request is cancelled.
    pub leave_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_images: 64,
            max_steps: 1000,
            max_queue: 64,
            max_per_client: 32,
            max_body_bytes: 16 << 20,
            max_picture_pixels: 1 << 24,
            max_time: Duration::from_secs(600),
            max_read_time: Duration::from_secs(10),
            max_streams: 64,
            max_connections: 256,
            kept_bytes: 256 << 20,
            kept_draws: 256,
            held_models: 3,
            leave_time: Duration::from_secs(10),
        }
    }
}
