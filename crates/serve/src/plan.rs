//! A request that was checked: everything about it that can be refused is refused here, before it waits.

use std::sync::Arc;

use kakusan::candle::{DType, Device, Tensor};
use kakusan::pipeline::{Guidance, Guide, GuideKind, GuideSpec, SampleOptions};
use kakusan::scheduler::{RePaintOptions, RePaintScheduler, RunOptions, Scheduler};
use serde::Serialize;
use utoipa::ToSchema;

use crate::given::Given;
use crate::models::{Model, Models};
use crate::refusal::Refusal;
use crate::request::{DrawRequest, Interpolate, MaskWay};
use crate::settings::Limits;
use crate::spelling;

/// The share of the steps that is done from a picture, unless it is asked for or there is a mask, as in the command.
const STRENGTH: f64 = 0.6;
/// The most numbers of the images of one request.
const MAX_VALUES: usize = 1 << 24;
/// The most guides of one request.
const MAX_GUIDES: usize = 8;

/// The settings of a draw, with all defaults filled in.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct DrawSettings {
    /// The name of the model.
    pub(crate) model: String,
    /// The seed of each image; of an interpolation, those of both ends.
    pub(crate) seeds: Vec<u64>,
    /// Sampling steps.
    pub(crate) num_inference_steps: usize,
    /// The class of the scheduler.
    pub(crate) scheduler: String,
    /// The share of fresh noise in each step.
    pub(crate) eta: Option<f64>,
    /// The class of each image.
    pub(crate) class_labels: Option<Vec<u32>>,
    /// Classifier-free guidance; 1 is off.
    pub(crate) guidance_scale: f64,
    /// Losses that guide the sampling.
    pub(crate) guide: Vec<String>,
    /// Whether the images of each step are kept.
    pub(crate) trajectory: bool,
    /// Whether the sampling starts from a picture.
    pub(crate) init: bool,
    /// The share of the steps that is done from it.
    pub(crate) strength: Option<f64>,
    /// Whether a mask says where the picture is repainted.
    pub(crate) mask: bool,
    /// How it is repainted.
    pub(crate) mask_way: Option<MaskWay>,
    /// The ends of an interpolation.
    pub(crate) interpolate: Option<Interpolate>,
}

/// A draw that can be done.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) model: Arc<Model>,
    pub(crate) settings: DrawSettings,
    /// In place of the model's.
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) given: Option<Given>,
    guides: Vec<Guide>,
    /// The number of images.
    pub(crate) count: usize,
    /// The timestep of each model call.
    pub(crate) timesteps: Vec<f32>,
    /// What will hardly give the intended images.
    pub(crate) warnings: Vec<String>,
    /// The command that draws the same.
    pub(crate) command: String,
    /// The metadata of its pictures.
    pub(crate) about: Vec<(&'static str, String)>,
}

/// What requests have to agree in to be drawn in one batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Together {
    model: String,
    fingerprint: u64,
    scheduler: String,
    steps: usize,
    eta: Option<f64>,
    guidance_scale: f64,
    repeats: usize,
}

impl Plan {
    pub(crate) fn new(
        request: &DrawRequest,
        trajectory: bool,
        models: &Models,
        limits: &Limits,
        program: &str,
    ) -> Result<Self, Refusal> {
        let model = models.find(&request.model)?;
        let (seeds, count) = seeds(request, limits)?;
        let steps = request.num_inference_steps.unwrap_or(model.steps.min(limits.max_steps));
        if steps == 0 || steps > limits.max_steps {
            let reason = format!("num_inference_steps is {steps}; 1 to {} can be drawn here", limits.max_steps);
            return Err(Refusal::field("num_inference_steps", reason));
        }
        let repaints = request.mask_way == Some(MaskWay::Repaint);
        check_editing(request, &model, repaints)?;
        let scheduler = scheduler(request, &model, models)?;
        let given = match &request.init {
            Some(init) => Some(Given::read(init, request.mask.as_ref(), model.shape, limits.max_picture_pixels)?),
            None => None,
        };
        let starts = given.is_some() && !repaints;
        let strength = request.strength.or(request.mask.is_some().then_some(1.0)).unwrap_or(STRENGTH);
        let settings = DrawSettings {
            model: model.name.clone(),
            seeds,
            num_inference_steps: steps,
            scheduler: scheduler.class_name().to_owned(),
            eta: request.eta,
            class_labels: labels(request, &model, count)?,
            guidance_scale: guidance_scale(request, &model)?,
            guide: request.guide.clone().unwrap_or_default(),
            trajectory: request.trajectory.unwrap_or(trajectory) && request.interpolate.is_none(),
            init: given.is_some(),
            strength: starts.then_some(strength),
            mask: request.mask.is_some(),
            mask_way: request.mask.is_some().then(|| request.mask_way.unwrap_or(MaskWay::Blend)),
            interpolate: request.interpolate,
        };
        let guides = guides(request, model.shape, count)?;
        let timesteps = timesteps(&settings, scheduler.as_ref(), repaints)?;
        let (warnings, command, about) = (vec![], String::new(), vec![]);
        let mut plan = Self { model, settings, scheduler, given, guides, count, timesteps, warnings, command, about };
        plan.check_size(limits)?;
        if !repaints {
            let mut options = plan.options(count, None);
            options.run.start = plan.settings.strength.map_or(0, |strength| steps - done(steps, strength));
            let warnings = options.warnings(plan.scheduler.as_ref());
            plan.warnings = warnings.iter().map(ToString::to_string).collect();
        }
        plan.warnings.extend(untrained_class(&plan));
        plan.command = spelling::command(&plan, program);
        plan.about = spelling::about(&plan);
        Ok(plan)
    }

