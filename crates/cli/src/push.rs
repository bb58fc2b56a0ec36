use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kakusan::candle::Device;
use kakusan::eval::{EVAL_FILE, Evaluation};
use kakusan::hub::{Error as HubError, PushFile, PushOptions, PushStep};
use kakusan::pipeline::{DDPMPipeline, Error, Registry, Result, RunConfig, is_superseded, pipeline_files, run_source};
use kakusan::report::Publication;

use crate::program::program;
use crate::terminal::{say, warn};

const CARD: &str = "README.md";
const REPORT: &str = "report.html";
/// Pictures of what the model draws.
const PICTURES: [&str; 4] = ["images/samples.png", "images/trajectory.png", "images/loss.png", "eval-samples.png"];
/// Pictures that show images of the data, as the report does.
const OF_DATA: [&str; 4] = ["images/corrupted.png", "images/predictions.png", "images/mean.png", "eval-neighbours.png"];

/// What the help says after the options.
const NOTE: &str = "\
Pushed in one commit: the weights, the configurations, the model card (README.md of the folder, with the Hub's metadata, \
how to use the model in Python and in Rust, and the figures of `eval`), eval.json, and the pictures that the model drew. \
Checkpoints, logs, pictures of the data and its place on this machine are not.

The token is that of the variable HF_TOKEN, or of `hf auth login`. It needs the permission to write; create one at \
https://huggingface.co/settings/tokens.

Files that the repository has are not sent again. A push that fails or is interrupted changes no file of the repository; \
push again to continue.";

