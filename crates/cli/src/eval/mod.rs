//! The command `eval`: how good a model's images are.

mod data;
mod during;
mod pictures;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kakusan::candle::{DType, Device, Tensor};
use kakusan::data::ImageSet;
use kakusan::eval::{
    Classifier, ClassifierConfig, Embedding, Evaluation, Evaluator, FeatureNetwork, Figures, HeldOut, Images,
    InceptionV3, NetworkUsed, Options, Pixels, Sampling, Training,
};
use kakusan::hub::Hub;
use kakusan::pipeline::{DDPMPipeline, DeviceChoice, Error, Opened, Registry, Result, SampleOptions, check_writable};
use kakusan::report::show_evaluation;
use kakusan::rng::{Generator, PerImage};
use kakusan::scheduler::{Churn, RunOptions};

use crate::machine::MachineArgs;
use crate::number::{real, whole};
use crate::program::cache_dir;
use crate::terminal::{say, warn};
use crate::{classes, sample};
use data::Compared;
pub(crate) use during::EvalDuringTraining;

const EXAMPLES: &str = "\
Examples:
  eval --model runs/184                                 2,048 samples against the digits that the run was trained on
  eval --model runs/184 --images 512 --steps 10 --scheduler ddim --out quick
  eval --model runs/184 --data /data/mnist              the same digits from a folder
  eval --model owner/name --data pictures               a pipeline of the Hub against a folder of pictures
  eval --from-images drawings --data configs/184.toml   pictures of any origin against a configuration's data
  eval --model google/ddpm-cifar10-32 --data cifar-10-batches-bin --images 10000 \\
       --features pt_inception-2015-12-05-6726825d.pth  FID, KID, precision and recall as in papers

The images are compared in the features of a small classifier, which is trained once on all labelled images of the data
and kept in $KAKUSAN_CACHE [default: ~/.cache/kakusan]. Its distances compare models of the same data with each other;
they are no FIDs. The second column of the table is the yardstick: real images that are not in the reference.";

/// The options that say how a model is sampled.
const OF_MODELS: [&str; 13] = [
    "model",
    "strict",
    "checkpoint",
    "images",
    "steps",
    "scheduler",
    "eta",
    "churn",
    "class",
    "guidance",
    "guidance_interval",
    "seed",
    "batch",
];

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// The folder of a run or a saved pipeline, or owner/name[@revision] on the Hub
    #[arg(long, value_name = "DIR|owner/name", required_unless_present = "from_images")]
    model: Option<String>,
    /// Measure the pictures in this folder instead of a model's samples
    #[arg(long, value_name = "DIR", conflicts_with_all = OF_MODELS)]
    from_images: Option<PathBuf>,
    /// What to compare with: a folder as for `train`, or the data of a configuration file [default: the data that the
    /// run was trained on]
    #[arg(long, value_name = "DIR|FILE.toml")]
    data: Option<PathBuf>,
    /// Override a value of the data's configuration, e.g. --set 'data.classes=[1,8,4]' (can be repeated)
    #[arg(long, value_name = "data.KEY=VALUE")]
    set: Vec<String>,
    /// Fail if the model's files have unknown content, instead of printing a warning
    #[arg(long)]
    strict: bool,
    /// Sample from a run's checkpoint of step N instead of its finished model or newest checkpoint
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(0..=usize::MAX))]
    checkpoint: Option<usize>,
    /// Number of samples. More give better estimates; papers have 10,000 to 50,000 [default: 2048]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(5..=1_000_000usize))]
    images: Option<usize>,
    /// Sampling steps [default: 50; 1 for consistency models]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=100_000usize))]
    steps: Option<usize>,
    /// Sample with this scheduler instead of the saved one (`schedulers` lists them)
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// The fraction of fresh noise in each step, 0 to 1, for schedulers such as DDIM
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = real(0.0..=1.0))]
    eta: Option<f64>,
    /// The amount of noise added over all steps, for schedulers such as Euler
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = real(0.0..=f64::INFINITY))]
    churn: Option<f64>,
    /// Draw only these classes, in turn, and compare with them alone; for class-conditional models [default: all, as
    /// often as the data has them]
    #[arg(long, value_name = "CLASS", allow_hyphen_values = true)]
    class: Vec<String>,
    /// Classifier-free guidance scale: 1 is off, larger values follow the class more closely
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_hyphen_values = true, value_parser = real(f64::NEG_INFINITY..=f64::INFINITY))]
    guidance: f64,
    /// Guide only at noise levels above LO and up to HI, as in `sample`
    #[arg(long, num_args = 2, value_names = ["LO", "HI"], allow_hyphen_values = true, value_parser = real(0.0..=f64::INFINITY))]
    guidance_interval: Option<Vec<f64>>,
    /// The network whose features are compared: classifier, or InceptionV3 by its weights, a .pth or .safetensors file,
    /// also on the Hub: pytorch-fid's (pt_inception-2015-12-05-6726825d.pth) for figures as in papers, or torchvision's
    #[arg(long, value_name = "classifier|FILE|owner/name/file", default_value = "classifier")]
    features: String,
    /// Compare with this split of the data; another split is the yardstick [default: train, as the model was trained]
    #[arg(long, value_name = "SPLIT")]
    against: Option<String>,
    /// Compare with N images of the data, chosen at random; Inception takes a while for many [default: all]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(5..=100_000_000usize))]
    reference: Option<usize>,
    /// The seed of the first image; the next one has the next seed
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = whole(0..=u64::MAX >> 1))]
    seed: u64,
    /// Images that are sampled at a time; it changes the memory, not the images
    #[arg(long, value_name = "N", default_value_t = 128, allow_hyphen_values = true, value_parser = whole(1..=4096usize))]
    batch: usize,
    /// The folder for eval.json and the pictures [default: the run's folder, or eval]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    machine: MachineArgs,
}

