//! A run's story in pictures: the tutorial's, in its order, as files and in `report.html`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kakusan_data::{ImageSet, SourceUsed};
use kakusan_rng::Generator;
use kakusan_scheduler::{PixelRange, RunOptions, Scheduler};

use crate::levels::NoiseLevels;
use crate::pictures::{self, Block, Images};
use crate::previews::preview_path;
use crate::report::{Figure, Report, State};
use crate::run_folder::RunFolder;
use crate::shell::{quote_path, sample_command};
use crate::train::class_counts;
use crate::{DDPMPipeline, EpochSummary, Error, Event, Record, Result, RunConfig, SampleOptions};

/// Images in a row of the pictures.
const SHOWN: usize = 8;
/// The picture of the samples.
const SAMPLES: &str = "samples.png";
/// Pictures that the report shows of those that were drawn after epochs.
const PREVIEWS_SHOWN: usize = 3;
/// Steps that are shown of a sampling.
const STEPS_SHOWN: usize = 5;

/// Draws the pictures of one run and gathers what the report tells. Its randomness is its own: a run with pictures
/// trains to the same weights as one without. A picture that cannot be drawn is told of, and the run goes on.
pub(crate) struct Storyteller<'a> {
    config: &'a RunConfig,
    config_toml: String,
    source: SourceUsed,
    images: Arc<ImageSet>,
    folder: &'a RunFolder,
    device: &'a Device,
    program: &'a str,
    figures: Vec<Figure>,
}

/// A picture, and what is said below it.
struct Drawn {
    png: Vec<u8>,
    caption: String,
    /// What is wrong with it.
    trouble: Option<String>,
}

