//! Losses without gradients: of images that the training does not see, and of a few to see that the weights are sound.

use candle_core::Tensor;
use kakusan_data::ImageSet;
use kakusan_models::{Model, Weights};
use kakusan_rng::Generator;
use kakusan_scheduler::Draw;

use super::Trainer;
use crate::{Error, Result};

/// The loss on images that the training does not see: [`Trainer::validate`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Validated {
    /// That of the weights.
    pub loss: f32,
    /// That of their average, if one is kept.
    pub ema_loss: Option<f32>,
}

impl Validated {
    /// The loss of the weights that sampling uses.
    pub fn of_sampling(&self) -> f32 {
        self.ema_loss.unwrap_or(self.loss)
    }
}

impl Trainer {
    /// Checks that the weights, and their average if one is kept, are finite, and that the network still predicts
    /// finite numbers. The loss of a step cannot show this: it is that of the weights before the step. Consumes no
    /// random number of the training.
    ///
    /// # Errors
    /// [`Error::Unsound`] if a check fails.
    pub fn check_sound(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Unsound { what, step: self.progress.step, last_checkpoint: None });
        let averages = (0..self.averages.len()).map(|i| self.average(i)).collect::<Result<Vec<_>>>()?;
        let averages = averages.iter().map(|average| ("the average of ", average));
        for (of, weights) in [("", &self.weights)].into_iter().chain(averages) {
            if let Some(name) = weights.not_finite()? {
                return refuse(format!("{of}the weight {name} is not finite"));
            }
            let loss = self.trial_loss(weights)?;
            if !loss.is_finite() {
                return refuse(format!("the loss that {of}the weights would have is {loss}"));
            }
        }
        Ok(())
    }

    /// The loss of `weights` on a few images of noise, at levels drawn as in training.
    fn trial_loss(&self, weights: &Weights) -> Result<f32> {
        const IMAGES: usize = 8;
        let [channels, height, width] = self.config.sample_shape()?;
        let mut rng = Generator::new(self.train.seed);
        let unit = rng.rand(IMAGES * channels * height * width);
        let unit = Tensor::from_vec(unit, (IMAGES, channels, height, width), &self.device)?;
        let clean = self.process.pixel_range().from_unit(&self.train.scaled(unit)?)?;
        let model = weights.frozen(|vb| self.config.build(vb))?;
        self.loss_of(model.as_ref(), &clean, &[0; IMAGES], &mut rng)
    }

    /// The mean loss on `images`, which the training does not see, of the weights and of their average. The noise and
    /// the levels are the same each time, so that the losses of different steps can be compared. Of a large set, 4,096
    /// images are taken, evenly spaced. Consumes no random number of the training.
    ///
    /// # Errors
    /// When the images do not fit the model, or none of them can be decoded.
    pub fn validate(&self, images: &ImageSet) -> Result<Validated> {
        const MOST: usize = 4096;
        const BATCH: usize = 256;
        if images.shape() != self.images().shape() || images.are_latents() != self.images().are_latents() {
            let reason = "the images held out for validation are of another kind than those of the training";
            return Err(Error::Unfit(reason.into()));
        }
        let count = images.len().min(MOST);
        let places: Vec<usize> = (0..count).map(|i| i * images.len() / count).collect();
        let loss = |weights: &Weights| -> Result<f64> {
            let model = weights.frozen(|vb| self.config.build(vb))?;
            let mut rng = Generator::new(0);
            let (mut sum, mut decoded) = (0.0, 0);
            for places in places.chunks(BATCH) {
                let (mut pixels, mut labels) = (vec![], vec![]);
                for &place in places {
                    match images.pixels_f32(&[place]) {
                        Ok(more) => pixels.extend(more),
                        Err(_) if images.may_skip() => continue,
                        Err(e) => return Err(e.into()),
                    }
                    labels.push(images.labels()[place]);
                }
                if !labels.is_empty() {
                    let clean = self.clean(&pixels, labels.len())?;
                    sum += f64::from(self.loss_of(model.as_ref(), &clean, &labels, &mut rng)?) * labels.len() as f64;
                    decoded += labels.len();
                }
            }
            match decoded {
                0 => Err(Error::Unfit("no image that is held out for validation can be decoded".into())),
                _ => Ok(sum / decoded as f64),
            }
        };
        let average = (!self.averages.is_empty()).then(|| self.sampling_weights()).transpose()?;
        let ema_loss = average.map(|weights| loss(&weights)).transpose()?;
        Ok(Validated { loss: loss(&self.weights)? as f32, ema_loss: ema_loss.map(|loss| loss as f32) })
    }

    /// The loss of a model on `clean` images of the classes `labels`, without gradients.
    fn loss_of(&self, model: &dyn Model, clean: &Tensor, labels: &[u32], rng: &mut Generator) -> Result<f32> {
        let process = &self.process;
        let Draw { noise, levels } = process.draw(clean, rng)?;
        let labels = match self.config.num_classes() {
            Some(_) => Some(Tensor::from_slice(labels, labels.len(), &self.device)?),
            None => None,
        };
        let noisy = process.add_noise(clean, &noise, &levels)?;
        let target = process.target(clean, &noise, &levels)?;
        let input = process.scale_model_input(&noisy, &levels)?;
        let conditioning = process.conditioning(&levels, &self.device)?;
        let prediction = kakusan_ops::predict(levels.len(), &self.device, |part| -> Result<Tensor> {
            let of = |batch: &Tensor| batch.narrow(0, part.start, part.len());
            let labels = labels.as_ref().map(of).transpose()?;
            Ok(model.forward(&of(&input)?, &of(&conditioning)?, labels.as_ref())?)
        })?;
        Ok(self.objective.loss(&prediction, &target, &levels)?.to_scalar()?)
    }
}