    pub(crate) fn repaints(&self) -> bool {
        self.settings.mask_way == Some(MaskWay::Repaint)
    }

    /// How it is drawn together with others: so many images with these labels.
    pub(crate) fn options(&self, count: usize, labels: Option<Vec<u32>>) -> SampleOptions {
        let run = RunOptions { eta: self.settings.eta, ..RunOptions::steps(self.settings.num_inference_steps) };
        let mut options = SampleOptions::new(count).run(run).class_labels(labels);
        options.guidance_scale = self.settings.guidance_scale;
        options.guides.clone_from(&self.guides);
        options
    }

    pub(crate) fn repaint_options(&self) -> RePaintOptions {
        repaint_options(&self.settings)
    }

    /// Requests with the same can be drawn in one batch; `None` draws alone.
    pub(crate) fn together(&self) -> Option<Together> {
        let DrawSettings { interpolate: None, scheduler, eta, guidance_scale, .. } = &self.settings else {
            return None;
        };
        let alone = self.given.is_some() || !self.guides.is_empty();
        (!alone).then(|| Together {
            model: self.model.name.clone(),
            fingerprint: self.model.fingerprint,
            scheduler: scheduler.clone(),
            steps: self.settings.num_inference_steps,
            eta: *eta,
            guidance_scale: *guidance_scale,
            repeats: self.timesteps.len(),
        })
    }

    /// About how many bytes its images and their steps take.
    pub(crate) fn bytes(&self) -> usize {
        let values = self.count * self.model.shape.iter().product::<usize>();
        let kept = if self.settings.trajectory { self.timesteps.len() + 1 } else { 0 };
        values.saturating_mul(kept + 4)
    }

    fn check_size(&self, limits: &Limits) -> Result<(), Refusal> {
        let [channels, height, width] = self.model.shape;
        let values = channels.saturating_mul(height).saturating_mul(width).saturating_mul(self.count);
        if values > MAX_VALUES {
            let most = (MAX_VALUES / (channels * height * width)).max(1);
            let reason =
                format!("{} images of {width} x {height} pixels are too many at once: at most {most}", self.count);
            return Err(Refusal::field("batch_size", reason));
        }
        if self.bytes() > limits.kept_bytes / 4 {
            return Err(Refusal::field(
                "trajectory",
                format!(
                    "the images of all {} steps are too much to keep: ask for fewer images or steps, or set trajectory \
                     to false",
                    self.timesteps.len()
                ),
            ));
        }
        Ok(())
    }
}

/// The seeds, and the number of images.
fn seeds(request: &DrawRequest, limits: &Limits) -> Result<(Vec<u64>, usize), Refusal> {
    let most = |field: &str, count: usize| match count {
        0 => Err(Refusal::field(field, format!("{field} asks for no image: 1 to {} can be drawn", limits.max_images))),
        count if count > limits.max_images => {
            let reason = format!("{field} asks for {count} images; 1 to {} can be drawn at once", limits.max_images);
            Err(Refusal::field(field, reason))
        }
        count => Ok(count),
    };
    let both = |one: &str, other: &str| Refusal::field(one, format!("leave out {one} or {other}: both say the seeds"));
    if let Some(Interpolate { from, to, frames }) = request.interpolate {
        if request.seeds.is_some() || request.seed.is_some() || request.batch_size.is_some() {
            return Err(both("interpolate", "seeds, seed and batch_size"));
        }
        if from == to {
            return Err(Refusal::field("interpolate", "an interpolation is between two different seeds"));
        }
        if frames < 2 {
            return Err(Refusal::field("interpolate", format!("frames is {frames}; an interpolation has at least 2")));
        }
        return Ok((vec![from, to], most("interpolate", frames)?));
    }
    if let Some(seeds) = &request.seeds {
        if request.seed.is_some() || request.batch_size.is_some() {
            return Err(both("seeds", "seed and batch_size"));
        }
        return Ok((seeds.clone(), most("seeds", seeds.len())?));
    }
    let (first, count) = (request.seed.unwrap_or(0), most("batch_size", request.batch_size.unwrap_or(1))?);
    match first.checked_add(count as u64 - 1) {
        Some(last) => Ok(((first..=last).collect(), count)),
        None => Err(Refusal::field("seed", format!("{count} seeds from {first} go beyond {}", u64::MAX))),
    }
}

