//! A run's story in pictures: the tutorial's, in its order, as files and in `report.html`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kakusan_data::{ImageSet, SourceUsed};
use kakusan_rng::Generator;
use kakusan_scheduler::{PixelRange, RunOptions};

use crate::pictures::{self, Block, Images};
use crate::previews::preview_path;
use crate::report::{Figure, Report, State};
use crate::run_folder::RunFolder;
use crate::shell::{quote_path, sample_command};
use crate::train::class_counts;
use crate::{DDPMPipeline, EpochSummary, Event, Record, Result, RunConfig, SampleOptions};

/// Images in a row of the pictures.
const SHOWN: usize = 8;
/// The picture of the samples.
const SAMPLES: &str = "samples.png";
/// Pictures that the report shows of those that were drawn after epochs.
const PREVIEWS_SHOWN: usize = 3;
/// Steps that are shown of a sampling.
const STEPS_SHOWN: usize = 5;

/// Draws the pictures of one run and gathers what the report tells. Its randomness is its own: a run with pictures
/// trains to the same weights as one without.
pub(crate) struct Storyteller<'a> {
    config: &'a RunConfig,
    config_toml: String,
    source: SourceUsed,
    images: Arc<ImageSet>,
    folder: &'a RunFolder,
    device: &'a Device,
    program: &'a str,
    /// The levels that are shown, from none to the highest `[8]`.
    levels: Vec<f32>,
    figures: Vec<Figure>,
}

type Watch<'w> = &'w mut dyn FnMut(Event);

impl<'a> Storyteller<'a> {
    pub(crate) fn new(
        config: &'a RunConfig,
        config_toml: String,
        source: &SourceUsed,
        images: Arc<ImageSet>,
        folder: &'a RunFolder,
        device: &'a Device,
        program: &'a str,
    ) -> Result<Self> {
        let highest = config.scheduler.run(SHOWN)?.timesteps().iter().copied().fold(0.0, f32::max);
        let level = |i: usize| highest * i as f32 / (SHOWN - 1) as f32;
        // levels above 1 are timesteps, which are whole
        let levels = (0..SHOWN).map(level).map(|level| if highest > 1.0 { level.round() } else { level }).collect();
        let (source, figures) = (source.clone(), vec![]);
        Ok(Self { config, config_toml, source, images, folder, device, program, levels, figures })
    }

    /// Digits, and the same digits under more and more noise.
    pub(crate) fn show_data(&mut self, watch: Watch) -> Result<()> {
        let (clean, noisy) = self.corrupted()?;
        let rows = [self.to_pixels(&clean)?, self.to_pixels(&noisy)?].concat();
        let block = self.rows(&rows, &["image", "corrupted"]);
        let png = pictures::figure("Images and the same under noise", &[block], &self.about())?;
        let caption = "The first images of the set, and below them the same with more and more noise. The network sees \
                       the lower row and has to give back the upper one.";
        self.add("corrupted.png", "Corrupting", caption, png, watch)
    }

    /// The loss of every step so far.
    pub(crate) fn show_training(&mut self, records: &[Record], epochs: &[EpochSummary], watch: Watch) -> Result<()> {
        let losses: Vec<f32> = records.iter().map(|record| record.loss).collect();
        let per_epoch = records.iter().filter(|record| record.epoch == 1).count();
        let png = pictures::loss_curve(&losses, per_epoch, &self.about())?;
        let caption = match epochs.last() {
            Some(last) => format!(
                "How far what the network predicts is from what it should predict, step by step. Each step draws its own \
                 amounts of noise, so it jumps; the average of an epoch tells more: {:.4} in epoch {}.",
                last.mean_loss, last.epoch
            ),
            None => "No step was done yet.".into(),
        };
        self.add("loss.png", "Learning", &caption, png, watch)
    }

    /// What the trained network predicts and draws.
    pub(crate) fn show_results(&mut self, pipeline: &DDPMPipeline, watch: Watch) -> Result<()> {
        self.show_predictions(pipeline, watch)?;
        self.show_mean(pipeline, watch)?;
        self.show_trajectory(pipeline, watch)?;
        self.show_samples(pipeline, watch)
    }

