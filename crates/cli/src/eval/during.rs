//! `train.eval_every`: the figures of some samples while a model is trained.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kakusan::eval::{Evaluator, Figures, Options};
use kakusan::hub::Hub;
use kakusan::pipeline::{Error, Event, Labels, Result, RunConfig, RunView, write_whole};
use serde_json::{Value, json};

use super::data::Compared;
use super::draw::Samples;
use super::{classifier, draw};
use crate::terminal::{say, warn};

/// Fewer than `eval` takes, since the training waits: enough to see whether it still improves.
const IMAGES: usize = 512;
const BATCH: usize = 64;
/// One line for each measurement.
const FILE: &str = "eval.jsonl";

/// Measures samples of a run every `train.eval_every` epochs. It consumes no random number of the training.
pub(crate) struct EvalDuringTraining<'a> {
    hub: &'a Hub,
    stop: &'a AtomicBool,
    state: State,
}

enum State {
    /// Nothing was measured yet.
    New,
    Ready(Box<Ready>),
    /// It cannot be done, which was said.
    Off,
}

struct Ready {
    evaluator: Evaluator,
    /// The figures of as many held-out images.
    yardstick: Option<Figures>,
    compared: Compared,
}

impl<'a> EvalDuringTraining<'a> {
    /// Measures against the data of the run, which may come from `hub`. When `stop` turns true, it gives up.
    pub(crate) fn new(hub: &'a Hub, stop: &'a AtomicBool) -> Self {
        Self { hub, stop, state: State::New }
    }

    /// Measures if `event` is the end of an epoch after which it is due. What prevents it is a warning: the training
    /// goes on.
    ///
    /// # Errors
    /// When the file of the figures cannot be written.
    pub(crate) fn observe(&mut self, event: &Event) -> Result<()> {
        let Event::Checkpoint { run, .. } = event else { return Ok(()) };
        let epoch = run.trainer.epochs_done();
        let is_due = run.config.train.eval_every.is_some_and(|every| epoch.is_multiple_of(every));
        if !is_due || !run.is_at_epoch_end() || self.is_stopped() || matches!(self.state, State::Off) {
            return Ok(());
        }
        match self.measure(run) {
            _ if self.is_stopped() => Ok(()),
            Ok(figures) => self.record(run, epoch, &figures),
            Err(error) => {
                warn(&format!("warning: train.eval_every has no effect: {error}"));
                self.state = State::Off;
                Ok(())
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The figures of some samples. It gives up, with an error, when it is stopped.
    fn measure(&mut self, run: &RunView) -> Result<Figures> {
        let stop = self.stop;
        let watch = &mut |_: usize| match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        if let State::New = self.state {
            self.state = State::Ready(Box::new(Ready::new(run.config, self.hub, watch)?));
        }
        let State::Ready(ready) = &self.state else { return Err(Error::Unfit("it was given up before".into())) };
        let pixels = ready.samples(run)?.draw(&run.pipeline()?, watch)?;
        Ok(ready.evaluator.figures(&pixels, watch)?.0)
    }

    /// Prints the figures and adds them to the file. Figures of later steps, from before the run was resumed at an
    /// earlier checkpoint, are dropped.
    fn record(&self, run: &RunView, epoch: usize, figures: &Figures) -> Result<()> {
        let State::Ready(ready) = &self.state else { return Ok(()) };
        let yardstick = ready.yardstick.as_ref();
        let percent = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        let (distance, sure) = (figures.frechet_distance, percent(figures.sure));
        let real = yardstick.map_or(String::new(), |real| {
            format!("; of held-out images {:.3}, and {}", real.frechet_distance, percent(real.sure))
        });
        say(&format!(
            "Samples of epoch {epoch}: Fréchet distance {distance:.3}, the classifier is sure of {sure}{real}"
        ));
        let (path, step) = (run.dir.join(FILE), run.trainer.steps_done());
        let line = json!({
            "step": step,
            "epoch": epoch,
            "images": figures.images,
            "frechet_distance": distance,
            "kid": figures.kid,
            "precision": figures.precision,
            "recall": figures.recall,
            "sure": figures.sure,
            "held_out_frechet_distance": yardstick.map(|real| real.frechet_distance),
            "held_out_sure": yardstick.and_then(|real| real.sure),
        });
        let mut lines = earlier(&path, step);
        lines.push(line.to_string());
        write_whole(&path, (lines.join("\n") + "\n").as_bytes())
    }
}

/// The lines of the file that are from before `step`.
fn earlier(path: &Path, step: usize) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let step_of = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64();
    text.lines().filter(|line| step_of(line).is_some_and(|of| of < step as u64)).map(str::to_owned).collect()
}

impl Ready {
    fn new(config: &RunConfig, hub: &Hub, watch: &mut dyn FnMut(usize) -> ControlFlow<()>) -> Result<Self> {
        let data = config.data.as_ref().ok_or_else(|| {
            Error::Unfit("the images were provided by a program, so there is no set to compare with".into())
        })?;
        let compared = Compared::load(data, None, hub)?;
        let network = Arc::new(classifier(&compared, watch)?);
        let (set, indices) = &compared.reference;
        let evaluator = Evaluator::of_some(network, set.clone(), indices, Options::default(), watch)?;
        let yardstick = match compared.some_held_out(IMAGES) {
            Some((set, indices, _)) => Some(evaluator.figures_of(set, &indices, watch)?.0),
            None => None,
        };
        Ok(Self { evaluator, yardstick, compared })
    }

    /// Samples as `[sample]` has it, image by image from the same noise each time; classes as often as in the data.
    fn samples(&self, run: &RunView) -> Result<Samples> {
        let options = run.config.sample.options(1, run.config.sample.steps);
        let labels = match run.config.model.num_classes() {
            Some(known) => {
                let images = draw::some_of(&self.compared, 0, IMAGES);
                Some(self.compared.labels(&images, known, &Labels::of_images(run.images()))?)
            }
            None => None,
        };
        Ok(Samples { options, labels, count: IMAGES, seed: 0, batch: BATCH, restored: None })
    }
}