/// The images to be measured.
enum Source {
    Model(Box<DDPMPipeline>),
    Folder(Arc<ImageSet>),
}

pub(crate) fn eval(args: EvalArgs) -> Result<ExitCode> {
    args.machine.apply()?;
    let out = args.out();
    std::fs::create_dir_all(&out).map_err(|source| Error::Io { action: "create", path: out.clone(), source })?;
    check_writable(&out.join(kakusan::eval::EVAL_FILE))?;

    let registry = Registry::default();
    let hub = crate::progress::hub()?;
    let pipeline = args.pipeline(&registry)?;
    let config = data::config(args.model.as_deref(), args.data.as_deref(), &args.set, &registry)?;
    let mut compared = Compared::load(&config, args.against.as_deref(), &hub)?;
    let source = match (pipeline, &args.from_images) {
        (Some(pipeline), _) => Source::Model(Box::new(pipeline)),
        (None, dir) => Source::Folder(data::pictures(dir.as_deref().unwrap_or(Path::new(".")), compared.shape())?),
    };
    let labels = match &source {
        Source::Model(pipeline) => args.labels(pipeline, &mut compared)?,
        Source::Folder(_) => None,
    };
    compared.keep_some(args.reference);
    say(&format!("Data: {}, {} images.", compared.description, compared.reference.1.len()));

    let (network, training) = network(&args.features, &compared, &hub)?;
    let least = args.count(&source).min(compared.reference.1.len());
    if least <= network.dim() {
        warn(&format!(
            "warning: {least} images are fewer than the {} features: the Fréchet distance is much larger than of many \
             images; compare it only with that of as many, such as the yardstick's",
            network.dim()
        ));
    }
    let bar = bar("features of the data", compared.reference.1.len());
    let (set, indices) = &compared.reference;
    let evaluator = Evaluator::of_some(network, set.clone(), indices, Options::default(), &mut watch(&bar))?;
    let held_out = match &compared.held_out {
        Some((set, indices, what)) => {
            let count = args.count(&source).min(indices.len());
            let some: Vec<usize> =
                Generator::new(0).randperm(indices.len())[..count].iter().map(|&i| indices[i]).collect();
            let (figures, _) = evaluator.figures_of(set.as_ref(), &some, &mut watch(&bar))?;
            Some(HeldOut { images: what.clone(), figures })
        }
        None => None,
    };
    bar.finish_and_clear();

    let (samples, pixels, embedding, sampling) = match &source {
        Source::Model(pipeline) => {
            let (pixels, sampling) = args.draw(pipeline, labels)?;
            let (figures, embedding) = measure(&evaluator, &pixels)?;
            (figures, pixels, embedding, Some(sampling))
        }
        Source::Folder(set) => {
            let (figures, embedding) = measure(&evaluator, set.as_ref())?;
            (figures, data::pixels(set)?, embedding, None)
        }
    };
    let evaluation = Evaluation {
        kakusan: env!("CARGO_PKG_VERSION").to_owned(),
        model: args.model.clone().unwrap_or_else(|| args.from_images.clone().unwrap_or_default().display().to_string()),
        sampling,
        data: compared.description.clone(),
        reference: evaluator.reference_len(),
        network: NetworkUsed {
            name: evaluator.network().name().to_owned(),
            features: evaluator.network().dim(),
            training,
        },
        samples,
        held_out,
    };
    table(&evaluation);
    let neighbours = pictures::write(&out, &evaluation, &evaluator, &pixels, &embedding, &compared.reference.0)?;
    evaluation.write(&out)?;
    if show_evaluation(&out, &evaluation, neighbours.as_deref())? {
        say(&format!("{} shows it, too.", out.join("report.html").display()));
    }
    say(&format!(
        "{}: all of it, and the pictures {} and {}.",
        out.join(kakusan::eval::EVAL_FILE).display(),
        pictures::SAMPLES,
        pictures::NEIGHBOURS
    ));
    Ok(ExitCode::SUCCESS)
}

