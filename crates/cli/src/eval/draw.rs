//! Draws the samples that are measured.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use kakusan::candle::{DType, Device, Tensor};
use kakusan::data::ImageSet;
use kakusan::eval::Pixels;
use kakusan::pipeline::{DDPMPipeline, Error, Result, SampleOptions};
use kakusan::rng::{Generator, PerImage};

use super::data::Compared;

/// Which samples are drawn.
pub(super) struct Samples {
    /// How: the scheduler's options and the guidance.
    pub(super) options: SampleOptions,
    /// The class of each, for a class-conditional model.
    pub(super) labels: Option<Vec<u32>>,
    pub(super) count: usize,
    /// The seed of the first one; the next one has the next seed.
    pub(super) seed: u64,
    /// How many are drawn at a time, which does not change them.
    pub(super) batch: usize,
    /// What they begin with, if not with noise.
    pub(super) restored: Option<Restored>,
}

/// Images of the data that get noise, and are restored.
pub(super) struct Restored {
    pub(super) set: Arc<ImageSet>,
    /// The image for each sample.
    pub(super) indices: Vec<usize>,
    /// The share of the steps that restores them.
    pub(super) strength: f64,
}

impl Restored {
    fn images(&self, pipeline: &DDPMPipeline, range: Range<usize>) -> Result<Tensor> {
        let [c, h, w] = self.set.shape();
        let pixels = self.set.pixels_f32(&self.indices[range.clone()])?;
        pipeline.preprocess(&Tensor::from_vec(pixels, (range.len(), c, h, w), pipeline.device())?)
    }
}

impl Samples {
    /// Draws them. `watch` is told how many are done; if it breaks, that is an error.
    pub(super) fn draw(
        self,
        pipeline: &DDPMPipeline,
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Pixels> {
        let Self { options, labels, count, seed, batch, restored } = self;
        let range = pipeline.scheduler().process().pixel_range();
        let mut pixels = Pixels::none(pipeline.sample_shape()?);
        for start in (0..count).step_by(batch.max(1)) {
            let end = count.min(start + batch.max(1));
            let labels = labels.as_ref().map(|labels| labels[start..end].to_vec());
            let mut options = options.clone().class_labels(labels);
            options.batch_size = end - start;
            if let Some(restored) = &restored {
                options = options.image_to_image(restored.images(pipeline, start..end)?, restored.strength);
            }
            let mut noise = PerImage::from_seeds((start..end).map(|i| seed + i as u64));
            let mut stopped = false;
            let sample = pipeline.sample_with(&options, &mut noise, |step| {
                let flow = watch(start + (end - start) * (step.index + 1) / step.steps.max(1));
                stopped |= flow.is_break();
                flow
            })?;
            if stopped {
                return Err(Error::Unfit("stopped before the end".to_owned()));
            }
            pixels.add(&range.to_unit(&sample)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)?;
        }
        Ok(pixels)
    }
}

/// An image of the data for each of `count` samples, in an order drawn from the seed: each class is as often among them
/// as in the data.
pub(super) fn some_of(compared: &Compared, seed: u64, count: usize) -> Vec<usize> {
    let indices = &compared.reference.1;
    let order = Generator::new(seed).randperm(indices.len());
    order.iter().cycle().take(count).map(|&i| indices[i]).collect()
}
