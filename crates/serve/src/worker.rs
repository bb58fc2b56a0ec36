//! The thread that draws. It owns the models; rayon's threads compute under it.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use kakusan::candle::{Device, Tensor};
use kakusan::pipeline::{DDPMPipeline, Error, Registry, Result, SampleStep};
use kakusan::report::pictures::not_finite;
use kakusan::rng::PerImage;
use kakusan::scheduler::PixelRange;

use crate::draw::{Draw, Stage};
use crate::draws::Draws;
use crate::models::{Model, fingerprint};
use crate::pictures;
use crate::settings::Limits;

/// A model in memory.
struct Loaded {
    name: String,
    fingerprint: u64,
    pipeline: DDPMPipeline,
}

/// The models in memory.
struct Held {
    /// The one that was used last comes first.
    models: Vec<Loaded>,
    most: usize,
    registry: Registry,
    device: Device,
}

/// Draws until the server stops.
pub(crate) fn work(draws: &Draws, limits: &Limits, device: Device) {
    let mut models = Held { models: vec![], most: limits.held_models, registry: Registry::default(), device };
    while let Some(batch) = draws.next() {
        let drawn = catch_unwind(AssertUnwindSafe(|| draw(&batch, &mut models, draws, limits)));
        let error = match drawn {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => {
                models.models.clear(); // whatever state they are in
                Some("the drawing failed unexpectedly; the server is still at work".to_owned())
            }
        };
        for draw in &batch {
            let (stage, error) = match (&error, draw.images()) {
                (None, Some(_)) => (Stage::Done, None),
                (None, None) => (Stage::Failed, Some("it was stopped before the end".to_owned())),
                (error, _) => (Stage::Failed, error.clone()),
            };
            draws.end(draw, stage, error); // no change of those that have ended
        }
    }
}

