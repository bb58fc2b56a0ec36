//! The observer of a training.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kakusan_pipeline::{DDPMPipeline, Error, Event, Result, RunView, write_whole};

use crate::figures::{Drawn, FigureMaker, SAMPLES, conditioning_classes};
use crate::page::{Figure, Page, State};
use crate::previews;
use crate::shell::{quote_path, sample_command};
use crate::tensorboard::EventFile;

/// The page is rewritten after an epoch, but at most this often: otherwise short epochs would wait for it.
const BETWEEN_PAGES: Duration = Duration::from_secs(5);

/// Follows a training: draws its pictures into `images/`, writes `report.html` and the model card `README.md` and
/// updates them during the training, and with `train.tensorboard` writes TensorBoard's log to `logs/`.
///
/// It consumes no random number of the training: the weights are the same without it. If a picture cannot be drawn, the
/// report sends a [`Notice`] and the training continues. A file that cannot be written is an error, which ends the
/// training.
#[derive(Debug, Default)]
pub struct Report {
    program: String,
    figures: Vec<Figure>,
    events: Option<EventFile>,
    /// When the page was last written.
    written: Option<Instant>,
    sample_command: String,
}

/// A message of a [`Report`] while it follows a training.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// Samples were drawn.
    Samples {
        /// The epoch after which they were drawn; `None` at the end.
        epoch: Option<usize>,
        /// Their picture.
        picture: &'a Path,
    },
    /// Another file of the report was written.
    Wrote(&'a Path),
    /// A picture could not be drawn, or shows numbers that are not finite.
    PictureTrouble {
        /// Its file under `images/`.
        picture: &'a str,
        /// What is wrong.
        reason: &'a str,
    },
}

/// Receives the notices of a report.
pub(crate) type Tell<'t> = &'t mut dyn FnMut(Notice);

impl Report {
    /// A report that prints commands beginning with `program`: `kakusan`, or the name under which that command was
    /// called.
    pub fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }

    /// Draws and writes what `event` requires, and sends notices to `tell`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn observe(&mut self, event: &Event, tell: &mut dyn FnMut(Notice)) -> Result<()> {
        match event {
            Event::Begin(run) => self.begin(run, tell),
            Event::Step { record, .. } => self.events.as_mut().map_or(Ok(()), |events| events.step(record)),
            Event::Checkpoint { run, .. } if run.is_at_epoch_end() => self.after_epoch(run, tell),
            Event::Saved { run, pipeline } => self.finish(run, pipeline, tell),
            Event::Interrupted(run) => {
                self.show_training(run, tell)?;
                self.write_page(run, State::Stopped, tell)
            }
            _ => Ok(()),
        }
    }

    /// The command that draws new images as the finished run did; empty before the training begins.
    pub fn sample_command(&self) -> &str {
        &self.sample_command
    }

    fn begin(&mut self, run: &RunView, tell: Tell) -> Result<()> {
        let seed = run.config.train.seed.wrapping_add(1);
        let classes = conditioning_classes(run);
        self.sample_command = sample_command(&self.program, &quote_path(run.dir), run.config, &classes, seed);
        self.figures.clear();
        if run.is_at_epoch_end() && !previews::path(run.dir, run.trainer.epochs_done()).is_file() {
            previews::draw(run, tell)?; // for a run killed right after the epoch's checkpoint
        }
        self.events = match run.config.train.tensorboard {
            true => Some(EventFile::begin(run, &previews::drawn(run)?)?),
            false => None,
        };
        self.add(run, "corrupted.png", "Corrupting", FigureMaker { run }.corrupted_images(), tell)?;
        if !run.records.is_empty() {
            self.show_training(run, tell)?;
        }
        self.write_page(run, State::Running, tell)
    }

    fn after_epoch(&mut self, run: &RunView, tell: Tell) -> Result<()> {
        if let (Some(png), Some(events)) = (previews::draw(run, tell)?, &mut self.events) {
            events.picture(run.trainer.steps_done(), &png)?;
        }
        if self.written.is_none_or(|written| written.elapsed() > BETWEEN_PAGES) {
            self.show_training(run, tell)?;
            self.write_page(run, State::Running, tell)?;
        }
        Ok(())
    }

    fn finish(&mut self, run: &RunView, pipeline: &DDPMPipeline, tell: Tell) -> Result<()> {
        self.show_training(run, tell)?;
        let make = FigureMaker { run };
        self.add(run, "predictions.png", "Predictions", make.predictions(pipeline), tell)?;
        self.add(run, "mean.png", "Predictions from pure noise", make.mean(pipeline), tell)?;
        self.add(run, "trajectory.png", "From noise to images", make.trajectory(pipeline), tell)?;
        self.add(run, SAMPLES, "New images", make.samples(pipeline), tell)?;
        self.write_page(run, State::Finished, tell)
    }

    /// The loss of every step so far.
    fn show_training(&mut self, run: &RunView, tell: Tell) -> Result<()> {
        self.add(run, "loss.png", "Learning", FigureMaker { run }.losses(), tell)
    }

    /// Writes `report.html` and the model card from the figures so far.
    fn write_page(&mut self, run: &RunView, state: State, tell: Tell) -> Result<()> {
        let epochs = run.epochs();
        let page = Page {
            config: run.config,
            config_toml: run.config_toml,
            source: run.source,
            class_counts: run.images().counts_by_class(),
            dir: run.dir,
            program: &self.program,
            classes: &conditioning_classes(run),
            parameters: run.trainer.weights().parameter_count(),
            epochs: &epochs,
            state,
            figures: &self.figures,
            previews: &previews::some(run.dir, epochs.last().map_or(0, |last| last.epoch)),
        };
        for (name, text) in [("README.md", page.model_card()?), ("report.html", page.html())] {
            let path = run.dir.join(name);
            write_whole(&path, text.as_bytes())?;
            tell(Notice::Wrote(&path));
        }
        self.written = Some(Instant::now());
        Ok(())
    }

    /// Keeps a picture, or records why there is none.
    fn add(&mut self, run: &RunView, file: &'static str, title: &str, drawn: Result<Drawn>, tell: Tell) -> Result<()> {
        let figure = match drawn {
            Ok(Drawn { png, mut caption, trouble }) => {
                let path = picture_path(run.dir, file);
                write_whole(&path, &png)?;
                tell(match file {
                    SAMPLES => Notice::Samples { epoch: None, picture: &path },
                    _ => Notice::Wrote(&path),
                });
                if let Some(reason) = &trouble {
                    tell(Notice::PictureTrouble { picture: file, reason });
                    caption += &format!(" In this picture {reason}.");
                }
                Figure { file, title: title.to_owned(), caption, png: Some(png) }
            }
            Err(error @ Error::Io { .. }) => return Err(error), // further files could not be written either
            Err(error) => {
                let reason = format!("it could not be drawn: {error}");
                tell(Notice::PictureTrouble { picture: file, reason: &reason });
                Figure { file, title: title.to_owned(), caption: format!("There is no picture: {reason}"), png: None }
            }
        };
        match self.figures.iter_mut().find(|old| old.file == file) {
            Some(old) => *old = figure, // a newer loss plot
            None => self.figures.push(figure),
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn figures(&self) -> &[Figure] {
        &self.figures
    }
}

/// The path of a run's picture.
pub(crate) fn picture_path(dir: &Path, file: &str) -> PathBuf {
    dir.join("images").join(file)
}
