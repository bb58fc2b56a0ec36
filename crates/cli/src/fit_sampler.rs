//! The command `fit-sampler`: few sampling steps where a model needs them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kakusan::pipeline::{
    DDPMPipeline, DeviceChoice, Error, Fit, FitProgress, FitStage, Opened, Registry, Result, SampleOptions,
};
use kakusan::report::{class_options, quote, quote_path};
use kakusan::rng::Generator;
use kakusan::scheduler::{FittedSteps, Schedule};

use crate::machine::MachineArgs;
use crate::number::{real, whole};
use crate::program::program;
use crate::terminal::{say, warn};
use crate::{classes, sampling};

const DETAILS: &str = "\
Evenly spaced steps waste model calls: the samples of most models move along nearly straight lines at first and curve
at a few noise levels. This command draws some images in many steps, and chooses the few levels between which the
scheduler's own steps stay nearest to their way (GITS, Chen et al. 2024, arXiv:2405.11326). It trains nothing.

The steps are saved in the model's scheduler_config.json, under a key that Python's diffusers ignores. From then on
  sample --model DIR --steps 5
uses them, as do `eval` and programs that use the library; --unfitted spaces the steps as before. Each number of steps
has its own: run the command once for each. A model that is trained further needs a new fit.

Only schedulers without new noise in their steps have a way to follow. A run that was trained with DDPM is fitted with
  fit-sampler --model DIR --steps 5 --scheduler dpmsolver
and sampled with `sample --scheduler dpmsolver --steps 5`; with --save-scheduler it is sampled so without the flag.";

/// The most numbers of a fine trajectory's images: each is held for every fine step, twice.
const MOST_NUMBERS: usize = 1 << 20;

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct FitSamplerArgs {
    /// The folder of a finished run or a saved pipeline; with --out also owner/name[@revision] on the Hub
    #[arg(long, value_name = "DIR")]
    model: String,
    /// How many steps to choose
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(2..=199usize))]
    steps: usize,
    /// Fit this scheduler instead of the saved one: dpmsolver, euler ... (`schedulers` lists them)
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// Also make --scheduler the one that the model is sampled with by default, also in Python
    #[arg(long, requires = "scheduler")]
    save_scheduler: bool,
    /// Steps of the fine trajectory, among whose noise levels is chosen; the time grows with the cube
    #[arg(long, value_name = "N", default_value_t = 40, allow_hyphen_values = true, value_parser = whole(3..=200usize))]
    fine_steps: usize,
    /// Images of the fine trajectory [default: 64, fewer of large images]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=4096usize))]
    images: Option<usize>,
    /// The seed of their noise
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = whole(0..=u64::MAX))]
    seed: u64,
    /// The classes of the images, for class-conditional models, as in `sample` [default: all]
    #[arg(long, value_name = "CLASS", allow_hyphen_values = true)]
    class: Vec<String>,
    /// Fit to sampling with this scale of classifier-free guidance
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_hyphen_values = true, value_parser = real(f64::NEG_INFINITY..=f64::INFINITY))]
    guidance: f64,
    /// Save the whole pipeline with the fitted steps in this new folder, and leave the model's own as it is
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn fit_sampler(args: &FitSamplerArgs) -> Result<ExitCode> {
    args.machine.apply()?;
    let registry = Registry::default();
    let Opened { device, fallback, .. } = args.device.open()?;
    if let Some(fallback) = fallback {
        warn(&format!("warning: {fallback}"));
    }
    let dir = Path::new(&args.model);
    match &args.out {
        Some(out) if out.exists() => {
            return Err(Error::Unfit(format!("{} exists already; name a new folder", out.display())));
        }
        None if DDPMPipeline::is_unfinished(dir) || !dir.exists() => {
            let reason = "the fitted steps are saved in the folder of a saved pipeline or a finished run";
            return Err(Error::Unfit(format!("{reason}, which {} is not; save a copy by --out DIR", args.model)));
        }
        _ => {}
    }
    let mut pipeline = sampling::load(&args.model, None, false, &registry, &device)?;
    let own = pipeline.scheduler();
    let saved = registry.schedulers.from_config(own.class_name(), &own.config())?;
    let solver = match &args.scheduler {
        Some(name) => registry.schedulers.swap(registry.schedulers.resolve(name)?, saved.as_ref())?,
        None => saved.clone(),
    };
    pipeline.set_scheduler(solver.clone())?;
    let fit = args.fit(&pipeline)?;
    args.show(&fit, solver.class_name());
    if fit.difference >= fit.unfitted {
        warn(
            "error: the fitted steps are no nearer to the fine trajectory than unfitted ones, so they were not saved; \
             try other --fine-steps, more --images or another --scheduler",
        );
        return Ok(ExitCode::FAILURE);
    }

    let mut fitted = FittedSteps::of(&saved.config())?;
    fitted.insert(solver.class_name(), fit.schedule);
    let kept = if args.save_scheduler { &solver } else { &saved };
    let mut config = kept.config();
    fitted.set_in(&mut config);
    pipeline.set_scheduler(registry.schedulers.from_config(kept.class_name(), &config)?)?;
    match &args.out {
        Some(out) => pipeline.save_pretrained(out)?,
        None => pipeline.save_scheduler(dir)?,
    }
    let (model, is_saved) = (args.out.as_deref().unwrap_or(dir), kept.class_name() == solver.class_name());
    let scheduler = args.scheduler.as_ref().filter(|_| !is_saved);
    let scheduler = scheduler.map_or(String::new(), |name| format!(" --scheduler {}", quote(name)));
    let known = pipeline.labels().by_class();
    let named = |labels: Vec<u32>| {
        let label = *labels.first()?;
        Some(match (0..).zip(&known).find(|(_, (_, labels))| labels.contains(&label)) {
            Some((place, (name, _))) => (place, (*name).to_owned()),
            None => (label, label.to_string()), // a model without names, or "no class"
        })
    };
    let classes: Vec<_> = args.classes(&pipeline)?.into_iter().flatten().filter_map(named).collect();
    let classes = if classes.is_empty() { String::new() } else { format!(" {}", class_options(&classes)) };
    let guidance = if args.guidance == 1.0 { String::new() } else { format!(" --guidance={}", args.guidance) };
    say(&format!(
        "Saved. Draw with: {} sample --model {}{scheduler}{classes}{guidance} --steps {}",
        program(),
        quote_path(model),
        args.steps
    ));
    Ok(ExitCode::SUCCESS)
}