#[derive(Args)]
#[command(after_help = NOTE)]
pub(crate) struct PushArgs {
    /// The folder of a finished run or of a saved pipeline, also of one that Python saved
    #[arg(value_name = "RUN")]
    dir: PathBuf,
    /// The repository; it is created if it does not exist
    #[arg(value_name = "owner/name")]
    repo: String,
    /// Create the repository as a private one
    #[arg(long)]
    private: bool,
    /// Fail if the repository exists
    #[arg(long)]
    create_only: bool,
    /// Push to this branch; a new one begins at main [default: main]
    #[arg(long, value_name = "NAME", conflicts_with = "pull_request")]
    branch: Option<String>,
    /// Open a pull request instead of changing the repository
    #[arg(long)]
    pull_request: bool,
    /// The title of the commit [default: Upload <pipeline> by Kakusan]
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// The license, by the Hub's name: mit, apache-2.0, cc-by-4.0 ...
    #[arg(long, value_name = "NAME", value_parser = license)]
    license: Option<String>,
    /// Also push report.html and the pictures that show images of the data
    #[arg(long)]
    report: bool,
    /// List what would be pushed; open no connection
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn push(args: PushArgs) -> Result<ExitCode> {
    let registry = Registry::default();
    let pipeline = DDPMPipeline::from_pretrained(&args.dir, &registry, &Device::Cpu)?; // nothing damaged is published
    for warning in pipeline.warnings() {
        warn(&format!("warning: {warning}"));
    }
    let files = args.files(&pipeline, &registry)?;
    if args.dry_run {
        return args.list(&files);
    }
    let committing = on_interrupt();
    let watched = committing.clone();
    let bar = bar();
    let shown = bar.clone();
    let hub = crate::progress::hub()?.on_push(move |step| match step {
        PushStep::Created { name, branch: false } => shown.suspend(|| say(&format!("Created {name}."))),
        PushStep::Created { name, .. } => shown.suspend(|| say(&format!("Created the branch {name}."))),
        PushStep::Sending { sent, size } => {
            shown.set_length(size);
            shown.set_position(sent);
        }
        PushStep::Committing => {
            watched.store(true, Ordering::Relaxed);
            shown.set_message("the Hub makes the commit");
        }
        _ => {}
    });
    let title = format!("Upload {} by Kakusan", pipeline.class().class_name());
    let mut options = PushOptions::new(args.message.clone().unwrap_or(title));
    options.branch = args.branch.clone();
    options.pull_request = args.pull_request;
    options.private = args.private;
    options.create_only = args.create_only;
    let names: Vec<String> = files.iter().map(|file| file.path().to_owned()).collect();
    options.stale = Some(Box::new(move |path| is_superseded(path, &names)));
    let pushed = hub.push(&args.repo, &files, &options);
    bar.finish_and_clear();
    let pushed = pushed?;

    for path in &pushed.deleted {
        say(&format!("Deleted {path}, which the new files replace."));
    }
    if pushed.sent.is_empty() && pushed.deleted.is_empty() {
        say(&format!("{} has these files already: nothing was sent.", pushed.url));
    } else {
        let same = match files.len() - pushed.sent.len() {
            0 => String::new(),
            same => format!(" ({same} are there already)"),
        };
        let commit = pushed.commit.get(..7).unwrap_or(&pushed.commit);
        say(&format!("Pushed {} files{same} to {}, commit {commit}.", pushed.sent.len(), pushed.url));
    }
    match &pushed.pull_request {
        Some(url) => say(&format!("The pull request: {url}")),
        None => {
            let revision = args.branch.as_ref().map(|branch| format!("@{branch}")).unwrap_or_default();
            say(&format!("Draw from it: {} sample --model {}{revision}", program(), args.repo));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl PushArgs {
    /// The files of the commit.
    fn files(&self, pipeline: &DDPMPipeline, registry: &Registry) -> Result<Vec<PushFile>> {
        let dir = &self.dir;
        let file = |name: &str| PushFile::file(name, dir.join(name));
        let mut files: Vec<PushFile> = pipeline_files(dir)?.iter().map(|name| file(name)).collect();

        let config = dir.join("config.toml");
        let config = match config.is_file() {
            true => Some(RunConfig::load(&config, &[], registry)?),
            false => None,
        };
        let source = run_source(dir)?;
        let evaluation = Evaluation::read(dir);
        let mut publication = Publication::new(&self.repo, pipeline);
        publication.license = self.license.as_deref();
        publication.run = config.as_ref().map(|config| (config, source.as_ref()));
        publication.evaluation = evaluation.as_ref();
        let readme = read_text(&dir.join(CARD))?;
        files.push(PushFile::bytes(CARD, publication.card(readme.as_deref())));
        if let Some(evaluation) = publication.evaluation_in_public() {
            files.push(PushFile::bytes(EVAL_FILE, evaluation.to_json()?));
        }

        let pictures = PICTURES.iter().chain(OF_DATA.iter().filter(|_| self.report));
        files.extend(pictures.filter(|name| dir.join(name).is_file()).map(|name| file(name)));
        if self.report {
            self.check_report(config.as_ref())?;
            files.push(file(REPORT));
        }
        Ok(files)
    }

    /// Refuses a report that names places on this machine.
    fn check_report(&self, config: Option<&RunConfig>) -> Result<()> {
        let path = self.dir.join(REPORT);
        let Some(report) = read_text(&path)? else {
            return Err(Error::Unfit(format!("{} has no {REPORT}: push without --report", self.dir.display())));
        };
        let data = config.and_then(|config| config.data.as_ref()?.dir.clone());
        let places = [self.dir.canonicalize().ok(), std::env::current_dir().ok(), std::env::home_dir(), data];
        let places = places.into_iter().flatten().filter(|place| place.components().count() > 1);
        match places.map(|place| place.display().to_string()).find(|place| report.contains(place.as_str())) {
            Some(place) => Err(Error::Unfit(format!(
                "{} names {place}, a place on this machine: push without --report",
                path.display()
            ))),
            None => Ok(()),
        }
    }

    /// Prints what would be pushed.
    fn list(&self, files: &[PushFile]) -> Result<ExitCode> {
        let mut total = 0;
        say(&format!("To {}, in one commit:", self.repo));
        for file in files {
            let size = file.size()?;
            total += size;
            say(&format!("{:>12}  {}", bytes(size), file.path()));
        }
        say(&format!("{:>12}  in {} files; nothing was sent", bytes(total), files.len()));
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads a text that need not exist.
fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::Unreadable { path: path.to_owned(), source }.into()),
    }
}

/// A size as people read it.
fn bytes(size: u64) -> String {
    indicatif::HumanBytes(size).to_string()
}

/// A name of a license: it becomes a line of the card's metadata.
fn license(text: &str) -> std::result::Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    match !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err("expected the Hub's name of a license, such as mit, apache-2.0 or cc-by-4.0".to_owned()),
    }
}

/// Lets Ctrl-C end the push and say what it leaves. The result is set when the Hub begins to make the commit.
fn on_interrupt() -> Arc<AtomicBool> {
    let committing = Arc::new(AtomicBool::new(false));
    let asked = committing.clone();
    let handler = move || {
        warn(match asked.load(Ordering::Relaxed) {
            true => "\nInterrupted while the Hub makes the commit. Push again: it makes no second one.",
            false => "\nInterrupted: nothing was committed. Push again to continue.",
        });
        std::process::exit(130);
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        warn(&format!("warning: Ctrl-C will not say what it leaves: {error}"));
    }
    committing
}

/// A progress bar on a terminal, nothing elsewhere.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {msg}") {
        bar.set_style(style.progress_chars("━━ "));
    }
    bar.set_message("sending");
    bar
}
