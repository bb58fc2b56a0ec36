//! The pictures of a run: the tutorial's, in its order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use kakusan_data::ImageSet;
use kakusan_pipeline::{DDPMPipeline, Error, Labels, Result, RunConfig, RunView, SampleOptions};
use kakusan_rng::Generator;
use kakusan_scheduler::{PixelRange, Process};

use crate::levels::NoiseLevels;
use crate::pictures::{self, Block, Images};

/// Images per row of a picture.
const SHOWN: usize = 8;
/// The file of the samples.
pub(crate) const SAMPLES: &str = "samples.png";
/// How many steps of a sampling are shown.
const STEPS_SHOWN: usize = 5;

/// Draws the pictures of a run. It has its own random numbers: with or without pictures, a run trains to the same
/// weights.
pub(crate) struct FigureMaker<'a> {
    pub(crate) run: &'a RunView<'a>,
}

/// A picture and its caption.
pub(crate) struct Drawn {
    pub(crate) png: Vec<u8>,
    pub(crate) caption: String,
    /// What is wrong with the picture, if anything.
    pub(crate) trouble: Option<String>,
}

/// Images of the set, and the same images at increasing noise levels.
struct Corrupted {
    levels: NoiseLevels,
    labels: Vec<u32>,
    /// `[n, c, h, w]`, in the scheduler's range.
    clean: Tensor,
    /// What the network gets: with `pixel_scale`, of images of more contrast.
    noisy: Tensor,
}

