//! Sampling: the loop of diffusers' pipelines, for any scheduler.

use std::ops::{ControlFlow, Range};

use candle_core::Tensor;
use kakusan_ops::PreparedWeights;
use kakusan_rng::{Generator, Noise};
use kakusan_scheduler::{
    DDIMScheduler, HeunDiscreteScheduler, RePaintOptions, RePaintScheduler, Registry, Run, RunOptions, Scheduler,
    StepOutput,
};

use crate::edit::{Known, Start};
use crate::guidance::{GuidanceWay, Guide, Guides, rescale_noise_cfg};
use crate::{DDPMPipeline, Error, Result, device};

/// Heun's first step is too long if it divides the noise level by more than this. In 30 steps, `squaredcos_cap_v2`
/// divides it by 1,000, linear betas by 1.5, EDM's levels by 2.
const LONG_STEP: f32 = 30.0;

/// What to draw, and how.
///
/// ```
/// use kakusan_pipeline::SampleOptions;
///
/// // four images of class 3 in fifty steps, further from what the other classes have in common
/// let options = SampleOptions::new(4).steps(50).class_labels(vec![3; 4]).guidance_scale(4.0);
/// assert_eq!(options.batch_size, 4);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SampleOptions {
    /// Number of images.
    pub batch_size: usize,
    /// The scheduler's options: the number of steps, and more.
    pub run: RunOptions,
    /// The class of each image, for a class-conditional model.
    pub class_labels: Option<Vec<u32>>,
    /// Classifier-free guidance (Ho and Salimans 2022). The model predicts with the image's class and with its last
    /// class, which means no class. A scale of 0 takes the prediction without a class, 1 the one with it, and a larger
    /// one extrapolates further in that direction. 1 turns guidance off: one model call per step.
    pub guidance_scale: f64,
    /// The noise levels at which guidance is on: above the first and up to the second ([Kynkäänniemi et al.
    /// 2024](https://arxiv.org/abs/2404.07724)). The level is that of the paper, the weight of the noise relative to
    /// that of the image: σ of `x₀ + σ ε`, which is `σ / (1 - σ)` in a flow. At other levels, the model is called once,
    /// with the class. `None` guides every step.
    pub guidance_interval: Option<[f64; 2]>,
    /// How much of the guided prediction is rescaled to the standard deviation of the one with the class, from 0, none,
    /// to 1 ([`rescale_noise_cfg`]; 0.7 is usual): large scales otherwise give images of too much contrast, most of all
    /// models whose noise schedule ends in noise alone.
    pub guidance_rescale: f64,
    /// Losses whose gradients guide the sampling.
    pub guides: Vec<Guide>,
    /// How these gradients are taken.
    pub guidance_way: GuidanceWay,
    /// Images `[b, c, h, w]` in the scheduler's range to start from, instead of pure noise. They are noised to the
    /// level at which the run starts ([`strength`](Self::strength), or else [`RunOptions::start`]). If they are fewer
    /// than the batch, they take turns.
    pub images: Option<Tensor>,
    /// The share of the steps that is done from [`images`](Self::images), above 0 and up to 1, instead of
    /// [`RunOptions::start`]: [`image_to_image`](Self::image_to_image).
    pub strength: Option<f64>,
    /// Which part of [`images`](Self::images) is repainted: [`mask`](Self::mask()).
    pub mask: Option<Tensor>,
    /// The sample `[b, c, h, w]` of the first model call, instead of noise that is drawn: diffusers' `latents`, at the
    /// level of that call ([`Run::initial_noise`]).
    pub initial_sample: Option<Tensor>,
}

impl SampleOptions {
    /// This number of images in 50 steps, everything else at its default.
    pub fn new(batch_size: usize) -> Self {
        let run = RunOptions::default();
        Self {
            batch_size,
            run,
            class_labels: None,
            guidance_scale: 1.0,
            guidance_interval: None,
            guidance_rescale: 0.0,
            guides: vec![],
            guidance_way: GuidanceWay::default(),
            images: None,
            strength: None,
            mask: None,
            initial_sample: None,
        }
    }

