//! A small classifier, trained on the spot: features for images of any kind, in seconds.

mod cache;
mod guidance;
mod network;

use std::ops::ControlFlow;

use candle_core::{D, Device, Tensor};
use candle_nn::ops::{log_softmax, softmax};
use kakusan_data::ImageSet;
use kakusan_models::Weights;
use kakusan_ops::{Adam, AdamConfig, PreparedWeights, gradients, predict};
use kakusan_pipeline::{Error, Result};
use kakusan_rng::Generator;
use serde::{Deserialize, Serialize};

use crate::FeatureNetwork;
use crate::features::Images;
use network::{FEATURES, Network};

pub use guidance::ClassGuidance;

/// How a [`Classifier`] is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassifierConfig {
    /// The seed of its weights and of the order of the images.
    pub seed: u64,
    /// How many images it is shown, each as often as the others; at most [`epochs`](Self::epochs) times.
    pub images: usize,
    /// How often it is shown a small set.
    pub epochs: usize,
    /// Images of a step.
    pub batch_size: usize,
    /// The highest learning rate (AdamW): it rises to it in the first tenth and falls to 0 in a half cosine.
    pub learning_rate: f64,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self { seed: 0, images: 120_000, epochs: 20, batch_size: 128, learning_rate: 3e-3 }
    }
}

/// Images by which the features are scaled.
const SCALED_BY: usize = 4096;

/// What is known of a trained [`Classifier`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Its settings.
    pub config: ClassifierConfig,
    /// The images that it was trained on.
    pub images: usize,
    /// The share of the held-out images that it knows.
    pub accuracy: f64,
    /// The images that it was not shown, by which its accuracy was measured.
    pub held_out: usize,
    /// The factor of its features, by which their mean square over images of the training is 1: so the distances of
    /// different classifiers are of one size.
    pub scale: f64,
}

/// A progress of [`Classifier::train`].
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// All steps.
    pub steps: usize,
    /// The step's loss.
    pub loss: f64,
}

/// A small convolutional network that tells the classes of a set of images apart. Its features are the 64 outputs of
/// the layer before the last.
pub struct Classifier {
    network: Network,
    weights: Weights,
    shape: [usize; 3],
    classes: usize,
    training: Training,
}

