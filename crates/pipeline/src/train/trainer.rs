use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use kakusan_data::{BadImage, Batch, Batches, ImageSet, Loader};
use kakusan_distributed::Alone;
use kakusan_models::{Change, Dropout, Model, ModelConfig, Weights};
use kakusan_ops::{Ema, EmaState, PreparedWeights};
use kakusan_rng::Generator;
use kakusan_scheduler::{Draw, Process};

use self::beginning::Beginning;
pub use self::validation::Validated;
use super::averages;
use super::checkpoint::{self, Batching, Keep, Progress};
use super::lr_schedule::LrSchedule;
use super::objective::Objective;
use super::optimizer::Optimizer;
use super::ranks::Ranks;
use crate::{Error, Result, RunConfig, TrainConfig, device};

/// The folders in a checkpoint, named as in diffusers' script: the weights, and their average.
pub(crate) const UNET: &str = "unet";
pub(crate) const UNET_EMA: &str = "unet_ema";
/// What to do where the memory of a card is too small for a step.
const LESS_MEMORY: &str = "Train with train.gradient_checkpointing = true (--grad-checkpoint), or with a smaller \
                           train.batch_size; a step has as many images as before if \
                           train.gradient_accumulation_steps grows by the same factor";

/// The training loop for any model, scheduler and images: one optimiser step per call.
///
/// Every random number comes from one generator, in the order of the tutorial's PyTorch program: the weights; for each
/// epoch the order of the images; for each batch what the scheduler draws.
///
/// ```
/// use candle_core::Device;
/// use kakusan_data::draw_digits;
/// use kakusan_pipeline::{Registry, RunConfig, Trainer};
///
/// # fn main() -> kakusan_pipeline::Result<()> {
/// let text = r#"
///     model = { _class_name = "BasicUNet" }
///     scheduler = { _class_name = "LinearMixScheduler" }
///     train = { epochs = 1, batch_size = 4 }
/// "#;
/// let config = RunConfig::parse(text, "example", &[], &Registry::default())?;
/// let images = draw_digits(&[1], 8, 0)?; // eight ones
/// let mut trainer = Trainer::new(&config, images.into(), &Device::Cpu)?;
/// while let Some(step) = trainer.step()? {
///     assert!(step.loss.is_finite());
/// }
/// assert_eq!(trainer.steps_done(), 2);
/// # Ok(())
/// # }
/// ```
pub struct Trainer {
    config: Arc<dyn ModelConfig>,
    train: TrainConfig,
    model: Box<dyn Model>,
    weights: Weights,
    optimizer: Optimizer,
    /// What in the weights was not the pretrained model's at the beginning.
    changes: Vec<Change>,
    /// The pretrained model whose weights only a checkpoint has.
    missing: Option<String>,
    /// The averages of the weights that are kept. The first one samples.
    averages: Vec<Ema>,
    schedule: LrSchedule,
    objective: Objective,
    process: Process,
    loader: Loader,
    /// The remaining batches of the current epoch.
    batches: Option<Batches>,
    /// The batches of the next step, if they were loaded early to find out whether the epoch has another image.
    ahead: Option<Group>,
    progress: Progress,
    images_per_epoch: usize,
    /// Whether batches may lack images that cannot be decoded.
    may_skip: bool,
    total_steps: usize,
    device: Device,
    /// The processes that train together; alone by default.
    ranks: Ranks,
}

/// The batches of one optimiser step that contain at least one image, with their numbers in the epoch.
type Group = Vec<(usize, Batch)>;

/// The result of one optimiser step.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// The step, from 1.
    pub step: usize,
    /// The epoch, from 1.
    pub epoch: usize,
    /// The mean loss of the step's images.
    pub loss: f32,
    /// The learning rate.
    pub learning_rate: f64,
    /// The norm of the gradients, before clipping.
    pub grad_norm: f64,
    /// The decay of the moving average of the weights in this step, if there is one.
    pub ema_decay: Option<f64>,
    /// Images in the step's batches.
    pub images: usize,
    /// Images missing from the batches because they cannot be decoded (`data.on_bad_image = "skip"`).
    pub skipped: Vec<BadImage>,
    /// Whether the epoch ended with this step.
    pub ends_epoch: bool,
}