    /// Sets the number of steps, with the scheduler's other options at their defaults.
    pub fn steps(self, num_inference_steps: usize) -> Self {
        self.run(RunOptions::steps(num_inference_steps))
    }

    /// Sets [`run`](Self::run).
    pub fn run(mut self, run: RunOptions) -> Self {
        self.run = run;
        self
    }

    /// Sets [`class_labels`](Self::class_labels); `None` for a model without classes.
    pub fn class_labels(mut self, class_labels: impl Into<Option<Vec<u32>>>) -> Self {
        self.class_labels = class_labels.into();
        self
    }

    /// Sets [`guidance_scale`](Self::guidance_scale).
    pub fn guidance_scale(mut self, guidance_scale: f64) -> Self {
        self.guidance_scale = guidance_scale;
        self
    }

    /// Sets [`guidance_interval`](Self::guidance_interval); `None` to guide every step.
    ///
    /// ```
    /// use kakusan_pipeline::SampleOptions;
    /// use kakusan_scheduler::EDMEulerScheduler;
    ///
    /// let options = SampleOptions::new(1).steps(8).guidance_scale(3.0).guidance_interval([0.3, 5.0]);
    /// let guided = options.guided_calls(&EDMEulerScheduler::default())?;
    /// // σ = 80, 35, 14, 4.6, 1.3, 0.27, 0.035, 0.002
    /// assert_eq!(guided, [false, false, false, true, true, false, false, false]);
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    pub fn guidance_interval(mut self, guidance_interval: impl Into<Option<[f64; 2]>>) -> Self {
        self.guidance_interval = guidance_interval.into();
        self
    }

    /// Sets [`guidance_rescale`](Self::guidance_rescale).
    pub fn guidance_rescale(mut self, guidance_rescale: f64) -> Self {
        self.guidance_rescale = guidance_rescale;
        self
    }

    /// Adds one to [`guides`](Self::guides).
    pub fn guide(mut self, guide: Guide) -> Self {
        self.guides.push(guide);
        self
    }

    /// Sets [`guidance_way`](Self::guidance_way).
    pub fn guidance_way(mut self, way: GuidanceWay) -> Self {
        self.guidance_way = way;
        self
    }

    /// Which model calls of a sampling with `scheduler` have classifier-free guidance.
    ///
    /// # Errors
    /// When the interval is empty, and when the scheduler does not know the noise levels of its steps.
    pub fn guided_calls(&self, scheduler: &dyn Scheduler) -> Result<Vec<bool>> {
        self.guided(scheduler.class_name(), scheduler.run_with(&self.run)?.as_ref())
    }

    /// Refuses a guidance interval in which none of the model calls lies.
    ///
    /// # Errors
    /// That, and as [`guided_calls`](Self::guided_calls).
    pub fn check_guidance(&self, scheduler: &dyn Scheduler) -> Result<()> {
        let Some([low, high]) = self.guidance_interval else { return Ok(()) };
        if self.guided_calls(scheduler)?.contains(&true) {
            return Ok(());
        }
        let known = scheduler.run_with(&self.run)?.alpha_sigmas().unwrap_or_default();
        let level = |end: Option<&(f32, f32)>| end.map_or(f32::NAN, |(alpha, sigma)| sigma / alpha);
        Err(Error::Unfit(format!(
            "no step of {} is in the guidance interval from {low} to {high}: their noise levels are {:.3} to {:.3}",
            scheduler.class_name(),
            level(known.first()),
            level(known.last())
        )))
    }

