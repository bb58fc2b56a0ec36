//! How a command loads a model and samples from it: the options that `sample` and `eval` share.

use std::path::Path;

use clap::Args;
use kakusan::candle::Device;
use kakusan::pipeline::{
    Checkpointed, DDPMPipeline, Error, Registry, Result, SampleOptions, SampleWarning, hub_name, run_config,
};
use kakusan::scheduler::{Churn, FittedSteps, RePaintOptions, RunOptions};

use crate::number::{real, whole};
use crate::terminal::{say, warn};

/// How the images of a model are drawn.
#[derive(Args)]
pub(crate) struct SamplingArgs {
    /// Fail if the model's files have unknown content, instead of printing a warning
    #[arg(long)]
    strict: bool,
    /// Sample from a run's checkpoint of step N instead of its finished model or newest checkpoint
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(0..=usize::MAX))]
    checkpoint: Option<usize>,
    /// Sampling steps [default: 50; 1 for consistency models]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=100_000usize))]
    steps: Option<usize>,
    /// Space the steps as the scheduler is configured, although `fit-sampler` fitted as many to the model
    #[arg(long)]
    unfitted: bool,
    /// Sample with this scheduler instead of the saved one, built from the saved one's configuration: ddim, euler ...
    /// (`schedulers` lists them)
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// The fraction of fresh noise in each step, 0 to 1, for schedulers such as DDIM
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = real(0.0..=1.0))]
    eta: Option<f64>,
    /// The amount of noise added over all steps, for schedulers such as Euler
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = real(0.0..=f64::INFINITY))]
    churn: Option<f64>,
    /// The class of the images, for class-conditional models, by name or number; several (0..9 or cat,dog) take turns
    #[arg(long, value_name = "CLASS", allow_hyphen_values = true)]
    pub(crate) class: Vec<String>,
    /// Classifier-free guidance scale: 1 is off, larger values follow the class more closely
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_hyphen_values = true, value_parser = real(f64::NEG_INFINITY..=f64::INFINITY))]
    guidance: f64,
    /// Guide only at noise levels above LO and up to HI (σ of image + σ noise, whatever the scheduler); the other steps
    /// take one model call instead of two
    #[arg(long, num_args = 2, value_names = ["LO", "HI"], allow_hyphen_values = true, value_parser = real(0.0..=f64::INFINITY))]
    guidance_interval: Option<Vec<f64>>,
    /// How much of a guided prediction is rescaled to the contrast of the one with the class, 0 to 1: for large
    /// --guidance scales, 0.7 is usual
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = real(0.0..=1.0))]
    guidance_rescale: Option<f64>,
}

impl SamplingArgs {
    /// Loads the pipeline, with the scheduler that is to sample.
    pub(crate) fn load(&self, model: &str, registry: &Registry, device: &Device) -> Result<DDPMPipeline> {
        if self.guidance_interval.is_some() && self.guidance == 1.0 {
            return Err(Error::Unfit("--guidance-interval has no effect without guidance: add --guidance 3".into()));
        }
        if self.guidance_rescale.is_some() && self.guidance == 1.0 {
            return Err(Error::Unfit("--guidance-rescale has no effect without guidance: add --guidance 3".into()));
        }
        let mut pipeline = load(model, self.checkpoint, self.strict, registry, device)?;
        if self.guidance != 1.0 {
            warn_of_untrained_class(model, registry);
        }
        if let Some(name) = &self.scheduler {
            let class_name = registry.schedulers.resolve(name)?;
            let scheduler = registry.schedulers.swap(class_name, pipeline.scheduler())?;
            pipeline.set_scheduler(scheduler)?;
        }
        Ok(pipeline)
    }

    /// The number of sampling steps.
    pub(crate) fn steps(&self, pipeline: &DDPMPipeline) -> usize {
        self.steps.unwrap_or(pipeline.class().default_steps().min(50))
    }

    /// Whether the steps are fitted ones, which is said, as is that they were fitted for another scheduler.
    ///
    /// # Errors
    /// When the scheduler's configuration is damaged.
    pub(crate) fn say_fitted(&self, pipeline: &DDPMPipeline) -> Result<bool> {
        let (scheduler, steps) = (pipeline.scheduler(), self.steps(pipeline));
        let fitted = FittedSteps::of(&scheduler.config())?;
        if self.unfitted {
            return Ok(false);
        }
        let is_fitted = fitted.get(scheduler.class_name(), steps).is_some();
        if is_fitted {
            say(&format!(
                "The {steps} steps are those that were fitted to the model; --unfitted spaces them as before."
            ));
        } else if let [other, ..] = fitted.classes(steps).as_slice() {
            let not_used = format!("are for {other}: not used; add --scheduler {other}");
            say(&format!("The {steps} steps that were fitted to the model {not_used}"));
        }
        Ok(is_fitted)
    }