/// Refuses what has no meaning together.
fn check_editing(request: &DrawRequest, model: &Model, repaints: bool) -> Result<(), Refusal> {
    let refuse = |field: &str, reason: &str| Err(Refusal::field(field, reason));
    if request.init.is_none() {
        if request.strength.is_some() {
            return refuse("strength", "strength needs a picture to start from: add init");
        }
        if request.mask.is_some() {
            return refuse("mask", "a mask needs a picture, of which it keeps a part: add init");
        }
    }
    if request.mask.is_none() && request.mask_way.is_some() {
        return refuse("mask_way", "mask_way has no effect without mask");
    }
    if request.init.is_some() && request.interpolate.is_some() {
        return refuse("interpolate", "an interpolation starts from noise: leave out init");
    }
    if let Some(strength) = request.strength
        && !(strength > 0.0 && strength <= 1.0)
    {
        return refuse("strength", &format!("strength is {strength}; it is above 0 and at most 1"));
    }
    if let Some(eta) = request.eta
        && !(0.0..=1.0).contains(&eta)
    {
        return refuse("eta", &format!("eta is {eta}; it is from 0 to 1"));
    }
    if !repaints {
        return Ok(());
    }
    if model.num_classes.is_some() {
        return refuse("mask_way", "repaint draws without classes, which this model needs: take blend");
    }
    let set = [
        ("scheduler", request.scheduler.is_some()),
        ("strength", request.strength.is_some()),
        ("guidance_scale", request.guidance_scale.is_some_and(|scale| scale != 1.0)),
        ("guide", request.guide.as_ref().is_some_and(|guides| !guides.is_empty())),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        Some((name, _)) => refuse(
            name,
            &format!("{name} has no effect with mask_way repaint, which samples by RePaintScheduler: take blend"),
        ),
        None => Ok(()),
    }
}

fn scheduler(request: &DrawRequest, model: &Model, models: &Models) -> Result<Arc<dyn Scheduler>, Refusal> {
    let Some(name) = &request.scheduler else { return Ok(model.scheduler.clone()) };
    let known = &models.registry().schedulers;
    let refused = |e: kakusan::scheduler::Error| Refusal::field("scheduler", e.to_string());
    known.swap(known.resolve(name).map_err(refused)?, model.scheduler.as_ref()).map_err(refused)
}

fn labels(request: &DrawRequest, model: &Model, count: usize) -> Result<Option<Vec<u32>>, Refusal> {
    let (field, asked) = match (&request.class_label, &request.class_labels) {
        (Some(_), Some(_)) => {
            return Err(Refusal::field("class_labels", "leave out class_label or class_labels: both say the classes"));
        }
        (Some(label), None) => ("class_label", vec![*label]),
        (None, Some(labels)) => ("class_labels", labels.clone()),
        (None, None) => ("class_label", model.labels.only_class().map_or(vec![], |labels| labels[..1].to_vec())),
    };
    let Some(classes) = model.num_classes else {
        let given = request.class_label.is_some() || request.class_labels.is_some();
        return if given { Err(Refusal::field(field, "this model has no classes: leave it out")) } else { Ok(None) };
    };
    if asked.is_empty() {
        let reason = format!("this model needs a class for each image, from 0 to {}", classes - 1);
        return Err(Refusal::field(field, reason));
    }
    if let Some(label) = asked.iter().find(|&&label| label as usize >= classes) {
        return Err(Refusal::field(field, format!("there is no class {label}; the model has 0 to {}", classes - 1)));
    }
    let most = if request.interpolate.is_some() { 1 } else { count };
    if asked.len() > most {
        return Err(Refusal::field(field, format!("{} classes for {most} images: name fewer", asked.len())));
    }
    // a class that has several labels takes them as often as the training had images of them
    let known = model.labels.by_class();
    let of_class = |label: u32| {
        let class = known.iter().find(|(_, labels)| labels.contains(&label));
        class.map_or_else(|| vec![label], |(_, labels)| labels.clone())
    };
    let classes: Vec<Vec<u32>> = asked.into_iter().map(of_class).collect();
    let mut labels = model.labels.in_turn(&classes);
    if request.interpolate.is_some() {
        labels.truncate(1); // one of the class's labels: others would change the images, too
    }
    Ok(Some(labels.into_iter().cycle().take(count).collect()))
}