    /// What about a sampling with `scheduler` will hardly give the intended images.
    ///
    /// ```
    /// use kakusan_pipeline::{SampleOptions, SampleWarning};
    /// use kakusan_scheduler::{DDIMScheduler, DDPMScheduler};
    ///
    /// let options = SampleOptions::new(1).guidance_scale(3.0);
    /// assert!(options.warnings(&DDPMScheduler::default()).is_empty());
    /// let warnings = options.warnings(&DDIMScheduler::default());
    /// assert!(matches!(warnings[..], [SampleWarning::ClippedGuidance { .. }]));
    /// ```
    pub fn warnings(&self, scheduler: &dyn Scheduler) -> Vec<SampleWarning> {
        let mut warnings = vec![];
        let class_name = scheduler.class_name();
        if class_name == DDIMScheduler::CLASS_NAME && !(0.0..=1.0).contains(&self.guidance_scale) {
            let config = scheduler.config();
            let is_on = |key: &str| config.get(key) == Some(&true.into());
            let clips = is_on("clip_sample") || is_on("thresholding");
            if clips && self.run.use_clipped_model_output != Some(true) {
                warnings.push(SampleWarning::ClippedGuidance { scheduler: class_name.to_owned() });
            }
        }
        if class_name == HeunDiscreteScheduler::CLASS_NAME
            && let Ok(run) = self.run_from_start().and_then(|options| Ok(scheduler.run_with(&options)?))
            && let (Ok(first), Some(levels)) = (run.steps().index(), run.alpha_sigmas())
            && let Some([(begin, sigma), (end, next), ..]) = levels.get(first..)
        {
            let (from, to) = (sigma / begin, next / end);
            if from > LONG_STEP * to {
                warnings.push(SampleWarning::LongFirstStep { scheduler: class_name.to_owned(), from, to });
            }
        }
        warnings
    }

    fn guided(&self, class_name: &str, run: &dyn Run) -> Result<Vec<bool>> {
        let Some([low, high]) = self.guidance_interval else {
            return Ok(vec![self.guidance_scale != 1.0; run.timesteps().len()]);
        };
        if !(0.0 <= low && low < high) {
            let reason = "it must begin at 0 or above, and end above that";
            return Err(Error::Unfit(format!("the guidance interval is from {low} to {high}; {reason}")));
        }
        let levels = run.alpha_sigmas().ok_or_else(|| {
            let reason = "a guidance interval needs the noise level of each step, which";
            Error::Unfit(format!("{reason} {class_name} does not give: remove it, or choose another scheduler"))
        })?;
        let is_guided = |(alpha, sigma): (f32, f32)| {
            let level = f64::from(sigma) / f64::from(alpha);
            self.guidance_scale != 1.0 && low < level && level <= high
        };
        Ok(levels.into_iter().map(is_guided).collect())
    }

    /// Sets [`images`](Self::images).
    pub fn images(mut self, images: impl Into<Option<Tensor>>) -> Self {
        self.images = images.into();
        self
    }

    /// Sets [`initial_sample`](Self::initial_sample).
    pub fn initial_sample(mut self, sample: impl Into<Option<Tensor>>) -> Self {
        self.initial_sample = sample.into();
        self
    }
}

/// How a sampling can run but will hardly give the intended images: [`SampleOptions::warnings`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleWarning {
    /// Classifier-free guidance by a DDIM that clips the images, but not the noise that goes with them.
    #[error(
        "guidance leads the predicted images beyond black and white. {scheduler} clips them, but not the noise that goes \
         with them, so that the samples get worse: draw with another scheduler, such as DDPMScheduler or \
         DPMSolverMultistepScheduler, or without clip_sample"
    )]
    ClippedGuidance {
        /// The scheduler's class.
        scheduler: String,
    },
    /// Heun's method over a first step that removes nearly all of the noise.
    #[error(
        "{scheduler} averages the slopes at both ends of a step, and its first step is too long for that: from the noise \
         level {from:.0} to {to:.1}. The samples will be noisy, as in diffusers: draw with another scheduler, such as \
         EulerDiscreteScheduler"
    )]
    LongFirstStep {
        /// The scheduler's class.
        scheduler: String,
        /// σ of `x₀ + σ ε` at the beginning of the step.
        from: f32,
        /// The same at its end.
        to: f32,
    },
}