impl FigureMaker<'_> {
    /// Images, and the same images with more and more noise.
    pub(crate) fn corrupted_images(&self) -> Result<Drawn> {
        let corrupted = self.corrupted()?;
        let rows = [self.to_pixels(&corrupted.clean)?, self.shown(&corrupted)?].concat();
        let block = self.rows(&rows, &corrupted.levels, &["image", "corrupted"]);
        let caption = format!(
            "Images of the set, and below them the same images with increasing noise. The network gets the lower row and \
             has to {}.",
            task(&self.config().scheduler.process(), &corrupted.levels.levels)?
        );
        self.figure("Images with increasing noise", &[block], caption)
    }

    /// The loss of every step so far.
    pub(crate) fn losses(&self) -> Result<Drawn> {
        let (records, epochs) = (self.run.records, self.run.epochs());
        let losses: Vec<f32> = records.iter().map(|record| record.loss).collect();
        let per_epoch = records.iter().filter(|record| record.epoch == 1).count();
        let validated: Vec<_> =
            records.iter().filter_map(|record| Some((record.step, record.validated()?.of_sampling()))).collect();
        let png = pictures::loss_curve(&losses, per_epoch, &validated, &self.about())?;
        let caption = match epochs.last() {
            Some(last) => format!(
                "The loss of each training step. Each step draws new noise levels, so the loss fluctuates; the average of \
                 an epoch says more: {:.4} in epoch {}.",
                last.mean_loss, last.epoch
            ),
            None => "No training step was done yet.".into(),
        };
        Ok(Drawn { png, caption, trouble: None })
    }

    /// What the trained network predicts at increasing noise levels.
    pub(crate) fn predictions(&self, pipeline: &DDPMPipeline) -> Result<Drawn> {
        let corrupted = self.corrupted()?;
        let prediction = self.predict(pipeline, &corrupted)?;
        let (clean, noisy) = (self.to_pixels(&corrupted.clean)?, self.shown(&corrupted)?);
        let rows = [clean, noisy, self.to_pixels(&prediction)?].concat();
        let block = self.rows(&rows, &corrupted.levels, &["input", "corrupted", "prediction"]);
        let caption = "The clean images that the network predicts from noisy ones. With little noise the prediction is \
                       close to the image. With much noise the network must guess: details blur, and some images turn \
                       into others.";
        self.figure("Predictions from noisy images", &[block], caption.into())
    }

    /// The mean of all images, next to predictions from pure noise.
    pub(crate) fn mean(&self, pipeline: &DDPMPipeline) -> Result<Drawn> {
        const GUESSES: usize = 4;
        let mean = self.run.images().mean_image()?;
        let options = sample_options(self.run, GUESSES, self.config().sample.steps);
        let mut prediction = None;
        pipeline.sample_with(&options, &mut self.rng(), |step| {
            prediction = Some(step.output.pred_original_sample.clone());
            ControlFlow::Break(())
        })?;
        let nothing = || Error::Unfit("a sampling without steps has no prediction".into());
        let prediction = self.to_pixels(&prediction.ok_or_else(nothing)?)?;
        let blocks = [
            self.block("mean of all images", &mean, 1, vec![]),
            self.block("predictions from pure noise", &prediction, GUESSES, vec![]),
        ];
        let caption = "Pure noise says nothing about the image, so the safest prediction is the mean of all images. The \
                       network's predictions may be sharper, because the noise happens to resemble one image more than \
                       another.";
        self.figure("", &blocks, caption.into())
    }

    /// The steps of a sampling.
    pub(crate) fn trajectory(&self, pipeline: &DDPMPipeline) -> Result<Drawn> {
        let (mut inputs, mut predictions, mut labels, mut count) = (vec![], vec![], vec![], 0);
        let mut failed = None;
        let options = sample_options(self.run, SHOWN, self.config().sample.trajectory_steps);
        pipeline.sample_with(&options, &mut self.rng(), |step| {
            count = step.steps;
            // evenly spaced, including the last one
            let shown = |index: usize| index * STEPS_SHOWN / count;
            if shown(step.index + 1) == shown(step.index) {
                return ControlFlow::Continue(());
            }
            labels.push(format!("step {} of {count}", step.index + 1));
            let both = self.to_pixels(step.model_input).and_then(|input| {
                predictions.extend(self.to_pixels(&step.output.pred_original_sample)?);
                inputs.extend(input);
                Ok(())
            });
            match both {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let blocks =
            [self.block("model input", &inputs, SHOWN, labels), self.block("prediction", &predictions, SHOWN, vec![])];
        let caption = "Left: the network's input at each step. Right: the image that it predicts. Each step goes only \
                       some of the way towards this image, so the next prediction starts from a better input.";
        self.figure(&format!("Sampling in {count} steps"), &blocks, caption.into())
    }

    /// The samples of `[sample]`.
    pub(crate) fn samples(&self, pipeline: &DDPMPipeline) -> Result<Drawn> {
        let (count, steps) = (self.config().sample.batch_size, self.config().sample.steps);
        let options = sample_options(self.run, count, steps);
        let images =
            self.to_pixels(&pipeline.sample_with(&options, &mut self.rng(), |_| ControlFlow::Continue(()))?)?;
        // columns of one class for a class-conditional model: one for each, or as many as there is room for
        let classes = conditioning_classes(self.run);
        let columns = if classes.is_empty() { SHOWN } else { classes.len() * (SHOWN / classes.len()).max(1) };
        let column_labels = classes.iter().map(|(_, name)| name.clone()).cycle().take(columns).collect();
        let block = Block { column_labels, ..self.block("", &images, columns, vec![]) };
        let caption = format!("{count} new images, each sampled from its own noise in {steps} steps.");
        self.figure(&format!("{count} samples, {steps} steps"), &[block], caption)
    }

    /// Draws blocks of images, and checks them for values that are not finite.
    fn figure(&self, title: &str, blocks: &[Block], caption: String) -> Result<Drawn> {
        let png = pictures::figure(title, blocks, &self.about())?;
        let pixels = blocks.iter().flat_map(|block| block.images.pixels.iter().copied());
        Ok(Drawn { png, caption, trouble: pictures::not_finite(pixels) })
    }

    /// Images of the set with their classes, and the same images at increasing levels: one image per level.
    fn corrupted(&self) -> Result<Corrupted> {
        let [channels, height, width] = self.run.images().shape();
        let scheduler = &self.config().scheduler;
        let mut chosen = choose(self.run.images(), SHOWN)?;
        let levels = NoiseLevels::of(scheduler.as_ref(), chosen.len())?;
        chosen.truncate(levels.levels.len());
        let labels = chosen.iter().map(|(i, _)| self.run.images().labels()[*i]).collect();
        let pixels: Vec<f32> = chosen.into_iter().flat_map(|(_, pixels)| pixels).collect();
        let count = levels.levels.len();
        let unit = Tensor::from_vec(pixels, (count, channels, height, width), self.run.trainer.device())?;
        let process = scheduler.process();
        let clean = process.pixel_range().from_unit(&unit)?;
        let trained_on = process.pixel_range().from_unit(&self.config().train.scaled(unit)?)?;
        let noise = process.draw(&clean, &mut self.rng())?.noise;
        let noisy = process.add_noise(&trained_on, &noise, &levels.levels)?;
        Ok(Corrupted { levels, labels, clean, noisy })
    }

    /// The clean images that the network predicts from noisy ones, with their classes if it is class-conditional.
    fn predict(&self, pipeline: &DDPMPipeline, corrupted: &Corrupted) -> Result<Tensor> {
        let Corrupted { levels, labels, noisy, .. } = corrupted;
        let (process, levels, device) = (self.config().scheduler.process(), &levels.levels, self.run.trainer.device());
        let input = process.scale_model_input(noisy, levels)?;
        let conditioning = process.conditioning(levels, device)?;
        let labels = Tensor::from_slice(labels, labels.len(), device)?;
        let labels = self.config().model.num_classes().map(|_| &labels);
        let output = pipeline.model().forward(&input, &conditioning, labels)?;
        Ok(process.pred_original_sample(&output, noisy, levels)?)
    }

    /// Noisy images for display, at the contrast of the clean ones: if noise is added to the unscaled image, or the
    /// image was given more contrast (`pixel_scale`), the sum is scaled down.
    fn shown(&self, corrupted: &Corrupted) -> Result<Vec<f32>> {
        let scales = &corrupted.levels.scales;
        let scales = Tensor::from_slice(scales, (scales.len(), 1, 1, 1), self.run.trainer.device())?;
        let noisy = corrupted.noisy.broadcast_mul(&scales)?;
        let Some(scale) = self.config().train.pixel_scale else { return self.to_pixels(&noisy) };
        let grey = match self.config().scheduler.process().pixel_range() {
            PixelRange::MinusOneToOne => 0.0,
            PixelRange::ZeroToOne => 0.5,
        };
        self.to_pixels(&noisy.affine(1.0 / scale, grey - grey / scale)?)
    }

    /// Rows of images below each other, with the levels above the columns.
    fn rows<'p>(&self, pixels: &'p [f32], levels: &NoiseLevels, row_labels: &[&str]) -> Block<'p> {
        let labels = row_labels.iter().map(|&label| label.to_owned()).collect();
        let block = self.block(levels.heading, pixels, levels.levels.len(), labels);
        Block { column_labels: levels.labels.clone(), ..block }
    }

    /// Images of the set's shape.
    fn block<'p>(&self, title: &'p str, pixels: &'p [f32], columns: usize, row_labels: Vec<String>) -> Block<'p> {
        let [channels, height, width] = self.run.images().shape();
        let images = Images { pixels, channels, height, width };
        Block { title, images, columns, column_labels: vec![], row_labels }
    }

    /// Maps images from the scheduler's range to values in 0..1.
    fn to_pixels(&self, images: &Tensor) -> Result<Vec<f32>> {
        let unit = self.config().scheduler.process().pixel_range().to_unit(images)?;
        Ok(unit.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    fn config(&self) -> &RunConfig {
        self.run.config
    }

    fn rng(&self) -> Generator {
        Generator::new(self.config().train.seed)
    }

    /// The metadata for every picture's file.
    fn about(&self) -> [(&'static str, String); 4] {
        [
            ("Software", concat!("Kakusan ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("model", self.config().model.class_name().to_owned()),
            ("scheduler", self.config().scheduler.class_name().to_owned()),
            ("seed", self.config().train.seed.to_string()),
        ]
    }
}

/// The sampling options of `[sample]`. For a class-conditional model, the classes of the set take turns.
pub(crate) fn sample_options(run: &RunView, count: usize, steps: usize) -> SampleOptions {
    let labels = Labels::of_images(run.images());
    let classes: Vec<Vec<u32>> = labels.by_class().into_iter().map(|(_, labels)| labels).collect();
    let in_turns = |_| labels.in_turn(&classes).into_iter().cycle().take(count).collect();
    let class_labels = run.config.model.num_classes().map(in_turns);
    run.config.sample.options(count, steps).class_labels(class_labels)
}

/// The classes that take turns in the samples, with their places, if the model is class-conditional.
pub(crate) fn conditioning_classes(run: &RunView) -> Vec<(u32, String)> {
    if run.config.model.num_classes().is_none() {
        return vec![];
    }
    (0..).zip(Labels::of_images(run.images()).by_class()).map(|(place, (name, _))| (place, name.to_owned())).collect()
}

/// At most `count` decodable images, with their positions in the set. The classes take turns, and the images of a class
/// are spread over the set, because sets are often sorted.
fn choose(images: &ImageSet, count: usize) -> Result<Vec<(usize, Vec<f32>)>> {
    let mut of_class = BTreeMap::<u32, Vec<usize>>::new();
    for (i, &label) in images.labels().iter().enumerate() {
        of_class.entry(label).or_default().push(i);
    }
    let classes: Vec<Vec<usize>> = of_class.into_values().collect();
    let apart = (classes.len() / count.max(1)).max(1); // of many classes, a few spread over all of them
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
            match images.pixels_f32(&[i]) {
                Err(kakusan_data::Error::BadImage(_)) => {} // tries the next one
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

/// Describes the network's task on noisy images.
fn task(process: &Process, levels: &[f32]) -> Result<&'static str> {
    let count = levels.len();
    let ones = Tensor::ones((count, 1, 1, 1), DType::F32, &Device::Cpu)?;
    let zeros = ones.zeros_like()?;
    let none = |weights: Tensor| -> Result<bool> {
        Ok(weights.flatten_all()?.to_vec1::<f32>()?.iter().all(|weight| weight.abs() < 1e-6))
    };
    let (clean, noise) = (process.target(&ones, &zeros, levels)?, process.target(&zeros, &ones, levels)?);
    Ok(match (none(clean)?, none(noise)?) {
        (_, true) => "predict the upper one",
        (true, false) => "predict the noise in it; without the noise, the image remains",
        (false, false) => "predict a mix of the image and the noise, from which the image follows",
    })
}

mod tests;
