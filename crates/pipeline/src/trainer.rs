use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use kakusan_data::{Batch, Batches, ImageSet, Loader};
use kakusan_models::{Dropout, Model, ModelConfig, Weights};
use kakusan_ops::{Adam, AdamConfig, AdamState};
use kakusan_rng::Generator;
use kakusan_scheduler::{Draw, PixelRange, Scheduler};

use crate::checkpoint::{self, Progress};
use crate::{Error, Result, RunConfig};

/// The training loop: any model, any scheduler, any images; one optimiser step at a time.
///
/// Every random number comes from one generator, in the order in which the tutorial's PyTorch program draws: the
/// weights, then for each epoch the order of the images, then for each batch what the scheduler draws.
///
/// ```
/// use candle_core::Device;
/// use kakusan_hub::{DEFAULT_ENDPOINT, Hub, HubConfig};
/// use kakusan_pipeline::{RunConfig, Trainer};
/// use kakusan_scheduler::Registry;
///
/// # fn main() -> kakusan_pipeline::Result<()> {
/// let text = r#"
///     data = { name = "mnist", classes = [1], sources = ["drawn"], drawn_per_class = 8 }
///     model = { _class_name = "BasicUNet" }
///     scheduler = { _class_name = "LinearMixScheduler" }
///     train = { epochs = 1, batch_size = 4 }
/// "#;
/// let config = RunConfig::parse(text, "example", &[], &Registry::default())?;
/// let hub = Hub::new(HubConfig::new(DEFAULT_ENDPOINT, "cache")); // not asked: the digits are drawn
/// let images = kakusan_data::load(&config.data, &hub)?.images;
/// let mut trainer = Trainer::new(&config, images, &Device::Cpu)?;
/// while let Some(step) = trainer.step()? {
///     assert!(step.loss.is_finite());
/// }
/// assert_eq!(trainer.steps_done(), 2);
/// # Ok(())
/// # }
/// ```
pub struct Trainer {
    config: ModelConfig,
    model: Box<dyn Model>,
    weights: Weights,
    optimizer: Adam,
    learning_rate: f64,
    scheduler: Arc<dyn Scheduler>,
    loader: Loader,
    /// The batches of the epoch that has begun.
    batches: Option<Batches>,
    progress: Progress,
    images_per_epoch: usize,
    total_steps: usize,
    device: Device,
}

/// What one optimiser step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Which step, from 1.
    pub step: usize,
    /// Which epoch, from 1.
    pub epoch: usize,
    /// The loss of the batch.
    pub loss: f32,
    /// The learning rate.
    pub learning_rate: f64,
    /// Images in the batch.
    pub images: usize,
    /// Images that should have been in the batch but cannot be decoded (`data.on_bad_image = "skip"`).
    pub skipped: usize,
    /// Whether the epoch ended with this step.
    pub ends_epoch: bool,
}

impl Trainer {
    /// Initialises model and optimiser for a training on `images`.
    ///
    /// # Errors
    /// When the images do not fit the model.
    pub fn new(config: &RunConfig, images: Arc<ImageSet>, device: &Device) -> Result<Self> {
        let [channels, height, width] = config.model.sample_shape()?;
        if images.shape() != [channels, height, width] {
            return Err(Error::Unfit(format!(
                "the images are {} x {} x {}, but the model takes {channels} x {height} x {width}: \
                 set model.in_channels and model.sample_size, or data.channels and data.resolution",
                images.channels(),
                images.height(),
                images.width()
            )));
        }
        let mut rng = Generator::new(config.train.seed);
        let (weights, model) = Weights::initialise(device, &mut rng, |vb| config.model.build(vb))?;
        let learning_rate = config.train.learning_rate;
        let optimizer = Adam::new(weights.vars(), AdamConfig { lr: learning_rate, ..AdamConfig::default() })?;
        let batch_size = NonZeroUsize::new(config.train.batch_size).unwrap_or(NonZeroUsize::MIN);
        let images_per_epoch = images.len();
        let loader = Loader::new(images, batch_size).prefetch(config.data.prefetch());
        let loader = match config.data.num_workers.and_then(NonZeroUsize::new) {
            Some(threads) => loader.threads(threads),
            None => loader,
        };
        let all_steps = config.train.epochs.saturating_mul(loader.steps_per_epoch());
        Ok(Self {
            config: config.model.clone(),
            model,
            weights,
            optimizer,
            learning_rate,
            scheduler: config.scheduler.clone(),
            batches: None,
            progress: Progress { step: 0, epoch: 0, batch: 0, epoch_rng: rng.clone(), rng },
            images_per_epoch,
            total_steps: config.train.max_steps.map_or(all_steps, |most| most.min(all_steps)),
            loader,
            device: device.clone(),
        })
    }

    /// Does the next optimiser step, or nothing when the training is over.
    ///
    /// # Errors
    /// When the loss is not finite any more; the weights are then those before the step.
    pub fn step(&mut self) -> Result<Option<Step>> {
        if self.progress.step >= self.total_steps {
            return Ok(None);
        }
        let Some(batch) = self.next_batch()? else { return Ok(None) };
        let (loss, gradients) = self.gradients(&batch)?;
        if !loss.is_finite() {
            return Err(Error::NonFiniteLoss { step: self.progress.step + 1, loss });
        }
        self.optimizer.step(&gradients)?;

        self.progress.step += 1;
        self.progress.batch += 1;
        let epoch = self.progress.epoch + 1;
        let ends_epoch = self.progress.batch == self.loader.steps_per_epoch();
        if ends_epoch {
            self.progress.epoch += 1;
            self.progress.batch = 0;
            self.batches = None;
        }
        Ok(Some(Step {
            step: self.progress.step,
            epoch,
            loss,
            learning_rate: self.learning_rate,
            images: batch.indices.len(),
            skipped: batch.skipped.len(),
            ends_epoch,
        }))
    }