fn draw(batch: &[Arc<Draw>], models: &mut Held, draws: &Draws, limits: &Limits) -> Result<()> {
    let Some(first) = batch.first() else { return Ok(()) };
    let plan = &first.plan;
    let pipeline = models.get(&plan.model)?;
    pipeline.set_scheduler(plan.scheduler.clone())?;
    let range = plan.scheduler.process().pixel_range();
    let began = Instant::now();
    let stop = |done: usize, steps: usize| -> ControlFlow<()> {
        batch.iter().for_each(|draw| draw.advance(done, steps));
        if began.elapsed() > limits.max_time {
            let seconds = limits.max_time.as_secs();
            let why = format!("it took longer than {seconds} seconds: ask for fewer images or steps");
            batch.iter().for_each(|draw| draws.end(draw, Stage::Failed, Some(why.clone())));
        }
        if batch.iter().all(|draw| draw.is_given_up()) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut failed = None;
    let watch = |step: &SampleStep| {
        let kept = keep(batch, range, step.index, step.sample, &step.output.prev_sample);
        failed = kept.err();
        if failed.is_some() { ControlFlow::Break(()) } else { stop(step.index + 1, step.steps) }
    };
    let sample = sample(batch, pipeline, watch, stop)?;
    if let Some(error) = failed {
        return Err(error);
    }
    match sample {
        Some(sample) => finish(batch, &sample, range),
        None => Ok(()),
    }
}

/// The images of the batch, in the scheduler's range; `None` if they were given up.
fn sample(
    batch: &[Arc<Draw>],
    pipeline: &DDPMPipeline,
    mut watch: impl FnMut(&SampleStep) -> ControlFlow<()>,
    stop: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Tensor>> {
    let Some(first) = batch.first() else { return Ok(None) };
    let (plan, count) = (&first.plan, batch.iter().map(|draw| draw.plan.count).sum());
    let labels = batch.iter().map(|draw| draw.plan.settings.class_labels.clone());
    let labels = labels.collect::<Option<Vec<_>>>().map(|labels| labels.concat());
    let options = plan.options(count, labels);
    if let Some(way) = plan.settings.interpolate {
        return Ok(pipeline.interpolate([way.from, way.to], &options, stop)?.map(|way| way.images));
    }
    let seeds = batch.iter().flat_map(|draw| draw.plan.settings.seeds.iter().copied());
    let mut noise = PerImage::from_seeds(seeds);
    let mut stopped = false;
    let watch = |step: &SampleStep| {
        let flow = watch(step);
        stopped = flow.is_break();
        flow
    };
    let sample = match &plan.given {
        Some(given) if plan.repaints() => {
            let images = given.images(pipeline, count)?;
            let outside = given.outside()?.to_device(images.device())?;
            pipeline.repaint(&images, &outside, &plan.repaint_options(), &mut noise, watch)?
        }
        Some(given) => {
            let mask = given.mask().map(|mask| mask.to_device(pipeline.weights().device())).transpose()?;
            let strength = plan.settings.strength.unwrap_or(1.0);
            let options = options.image_to_image(given.images(pipeline, count)?, strength).mask(mask);
            pipeline.sample_with(&options, &mut noise, watch)?
        }
        None => pipeline.sample_with(&options, &mut noise, watch)?,
    };
    Ok((!stopped).then_some(sample))
}

/// Keeps the images of a step for the draws that want them.
fn keep(batch: &[Arc<Draw>], range: PixelRange, index: usize, before: &Tensor, after: &Tensor) -> Result<()> {
    if !batch.iter().any(|draw| draw.plan.settings.trajectory) {
        return Ok(());
    }
    let samples = if index == 0 { vec![before, after] } else { vec![after] };
    for sample in samples {
        for (draw, pixels) in batch.iter().zip(parts(batch, &pictures::unit(sample, range)?)?) {
            if draw.plan.settings.trajectory && !draw.is_given_up() {
                draw.keep_step(pictures::bytes(&pixels));
            }
        }
    }
    Ok(())
}

/// Keeps the finished images; those of a draw whose values are not finite are an error of that draw.
fn finish(batch: &[Arc<Draw>], sample: &Tensor, range: PixelRange) -> Result<()> {
    let unit = range.to_unit(sample)?.to_device(&Device::Cpu)?;
    let given = batch.first().and_then(|draw| draw.plan.given.as_ref());
    let unit = given.map_or_else(|| Ok(unit.clone()), |given| given.kept(&unit))?;
    let unit = unit.narrow(1, 0, pictures::shown(unit.dim(1)?))?;
    for (draw, pixels) in batch.iter().zip(parts(batch, &unit)?) {
        match not_finite(pixels.iter().copied()) {
            _ if draw.is_given_up() => {}
            None => {
                draw.finish_steps(pictures::bytes(&pixels));
                draw.keep_images(pixels);
            }
            Some(trouble) => {
                let reason = "the model's weights have diverged in training, or do not fit the scheduler";
                draw.end(Stage::Failed, Some(format!("{trouble}; {reason}")));
            }
        }
    }
    Ok(())
}

/// The pixels of each draw of a batch.
fn parts(batch: &[Arc<Draw>], images: &Tensor) -> Result<Vec<Vec<f32>>> {
    let mut first = 0;
    let part = |draw: &Arc<Draw>| -> Result<Vec<f32>> {
        let pixels = images.narrow(0, first, draw.plan.count)?.flatten_all()?.to_vec1()?;
        first += draw.plan.count;
        Ok(pixels)
    };
    batch.iter().map(part).collect()
}

impl Held {
    /// The model; loads it if it is not in memory, or has changed on the disk since. The one that was not used for the
    /// longest time makes room.
    fn get(&mut self, model: &Model) -> Result<&mut DDPMPipeline> {
        let fingerprint = fingerprint(&model.dir);
        let place = self.models.iter().position(|loaded| loaded.name == model.name);
        let found = place.map(|place| self.models.remove(place)).filter(|loaded| loaded.fingerprint == fingerprint);
        let loaded = match found {
            Some(found) => found,
            None => {
                self.models.truncate(self.most.saturating_sub(1)); // before the memory is needed
                Loaded { name: model.name.clone(), fingerprint, pipeline: self.load(model)? }
            }
        };
        self.models.insert(0, loaded);
        match self.models.first_mut() {
            Some(first) => Ok(&mut first.pipeline),
            None => Err(Error::Unfit("no model can be held".into())), // it was just put there
        }
    }

    fn load(&self, model: &Model) -> Result<DDPMPipeline> {
        let (dir, registry, device) = (&model.dir, &self.registry, &self.device);
        let pipeline = match DDPMPipeline::is_unfinished(dir) {
            true => DDPMPipeline::from_run(dir, None, registry, device)?.pipeline,
            false => DDPMPipeline::from_pretrained(dir, registry, device)?,
        };
        if pipeline.sample_shape()? != model.shape || pipeline.model_config().num_classes() != model.num_classes {
            return Err(Error::Unfit(format!("the model `{}` has changed: ask again", model.name)));
        }
        Ok(pipeline)
    }
}