impl Trainer {
    /// Initialises the model and the optimiser for a training on `images`.
    ///
    /// # Errors
    /// When the images do not fit the model, or the configuration's components do not fit each other.
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
        if let Some(predicted) = config.model.to_map().get("out_channels").and_then(|channels| channels.as_u64())
            && predicted != channels as u64
        {
            return Err(Error::Unfit(format!(
                "the model predicts {predicted} channels of images that have {channels}: set model.out_channels = {channels}"
            )));
        }
        check_classes(config, &images)?;
        let train = config.train.clone();
        if images.are_latents() {
            let augments = config.data.as_ref().is_some_and(|data| data.augment.is_some());
            let useless = [("train.pixel_scale", train.pixel_scale.is_some()), ("data.augment", augments)];
            if let Some((key, _)) = useless.iter().find(|(_, given)| *given) {
                let reason = "has no effect on latents, which are trained on as they are: remove it";
                return Err(Error::Unfit(format!("{key} {reason}")));
            }
        }
        let mut rng = Generator::new(train.seed);
        let Beginning { weights, model, changes, missing } = Beginning::new(config, &images, device, &mut rng)?;
        let batch_size = NonZeroUsize::new(train.batch_size).unwrap_or(NonZeroUsize::MIN);
        let (images_per_epoch, may_skip) = (images.len(), images.may_skip());
        let mut loader = Loader::new(images, batch_size);
        if let Some(data) = &config.data {
            loader = loader.prefetch(data.prefetch()).augment(data.augment);
            if let Some(threads) = data.num_workers.and_then(NonZeroUsize::new) {
                loader = loader.threads(threads);
            }
        }
        let TrainConfig { batch_size, gradient_accumulation_steps, .. } = train;
        let batching = Batching { images: images_per_epoch, batch_size, gradient_accumulation_steps };
        let progress = Progress { step: 0, epoch: 0, batch: 0, epoch_began: 0, batching, epoch_rng: rng.clone(), rng };
        let total_steps = total_steps(&train, &progress);
        let objective = Objective::new(&train, config.scheduler.as_ref()).map_err(Error::Unfit)?;
        Ok(Self {
            config: config.trained_model(),
            model,
            optimizer: Optimizer::new(&train, &weights)?,
            changes,
            missing,
            averages: averages::begin(&train, &weights.vars())?,
            weights,
            schedule: LrSchedule::new(&train, total_steps).map_err(Error::Unfit)?,
            process: objective.process().clone(),
            objective,
            batches: None,
            ahead: None,
            progress,
            images_per_epoch,
            may_skip,
            total_steps,
            loader,
            train,
            device: device.clone(),
            ranks: Ranks::new(Arc::new(Alone)),
        })
    }

    /// Runs the next optimiser step; `None` when the training is complete. Batches in which no image can be decoded
    /// (`data.on_bad_image = "skip"`) are skipped, so that the epoch has fewer steps.
    ///
    /// # Errors
    /// When the loss or the gradients are not finite; the weights are then those before the step. Also when no image of
    /// an epoch can be decoded, in the first step when a trained tensor gets no gradient, and when the memory of the
    /// card is full.
    pub fn step(&mut self) -> Result<Option<Step>> {
        let step = self.take_step();
        step.map_err(|error| {
            let asked = || {
                let [c, h, w] = self.config.sample_shape().unwrap_or_default();
                let (step, batch) = (self.progress.step + 1, self.train.batch_size);
                format!("step {step} with a batch of {batch} images of {c} x {h} x {w}")
            };
            device::explain(error, &self.device, asked, LESS_MEMORY)
        })
    }

    fn take_step(&mut self) -> Result<Option<Step>> {
        self.check_begun()?;
        if self.progress.step >= self.total_steps || self.progress.epoch >= self.train.epochs {
            return Ok(None);
        }
        self.ranks.begin();
        let mut skipped = vec![];
        let group = match self.ahead.take() {
            Some(group) => Some(group),
            None => self.next_group(&mut skipped)?,
        };
        let Some(batches) = group else {
            let (epoch, count) = (self.progress.epoch + 1, skipped.len());
            let first = skipped.first().map(|bad| format!(", the first of them {bad}")).unwrap_or_default();
            let reason = format!("no image is left in epoch {epoch}: {count} cannot be decoded{first}");
            return Err(Error::Unfit(reason));
        };
        let of_epoch = self.loader.steps_per_epoch();
        let last = of_epoch.min(self.progress.batch + self.train.gradient_accumulation_steps.max(1));
        let images: usize = batches.iter().map(|(_, batch)| batch.indices.len()).sum();
        let (mut loss, mut sum, mut indices) = (0.0, None, vec![]);
        for (number, batch) in batches {
            let (more, gradients) = self.gradients(&batch, number, images)?;
            loss += more;
            sum = Some(match sum.take() {
                None => gradients,
                Some(sum) => self.add(sum, &gradients)?,
            });
            indices.extend(batch.indices);
        }
        let Some(gradients) = sum else { return Ok(None) };
        if self.progress.step == 0 {
            self.check_reached(&gradients)?;
        }
        let grad_norm = kakusan_ops::grad_norm(&gradients, &self.weights.vars())?;
        for (what, value) in [("the loss", loss), ("the norm of the gradients", grad_norm)] {
            if !(value as f32).is_finite() {
                let step = self.progress.step + 1;
                return Err(Error::Diverged { what, step, value, images: indices, last_checkpoint: None });
            }
        }
        let scale = match self.train.max_grad_norm {
            Some(most) => kakusan_ops::clip_factor(grad_norm, most)?,
            None => 1.0,
        };
        let learning_rate = self.schedule.at(self.progress.step);
        self.optimizer.step(&gradients, learning_rate, scale)?;
        let decays = self.averages.iter_mut().map(Ema::step).collect::<candle_core::Result<Vec<_>>>()?;
        let ema_decay = decays.first().copied();

        self.progress.step += 1;
        self.progress.batch = last;
        let epoch = self.progress.epoch + 1;
        if self.may_skip && last < of_epoch {
            // the epoch is over if only undecodable images follow
            self.ahead = self.next_group(&mut skipped)?;
        }
        let ends_epoch = self.progress.batch == of_epoch;
        if ends_epoch {
            self.progress.epoch += 1;
            self.progress.batch = 0;
            self.progress.epoch_began = self.progress.step;
            self.batches = None;
        }
        self.ranks.pause();
        let (step, loss) = (self.progress.step, loss as f32);
        Ok(Some(Step { step, epoch, loss, learning_rate, grad_norm, ema_decay, images, skipped, ends_epoch }))
    }

    /// Refuses a model of which some trained tensors would never change: not all of candle_nn's layers pass gradients.
    fn check_reached(&self, gradients: &GradStore) -> Result<()> {
        let missed: Vec<_> = self.weights.trained().filter(|(_, var)| gradients.get(var).is_none()).collect();
        let Some((name, _)) = missed.first() else { return Ok(()) };
        Err(Error::Unfit(format!(
            "{name} of {} gets no gradient ({} of {} tensors do not): the model does not use it, or uses an operation \
             without a backward pass, such as candle_nn's LayerNorm; declare tensors that stay as they are as fixed \
             (TensorSpec)",
            self.config.class_name(),
            missed.len(),
            self.weights.trained().count()
        )))
    }

    /// The batches of the next step that contain at least one image. Steps without such batches are skipped. `None` if
    /// no step is left in the epoch.
    fn next_group(&mut self, skipped: &mut Vec<BadImage>) -> Result<Option<Group>> {
        let of_epoch = self.loader.steps_per_epoch();
        while self.progress.batch < of_epoch {
            let first = self.progress.batch;
            let last = of_epoch.min(first + self.train.gradient_accumulation_steps.max(1));
            let mut group = vec![];
            for number in first..last {
                let Some(mut batch) = self.next_batch()? else { return Ok(None) };
                skipped.append(&mut batch.skipped);
                if !batch.indices.is_empty() {
                    group.push((number, batch));
                }
            }
            if !group.is_empty() {
                return Ok(Some(group));
            }
            self.progress.batch = last;
        }
        Ok(None)
    }

    /// The next batch; at the end of an epoch, the first one of the next epoch.
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

    /// Adds noise to the epoch's batch `number`, evaluates the model and the loss, and runs the backward pass. Returns
    /// the batch's share of the mean loss over `images` images, and its gradients.
    fn gradients(&mut self, batch: &Batch, number: usize, images: usize) -> Result<(f64, GradStore)> {
        let count = batch.indices.len();
        let clean = self.clean(&batch.images, count)?;
        let Draw { noise, levels } = self.process.draw(&clean, &mut self.progress.rng)?;
        let conditioning = self.process.conditioning(&levels, &self.device)?;
        let labels = self.labels(batch)?;
        let told = match &batch.augmentations {
            Some(changes) => Some(Tensor::from_slice(changes, (count, changes.len() / count.max(1)), &self.device)?),
            None => None,
        };
        let seed = self.progress.rng.seed();
        let step = (self.progress.epoch * self.loader.steps_per_epoch() + number) as u64;
        let (model, process, objective) = (self.model.as_ref(), &self.process, &self.objective);
        let _prepared = PreparedWeights::new(self.weights.iter().map(|(_, var)| var.as_tensor()));
        let loss = |part: Range<usize>| -> Result<Tensor> {
            let of = |batch: &Tensor| batch.narrow(0, part.start, part.len());
            let (clean, noise, levels) = (of(&clean)?, of(&noise)?, &levels[part.clone()]);
            let noisy = process.add_noise(&clean, &noise, levels)?;
            let target = process.target(&clean, &noise, levels)?;
            let input = process.scale_model_input(&noisy, levels)?;
            let dropout = Dropout { seed, step, first_image: part.start };
            let [labels, told] = [labels.as_ref().map(of).transpose()?, told.as_ref().map(of).transpose()?];
            let (labels, told) = (labels.as_ref(), told.as_ref());
            let prediction = model.forward_train(&input, &of(&conditioning)?, labels, told, dropout)?;
            let loss = objective.loss(&prediction, &target, levels)?;
            Ok((loss * (part.len() as f64 / images as f64))?)
        };
        self.ranks.gradients(count, &self.weights.vars(), &self.device, loss)
    }

    /// Pixels from 0 to 1, or latents, as the images that are noised: `[count, c, h, w]`.
    fn clean(&self, pixels: &[f32], count: usize) -> Result<Tensor> {
        let [channels, height, width] = self.config.sample_shape()?;
        let unit = Tensor::from_slice(pixels, (count, channels, height, width), &self.device)?;
        match self.images().are_latents() {
            true => Ok(unit),
            false => Ok(self.process.pixel_range().from_unit(&self.train.scaled(unit)?)?),
        }
    }

    /// The class labels `[b]` of a batch for a class-conditional model. With class dropout, some are replaced by the
    /// last class, which means "no class".
    fn labels(&mut self, batch: &Batch) -> Result<Option<Tensor>> {
        let Some(classes) = self.config.num_classes() else { return Ok(None) };
        let mut labels = batch.labels.clone();
        if let Some(share) = self.train.class_dropout {
            let chances = self.progress.rng.rand(labels.len());
            let dropped = labels.iter_mut().zip(chances).filter(|(_, chance)| f64::from(*chance) < share);
            dropped.for_each(|(label, _)| *label = classes as u32 - 1);
        }
        let count = labels.len();
        Ok(Some(Tensor::from_vec(labels, count, &self.device)?))
    }

    /// The sum of the gradients of two batches.
    fn add(&self, mut sum: GradStore, more: &GradStore) -> Result<GradStore> {
        for (_, var) in self.weights.trained() {
            if let (Some(a), Some(b)) = (sum.get(var), more.get(var)) {
                let both = (a + b)?;
                sum.insert(var, both);
            }
        }
        Ok(sum)
    }

    /// Optimiser steps done.
    pub fn steps_done(&self) -> usize {
        self.progress.step
    }

    /// Optimiser steps of the whole training.
    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Optimiser steps per epoch. There are fewer if batches without a decodable image are skipped.
    pub fn steps_per_epoch(&self) -> usize {
        self.progress.batching.steps_per_epoch()
    }

    /// Completed epochs.
    pub fn epochs_done(&self) -> usize {
        self.progress.epoch
    }

    /// Epochs of the whole training; the last one may be incomplete.
    pub fn total_epochs(&self) -> usize {
        let left = self.total_steps.saturating_sub(self.progress.epoch_began);
        self.progress.epoch + left.div_ceil(self.steps_per_epoch().max(1))
    }

    /// Images per epoch.
    pub fn images_per_epoch(&self) -> usize {
        self.images_per_epoch
    }

    /// The training images.
    pub fn images(&self) -> &ImageSet {
        self.loader.images()
    }

    /// The device in use.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The current weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The weights for sampling: a copy of the moving average if one is kept, otherwise the weights themselves.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn sampling_weights(&self) -> Result<Weights> {
        if self.averages.is_empty() { Ok(self.weights.clone()) } else { self.average(0) }
    }

    /// A copy of the weights with their average `i`, if there is one.
    pub(crate) fn average(&self, i: usize) -> Result<Weights> {
        let weights = self.weights.copy()?;
        if let Some(average) = self.averages.get(i) {
            average.copy_to(&weights.vars())?;
        }
        Ok(weights)
    }

    /// Writes a checkpoint under `parent` and returns its folder, `checkpoint-<step>`, which appears atomically.
    /// `mean_loss` is that of the last steps. Older checkpoints are deleted, except those that `train.keep_checkpoints`
    /// and `train.keep_best` retain.
    ///
    /// # Errors
    /// When the folder cannot be written, and [`Error::Unsound`]: a state that cannot be resumed never replaces one
    /// that can.
    pub fn save_checkpoint(&self, parent: &Path, mean_loss: f64) -> Result<PathBuf> {
        self.check_sound()?;
        let state = self.optimizer.state(&self.weights)?;
        checkpoint::write(parent, &self.progress, mean_loss, &state, self.keep(), |dir| {
            kakusan_models::save(self.config.as_ref(), &self.weights, &dir.join(UNET))?;
            for i in 0..self.averages.len() {
                kakusan_models::save(self.config.as_ref(), &self.average(i)?, &dir.join(averages::folder_name(i)))?;
            }
            Ok(())
        })
    }

    /// Which checkpoints to keep.
    pub(crate) fn keep(&self) -> Keep {
        Keep { newest: self.train.keep_checkpoints, best: self.train.keep_best }
    }

    /// Restores a checkpoint: from then on every number equals that of the uninterrupted training. If the checkpoint is
    /// refused, nothing changes.
    ///
    /// # Errors
    /// When a file of `dir` is missing or was modified, or belongs to another training.
    pub fn load_checkpoint(&mut self, dir: &Path) -> Result<()> {
        self.go_back(dir, false)
    }

    /// As [`load_checkpoint`](Self::load_checkpoint), but also accepts a checkpoint of a training on more or fewer
    /// images, or with another `batch_size` or `gradient_accumulation_steps`. The current epoch then starts again.
    ///
    /// # Errors
    /// As [`load_checkpoint`](Self::load_checkpoint).
    pub fn load_changed_checkpoint(&mut self, dir: &Path) -> Result<()> {
        self.go_back(dir, true)
    }

    fn go_back(&mut self, dir: &Path, allow_changes: bool) -> Result<()> {
        let batching = self.progress.batching;
        let (mut progress, state) = checkpoint::read(dir, batching)?;
        if progress.batching != batching && allow_changes {
            (progress.batching, progress.batch, progress.epoch_began) = (batching, 0, progress.step);
        }
        let done = progress.epoch_began.checked_add(batching.steps(progress.batch));
        // steps without a decodable image are not counted
        let fits = |done| if self.may_skip { progress.step <= done } else { progress.step == done };
        // every epoch has at least one step
        if progress.batching != batching
            || !done.is_some_and(fits)
            || progress.epoch > progress.epoch_began
            || progress.batch >= batching.batches_per_epoch()
        {
            return Err(checkpoint::unusable(dir, "it is from a training with other data or another batch_size"));
        }
        // the number planned at the beginning, even if epochs have had fewer steps since
        let total_steps = match self.may_skip && !allow_changes {
            true => self.total_steps,
            false => total_steps(&self.train, &progress),
        };
        let schedule = LrSchedule::new(&self.train, total_steps).map_err(Error::Unfit)?;
        let load =
            |component: &str| beginning::load(self.config.as_ref(), &self.train, &dir.join(component), &self.device);
        let (weights, model) = load(UNET)?;
        let mut optimizer = Optimizer::new(&self.train, &weights)?;
        let loaded = optimizer.load_state(&weights, progress.step, state);
        loaded.map_err(|reason| checkpoint::unusable(dir, &reason))?;
        let mut averages = averages::begin(&self.train, &weights.vars())?;
        for (i, average) in averages.iter_mut().enumerate() {
            let (saved, _) = load(&averages::folder_name(i))?;
            let shadow = saved.trained().map(|(_, var)| var.as_tensor().clone()).collect();
            average.load_state(&EmaState { steps: progress.step as u64, shadow })?;
        }
        let begun = || self.loader.epoch(&mut progress.epoch_rng.clone()).skip_batches(progress.batch);
        (self.batches, self.ahead) = ((progress.batch > 0).then(begun), None);
        (self.weights, self.model, self.optimizer, self.averages, self.progress) =
            (weights, model, optimizer, averages, progress);
        (self.total_steps, self.schedule) = (total_steps, schedule);
        (self.changes, self.missing) = (vec![], None);
        Ok(())
    }
}

/// The total optimiser steps of a training: those before the current epoch began, and those of all epochs from it on.
fn total_steps(train: &TrainConfig, progress: &Progress) -> usize {
    let epochs = train.epochs.saturating_sub(progress.epoch);
    let all = progress.epoch_began.saturating_add(epochs.saturating_mul(progress.batching.steps_per_epoch()));
    train.max_steps.map_or(all, |most| most.min(all))
}

/// Refuses images whose class the model does not have, or reserves for "no class".
pub(crate) fn check_classes(config: &RunConfig, images: &ImageSet) -> Result<()> {
    let Some(known) = config.model.num_classes() else { return Ok(()) };
    let highest = images.labels().iter().max().map_or(0, |&label| label as usize);
    let none = config.train.class_dropout.is_some();
    if highest + usize::from(none) < known {
        return Ok(());
    }
    let (needed, for_none) =
        (highest + 1 + usize::from(none), if none { ", and one that stands for none" } else { "" });
    Err(Error::Unfit(format!(
        "the images have classes 0 to {highest}{for_none}, but the model knows {known}: set model.num_class_embeds to {needed}"
    )))
}

mod beginning;
mod tests;
mod together;
mod validation;