    /// The next batch; at the end of an epoch the first of the next one.
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        let batches = match &mut self.batches {
            Some(batches) => batches,
            none => {
                self.progress.epoch_rng = self.progress.rng.clone();
                none.insert(self.loader.epoch(&mut self.progress.rng))
            }
        };
        Ok(batches.next().transpose()?)
    }

    /// Corrupts the batch, lets the model predict, and compares with the target: the loss and its gradients.
    fn gradients(&mut self, batch: &Batch) -> Result<(f32, GradStore)> {
        let [channels, height, width] = self.config.sample_shape()?;
        let count = batch.indices.len();
        let unit = Tensor::from_slice(&batch.images, (count, channels, height, width), &self.device)?;
        let clean = PixelRange::from_unit(self.scheduler.pixel_range(), &unit)?;
        let Draw { noise, levels } = self.scheduler.draw(&clean, &mut self.progress.rng)?;
        let (seed, step) = (self.progress.rng.seed(), self.progress.step as u64);
        let (model, scheduler) = (self.model.as_ref(), self.scheduler.as_ref());
        let (loss, gradients) = kakusan_ops::gradients(count, &self.device, |part| -> Result<Tensor> {
            let of = |batch: &Tensor| batch.narrow(0, part.start, part.len());
            let (clean, noise, levels) = (of(&clean)?, of(&noise)?, of(&levels)?);
            let noisy = scheduler.add_noise(&clean, &noise, &levels)?;
            let target = scheduler.target(&clean, &noise, &levels)?;
            let (input, timesteps) = (scheduler.scale_model_input(&noisy, &levels)?, scheduler.timesteps(&levels)?);
            let dropout = Dropout { seed, step, first_image: part.start };
            let prediction = model.forward_train(&input, &timesteps, None, dropout)?;
            let loss = match scheduler.loss_weight(&levels)? {
                None => kakusan_ops::mse_loss(&prediction, &target)?,
                Some(weight) => {
                    let by_image = (prediction - target)?.sqr()?.flatten_from(1)?.mean(1)?; // [b, c, h, w] -> [b]
                    (by_image * weight)?.mean_all()?
                }
            };
            Ok((loss * (part.len() as f64 / count as f64))?) // the mean over the batch
        })?;
        Ok((loss as f32, gradients))
    }

    /// Optimiser steps done.
    pub fn steps_done(&self) -> usize {
        self.progress.step
    }

    /// Optimiser steps that the whole training has.
    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.loader.steps_per_epoch()
    }

    /// Images in an epoch.
    pub fn images_per_epoch(&self) -> usize {
        self.images_per_epoch
    }

    /// The weights as they are now.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Writes a checkpoint under `parent` and gives its folder.
    pub(crate) fn save_checkpoint(&self, parent: &Path) -> Result<PathBuf> {
        let mut moments = HashMap::new();
        for ((name, _), (first, second)) in self.weights.trained().zip(self.optimizer.state()?.moments) {
            moments.insert(format!("exp_avg.{name}"), first);
            moments.insert(format!("exp_avg_sq.{name}"), second);
        }
        checkpoint::write(parent, &self.progress, &moments, |dir| {
            Ok(kakusan_models::save(&self.config, &self.weights, &dir.join("unet"))?)
        })
    }

    /// Goes back to a checkpoint: from there on every number is the one that the uninterrupted training has.
    pub(crate) fn load_checkpoint(&mut self, dir: &Path) -> Result<()> {
        let (progress, mut moments) = checkpoint::read(dir)?;
        let path = dir.join("unet").join(kakusan_models::WEIGHTS_FILE);
        let rename = |name: &str| self.config.tensor_name(name);
        let (weights, model) = Weights::load(&path, &self.device, rename, |vb| self.config.build(vb))?;
        let mut take = |key: String| {
            let missing = || checkpoint::unusable(dir, &format!("the optimiser's {key} is missing"));
            moments.remove(&key).ok_or_else(missing)
        };
        let pairs = weights
            .trained()
            .map(|(name, _)| Ok((take(format!("exp_avg.{name}"))?, take(format!("exp_avg_sq.{name}"))?)));
        let state = AdamState { steps: progress.step as u64, moments: pairs.collect::<Result<_>>()? };
        let per_epoch = self.loader.steps_per_epoch();
        if progress.step != progress.epoch * per_epoch + progress.batch || progress.batch >= per_epoch {
            return Err(checkpoint::unusable(dir, "it is from a training with other data or another batch_size"));
        }
        let mut optimizer = Adam::new(weights.vars(), AdamConfig { lr: self.learning_rate, ..AdamConfig::default() })?;
        optimizer.load_state(&state)?;

        let begun = || self.loader.epoch(&mut progress.epoch_rng.clone()).skip_batches(progress.batch);
        self.batches = (progress.batch > 0).then(begun);
        (self.weights, self.model, self.optimizer, self.progress) = (weights, model, optimizer, progress);
        Ok(())
    }
}
