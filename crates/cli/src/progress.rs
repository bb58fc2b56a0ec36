//! Progress of long work: a bar on a terminal, plain lines otherwise.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kakusan::data::{BadImage, ImageSet, SourceKind};
use kakusan::hub::{Hub, HubConfig};
use kakusan::ops::part_count;
use kakusan::pipeline::{Event, Result, RunView};
use kakusan::report::{Notice, thousands};

use crate::preview;
use crate::terminal::{counted, say, warn};

#[derive(Default)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    epochs: usize,
    /// Time and images of the steps since the bar's numbers were last updated.
    shown_at: f64,
    images: usize,
    /// Images that cannot be decoded and were already reported: the next epoch has the same ones.
    bad_images: HashSet<BadImage>,
}

impl Progress {
    pub(crate) fn show(&mut self, event: &Event) {
        match event {
            Event::DeviceFallback(fallback) => self.suspended(|| warn(&format!("warning: {fallback}"))),
            Event::Data(loaded) => {
                for skipped in &loaded.skipped {
                    self.say(&format!("Data: skipped the source `{}`: {}", skipped.source, skipped.reason));
                }
                let stand_in = match loaded.source.kind {
                    Some(SourceKind::Drawn) => " They stand in for MNIST; pass --data DIR to use a folder that has it.",
                    _ => "",
                };
                self.name(&loaded.bad_images);
                let held_out = match &loaded.validation {
                    Some(held_out) => format!(", and {} held out for validation", held_out.len()),
                    None => String::new(),
                };
                self.say(&format!(
                    "Data: {} from {}{held_out}.{stand_in}",
                    counted(loaded.images.len(), "image"),
                    loaded.source.description
                ));
                loaded.notes.iter().for_each(|note| self.say(&format!("Data: {note}.")));
                if loaded.images.class_names().len() > 1 {
                    self.say(&format!("Classes: {}.", classes(&loaded.images)));
                }
                if let Some(reason) = &loaded.unlabelled {
                    self.say(&format!("Data: the images have no classes: {reason}"));
                }
            }
            Event::Begin(run) => {
                let (model, scheduler) = (run.config.model.class_name(), run.config.scheduler.class_name());
                let (parameters, device) = (thousands(run.trainer.weights().parameter_count()), run.device());
                self.say(&format!("Model: {model}, {parameters} parameters, {scheduler}, on {device}."));
                self.show_beginning(run);
                let (done, total, each) =
                    (run.trainer.steps_done(), run.trainer.total_steps(), run.trainer.steps_per_epoch());
                if done > 0 {
                    self.say(&format!("Resuming after step {done}."));
                }
                self.say(&format!("Run: {}, {total} steps, {each} per epoch.", run.dir.display()));
                self.show_ranks(run);
                self.epochs = run.trainer.total_epochs();
                if std::io::stderr().is_terminal() {
                    self.bar = Some(bar(done, total));
                }
            }
            Event::Changes(changes) => {
                self.say("Resuming with changes, so the result will differ from that of an unchanged run:");
                changes.iter().for_each(|change| self.say(&format!("  {change}")));
            }
            Event::CheckpointSkipped(error) => self.say(&format!("{error}; trying the previous checkpoint")),
            Event::LogIncomplete { path, missing, steps } => self.say(&format!(
                "{} lacks {missing} of the {steps} steps, or they are damaged; curves and averages omit them.",
                path.display()
            )),
            Event::Step { record, images, skipped } => {
                self.name(skipped);
                self.images += images;
                if let Some(bar) = &self.bar {
                    bar.set_position(record.step as u64);
                    let passed = record.seconds - self.shown_at;
                    if passed > 0.5 {
                        let (loss, rate) = (record.loss, self.images as f64 / passed);
                        bar.set_message(format!("loss {loss:.4}  {rate:.0} images/s"));
                        (self.shown_at, self.images) = (record.seconds, 0);
                    }
                }
            }
            Event::Epoch(epoch) => {
                let held_out = match epoch.validated {
                    Some(validated) => format!(", {:.5} on held-out images", validated.of_sampling()),
                    None => String::new(),
                };
                self.say(&format!(
                    "Epoch {} of {}: average loss {:.5}{held_out}, {:.1} s, {:.0} images/s",
                    epoch.epoch, self.epochs, epoch.mean_loss, epoch.seconds, epoch.images_per_second
                ));
            }
            Event::Ranks(times) => {
                let waiting = 100.0 * times.waiting();
                self.say(&format!("Ranks: {waiting:.0} % of their time was spent exchanging gradients and waiting."));
                if let Some((rank, factor)) = times.slow() {
                    let line = format!("Ranks: rank {rank} is slow, it takes {factor:.1} times as long for an image.");
                    self.say(&line);
                }
            }
            _ => {}
        }
    }