impl FitSamplerArgs {
    fn fit(&self, pipeline: &DDPMPipeline) -> Result<Fit> {
        let numbers: usize = pipeline.sample_shape()?.iter().product();
        let images = self.images.unwrap_or((MOST_NUMBERS / numbers.max(1)).clamp(4, 64));
        let labels = self.classes(pipeline)?;
        let labels =
            labels.map(|classes| pipeline.labels().in_turn(&classes).into_iter().cycle().take(images).collect());
        let fine = SampleOptions::new(images).steps(self.fine_steps).class_labels(labels).guidance_scale(self.guidance);
        let class_name = pipeline.scheduler().class_name();
        say(&format!(
            "Fitting {} steps of {class_name} to {} fine ones, {images} images.",
            self.steps, self.fine_steps
        ));
        let bar = crate::eval::bar("", 1);
        let fit = pipeline.fit_steps(self.steps, &fine, &Generator::new(self.seed), |progress| {
            let FitProgress { stage, done, total, .. } = progress;
            bar.set_message(match stage {
                FitStage::Trajectory => "model calls of the fine trajectory",
                FitStage::Costs => "costs of steps between its noise levels",
                FitStage::Comparison => "model calls to compare",
            });
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            ControlFlow::Continue(())
        })?;
        bar.finish_and_clear();
        fit.ok_or_else(|| Error::Unfit("the fit was stopped".into()))
    }

    /// The labels of each class of the images, for a class-conditional model: those of --class, or else the classes
    /// that it was trained on; without their names, all labels.
    fn classes(&self, pipeline: &DDPMPipeline) -> Result<Option<Vec<Vec<u32>>>> {
        let labels = pipeline.labels();
        match pipeline.model_config().num_classes() {
            Some(count) if self.class.is_empty() => Ok(Some(match labels.names().is_empty() {
                true => (0..count as u32).map(|label| vec![label]).collect(),
                false => labels.by_class().into_iter().map(|(_, labels)| labels).collect(),
            })),
            _ => classes::by_class(&self.class, pipeline),
        }
    }

    /// Prints the steps and what they gain.
    fn show(&self, fit: &Fit, class_name: &str) {
        let list = |levels: &[f64]| levels.iter().map(|&level| number(level)).collect::<Vec<_>>().join(", ");
        say(&match &fit.schedule {
            Schedule::Sigmas(sigmas) => format!("Noise levels of {class_name}: {}", list(sigmas)),
            Schedule::Timesteps(timesteps) => format!("Timesteps of {class_name}: {}", list(timesteps)),
            Schedule::Steps(n) => format!("{n} steps"),
        });
        let twice = (2 * self.steps).min(self.fine_steps);
        say(&format!("Difference from the images of the {} fine steps (root mean square, of 1):", self.fine_steps));
        say(&format!("  {:3} fitted    {:.4}", self.steps, fit.difference));
        say(&format!("  {:3} unfitted  {:.4}", self.steps, fit.unfitted));
        say(&format!("  {twice:3} unfitted  {:.4}", fit.twice_unfitted));
    }
}

/// A level with as many digits as tell it from its neighbours.
fn number(level: f64) -> String {
    if level.fract() == 0.0 { level.to_string() } else { format!("{level:.4}") }
}