    /// How to draw with the pipeline: one image, without a class.
    pub(crate) fn options(&self, pipeline: &DDPMPipeline) -> Result<SampleOptions> {
        let mut run = RunOptions { eta: self.eta, unfitted: self.unfitted, ..RunOptions::steps(self.steps(pipeline)) };
        run.churn = self.churn.map(|s_churn| Churn { s_churn, ..Churn::default() });
        let interval = self.guidance_interval();
        let options = SampleOptions::new(1).run(run).guidance_scale(self.guidance).guidance_interval(interval);
        let options = options.guidance_rescale(self.guidance_rescale.unwrap_or(0.0));
        options.check_guidance(pipeline.scheduler())?;
        Ok(options)
    }

    /// How `--mask-way repaint` samples.
    pub(crate) fn repaint(&self, pipeline: &DDPMPipeline) -> RePaintOptions {
        RePaintOptions { num_inference_steps: self.steps(pipeline), eta: self.eta, ..RePaintOptions::default() }
    }

    /// Whether an option was set, by its name.
    pub(crate) fn sets(&self, name: &str) -> bool {
        match name {
            "steps" => self.steps.is_some(),
            "scheduler" => self.scheduler.is_some(),
            "eta" => self.eta.is_some(),
            "churn" => self.churn.is_some(),
            "class" => !self.class.is_empty(),
            "guidance" => self.guidance != 1.0 && self.guidance_interval.is_none(),
            _ => false,
        }
    }

    fn guidance_interval(&self) -> Option<[f64; 2]> {
        self.guidance_interval.as_ref().and_then(|ends| ends.as_slice().try_into().ok())
    }

    /// The options that were set, as metadata for picture files.
    pub(crate) fn about(&self) -> Vec<(&'static str, String)> {
        let mut about = vec![];
        about.extend(self.eta.map(|eta| ("eta", eta.to_string())));
        about.extend(self.churn.map(|churn| ("churn", churn.to_string())));
        if !self.class.is_empty() {
            about.push(("class", self.class.join(",")));
        }
        if self.guidance != 1.0 {
            about.push(("guidance", self.guidance.to_string()));
        }
        about.extend(self.guidance_interval().map(|[low, high]| ("guidance interval", format!("{low} {high}"))));
        about.extend(self.guidance_rescale.map(|share| ("guidance rescale", share.to_string())));
        about
    }
}

/// Prints what about a sampling will hardly give the intended images.
pub(crate) fn warn_of_poor(warnings: Vec<SampleWarning>) {
    for warning in warnings {
        warn(&format!("warning: {warning}"));
    }
}

/// Warns of guidance where a run's configuration tells that nothing trained the last class, which stands for no class.
fn warn_of_untrained_class(model: &str, registry: &Registry) {
    let dir = Path::new(model);
    if !dir.join("config.toml").is_file() {
        return;
    }
    let Ok(config) = run_config(dir, &[], registry) else { return };
    if config.train.class_dropout.is_none() && config.model.num_classes().is_some() {
        warn(
            "warning: guidance takes the model's last class for `no class`, and this run did not train it as that: the \
             images will be worse. Train with train.class_dropout = 0.1 and a class more than the data has",
        );
    }
}

/// Loads a pipeline from a folder, or from the Hub if there is no such folder and the name has the form owner/name,
/// with or without @revision. For an unfinished run, or if a step is named, it loads a checkpoint and prints which one.
/// Warnings about the files are printed; with `strict` they are an error.
pub(crate) fn load(
    model: &str,
    checkpoint: Option<usize>,
    strict: bool,
    registry: &Registry,
    device: &Device,
) -> Result<DDPMPipeline> {
    let dir = Path::new(model);
    let pipeline = if checkpoint.is_some() || DDPMPipeline::is_unfinished(dir) {
        from_run(dir, checkpoint, registry, device)?
    } else {
        find(model, registry, device)?
    };
    if strict {
        return pipeline.strict();
    }
    for warning in pipeline.warnings() {
        warn(&format!("warning: {warning}"));
    }
    Ok(pipeline)
}

fn from_run(dir: &Path, step: Option<usize>, registry: &Registry, device: &Device) -> Result<DDPMPipeline> {
    let Checkpointed { pipeline, dir, averaged, skipped, .. } = DDPMPipeline::from_run(dir, step, registry, device)?;
    for error in skipped {
        warn(&format!("{error}; trying the previous checkpoint"));
    }
    let why = if step.is_some() { "" } else { "The training has not finished. " };
    let weights = if averaged { "averaged weights" } else { "weights" };
    say(&format!("{why}Using the {weights} of {}.", dir.display()));
    Ok(pipeline)
}

fn find(model: &str, registry: &Registry, device: &Device) -> Result<DDPMPipeline> {
    match hub_name(model) {
        None => DDPMPipeline::from_pretrained(Path::new(model), registry, device),
        Some((repo_id, revision)) => {
            let hub = crate::progress::hub()?;
            DDPMPipeline::from_hub(repo_id, revision, &hub, registry, device)
        }
    }
}
