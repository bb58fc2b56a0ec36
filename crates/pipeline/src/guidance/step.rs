use std::ops::Range;

use candle_core::{DType, Tensor, Var};
use kakusan_scheduler::{PixelRange, Run, Scheduler};

use super::{Guidance, GuidanceWay, Guide, Predicted};
use crate::{Error, Result, SampleOptions};

/// The guides of one sampling.
#[derive(Debug)]
pub(crate) struct Guides {
    guides: Vec<Guide>,
    way: GuidanceWay,
    range: PixelRange,
    calls: usize,
}

/// Those of one model call, with their strengths.
pub(crate) struct GuidedCall<'a> {
    guides: Vec<(&'a dyn Guidance, f64)>,
    way: GuidanceWay,
    range: PixelRange,
    index: usize,
}

impl Guides {
    /// No guides.
    pub(crate) fn none() -> Self {
        Self { guides: vec![], way: GuidanceWay::default(), range: PixelRange::MinusOneToOne, calls: 0 }
    }

    /// Those of a sampling of images of `shape` `[c, h, w]`.
    ///
    /// # Errors
    /// When a guide does not fit the images or the steps of `run`.
    pub(crate) fn new(
        options: &SampleOptions,
        scheduler: &dyn Scheduler,
        run: &dyn Run,
        shape: [usize; 3],
    ) -> Result<Self> {
        let (first, calls) = (run.steps().index()?, run.timesteps().len());
        for guide in &options.guides {
            guide.check(first, calls)?;
            guide.guidance().check(options.batch_size, shape)?;
        }
        let range = scheduler.process().pixel_range();
        Ok(Self { guides: options.guides.clone(), way: options.guidance_way, range, calls })
    }

    /// Those of model call `index`; `None` if there are none.
    pub(crate) fn at(&self, index: usize) -> Option<GuidedCall<'_>> {
        let strength = |guide: &Guide| guide.strength_at(index, self.calls);
        let guides = self.guides.iter().map(|guide| (guide.guidance(), strength(guide)));
        let guides: Vec<_> = guides.filter(|(_, strength)| *strength != 0.0).collect();
        (!guides.is_empty()).then_some(GuidedCall { guides, way: self.way, range: self.range, index })
    }
}

impl GuidedCall<'_> {
    /// Calls the model for `sample` `[b, c, h, w]`: its output, and the sample moved down the gradient of the losses.
    /// `predict` gives the output for the model's input of a part of the batch.
    ///
    /// A part runs forward and backward on one thread before the next one begins ([`kakusan_ops::predict`]).
    pub(crate) fn predict(
        &self,
        run: &dyn Run,
        sample: &Tensor,
        predict: impl Fn(&Tensor, Range<usize>) -> Result<Tensor> + Sync,
    ) -> Result<(Tensor, Tensor)> {
        let (batch, channels) = (sample.dim(0)?, sample.dim(1)?);
        let both = kakusan_ops::predict(batch, sample.device(), |part| {
            let x = Var::from_tensor(&sample.narrow(0, part.start, part.len())?)?;
            let seen = match self.way {
                GuidanceWay::Through => x.as_tensor().clone(),
                GuidanceWay::Around => x.detach(),
            };
            let output = predict(&run.scale_model_input(&seen)?, part.clone())?;
            let predicted = run.pred_original_sample(&output, &x)?;
            let gradient = self.gradient(&predicted, &x, part)?;
            Ok::<_, Error>(Tensor::cat(&[&gradient, &output.detach()], 1)?)
        })?;
        let gradient = both.narrow(1, 0, channels)?;
        let output = both.narrow(1, channels, both.dim(1)? - channels)?.contiguous()?;
        Ok((output, (sample - gradient)?))
    }

    /// The gradient by `x` of the weighted losses of images that were predicted from it.
    fn gradient(&self, predicted: &Tensor, x: &Tensor, part: Range<usize>) -> Result<Tensor> {
        if !predicted.track_op() {
            return Err(Error::Unfit(
                "this model predicts the image itself, which around the network does not depend on the sample: guide \
                 through the network"
                    .into(),
            ));
        }
        let images = match self.range {
            PixelRange::MinusOneToOne => predicted.clone(),
            PixelRange::ZeroToOne => predicted.affine(2.0, -1.0)?,
        };
        let images = Predicted { images: &images, part, index: self.index };
        let mut sum = None;
        for (guidance, strength) in &self.guides {
            let loss = guidance.loss(&images)?;
            self.check_loss(&loss, *guidance, *strength, images.part.len())?;
            let loss = (loss.sum_all()? * *strength)?;
            sum = Some(match sum {
                None => loss,
                Some(sum) => (sum + loss)?,
            });
        }
        let Some(sum) = sum.filter(Tensor::track_op) else {
            let names: Vec<String> = self.guides.iter().map(|(guidance, _)| format!("{guidance:?}")).collect();
            return Err(Error::Unfit(format!(
                "the loss of {} does not depend on the images: compute it from them by operations with gradients",
                names.join(", ")
            )));
        };
        match kakusan_ops::backward(&sum)?.remove(x) {
            Some(gradient) => Ok(gradient),
            None => Ok(x.zeros_like()?), // the sample has no weight in the image, as where it is noise alone
        }
    }

    fn check_loss(&self, loss: &Tensor, guidance: &dyn Guidance, strength: f64, images: usize) -> Result<()> {
        if loss.dims() != [images] {
            return Err(Error::Unfit(format!(
                "the loss of {guidance:?} has the shape {:?}, expected a number for each image, [{images}]",
                loss.dims()
            )));
        }
        let losses = loss.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        match losses.into_iter().find(|loss| !loss.is_finite()) {
            None => Ok(()),
            Some(loss) => Err(Error::NotFinite(format!(
                "the loss of {guidance:?} is {loss} at model call {}: the images diverged; lower its strength, {strength}",
                self.index + 1
            ))),
        }
    }
}