impl Classifier {
    /// Trains a classifier on labelled images. Its accuracy is measured on `held_out`, or, without, on a tenth of the
    /// images, chosen by the seed, which is then left out of the training. `watch` is told of each step, and of the
    /// last one again while the accuracy is measured.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use kakusan_data::draw_digits;
    /// use kakusan_eval::{Classifier, ClassifierConfig};
    ///
    /// # fn main() -> kakusan_pipeline::Result<()> {
    /// let (digits, others) = (draw_digits(&[1, 8], 64, 0)?, draw_digits(&[1, 8], 32, 1)?);
    /// let config = ClassifierConfig { epochs: 8, batch_size: 32, ..Default::default() };
    /// let classifier = Classifier::train(&digits, Some(&others), config, &mut |_| ControlFlow::Continue(()))?;
    /// assert!(classifier.training().accuracy > 0.9);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the images have fewer than two classes, an image cannot be read, `held_out` has another shape, or `watch`
    /// breaks.
    pub fn train(
        images: &ImageSet,
        held_out: Option<&ImageSet>,
        config: ClassifierConfig,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self> {
        let counts = images.class_counts();
        if counts.iter().filter(|count| **count > 0).count() < 2 {
            return Err(Error::Unfit(NEEDS_CLASSES.to_owned()));
        }
        let (shape, classes) = (images.shape(), counts.len());
        let mut rng = Generator::new(config.seed);
        let build = |vb| Network::new(shape, classes, vb);
        let (weights, network) = Weights::initialise(&Device::Cpu, &mut rng, build)?;
        let mut chosen: Vec<usize> = (0..images.len()).collect();
        let mut others = vec![];
        if held_out.is_none() {
            chosen = rng.randperm(images.len());
            others = chosen.split_off(images.len() - (images.len() / 10).max(1));
        }
        let training = Training { config, images: chosen.len(), accuracy: 0.0, held_out: 0, scale: 1.0 };
        let mut classifier = Self { network, weights, shape, classes, training };
        let last = classifier.fit(images, &chosen, &mut rng, watch)?;
        // from here on the weights are fixed
        classifier.network = classifier.weights.frozen(build)?;
        let watch = &mut |_: usize| watch(last);
        classifier.training.scale = classifier.scale(images, &chosen, watch)?;
        let (right, of) = match held_out {
            Some(held_out) => classifier.count_right(held_out, &(0..held_out.len()).collect::<Vec<_>>(), watch)?,
            None => classifier.count_right(images, &others, watch)?,
        };
        classifier.training.accuracy = right as f64 / (of as f64).max(1.0);
        classifier.training.held_out = of;
        Ok(classifier)
    }

    /// What is known of its training.
    pub fn training(&self) -> &Training {
        &self.training
    }

    /// Trains it, and returns the last progress.
    fn fit(
        &self,
        images: &ImageSet,
        chosen: &[usize],
        rng: &mut Generator,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Progress> {
        let config = self.training.config;
        let batch_size = config.batch_size.clamp(1, chosen.len().max(1));
        let per_epoch = chosen.len().div_ceil(batch_size);
        let steps = (config.images.div_ceil(batch_size)).min(per_epoch * config.epochs).max(1);
        let mut adam = Adam::new(self.weights.vars(), AdamConfig { weight_decay: 0.01, ..Default::default() })?;
        let (mut order, mut at) = (vec![], 0);
        let mut progress = Progress { step: 0, steps, loss: f64::NAN };
        for step in 0..steps {
            if at >= order.len() {
                (order, at) = (rng.randperm(chosen.len()), 0);
            }
            let batch: Vec<usize> = order[at..].iter().take(batch_size).map(|&i| chosen[i]).collect();
            at += batch_size;
            let (kept, pixels) = read(images, &batch)?;
            if kept.is_empty() {
                continue;
            }
            let n = kept.len();
            let labels: Vec<u32> = kept.iter().map(|&i| images.label(i)).collect();
            let (pixels, labels) = (self.tensor(pixels, n)?, Tensor::from_vec(labels, (n, 1), &Device::Cpu)?);
            let prepared = PreparedWeights::new(self.weights.iter().map(|(_, var)| var.as_tensor()));
            let (loss, gradients) = gradients(n, &Device::Cpu, |part| -> candle_core::Result<Tensor> {
                let of = |batch: &Tensor| batch.narrow(0, part.start, part.len());
                let scores = self.network.scores(&self.network.features(&of(&pixels)?)?)?;
                let right = log_softmax(&scores, D::Minus1)?.gather(&of(&labels)?, 1)?;
                right.sum_all()? * (-1.0 / n as f64)
            })?;
            drop(prepared);
            adam.set_lr(config.learning_rate * rate(step, steps))?;
            adam.step(&gradients)?;
            progress = Progress { step: step + 1, steps, loss };
            if watch(progress).is_break() {
                return Err(Error::Unfit("stopped before the end".to_owned()));
            }
        }
        match self.weights.not_finite()? {
            None => Ok(progress),
            Some(name) => Err(Error::Unfit(format!("the classifier diverged: its {name} is not finite"))),
        }
    }

    /// The factor for the features, measured on the first images of the training.
    fn scale(
        &self,
        images: &ImageSet,
        chosen: &[usize],
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<f64> {
        let some = &chosen[..chosen.len().min(SCALED_BY)];
        let (_, embedding) = crate::embed(self, images, some, watch)?;
        let values = embedding.features.values();
        let squares = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / values.len() as f64;
        Ok(if squares > 0.0 { 1.0 / squares.sqrt() } else { 1.0 })
    }

    /// How many of the images it knows, and how many there are.
    fn count_right(
        &self,
        images: &ImageSet,
        indices: &[usize],
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(usize, usize)> {
        if images.shape() != self.shape {
            let (held, own) = (images.shape(), self.shape);
            return Err(Error::Unfit(format!("the held-out images are {held:?}, those of the training {own:?}")));
        }
        let (kept, embedding) = crate::embed(self, images, indices, watch)?;
        let classes = embedding.classes.unwrap_or_default();
        let right = kept.iter().zip(classes).filter(|(i, (class, _))| images.label(**i) == *class).count();
        Ok((right, kept.len()))
    }

    fn tensor(&self, pixels: Vec<f32>, n: usize) -> Result<Tensor> {
        let [c, h, w] = self.shape;
        Ok(Tensor::from_vec(pixels, (n, c, h, w), &Device::Cpu)?)
    }
}

/// The message for images that cannot be told apart.
pub(crate) const NEEDS_CLASSES: &str =
    "a classifier needs images of at least two classes to tell apart; measure in the features of Inception instead";

impl FeatureNetwork for Classifier {
    fn name(&self) -> &str {
        "classifier"
    }

    fn dim(&self) -> usize {
        FEATURES
    }

    fn batch_size(&self) -> usize {
        256
    }

    fn features(&self, images: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (n, c, h, w) = images.dims4()?;
        if [c, h, w] != self.shape {
            let (shape, own) = ([c, h, w], self.shape);
            return Err(Error::Unfit(format!("the images are {shape:?}, those that the classifier knows {own:?}")));
        }
        let _prepared = PreparedWeights::new(self.weights.iter().map(|(_, var)| var.as_tensor()));
        let both = predict(n, &Device::Cpu, |part| -> candle_core::Result<Tensor> {
            let features = self.network.features(&images.narrow(0, part.start, part.len())?)?;
            let probabilities = softmax(&self.network.scores(&features)?, D::Minus1)?;
            Tensor::cat(&[&(features * self.training.scale)?, &probabilities], 1)
        })?;
        let features = both.narrow(1, 0, FEATURES)?.contiguous()?;
        Ok((features, Some(both.narrow(1, FEATURES, self.classes)?.contiguous()?)))
    }
}

/// The share of the highest learning rate.
fn rate(step: usize, steps: usize) -> f64 {
    let (done, warm) = (step as f64 / steps as f64, 0.1);
    if done < warm {
        (done + 1.0 / steps as f64) / warm
    } else {
        (1.0 + (std::f64::consts::PI * (done - warm) / (1.0 - warm)).cos()) / 2.0
    }
}

/// The pixels of the images that can be read, and which these are.
fn read(images: &ImageSet, indices: &[usize]) -> Result<(Vec<usize>, Vec<f32>)> {
    use rayon::prelude::*;
    let read = indices.par_iter().map(|&i| Ok(Images::read(images, i)?.map(|pixels| (i, pixels))));
    let read = read.collect::<Result<Vec<_>>>()?.into_iter().flatten();
    let (kept, pixels): (Vec<usize>, Vec<Vec<f32>>) = read.unzip();
    Ok((kept, pixels.concat()))
}