/// Images of the set, and the same at rising levels.
struct Corrupted {
    levels: NoiseLevels,
    labels: Vec<u32>,
    /// `[n, c, h, w]`, in the scheduler's range.
    clean: Tensor,
    noisy: Tensor,
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
    ) -> Self {
        Self { config, config_toml, source: source.clone(), images, folder, device, program, figures: vec![] }
    }

    /// Images, and the same under more and more noise.
    pub(crate) fn show_data(&mut self, watch: Watch) -> Result<()> {
        self.add("corrupted.png", "Corrupting", self.draw_data(), watch)
    }

    /// The loss of every step so far.
    pub(crate) fn show_training(&mut self, records: &[Record], epochs: &[EpochSummary], watch: Watch) -> Result<()> {
        self.add("loss.png", "Learning", self.draw_training(records, epochs), watch)
    }

    /// What the trained network predicts and draws.
    pub(crate) fn show_results(&mut self, pipeline: &DDPMPipeline, watch: Watch) -> Result<()> {
        self.add("predictions.png", "Looking at the predictions", self.draw_predictions(pipeline), watch)?;
        self.add("mean.png", "A guess from nothing", self.draw_mean(pipeline), watch)?;
        self.add("trajectory.png", "From noise to images", self.draw_trajectory(pipeline), watch)?;
        self.add(SAMPLES, "New images", self.draw_samples(pipeline), watch)
    }

    fn draw_data(&self) -> Result<Drawn> {
        let corrupted = self.corrupted()?;
        let rows = [self.to_pixels(&corrupted.clean)?, self.shown(&corrupted)?].concat();
        let block = self.rows(&rows, &corrupted.levels, &["image", "corrupted"]);
        let caption = format!(
            "Images of the set, and below them the same with more and more noise. The network sees the lower row and has \
             to {}.",
            task(self.config.scheduler.as_ref(), &corrupted.levels.levels)?
        );
        self.figure("Images and the same under noise", &[block], caption)
    }

    fn draw_training(&self, records: &[Record], epochs: &[EpochSummary]) -> Result<Drawn> {
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
        Ok(Drawn { png, caption, trouble: None })
    }

    fn draw_predictions(&self, pipeline: &DDPMPipeline) -> Result<Drawn> {
        let corrupted = self.corrupted()?;
        let prediction = self.predict(pipeline, &corrupted)?;
        let (clean, noisy) = (self.to_pixels(&corrupted.clean)?, self.shown(&corrupted)?);
        let rows = [clean, noisy, self.to_pixels(&prediction)?].concat();
        let block = self.rows(&rows, &corrupted.levels, &["input", "corrupted", "prediction"]);
        let caption = "The images that the network finds under the noise. Where there is little of it the prediction is \
                       nearly the image. Where there is much the network must guess: details blur, and some images turn \
                       into others.";
        self.figure("What the network makes of noise", &[block], caption.into())
    }

    fn draw_mean(&self, pipeline: &DDPMPipeline) -> Result<Drawn> {
        const GUESSES: usize = 4;
        let mean = self.images.mean_image()?;
        let options = options(self.config, &self.images, GUESSES, self.config.sample.steps);
        let prediction = self.to_pixels(&pipeline.first_prediction(&options, &mut self.rng())?)?;
        let blocks = [
            self.block("mean of all images", &mean, 1, vec![]),
            self.block("predictions from pure noise", &prediction, GUESSES, vec![]),
        ];
        let caption = "From pure noise nothing can be known, and the safest guess is the mean of all images. The \
                       network does better than that: its guesses are sharper, for noise happens to look a little \
                       like one image or another.";
        self.figure("", &blocks, caption.into())
    }

    fn draw_trajectory(&self, pipeline: &DDPMPipeline) -> Result<Drawn> {
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
        let blocks =
            [self.block("model input", &inputs, SHOWN, labels), self.block("prediction", &predictions, SHOWN, vec![])];
        let caption = "Left what the network was given, right the image that it saw in it. Each step goes only part of \
                       the way towards that image, so that the next one starts from something better.";
        self.figure(&format!("Sampling in {count} steps"), &blocks, caption.into())
    }

    fn draw_samples(&self, pipeline: &DDPMPipeline) -> Result<Drawn> {
        let (count, steps) = (self.config.sample.batch_size, self.config.sample.steps);
        let options = options(self.config, &self.images, count, steps);
        let images = self.to_pixels(&pipeline.sample_with(&options, &mut self.rng(), |_| {})?)?;
        // one column a class, where the model is told classes
        let classes = self.told_classes();
        let column_labels = classes.iter().map(|(_, name)| name.clone()).collect();
        let columns = if classes.is_empty() { SHOWN } else { classes.len() };
        let block = Block { column_labels, ..self.block("", &images, columns, vec![]) };
        let caption = format!("{count} new images, each begun from its own noise and drawn in {steps} steps.");
        self.figure(&format!("{count} samples, {steps} steps"), &[block], caption)
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
        let names = self.images.class_names();
        classes.into_iter().map(|class| (class, names[class as usize].clone())).collect()
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

    /// Keeps a picture, or says why there is none.
    fn add(&mut self, file: &'static str, title: &str, drawn: Result<Drawn>, watch: Watch) -> Result<()> {
        let figure = match drawn {
            Ok(Drawn { png, mut caption, trouble }) => {
                let path = self.folder.write(&PathBuf::from("images").join(file).to_string_lossy(), &png)?;
                watch(match file {
                    SAMPLES => Event::Samples { epoch: None, picture: &path },
                    _ => Event::Wrote(&path),
                });
                if let Some(reason) = &trouble {
                    watch(Event::PictureTrouble { picture: file, reason });
                    caption += &format!(" In this picture {reason}.");
                }
                Figure { file, title: title.to_owned(), caption, png: Some(png) }
            }
            Err(error @ Error::Io { .. }) => return Err(error), // what comes next could not be written either
            Err(error) => {
                let reason = format!("it could not be drawn: {error}");
                watch(Event::PictureTrouble { picture: file, reason: &reason });
                Figure { file, title: title.to_owned(), caption: format!("There is no picture: {reason}"), png: None }
            }
        };
        match self.figures.iter_mut().find(|old| old.file == file) {
            Some(old) => *old = figure, // it grows
            None => self.figures.push(figure),
        }
        Ok(())
    }

    /// Draws blocks of images, and looks for what is no number in them.
    fn figure(&self, title: &str, blocks: &[Block], caption: String) -> Result<Drawn> {
        let png = pictures::figure(title, blocks, &self.about())?;
        let pixels = blocks.iter().flat_map(|block| block.images.pixels.iter().copied());
        Ok(Drawn { png, caption, trouble: pictures::not_finite(pixels) })
    }

    /// Images of the set and their classes, and the same at rising levels, as many as there are levels.
    fn corrupted(&self) -> Result<Corrupted> {
        let [channels, height, width] = self.images.shape();
        let scheduler = &self.config.scheduler;
        let mut chosen = self.choose(SHOWN)?;
        let levels = NoiseLevels::of(scheduler.as_ref(), chosen.len())?;
        chosen.truncate(levels.levels.len());
        let labels = chosen.iter().map(|(i, _)| self.images.labels()[*i]).collect();
        let pixels: Vec<f32> = chosen.into_iter().flat_map(|(_, pixels)| pixels).collect();
        let count = levels.levels.len();
        let unit = Tensor::from_vec(pixels, (count, channels, height, width), self.device)?;
        let clean = PixelRange::from_unit(scheduler.pixel_range(), &unit)?;
        let noise = scheduler.draw(&clean, &mut self.rng())?.noise;
        let told = Tensor::from_slice(&levels.levels, count, self.device)?;
        let noisy = scheduler.add_noise(&clean, &noise, &told)?;
        Ok(Corrupted { levels, labels, clean, noisy })
    }

    /// At most `count` images that can be decoded, with their places in the set: the classes take turns, and the images of
    /// each are from all over it, for sets are often sorted.
    fn choose(&self, count: usize) -> Result<Vec<(usize, Vec<f32>)>> {
        let mut of_class = BTreeMap::<u32, Vec<usize>>::new();
        for (i, &label) in self.images.labels().iter().enumerate() {
            of_class.entry(label).or_default().push(i);
        }
        let classes: Vec<Vec<usize>> = of_class.into_values().collect();
        let apart = (classes.len() / count.max(1)).max(1); // of many classes some, all over them, too
        let classes: Vec<Vec<usize>> = classes.into_iter().step_by(apart).take(count).collect();

        let mut shares = vec![0; classes.len()];
        let mut turns = vec![];
        while turns.len() < count.min(classes.iter().map(Vec::len).sum()) {
            for (class, places) in classes.iter().enumerate() {
                if shares[class] < places.len() && turns.len() < count {
                    turns.push((class, shares[class]));
                    shares[class] += 1;
                }
            }
        }
        let mut chosen: Vec<(usize, Vec<f32>)> = vec![];
        for (class, turn) in turns {
            let places = &classes[class];
            let (before, after) = places.split_at(turn * places.len() / shares[class]);
            for &i in after.iter().chain(before) {
                if chosen.iter().any(|(other, _)| *other == i) {
                    continue;
                }
                match self.images.pixels_f32(&[i]) {
                    Err(kakusan_data::Error::BadImage(_)) => {} // the next one, then
                    pixels => {
                        chosen.push((i, pixels?));
                        break;
                    }
                }
            }
        }
        match chosen.is_empty() {
            true => Err(Error::Unfit("none of the images can be decoded".into())),
            false => Ok(chosen),
        }
    }

    /// The clean images that the network sees in noisy ones, told their classes if it is told any.
    fn predict(&self, pipeline: &DDPMPipeline, corrupted: &Corrupted) -> Result<Tensor> {
        let Corrupted { levels, labels, noisy, .. } = corrupted;
        let scheduler = &self.config.scheduler;
        let levels = Tensor::from_slice(&levels.levels, labels.len(), self.device)?;
        let (input, timesteps) = (scheduler.scale_model_input(noisy, &levels)?, scheduler.timesteps(&levels)?);
        let labels = Tensor::from_slice(labels, labels.len(), self.device)?;
        let labels = self.config.model.num_classes().map(|_| &labels);
        let output = pipeline.model().forward(&input, &timesteps, labels)?;
        Ok(scheduler.pred_original_sample(&output, noisy, &levels)?)
    }

    /// Noisy images as they are shown: where noise comes on top of a whole image, both are made paler.
    fn shown(&self, corrupted: &Corrupted) -> Result<Vec<f32>> {
        let scales = &corrupted.levels.scales;
        let scales = Tensor::from_slice(scales, (scales.len(), 1, 1, 1), self.device)?;
        self.to_pixels(&corrupted.noisy.broadcast_mul(&scales)?)
    }

    /// Rows of images under each other, with the levels above the columns.
    fn rows<'p>(&self, pixels: &'p [f32], levels: &NoiseLevels, row_labels: &[&str]) -> Block<'p> {
        let labels = row_labels.iter().map(|&label| label.to_owned()).collect();
        let block = self.block(levels.heading, pixels, levels.levels.len(), labels);
        Block { column_labels: levels.labels.clone(), ..block }
    }

    /// Images of the set's shape.
    fn block<'p>(&self, title: &'p str, pixels: &'p [f32], columns: usize, row_labels: Vec<String>) -> Block<'p> {
        let [channels, height, width] = self.images.shape();
        let images = Images { pixels, channels, height, width };
        Block { title, images, columns, column_labels: vec![], row_labels }
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

/// What the network has to do with noisy images, in words.
fn task(scheduler: &dyn Scheduler, levels: &[f32]) -> Result<&'static str> {
    let count = levels.len();
    let ones = Tensor::ones((count, 1, 1, 1), DType::F32, &Device::Cpu)?;
    let (zeros, levels) = (ones.zeros_like()?, Tensor::from_slice(levels, count, &Device::Cpu)?);
    let none = |part: Tensor| -> Result<bool> {
        Ok(part.flatten_all()?.to_vec1::<f32>()?.iter().all(|share| share.abs() < 1e-6))
    };
    let (clean, noise) = (scheduler.target(&ones, &zeros, &levels)?, scheduler.target(&zeros, &ones, &levels)?);
    Ok(match (none(clean)?, none(noise)?) {
        (_, true) => "give back the upper one",
        (true, false) => "say what the noise in it is; the image is what is left",
        (false, false) => "predict a mix of the image and the noise, from which the image follows",
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kakusan_models::{Model, ModelConfig, Weights};
    use kakusan_scheduler::Registry;
    use png::ColorType;

    use super::*;

    const SHIPPED: [&str; 8] =
        ["184", "184-unet2d", "cifar10", "ddpm-184", "fashion", "folder", "mnist-class-planes", "mnist-classes"];

    fn shipped(name: &str, set: &[&str]) -> RunConfig {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(format!("{name}.toml"));
        let set: Vec<String> = ["sample.batch_size=12"].iter().chain(set).map(|&text| text.to_owned()).collect();
        RunConfig::load(&file, &set, &Registry::default()).unwrap()
    }

    /// A ring, of ink on the paper that the scheduler's lowest value is: with enough of both that noise is seen on it.
    fn ring([channels, height, width]: [usize; 3]) -> Vec<u8> {
        let pixel = |channel: usize, y: usize, x: usize| {
            let from_middle = |at: usize, size: usize| (at as f32 + 0.5) / size as f32 - 0.5;
            let radius = from_middle(y, height).hypot(from_middle(x, width));
            if (0.15..0.35).contains(&radius) { 235 - 40 * channel as u8 } else { 10 }
        };
        let places = (0..channels).flat_map(|c| (0..height).map(move |y| (c, y)));
        places.flat_map(|(c, y)| (0..width).map(move |x| pixel(c, y, x))).collect()
    }

    /// Fifteen images of three classes, sorted; all the same ring.
    fn rings(shape: [usize; 3]) -> ImageSet {
        let labels = [0, 1, 2].map(|class| [class; 5]).concat();
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        ImageSet::new(shape, ring(shape).repeat(15), labels, names).unwrap()
    }

    /// Knows that every image is the ring, and predicts accordingly: what `scheduler` wants of it.
    struct Oracle {
        config: ModelConfig,
        scheduler: Arc<dyn Scheduler>,
        /// `[1, c, h, w]`, in the scheduler's range.
        clean: Tensor,
    }

    impl Model for Oracle {
        fn config(&self) -> ModelConfig {
            self.config.clone()
        }

        fn forward(&self, x: &Tensor, level: &Tensor, _: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
            let clean = self.clean.broadcast_as(x.shape())?.contiguous()?;
            let ones = Tensor::ones((x.dim(0)?, 1, 1, 1), DType::F32, &Device::Cpu)?;
            let zeros = ones.zeros_like()?;
            let share = |clean: &Tensor, noise: &Tensor| self.scheduler.add_noise(clean, noise, level).unwrap();
            let signal = clean.broadcast_mul(&share(&ones, &zeros))?;
            let noise = (x - signal)?.broadcast_div(&share(&zeros, &ones))?;
            Ok(self.scheduler.target(&clean, &noise, level).unwrap())
        }
    }

    /// Always predicts the same number.
    struct Stuck(ModelConfig, f32);

    impl Model for Stuck {
        fn config(&self) -> ModelConfig {
            self.0.clone()
        }

        fn forward(&self, x: &Tensor, _: &Tensor, _: Option<&Tensor>) -> kakusan_models::Result<Tensor> {
            Ok(Tensor::full(self.1, x.shape(), &Device::Cpu)?)
        }
    }

    /// The pictures of a run whose network is `model`, with what is told of them, and the page.
    fn told(config: &RunConfig, images: ImageSet, model: Box<dyn Model>) -> (Vec<Figure>, Vec<String>, String) {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&dir.path().join("run"), false, "").unwrap();
        let source = SourceUsed { kind: kakusan_data::SourceKind::Dir, description: "a folder".into() };
        let device = Device::Cpu;
        let mut story = Storyteller::new(config, String::new(), &source, Arc::new(images), &folder, &device, "kakusan");
        let (weights, _) = Weights::initialise(&device, &mut Generator::new(0), |vb| config.model.build(vb)).unwrap();
        let mut pipeline = DDPMPipeline::new(config.model.clone(), weights, config.sampler.clone()).unwrap();
        pipeline.set_model(model);
        let mut troubles = vec![];
        let mut watch = |event: Event| {
            if let Event::PictureTrouble { picture, reason } = event {
                troubles.push(format!("{picture}: {reason}"));
            }
        };
        story.show_data(&mut watch).unwrap();
        story.show_results(&pipeline, &mut watch).unwrap();
        story.write_report(1, &[], State::Finished, &mut watch).unwrap();
        let page = std::fs::read_to_string(dir.path().join("run/report.html")).unwrap();
        (story.figures, troubles, page)
    }

    /// The images within a figure, from left to right and from top to bottom: found by the lines around them.
    fn tiles(figure: &Figure, [channels, height, width]: [usize; 3]) -> Vec<Vec<f32>> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(figure.png.as_ref().unwrap())).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!(info.color_type, ColorType::Rgb);
        let (across, down) = (info.width as usize, info.height as usize);
        let at = |x: usize, y: usize| &bytes[3 * (y * across + x)..][..3];
        for scale in [3, 2, 1] {
            let (w, h) = (width * scale, height * scale);
            let is_corner = |x: usize, y: usize| {
                let line = |x: usize, y: usize| at(x, y) == [205; 3];
                at(x - 1, y) == [255; 3]
                    && at(x, y - 1) == [255; 3]
                    && (0..w + 2).all(|i| line(x + i, y) && line(x + i, y + h + 1))
                    && (0..h + 2).all(|i| line(x, y + i) && line(x + w + 1, y + i))
            };
            let mut found = vec![];
            for (y, x) in (1..down - h - 1).flat_map(|y| (1..across - w - 1).map(move |x| (y, x))) {
                if is_corner(x, y) {
                    let value = |c: usize, row: usize, column: usize| {
                        let byte = at(x + 1 + column * scale, y + 1 + row * scale)[c];
                        if channels == 1 { 1.0 - f32::from(byte) / 255.0 } else { f32::from(byte) / 255.0 }
                    };
                    let places = (0..channels).flat_map(|c| (0..height).map(move |row| (c, row)));
                    let columns = places.flat_map(|(c, row)| (0..width).map(move |column| value(c, row, column)));
                    found.push(columns.collect());
                }
            }
            if !found.is_empty() {
                return found;
            }
        }
        panic!("{} has no image in it", figure.file)
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32
    }

    #[test]
    fn the_pictures_of_every_shipped_configuration_show_what_they_say() {
        for name in SHIPPED {
            let config = shipped(name, &[]);
            let shape = config.model.sample_shape().unwrap();
            let image: Vec<f32> = ring(shape).iter().map(|&byte| f32::from(byte) / 255.0).collect();
            let unit = Tensor::from_slice(&image, (1, shape[0], shape[1], shape[2]), &Device::Cpu).unwrap();
            let clean = PixelRange::from_unit(config.scheduler.pixel_range(), &unit).unwrap();
            let oracle = Oracle { config: config.model.clone(), scheduler: config.scheduler.clone(), clean };
            let (figures, troubles, page) = told(&config, rings(shape), Box::new(oracle));
            assert_eq!(troubles, [""; 0], "{name}");
            let files: Vec<_> = figures.iter().map(|figure| figure.file).collect();
            assert_eq!(files, ["corrupted.png", "predictions.png", "mean.png", "trajectory.png", SAMPLES], "{name}");
            let [corrupted, predictions, mean, trajectory, samples] = [0, 1, 2, 3, 4]
                .map(|i| tiles(&figures[i], shape).iter().map(|t| distance(t, &image)).collect::<Vec<_>>());
            let is_image = |distances: &[f32]| distances.iter().all(|&distance| distance < 0.01);

            // the noise rises from left to right: there is none at first, and at last nothing else
            assert_eq!(corrupted.len(), 2 * SHOWN, "{name}");
            let (above, below) = corrupted.split_at(SHOWN);
            assert!(is_image(above) && below[0] < 0.02, "{name}: {corrupted:?}");
            assert!(below.is_sorted_by(|a, b| a < b) && below[SHOWN - 1] > 0.25, "{name}: {below:?}");

            assert_eq!(predictions[..2 * SHOWN], corrupted, "{name}: the same images as in the first picture");
            assert_eq!(predictions.len(), 3 * SHOWN, "{name}");
            assert!(is_image(&predictions[2 * SHOWN..]), "{name}: {predictions:?}");
            assert!(mean.len() == 5 && is_image(&mean), "{name}: {mean:?}");

            let rows: Vec<_> = trajectory.chunks(2 * SHOWN).collect();
            assert_eq!((rows.len(), trajectory.len()), (STEPS_SHOWN, STEPS_SHOWN * 2 * SHOWN), "{name}");
            assert!(rows.iter().all(|row| is_image(&row[SHOWN..])), "{name}: {rows:?}");
            let input = |row: &[f32]| row[..SHOWN].iter().sum::<f32>() / SHOWN as f32;
            let inputs: Vec<f32> = rows.iter().map(|row| input(row)).collect();
            assert!(inputs.is_sorted_by(|a, b| a > b), "{name}: {inputs:?}");

            assert_eq!(samples.len(), 12, "{name}");
            assert!(is_image(&samples), "{name}: {samples:?}");
            assert!(!page.contains("digit") && !page.contains("stroke") && !page.contains("There is no picture"));
        }
    }

    #[test]
    fn what_is_no_number_is_seen_and_told() {
        for (name, value) in [("184", f32::NEG_INFINITY), ("cifar10", f32::INFINITY), ("ddpm-184", f32::NAN)] {
            let config = shipped(name, &[]);
            let shape = config.model.sample_shape().unwrap();
            let (figures, troubles, page) = told(&config, rings(shape), Box::new(Stuck(config.model.clone(), value)));
            let about: Vec<&str> = troubles.iter().map(|trouble| trouble.split(':').next().unwrap()).collect();
            assert_eq!(about, ["predictions.png", "mean.png", "trajectory.png", SAMPLES], "{name}: {troubles:?}");
            assert!(troubles.iter().all(|trouble| trouble.contains("not finite")), "{troubles:?}");
            assert_eq!(page.matches("not finite; such are drawn in magenta").count(), 4);
            let last = tiles(&figures[4], shape);
            let magenta: Vec<f32> = match shape[0] {
                1 => vec![0.0; shape[1] * shape[2]], // its red
                _ => [1.0, 0.0, 1.0].iter().flat_map(|&value| vec![value; shape[1] * shape[2]]).collect(),
            };
            assert!(last.len() == 12 && last.iter().all(|tile| *tile == magenta), "{name}");
        }
    }

    #[test]
    fn a_picture_that_cannot_be_drawn_is_told_and_the_others_are_there() {
        let mut config = shipped("184", &[]);
        config.sample.steps = 0; // which the configuration's check refuses
        let stuck = Stuck(config.model.clone(), 0.5);
        let (figures, troubles, page) = told(&config, rings([1, 28, 28]), Box::new(stuck));
        assert_eq!(troubles.len(), 2, "{troubles:?}");
        assert!(troubles[0].starts_with("mean.png: it could not be drawn") && troubles[1].starts_with(SAMPLES));
        let drawn: Vec<bool> = figures.iter().map(|figure| figure.png.is_some()).collect();
        assert_eq!(drawn, [true, true, false, true, false]);
        assert_eq!(page.matches("There is no picture: it could not be drawn").count(), 2);
    }

    #[test]
    fn the_images_shown_are_of_all_classes_and_from_all_over_the_set() {
        let config = shipped("184", &[]);
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&dir.path().join("run"), false, "").unwrap();
        let source = SourceUsed { kind: kakusan_data::SourceKind::Dir, description: String::new() };
        let chosen = |counts: &[usize]| -> Vec<usize> {
            let labels: Vec<u32> = counts.iter().enumerate().flat_map(|(class, &n)| vec![class as u32; n]).collect();
            let names = (0..counts.len()).map(|class| class.to_string()).collect();
            let set = ImageSet::new([1, 1, 1], vec![0; labels.len()], labels, names).unwrap();
            let story =
                Storyteller::new(&config, String::new(), &source, Arc::new(set), &folder, &Device::Cpu, "kakusan");
            story.choose(SHOWN).unwrap().into_iter().map(|(i, _)| i).collect()
        };
        assert_eq!(chosen(&[100]), [0, 12, 25, 37, 50, 62, 75, 87]);
        assert_eq!(chosen(&[30, 0, 30, 30]), [0, 30, 60, 10, 40, 75, 20, 50]);
        assert_eq!(chosen(&[1, 1]), [0, 1]);
        assert_eq!(chosen(&[1; 16]), [0, 2, 4, 6, 8, 10, 12, 14]);
        assert_eq!(chosen(&[1, 5]), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_task_is_what_the_scheduler_asks() {
        let task = |class_name: &str, set: serde_json::Value| {
            let serde_json::Value::Object(fields) = set else { panic!("{set}") };
            let scheduler = Registry::default().build(class_name, &fields).unwrap();
            let levels = NoiseLevels::of(scheduler.as_ref(), SHOWN).unwrap().levels;
            task(scheduler.as_ref(), &levels).unwrap().split(' ').take(3).collect::<Vec<_>>().join(" ")
        };
        use serde_json::json;
        assert_eq!(task("LinearMixScheduler", json!({"timestep": 0})), "give back the");
        assert_eq!(task("DDPMScheduler", json!({"prediction_type": "sample"})), "give back the");
        assert_eq!(task("DDPMScheduler", json!({})), "say what the");
        assert_eq!(task("ScoreSdeVeScheduler", json!({})), "say what the");
        assert_eq!(task("DDPMScheduler", json!({"prediction_type": "v_prediction"})), "predict a mix");
        assert_eq!(task("FlowMatchEulerDiscreteScheduler", json!({})), "predict a mix");
    }
}