fn measure(evaluator: &Evaluator, images: &dyn Images) -> Result<(Figures, Embedding)> {
    let bar = bar("features of the samples", images.count());
    let measured = evaluator.figures(images, &mut watch(&bar));
    bar.finish_and_clear();
    measured
}

/// The network that `--features` names, and how it was trained, if it was trained here.
fn network(name: &str, compared: &Compared, hub: &Hub) -> Result<(Arc<dyn FeatureNetwork>, Option<Training>)> {
    if name == "classifier" {
        let classifier = classifier(compared)?;
        let training = classifier.training().clone();
        return Ok((Arc::new(classifier), Some(training)));
    }
    let parts: Vec<&str> = name.split('/').collect();
    let file = match parts.as_slice() {
        _ if Path::new(name).is_file() => PathBuf::from(name),
        [owner, repo, file @ ..] if !owner.is_empty() && !owner.starts_with(['.', '~']) && !file.is_empty() => {
            hub.model_file(&format!("{owner}/{repo}"), "main", &file.join("/"))?
        }
        _ => {
            let reason = format!("--features {name}: expected classifier, a file of weights, or owner/name/file");
            return Err(Error::Unfit(reason));
        }
    };
    let network = InceptionV3::load(&file)?;
    say(&format!("Features: {}, {}.", network.name(), file.display()));
    Ok((Arc::new(network), None))
}

/// The classifier of the data, trained if it was not before.
fn classifier(compared: &Compared) -> Result<Classifier> {
    if let Some(reason) = &compared.unlabelled {
        return Err(Error::Unfit(format!(
            "the classifier needs labelled images, and these have no classes ({reason}); measure in the features of \
             Inception instead: --features pt_inception-2015-12-05-6726825d.pth"
        )));
    }
    let cache = cache_dir()?.join("classifiers");
    let bar = bar("training the classifier", 0);
    let mut watch = |progress: kakusan::eval::Progress| {
        bar.set_length(progress.steps as u64);
        bar.set_position(progress.step as u64);
        ControlFlow::Continue(())
    };
    let (all, others) = (&compared.train, compared.other.as_deref());
    let (classifier, known) = Classifier::cached(&cache, all, others, ClassifierConfig::default(), &mut watch)?;
    bar.finish_and_clear();
    let training = classifier.training();
    let (share, of) = (100.0 * training.accuracy, training.held_out);
    let since = if known { "from the cache" } else { "trained now" };
    say(&format!("Classifier: {since}; it knows {share:.2} % of {of} held-out images."));
    Ok(classifier)
}

impl EvalArgs {
    /// The folder for the results.
    fn out(&self) -> PathBuf {
        let of_run = self.model.as_ref().map(PathBuf::from).filter(|dir| dir.join("config.toml").is_file());
        self.out.clone().or(of_run).unwrap_or_else(|| "eval".into())
    }

    fn pipeline(&self, registry: &Registry) -> Result<Option<DDPMPipeline>> {
        let Some(model) = &self.model else { return Ok(None) };
        let Opened { device, fallback, .. } = self.device.open()?;
        if let Some(fallback) = fallback {
            warn(&format!("warning: {fallback}"));
        }
        let mut pipeline = sample::load(model, self.checkpoint, self.strict, registry, &device)?;
        if let Some(name) = &self.scheduler {
            let class_name = registry.schedulers.resolve(name)?;
            let scheduler = registry.schedulers.swap(class_name, pipeline.scheduler())?;
            pipeline.set_scheduler(scheduler)?;
        }
        if self.guidance_interval.is_some() && self.guidance == 1.0 {
            return Err(Error::Unfit("--guidance-interval has no effect without guidance: add --guidance 3".into()));
        }
        if pipeline.inverts() {
            let scheduler = pipeline.scheduler().class_name();
            return Err(Error::Unfit(format!("{scheduler} goes from images to noise; choose another --scheduler")));
        }
        Ok(Some(pipeline))
    }