/// One step of a sampling, as the callback sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct SampleStep<'a> {
    /// The number of the model call, from 0.
    pub index: usize,
    /// The total number of model calls.
    pub steps: usize,
    /// The sample before the step `[b, c, h, w]`, as its guides left it.
    pub sample: &'a Tensor,
    /// The model's input `[b, c, h, w]`.
    pub model_input: &'a Tensor,
    /// The model's output, with guidance if it is enabled; it has more channels if the model predicts variances, too.
    pub model_output: &'a Tensor,
    /// What the scheduler computed from the model's output; `pred_original_sample` is a preview of the images.
    pub output: &'a StepOutput,
}

impl DDPMPipeline {
    /// Draws `batch_size` images in `num_inference_steps` steps. Returns `[b, c, h, w]` in the scheduler's range, not
    /// clipped ([`PixelRange::to_unit`](kakusan_scheduler::PixelRange::to_unit) maps them to 0..1).
    ///
    /// # Errors
    /// As [`sample_with`](Self::sample_with).
    pub fn sample(&self, batch_size: usize, num_inference_steps: usize, rng: &mut Generator) -> Result<Tensor> {
        let options = SampleOptions::new(batch_size).steps(num_inference_steps);
        self.sample_with(&options, rng, |_| ControlFlow::Continue(()))
    }

    /// Draws images with these options. Returns `[b, c, h, w]` in the scheduler's range, not clipped.
    ///
    /// With one generator for all images ([`Generator`]), the random numbers are those of diffusers' pipelines. With
    /// one per image ([`PerImage`](kakusan_rng::PerImage)), image `k` can be drawn again without the others.
    ///
    /// `watch` is called after each step. If it returns [`ControlFlow::Break`], the sampling ends and returns the
    /// images of this step.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// # use candle_core::Device;
    /// # use kakusan_models::{BasicUNetConfig, ModelConfig, Weights};
    /// # use kakusan_pipeline::{DDPMPipeline, SampleOptions};
    /// # use kakusan_rng::Generator;
    /// # use kakusan_scheduler::LinearMixScheduler;
    ///
    /// # let config = std::sync::Arc::new(BasicUNetConfig::default());
    /// # let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb))?;
    /// # let pipeline = DDPMPipeline::new(config, weights, std::sync::Arc::new(LinearMixScheduler::default()))?;
    /// let mut steps = 0;
    /// pipeline.sample_with(&SampleOptions::new(1), &mut Generator::new(0), |step| {
    ///     steps = step.index + 1;
    ///     if steps == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    /// })?;
    /// assert_eq!(steps, 3); // of 50
    /// # Ok::<(), kakusan_pipeline::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the scheduler cannot sample with these options, the classes do not fit the model, or the tensor library
    /// fails.
    pub fn sample_with(
        &self,
        options: &SampleOptions,
        rng: &mut dyn Noise,
        watch: impl FnMut(&SampleStep) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        self.sample_by(self.scheduler(), options, rng, watch)
    }

    /// As [`sample_with`](Self::sample_with), by this scheduler.
    pub(crate) fn sample_by(
        &self,
        scheduler: &dyn Scheduler,
        options: &SampleOptions,
        rng: &mut dyn Noise,
        watch: impl FnMut(&SampleStep) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        let mut predictor = Predictor::new(self, options)?;
        let [channels, height, width] = self.sample_shape()?;
        let shape = [options.batch_size, channels, height, width];
        let mut run = scheduler.run_with(&options.run_from_start()?)?;
        predictor.guided = options.guided(scheduler.class_name(), run.as_ref())?;
        predictor.guides = Guides::new(options, scheduler, run.as_ref(), [channels, height, width])?;
        let Start { sample, known } = options.start(scheduler, run.as_ref(), &shape, self.device(), rng)?;
        self.follow(run.as_mut(), sample, known.as_ref(), &predictor, rng, watch)
    }

