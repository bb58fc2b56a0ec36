//! `kakusan serve`: models and runs in a browser.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use kakusan::pipeline::{DeviceChoice, Error, Opened, Result};
use kakusan_serve::{Limits, Server, Settings};

use crate::machine::MachineArgs;
use crate::number::whole;
use crate::program::program;
use crate::terminal::{say, warn};

/// The variable that may hold the token, so that it is in no list of processes.
const TOKEN: &str = "KAKUSAN_TOKEN";

const MORE: &str = "\
The page draws images step by step, edits pictures, compares schedulers, and watches the runs of a folder while another
process trains them. Programs use the same API: GET /api/openapi.json describes it.

  kakusan serve                                            http://127.0.0.1:7860, for this machine alone
  kakusan serve --models exported --model cats=../cats     models of another folder, and one more by name
  KAKUSAN_TOKEN=$(openssl rand -hex 16) kakusan serve --host 0.0.0.0     for others, who need the token

From another machine without a token: ssh -L 7860:localhost:7860 THIS-MACHINE, then http://localhost:7860 there.
Ctrl-C or SIGTERM stops it: requests that wait are answered, and the batch in work is given up after its step.";

#[derive(Args)]
#[command(after_help = MORE)]
pub(crate) struct ServeArgs {
    /// The folder of the runs to watch
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// The folder of the models to draw from, each in a folder of its own [default: that of the runs]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// A further model: the name that the page calls it by, and the folder of a run or a saved pipeline (can be
    /// repeated)
    #[arg(long = "model", value_name = "NAME=DIR", value_parser = named)]
    named: Vec<(String, PathBuf)>,
    /// The address or name to listen at; any other than this machine's own needs a token
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes one that is free
    #[arg(long, value_name = "N", default_value_t = 7860, allow_hyphen_values = true, value_parser = whole(0..=u16::MAX))]
    port: u16,
    /// What clients have to know [default: the variable KAKUSAN_TOKEN, which other users of this machine cannot see]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// A further name by which browsers may call the server, as behind a proxy (can be repeated)
    #[arg(long = "allow-host", value_name = "NAME")]
    allowed_hosts: Vec<String>,
    /// Show the page in the browser
    #[arg(long)]
    open: bool,
    /// The most images of a request, and of a batch
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_images, allow_hyphen_values = true,
        value_parser = whole(1..=1024usize))]
    max_images: usize,
    /// The most sampling steps
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_steps, allow_hyphen_values = true,
        value_parser = whole(1..=100_000usize))]
    max_steps: usize,
    /// The most seconds that drawing may take
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_time.as_secs(), allow_hyphen_values = true,
        value_parser = whole(1..=86_400u64))]
    max_seconds: u64,
    /// The most requests that wait; more are refused
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_queue, allow_hyphen_values = true,
        value_parser = whole(1..=10_000usize))]
    queue: usize,
    /// The most requests of one address that wait or are drawn
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_per_client, allow_hyphen_values = true,
        value_parser = whole(1..=10_000usize))]
    per_client: usize,
    /// What draws: cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn serve(args: ServeArgs) -> Result<ExitCode> {
    args.machine.apply()?;
    let (open, folder) = (args.open, args.models.as_ref().unwrap_or(&args.runs).display().to_string());
    let Opened { device, fallback, .. } = args.device.open()?;
    if let Some(fallback) = fallback {
        warn(&format!("warning: {fallback}"));
    }
    let server = Server::bind(Settings { device, ..args.settings() }).map_err(unfit)?;
    let url = server.url();
    let models = match server.models().as_slice() {
        [] => format!("There is no model in {folder} yet: the page shows one when a training has saved it"),
        [one] => format!("1 model: {one}"),
        several => format!("{} models: {}", several.len(), several.join(", ")),
    };
    say(&format!("{models}."));
    say(&format!("Kakusan listens at {url} (Ctrl-C stops it)."));
    stop_on_ctrl_c(&server);
    if open {
        show(&url);
    }
    server.run().map_err(unfit)?;
    say("Stopped.");
    Ok(ExitCode::SUCCESS)
}

impl ServeArgs {
    fn settings(self) -> Settings {
        let limits = Limits {
            max_images: self.max_images,
            max_steps: self.max_steps,
            max_time: std::time::Duration::from_secs(self.max_seconds),
            max_queue: self.queue,
            max_per_client: self.per_client,
            ..Limits::default()
        };
        Settings {
            host: self.host,
            port: self.port,
            runs: self.runs,
            models: self.models,
            named: self.named,
            token: self.token.or_else(|| env::var(TOKEN).ok()).filter(|token| !token.is_empty()),
            allowed_hosts: self.allowed_hosts,
            program: program(),
            limits,
            ..Settings::default()
        }
    }
}

fn unfit(error: kakusan_serve::Error) -> Error {
    if error.is_usage() { Error::Unfit(error.to_string()) } else { Error::Observer(Box::new(error)) }
}

fn named(text: &str) -> std::result::Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_owned(), dir.into())),
        _ => Err("expected a name and a folder, as in cats=path/to/cats".to_owned()),
    }
}

/// The first Ctrl-C or SIGTERM stops the server, a second one ends the process.
fn stop_on_ctrl_c(server: &Server) {
    let (stop, asked) = (server.stop(), AtomicBool::new(false));
    let handler = move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        warn("\nStopping; press Ctrl-C again to quit at once.");
        stop.stop();
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        warn(&format!("warning: Ctrl-C will end the server at once: {e}"));
    }
}

/// Shows an address in the browser, if the system knows how.
fn show(url: &str) {
    let program = match env::consts::OS {
        "macos" => "open",
        "windows" => "explorer",
        _ => "xdg-open",
    };
    let started =
        Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Err(e) = started {
        warn(&format!("warning: {program} cannot be started ({e}): open the address in a browser"));
    }
}