    /// How many images are measured.
    fn count(&self, source: &Source) -> usize {
        match source {
            Source::Model(_) => self.images.unwrap_or(2048),
            Source::Folder(set) => set.len(),
        }
    }

    /// The class of each sample, for a class-conditional model: as often as in the data, or those that `--class` names,
    /// to which the comparison is then restricted.
    fn labels(&self, pipeline: &DDPMPipeline, compared: &mut Compared) -> Result<Option<Vec<u32>>> {
        let (own, data) = (pipeline.sample_shape()?, compared.shape());
        if own != data {
            return Err(Error::Unfit(format!(
                "the model draws images of {own:?} (channels, height, width), and the data has {data:?}: set \
                 data.channels and data.resolution by --set, or name other data"
            )));
        }
        let count = self.images.unwrap_or(2048);
        let Some(known) = pipeline.model_config().num_classes() else {
            return classes::labels(&self.class, pipeline); // refuses classes
        };
        if !self.class.is_empty() {
            let labels = classes::labels(&self.class, pipeline)?.unwrap_or_default();
            compared.restrict(&labels)?;
            return Ok(Some(labels.into_iter().cycle().take(count).collect()));
        }
        let (set, indices) = &compared.reference;
        if let Some(reason) = &compared.unlabelled {
            return Err(Error::Unfit(format!(
                "the model draws classes, and the data has none: {reason}; name --class"
            )));
        }
        let order = Generator::new(self.seed).randperm(indices.len());
        let labels: Vec<u32> = order.iter().cycle().take(count).map(|&i| set.label(indices[i])).collect();
        match labels.iter().find(|&&label| label as usize >= known) {
            Some(label) => Err(Error::Unfit(format!("the data has a class {label}, the model {known} classes"))),
            None => Ok(Some(labels)),
        }
    }

    /// Draws the samples, each from its own seed.
    fn draw(&self, pipeline: &DDPMPipeline, labels: Option<Vec<u32>>) -> Result<(Pixels, Sampling)> {
        let count = self.images.unwrap_or(2048);
        let steps = self.steps.unwrap_or(pipeline.class().default_steps().min(50));
        let range = pipeline.scheduler().process().pixel_range();
        let interval: Option<[f64; 2]> =
            self.guidance_interval.as_ref().and_then(|ends| ends.as_slice().try_into().ok());
        let bar = bar("sampling", count);
        let mut pixels = Pixels::none(pipeline.sample_shape()?);
        for start in (0..count).step_by(self.batch) {
            let end = count.min(start + self.batch);
            let mut run = RunOptions { eta: self.eta, ..RunOptions::steps(steps) };
            run.churn = self.churn.map(|s_churn| Churn { s_churn, ..Churn::default() });
            let labels = labels.as_ref().map(|labels| labels[start..end].to_vec());
            let options = SampleOptions::new(end - start).run(run).class_labels(labels);
            let options = options.guidance_scale(self.guidance).guidance_interval(interval);
            options.check_guidance(pipeline.scheduler())?;
            let mut noise = PerImage::from_seeds((start..end).map(|i| self.seed + i as u64));
            let sample = pipeline.sample_with(&options, &mut noise, |step| {
                let done = (end - start) * (step.index + 1) / step.steps.max(1);
                bar.set_position((start + done) as u64);
                ControlFlow::Continue(())
            })?;
            let images: Tensor = range.to_unit(&sample)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            pixels.add(&images)?;
        }
        bar.finish_and_clear();
        let (scheduler, guidance) = (pipeline.scheduler().class_name().to_owned(), self.guidance);
        Ok((pixels, Sampling { scheduler, steps, seed: self.seed, guidance, guidance_interval: interval }))
    }
}

/// Prints the figures.
fn table(evaluation: &Evaluation) {
    let held_out = evaluation.held_out.as_ref().map_or("–", |held_out| held_out.images.as_str());
    let mut rows = vec![["".to_owned(), "samples".to_owned(), held_out.to_owned()]];
    rows.extend(evaluation.rows());
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [first, second, third] = [0, 1, 2].map(width);
    for [name, own, held_out] in &rows {
        say(&format!("{name:first$}  {own:>second$}  {held_out:>third$}"));
    }
}

/// A progress bar on a terminal, nothing elsewhere.
fn bar(what: &'static str, count: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {eta} left") {
        bar.set_style(style.progress_chars("━━ "));
    }
    bar.set_message(what);
    bar
}

fn watch(bar: &ProgressBar) -> impl FnMut(usize) -> ControlFlow<()> {
    |done| {
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    }
}