    /// Repaints the masked part of images so that it fits the rest (RePaint, Lugmayr et al. 2022): diffusers'
    /// `RePaintPipeline`. Where `mask` is 1 the images are kept, where it is 0 they are repainted.
    ///
    /// `images` `[b, c, h, w]` are in the scheduler's range; `mask` has the same shape or `[1, 1, h, w]`.
    ///
    /// # Errors
    /// When RePaint does not sample such models, as those that predict a velocity, and when the shapes do not fit.
    pub fn repaint(
        &self,
        images: &Tensor,
        mask: &Tensor,
        options: &RePaintOptions,
        rng: &mut dyn Noise,
        watch: impl FnMut(&SampleStep) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        let predictor = Predictor::new(self, &SampleOptions::new(images.dim(0)?))?;
        // refuses models that RePaint does not sample
        Registry::default().swap(RePaintScheduler::CLASS_NAME, self.scheduler())?;
        let scheduler = RePaintScheduler::from_config(&self.scheduler().config())?;
        let mask = mask.broadcast_as(images.shape())?.contiguous()?;
        let mut run = scheduler.repaint_run(options, images, &mask)?;
        let noise = run.initial_noise(images.dims(), self.device(), rng)?;
        self.follow(run.as_mut(), noise, None, &predictor, rng, watch)
    }

    /// Runs the remaining steps of `run`, or until `watch` stops it. What is `known` of the images stays.
    fn follow(
        &self,
        run: &mut dyn Run,
        sample: Tensor,
        known: Option<&Known>,
        predictor: &Predictor,
        rng: &mut dyn Noise,
        watch: impl FnMut(&SampleStep) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        let dims = sample.dims().to_vec();
        self.take_steps(run, sample, known, predictor, rng, watch).map_err(|error| {
            let asked = || match dims.as_slice() {
                [n, c, h, w] => format!("the drawing of {n} images of {c} x {h} x {w} at a time"),
                dims => format!("the drawing of {dims:?}"),
            };
            device::explain(error, self.device(), asked, "Draw fewer images at a time (--batch, or fewer --seeds)")
        })
    }

    fn take_steps(
        &self,
        run: &mut dyn Run,
        mut sample: Tensor,
        known: Option<&Known>,
        predictor: &Predictor,
        rng: &mut dyn Noise,
        mut watch: impl FnMut(&SampleStep) -> ControlFlow<()>,
    ) -> Result<Tensor> {
        let steps = run.timesteps().len();
        let _prepared = PreparedWeights::new(self.weights().iter().map(|(_, var)| var.as_tensor()));
        while let Some(timestep) = run.timestep() {
            let index = run.steps().index()?;
            let model_input = run.scale_model_input(&sample)?;
            let model_output = match predictor.guides.at(index) {
                None => predictor.predict(&model_input, timestep, index)?,
                Some(guided) => {
                    let predict = |input: &Tensor, part| predictor.predict_part(input, part, timestep, index);
                    let (output, moved) = guided.predict(&*run, &sample, predict)?;
                    sample = moved;
                    output
                }
            };
            let mut output = run.step(&model_output, &sample, rng)?;
            if let Some(known) = known {
                output.prev_sample = known.kept(run, &output.prev_sample)?;
            }
            let (model_input, model_output) = (&model_input, &model_output);
            let step = SampleStep { index, steps, sample: &sample, model_input, model_output, output: &output };
            let flow = watch(&step);
            sample = output.prev_sample;
            if flow.is_break() {
                break;
            }
        }
        Ok(sample)
    }
}

/// Evaluates the model, with classifier-free guidance if enabled.
struct Predictor<'a> {
    pipeline: &'a DDPMPipeline,
    /// The classes `[b]`, and the "no class" labels.
    labels: Option<(Tensor, Tensor)>,
    guidance_scale: f64,
    guidance_rescale: f64,
    /// Whether each model call has that guidance; calls beyond the last have not.
    guided: Vec<bool>,
    /// The losses that guide the sampling.
    guides: Guides,
}