    fn show_predictions(&mut self, pipeline: &DDPMPipeline, watch: Watch) -> Result<()> {
        let (clean, noisy) = self.corrupted()?;
        let levels = Tensor::from_slice(&self.levels, SHOWN, self.device)?.narrow(0, 0, clean.dim(0)?)?;
        let labels = self.images.labels().iter().copied().take(clean.dim(0)?).collect();
        let prediction = self.predict(pipeline, &noisy, &levels, labels)?;
        let rows = [self.to_pixels(&clean)?, self.to_pixels(&noisy)?, self.to_pixels(&prediction)?].concat();
        let block = self.rows(&rows, &["input", "corrupted", "prediction"]);
        let png = pictures::figure("What the network makes of noise", &[block], &self.about())?;
        let caption = "Where little noise was added the prediction is nearly the image. Where much was added the \
                       network must guess: the strokes blur, and some digits turn into others.";
        self.add("predictions.png", "Looking at the predictions", caption, png, watch)
    }

    fn show_mean(&mut self, pipeline: &DDPMPipeline, watch: Watch) -> Result<()> {
        let [channels, height, width] = self.images.shape();
        let mean = self.images.mean_image()?;
        let shape = [4, channels, height, width];
        let noise = self.config.scheduler.run(1)?.initial_noise(&shape, self.device, &mut self.rng())?;
        let highest = self.levels.last().copied().unwrap_or_default();
        let levels = Tensor::full(highest, 4, self.device)?;
        let prediction = self.predict(pipeline, &noise, &levels, self.classes(4))?;
        let prediction = self.to_pixels(&prediction)?;
        let block = |title, pixels, columns| Block {
            title,
            images: Images { pixels, channels, height, width },
            columns,
            column_labels: vec![],
            row_labels: vec![],
        };
        let blocks = [block("mean of all images", &mean, 1), block("predictions from pure noise", &prediction, 4)];
        let png = pictures::figure("", &blocks, &self.about())?;
        let caption = "From pure noise nothing can be known, and the safest guess is the mean of all images. The \
                       network does better than that: its guesses are sharper, for noise happens to look a little \
                       like this digit or that one.";
        self.add("mean.png", "A guess from nothing", caption, png, watch)
    }