/// A warning of a class that the model never saw.
fn untrained_class(plan: &Plan) -> Option<String> {
    let (known, count) = (&plan.model.labels, plan.model.num_classes?);
    let label = plan.settings.class_labels.iter().flatten().find(|&&label| !known.include(label, count))?;
    Some(format!(
        "class {label}: the training had no images of it, so its images mean nothing unless a model before a \
         fine-tuning knew it"
    ))
}

fn guidance_scale(request: &DrawRequest, model: &Model) -> Result<f64, Refusal> {
    match request.guidance_scale {
        Some(scale) if scale != 1.0 && model.num_classes.is_none() => Err(Refusal::field(
            "guidance_scale",
            "guidance needs a class-conditional model, and this model has no classes: leave it out",
        )),
        scale => Ok(scale.unwrap_or(1.0)),
    }
}

fn guides(request: &DrawRequest, shape: [usize; 3], count: usize) -> Result<Vec<Guide>, Refusal> {
    let refuse = |reason: String| Refusal::field("guide", reason);
    let texts = request.guide.as_deref().unwrap_or_default();
    if texts.len() > MAX_GUIDES {
        return Err(refuse(format!("{} guides; at most {MAX_GUIDES} are taken here", texts.len())));
    }
    let guide = |text: &String| {
        let spec: GuideSpec = text.parse().map_err(|e: kakusan::pipeline::Error| refuse(e.to_string()))?;
        let guidance: Arc<dyn Guidance> = match spec.kind {
            GuideKind::Colour(colour) => Arc::new(colour),
            GuideKind::Brightness(brightness) => Arc::new(brightness),
            _ => {
                return Err(refuse(format!(
                    "`{text}` is for the command line, which reads its files; here colour=#1e90ff:40 and \
                     brightness=0.8:20 can be used"
                )));
            }
        };
        guidance.check(count, shape).map_err(|e| refuse(e.to_string()))?;
        Ok(Guide::shared(guidance, spec.strength))
    };
    texts.iter().map(guide).collect()
}

fn repaint_options(settings: &DrawSettings) -> RePaintOptions {
    RePaintOptions { num_inference_steps: settings.num_inference_steps, eta: settings.eta, ..RePaintOptions::default() }
}

/// The steps that a strength does, of so many.
fn done(steps: usize, strength: f64) -> usize {
    ((steps as f64 * strength) as usize).min(steps)
}

/// The timestep of each model call; refuses what the scheduler cannot do.
fn timesteps(settings: &DrawSettings, scheduler: &dyn Scheduler, repaints: bool) -> Result<Vec<f32>, Refusal> {
    let steps = settings.num_inference_steps;
    if repaints {
        let repaint = || -> kakusan::pipeline::Result<Vec<f32>> {
            kakusan::scheduler::Registry::default().swap(RePaintScheduler::CLASS_NAME, scheduler)?;
            let any = Tensor::zeros((1, 1, 1, 1), DType::F32, &Device::Cpu)?; // the calls do not depend on the images
            let run = RePaintScheduler::from_config(&scheduler.config())?;
            Ok(run.repaint_run(&repaint_options(settings), &any, &any)?.timesteps().to_vec())
        };
        return repaint().map_err(|e| Refusal::field("mask_way", e.to_string()));
    }
    scheduler.run_with(&RunOptions::steps(steps)).map_err(|e| Refusal::field("num_inference_steps", e.to_string()))?;
    let start = match settings.strength {
        None => 0,
        Some(strength) if done(steps, strength) == 0 => {
            let reason = format!(
                "with strength {strength} none of {steps} steps would be done: choose a larger strength or more steps"
            );
            return Err(Refusal::field("strength", reason));
        }
        Some(strength) => steps - done(steps, strength),
    };
    let field = if settings.eta.is_some() { "eta" } else { "strength" };
    let options = RunOptions { eta: settings.eta, start, ..RunOptions::steps(steps) };
    let run = scheduler.run_with(&options).map_err(|e| Refusal::field(field, e.to_string()))?;
    Ok(run.timesteps().to_vec())
}