impl<'a> Predictor<'a> {
    fn new(pipeline: &'a DDPMPipeline, options: &SampleOptions) -> Result<Self> {
        let SampleOptions { batch_size, class_labels, guidance_scale, guidance_rescale, .. } = options;
        let refuse = |reason: String| Err(Error::Unfit(reason));
        if !guidance_scale.is_finite() {
            return refuse(format!("the guidance scale is {guidance_scale}; it must be a number, 1 for no guidance"));
        }
        if !(0.0..=1.0).contains(guidance_rescale) {
            return refuse(format!("the rescaling of guidance is {guidance_rescale}; it must be from 0 to 1"));
        }
        let classes = pipeline.model_config().num_classes();
        let labels = match (class_labels, classes) {
            (None, None) if *guidance_scale != 1.0 => {
                return refuse("guidance needs a class-conditional model, and this model has no classes".into());
            }
            (None, None) => None,
            (Some(_), None) => return refuse("this model has no classes; omit the class labels".into()),
            (None, Some(classes)) => {
                return refuse(format!("this model needs a class for each image, from 0 to {}", classes - 1));
            }
            (Some(labels), Some(classes)) => {
                if labels.len() != *batch_size {
                    return refuse(format!("there are {} classes for {batch_size} images", labels.len()));
                }
                if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
                    return refuse(format!("there is no class {label}; the model has 0 to {}", classes - 1));
                }
                let none = vec![classes as u32 - 1; *batch_size];
                let [labels, none] =
                    [labels, &none].map(|labels| Tensor::from_slice(labels, *batch_size, pipeline.device()));
                Some((labels?, none?))
            }
        };
        let (guidance_scale, guidance_rescale) = (*guidance_scale, *guidance_rescale);
        Ok(Self { pipeline, labels, guidance_scale, guidance_rescale, guided: vec![], guides: Guides::none() })
    }

    /// The output for model call `index`, for all images.
    fn predict(&self, model_input: &Tensor, timestep: f32, index: usize) -> Result<Tensor> {
        kakusan_ops::predict(model_input.dim(0)?, self.pipeline.device(), |part| {
            let input = model_input.narrow(0, part.start, part.len())?;
            self.predict_part(&input, part, timestep, index)
        })
    }

    /// The same for a part of them.
    fn predict_part(&self, input: &Tensor, part: Range<usize>, timestep: f32, index: usize) -> Result<Tensor> {
        let conditioning = Tensor::full(timestep, part.len(), self.pipeline.device())?;
        let forward = |labels: Option<&Tensor>| -> Result<Tensor> {
            let labels = labels.map(|labels| labels.narrow(0, part.start, part.len())).transpose()?;
            Ok(self.pipeline.model().forward(input, &conditioning, labels.as_ref())?)
        };
        let is_guided = self.guided.get(index).is_some_and(|guided| *guided);
        match &self.labels {
            None => forward(None),
            Some((labels, _)) if !is_guided => forward(Some(labels)),
            Some((labels, none)) => {
                let (with, without) = (forward(Some(labels))?, forward(Some(none))?);
                let guided = (&without + ((&with - &without)? * self.guidance_scale)?)?;
                if self.guidance_rescale == 0.0 { Ok(guided) } else { self.rescale(input, &guided, &with) }
            }
        }
    }

    /// Rescales the guided prediction, but not what the model predicts of the variance in further channels.
    fn rescale(&self, input: &Tensor, guided: &Tensor, with: &Tensor) -> Result<Tensor> {
        let (channels, all) = (input.dim(1)?.min(guided.dim(1)?), guided.dim(1)?);
        let [of_guided, of_with] = [guided, with].map(|output| output.narrow(1, 0, channels));
        let rescaled = rescale_noise_cfg(&of_guided?, &of_with?, self.guidance_rescale)?;
        if all == channels {
            return Ok(rescaled);
        }
        Ok(Tensor::cat(&[&rescaled, &guided.narrow(1, channels, all - channels)?], 1)?)
    }
}