    fn show_trajectory(&mut self, pipeline: &DDPMPipeline, watch: Watch) -> Result<()> {
        let (mut inputs, mut predictions, mut labels, mut count) = (vec![], vec![], vec![], 0);
        let mut failed = None;
        let options = options(self.config, &self.images, SHOWN, self.config.sample.trajectory_steps);
        pipeline.sample_with(&options, &mut self.rng(), |step| {
            count = step.steps;
            // evenly, the last one included
            let shown = |index: usize| index * STEPS_SHOWN / count;
            if shown(step.index + 1) == shown(step.index) {
                return;
            }
            labels.push(format!("step {} of {count}", step.index + 1));
            let both = self.to_pixels(step.model_input).and_then(|input| {
                predictions.extend(self.to_pixels(&step.output.pred_original_sample)?);
                inputs.extend(input);
                Ok(())
            });
            failed = failed.take().or(both.err());
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let [channels, height, width] = self.images.shape();
        let block = |title, pixels, row_labels| Block {
            title,
            images: Images { pixels, channels, height, width },
            columns: SHOWN,
            column_labels: vec![],
            row_labels,
        };
        let blocks = [block("model input", &inputs, labels), block("prediction", &predictions, vec![])];
        let png = pictures::figure(&format!("Sampling in {count} steps"), &blocks, &self.about())?;
        let caption = "Left what the network was given, right what it made of it. Each step goes only part of the way \
                       towards the prediction, so that the next one starts from something better; the last step takes \
                       it whole.";
        self.add("trajectory.png", "From noise to images", caption, png, watch)
    }

    fn show_samples(&mut self, pipeline: &DDPMPipeline, watch: Watch) -> Result<()> {
        let (count, steps) = (self.config.sample.batch_size, self.config.sample.steps);
        let options = options(self.config, &self.images, count, steps);
        let sample = pipeline.sample_with(&options, &mut self.rng(), |_| {})?;
        let images = self.to_pixels(&sample)?;
        // one column a class, where the model is told classes
        let classes = self.told_classes();
        let names = self.images.class_names();
        let column_labels = classes.iter().map(|&(class, _)| names[class as usize].clone()).collect();
        let [channels, height, width] = self.images.shape();
        let block = Block {
            title: "",
            images: Images { pixels: &images, channels, height, width },
            columns: if classes.is_empty() { SHOWN } else { classes.len() },
            column_labels,
            row_labels: vec![],
        };
        let title = format!("{count} samples, {steps} steps");
        let png = pictures::figure(&title, &[block], &self.about())?;
        let caption = format!("{count} new images, each begun from its own noise and drawn in {steps} steps.");
        self.add(SAMPLES, "New images", &caption, png, watch)
    }

    /// Writes `report.html` and the model card from what has been shown.
    pub(crate) fn write_report(
        &self,
        parameters: usize,
        epochs: &[EpochSummary],
        state: State,
        watch: Watch,
    ) -> Result<()> {
        let report = Report {
            config: self.config,
            config_toml: &self.config_toml,
            source: &self.source,
            class_counts: class_counts(&self.images),
            dir: self.folder.dir(),
            program: self.program,
            classes: &self.told_classes(),
            parameters,
            epochs,
            state,
            figures: &self.figures,
            on_the_way: &self.on_the_way(epochs.last().map_or(0, |last| last.epoch)),
        };
        watch(Event::Wrote(&self.folder.write("README.md", report.model_card()?.as_bytes())?));
        watch(Event::Wrote(&self.folder.write("report.html", report.html().as_bytes())?));
        Ok(())
    }

    /// The command that draws new images as [`show_results`](Self::show_results) drew them.
    pub(crate) fn draw_more(&self) -> String {
        let (model, seed) = (quote_path(self.folder.dir()), self.config.train.seed.wrapping_add(1));
        sample_command(self.program, &model, self.config, &self.told_classes(), seed)
    }

    /// The classes that take turns in the samples and their labels, if the model is told classes.
    fn told_classes(&self) -> Vec<(u32, String)> {
        let classes = self.config.model.num_classes().map(|_| classes_of(&self.images)).unwrap_or_default();
        classes.into_iter().map(|class| (class, class.to_string())).collect()
    }

    /// Some of the pictures that were drawn after epochs, the first and the last among them: the epoch, and the file.
    fn on_the_way(&self, epochs: usize) -> Vec<(usize, Vec<u8>)> {
        let drawn: Vec<usize> = (1..=epochs).filter(|&epoch| preview_path(self.folder, epoch).is_file()).collect();
        let mut shown: Vec<usize> = match drawn.len().checked_sub(1) {
            Some(last) => (0..PREVIEWS_SHOWN).map(|i| drawn[i * last / (PREVIEWS_SHOWN - 1)]).collect(),
            None => vec![],
        };
        shown.dedup();
        let read = |epoch| Some((epoch, std::fs::read(preview_path(self.folder, epoch)).ok()?));
        shown.into_iter().filter_map(read).collect()
    }

    fn add(&mut self, file: &'static str, title: &str, caption: &str, png: Vec<u8>, watch: Watch) -> Result<()> {
        let path = self.folder.write(&PathBuf::from("images").join(file).to_string_lossy(), &png)?;
        watch(match file {
            SAMPLES => Event::Samples { epoch: None, picture: &path },
            _ => Event::Wrote(&path),
        });
        let figure = Figure { file, title: title.to_owned(), caption: caption.to_owned(), png };
        match self.figures.iter_mut().find(|old| old.file == file) {
            Some(old) => *old = figure, // it grows
            None => self.figures.push(figure),
        }
        Ok(())
    }

    /// The first images of the set in the scheduler's range, and the same at rising levels `[<= 8, c, h, w]`.
    fn corrupted(&self) -> Result<(Tensor, Tensor)> {
        let [channels, height, width] = self.images.shape();
        let pixels = self.images.first_pixels_f32(SHOWN)?;
        let count = pixels.len() / (channels * height * width);
        let unit = Tensor::from_vec(pixels, (count, channels, height, width), self.device)?;
        let scheduler = &self.config.scheduler;
        let clean = PixelRange::from_unit(scheduler.pixel_range(), &unit)?;
        let noise = scheduler.draw(&clean, &mut self.rng())?.noise;
        let levels = Tensor::from_slice(&self.levels[..count], count, self.device)?;
        let noisy = scheduler.add_noise(&clean, &noise, &levels)?;
        Ok((clean, noisy))
    }

    /// The clean images that the network sees in noisy ones, told `labels` if it is told any.
    fn predict(&self, pipeline: &DDPMPipeline, noisy: &Tensor, levels: &Tensor, labels: Vec<u32>) -> Result<Tensor> {
        let scheduler = &self.config.scheduler;
        let (input, timesteps) = (scheduler.scale_model_input(noisy, levels)?, scheduler.timesteps(levels)?);
        let labels = Tensor::from_vec(labels, levels.dims(), self.device)?;
        let labels = self.config.model.num_classes().map(|_| &labels);
        let output = pipeline.model().forward(&input, &timesteps, labels)?;
        Ok(scheduler.pred_original_sample(&output, noisy, levels)?)
    }

    /// The classes of the set, in turns.
    fn classes(&self, count: usize) -> Vec<u32> {
        classes_of(&self.images).into_iter().cycle().take(count).collect()
    }

    /// Rows of images under each other, with the levels above the columns.
    fn rows<'p>(&self, pixels: &'p [f32], row_labels: &[&str]) -> Block<'p> {
        let digits = if self.levels.iter().all(|&level| level <= 1.0) { 2 } else { 0 };
        let columns = SHOWN.min(self.images.len());
        let [channels, height, width] = self.images.shape();
        Block {
            title: "",
            images: Images { pixels, channels, height, width },
            columns,
            column_labels: self.levels.iter().map(|level| format!("{level:.digits$}")).collect(),
            row_labels: row_labels.iter().map(|&label| label.to_owned()).collect(),
        }
    }