    /// Where the weights of a fine-tuning come from, and which of them are not trained.
    fn show_beginning(&self, run: &RunView) {
        if let Some(origin) = &run.config.origin {
            let trained_with = match origin.scheduler() {
                Some(scheduler) => format!(", trained with {}: {}", scheduler.class_name(), scheduler.family()),
                None => String::new(),
            };
            self.say(&format!("Pretrained model: {}{trained_with}.", origin.name()));
        }
        run.trainer.changes().iter().for_each(|change| self.say(&format!("  {change}.")));
        let freeze = &run.config.train.freeze;
        if !freeze.is_empty() {
            let weights = run.trainer.weights();
            let trained: usize = weights.trained().map(|(_, var)| var.elem_count()).sum();
            let all = weights.parameter_count();
            let (frozen, all) = (thousands(all - trained), thousands(all));
            self.say(&format!("Frozen: {} ({frozen} of {all} parameters).", freeze.join(", ")));
        }
    }

    /// How many processes train, and what each has to do.
    fn show_ranks(&self, run: &RunView) {
        let ranks = run.trainer.ranks();
        if ranks == 1 {
            return;
        }
        let batch = run.config.train.batch_size.min(run.trainer.images_per_epoch());
        let parts = part_count(batch);
        let each = match (parts / ranks, parts % ranks) {
            (0, _) => format!("{} of the ranks have nothing to do", ranks - parts),
            (each, 0) => format!("each rank computes {each}"),
            (each, _) => format!("each rank computes {each} or {}", each + 1),
        };
        self.say(&format!("Ranks: {ranks}. A batch of {batch} images has {parts} parts: {each}."));
        if let Some(library) = run.trainer.all_reduce() {
            let name = library.name();
            self.say(&format!(
                "Ranks: {name} adds the gradients, so that the last bits of the weights depend on the number of ranks; \
                 with --all-reduce tree they do not."
            ));
        }
    }

    /// Prints a notice of the report.
    pub(crate) fn show_notice(&self, notice: Notice) {
        match notice {
            Notice::Samples { epoch, picture } => {
                let title = match epoch {
                    Some(epoch) => format!("Samples after epoch {epoch}, also in {}:", picture.display()),
                    None => format!("New images, also in {}:", picture.display()),
                };
                self.suspended(|| preview::show(&title, picture));
            }
            Notice::PictureTrouble { picture, reason } => {
                self.suspended(|| warn(&format!("warning: the picture {picture}: {reason}")));
            }
            _ => {}
        }
    }

    /// Reports images that cannot be decoded: the first ones by name, the rest as a count.
    fn name(&mut self, bad: &[BadImage]) {
        const NAMED: usize = 10;
        for image in bad {
            if !self.bad_images.insert(image.clone()) {
                continue;
            }
            match self.bad_images.len() {
                ..=NAMED => self.say(&format!("Skipped: {image}")),
                n if n == NAMED + 1 => self.say("Skipped: more images, which are not listed"),
                _ => {}
            }
        }
    }

    /// Removes the bar.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        self.suspended(|| say(line));
    }

    /// Lets `write` write to the terminal, then draws the bar again.
    fn suspended(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// The classes in use with the number of images in each, and how many other classes the set has.
fn classes(images: &ImageSet) -> String {
    const NAMED: usize = 20;
    let (taken, labels) = (images.counts_by_class(), images.names_by_label().len());
    let unused = images.class_names().len() - labels;
    let named = taken.iter().take(NAMED).map(|(name, count)| format!("{name} ({count})"));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if taken.len() > NAMED {
        text += &format!(" and {} more", taken.len() - NAMED);
    }
    if labels > taken.len() {
        text += &format!(", in {labels} clusters");
    } else if unused > 0 {
        text += &format!("; {unused} of {} are not used", images.class_names().len());
    }
    text
}

fn bar(done: usize, total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(5));
    let template = "{bar:30} {pos}/{len}  {msg}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━━ "));
    }
    bar.set_position(done as u64);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The Hub as the environment configures it. Waiting times are shown, and on a terminal also the downloads.
pub(crate) fn hub() -> Result<Hub> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    let shown = bar.clone();
    let hub = Hub::new(HubConfig::from_env()?).on_wait(move |wait| {
        let (seconds, status, file) = (wait.time.as_secs_f32().ceil(), wait.status, wait.file);
        let line = format!("The Hub asks us to wait (HTTP {status}): continuing with {file} in {seconds} s.");
        shown.suspend(|| warn(&line));
    });
    if !std::io::stderr().is_terminal() {
        return Ok(hub);
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {msg}") {
        bar.set_style(style.progress_chars("━━ "));
    }
    Ok(hub.on_download(move |download| {
        if bar.message() != download.file {
            bar.set_message(download.file.to_owned());
            bar.reset();
        }
        bar.set_length(download.size);
        bar.set_position(download.received);
        if download.received == download.size {
            bar.finish_and_clear();
        }
    }))
}