    /// Values 0..1 of images in the scheduler's range.
    fn to_pixels(&self, images: &Tensor) -> Result<Vec<f32>> {
        let unit = self.config.scheduler.pixel_range().to_unit(images)?;
        Ok(unit.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    fn rng(&self) -> Generator {
        Generator::new(self.config.train.seed)
    }

    /// What every picture's file says of itself.
    fn about(&self) -> [(&'static str, String); 4] {
        [
            ("Software", concat!("Kakusan ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("model", self.config.model.class_name().to_owned()),
            ("scheduler", self.config.scheduler.class_name().to_owned()),
            ("seed", self.config.train.seed.to_string()),
        ]
    }
}

/// A sampling of `[sample]`, the classes of the set in turns where the model is told classes.
pub(crate) fn options(config: &RunConfig, images: &ImageSet, count: usize, steps: usize) -> SampleOptions {
    let in_turns = |_| classes_of(images).into_iter().cycle().take(count).collect();
    let class_labels = config.model.num_classes().map(in_turns);
    let guidance_scale = if class_labels.is_some() { config.sample.guidance_scale.unwrap_or(1.0) } else { 1.0 };
    let run = RunOptions { eta: config.sample.eta, ..RunOptions::steps(steps) };
    SampleOptions { run, class_labels, guidance_scale, ..SampleOptions::new(count) }
}

/// The classes of which the set has images, in order.
fn classes_of(images: &ImageSet) -> Vec<u32> {
    let classes: BTreeSet<u32> = images.labels().iter().copied().collect();
    classes.into_iter().collect()
}
