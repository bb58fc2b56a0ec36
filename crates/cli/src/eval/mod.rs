//! The command `eval`: how good a model's images are.

mod data;
mod draw;
mod during;
mod pictures;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kakusan::data::ImageSet;
use kakusan::eval::{
    Classifier, ClassifierConfig, Embedding, Evaluation, Evaluator, FeatureNetwork, Figures, HeldOut, Images,
    InceptionV3, NetworkUsed, Options, Pixels, Sampling, Training,
};
use kakusan::hub::Hub;
use kakusan::pipeline::{DDPMPipeline, DeviceChoice, Error, Opened, Registry, Result, check_writable};
use kakusan::report::show_evaluation;
use kakusan::weights::disk;

use crate::classes;
use crate::machine::MachineArgs;
use crate::number::{real, whole};
use crate::program::cache_dir;
use crate::sampling::{SamplingArgs, warn_of_poor};
use crate::terminal::{counted, say, warn};
use data::Compared;
use draw::{Restored, Samples};
pub(crate) use during::EvalDuringTraining;

const EXAMPLES: &str = "\
Examples:
  eval --model runs/184                                 2,048 samples against the digits that the run was trained on
  eval --model runs/184 --images 512 --steps 10 --scheduler ddim --out quick
  eval --model runs/184 --data /data/mnist              the same digits from a folder
  eval --model owner/name --data pictures               a pipeline of the Hub against a folder of pictures
  eval --model runs/184-fast --restore 0.5              training digits, restored by the last half of the steps
  eval --from-images drawings --data configs/184.toml   pictures of any origin against a configuration's data
  eval --model google/ddpm-cifar10-32 --data cifar-10-batches-bin --images 10000 \\
       --features pt_inception-2015-12-05-6726825d.pth  FID, KID, precision and recall as in papers

The images are compared in the features of a small classifier, which is trained once on all labelled images of the data
and kept in $KAKUSAN_CACHE [default: ~/.cache/kakusan]. Its distances compare models of the same data with each other;
they are no FIDs. The second column of the table is the yardstick: real images that are not in the reference.

A class-conditional model draws each class as often as the data has it; with --class, only the named classes, in turn,
and they are compared with the data's images of these classes alone.";

/// The options that say how a model is sampled.
const OF_MODELS: [&str; 16] = [
    "model",
    "strict",
    "checkpoint",
    "images",
    "steps",
    "unfitted",
    "scheduler",
    "eta",
    "churn",
    "class",
    "guidance",
    "guidance_interval",
    "guidance_rescale",
    "seed",
    "batch",
    "restore",
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
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Number of samples. More give better estimates; papers have 10,000 to 50,000 [default: 2048]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(5..=1_000_000usize))]
    images: Option<usize>,
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
    /// Begin with images of the data, to which the noise of the last part of the steps is added, instead of with noise:
    /// 0.3 are the last 30 % of the steps. It tells at which levels of noise the model errs: compare it with the
    /// figures of a smaller part
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true, value_parser = real(0.0..=1.0))]
    restore: Option<f64>,
    /// The folder for eval.json and the pictures [default: the run's folder, or eval; with --restore always eval]
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
    let restored = args.restore.map(|strength| Restored {
        set: compared.reference.0.clone(),
        indices: draw::some_of(&compared, args.seed, args.samples()),
        strength,
    });
    compared.keep_some(args.reference);
    say(&format!("Data: {}, {}.", compared.description, counted(compared.reference.1.len(), "image")));

    let counts = [("the data to compare with has", compared.reference.1.len()), ("there are", args.count(&source))];
    if let Some((what, count)) = counts.into_iter().find(|(_, count)| *count < data::LEAST) {
        let least = data::LEAST;
        return Err(Error::Unfit(format!(
            "{what} {count} images, and {least} are the fewest that can be measured: add some; figures of fewer than \
             500 say little"
        )));
    }
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
    let held_out = match compared.some_held_out(args.count(&source)) {
        Some((set, indices, what)) => {
            let (figures, _) = evaluator.figures_of(set, &indices, &mut watch(&bar))?;
            Some(HeldOut { images: what.to_owned(), figures })
        }
        None => None,
    };
    bar.finish_and_clear();

    let (samples, pixels, embedding, sampling) = match &source {
        Source::Model(pipeline) => {
            let (pixels, sampling) = args.draw(pipeline, labels, restored)?;
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
    // where eval.json is, the pictures are of the same measurement, even if this one is killed
    disk::remove_file(&out.join(kakusan::eval::EVAL_FILE)).map_err(|source| Error::Io {
        action: "delete",
        path: out.join(kakusan::eval::EVAL_FILE),
        source,
    })?;
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
        let classifier = classifier(compared, &mut |_| ControlFlow::Continue(()))?;
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

/// The classifier of the data that `model` was trained on, or of `data`, trained if it was not before, and the names of
/// the classes.
pub(crate) fn data_classifier(
    model: &str,
    data: Option<&Path>,
    registry: &Registry,
) -> Result<(Classifier, Vec<String>)> {
    if data.is_none() && !Path::new(model).join("config.toml").is_file() {
        return Err(Error::Unfit(format!(
            "{model} is not the folder of a run, which names its data: name images with classes by --guide-data DIR"
        )));
    }
    let config = data::config(Some(model), data, &[], registry)?;
    let compared = Compared::load(&config, None, &crate::progress::hub()?)?;
    if let Some(reason) = &compared.unlabelled {
        return Err(Error::Unfit(format!("a classifier needs labelled images, and these have no classes: {reason}")));
    }
    let classifier = classifier(&compared, &mut |_| ControlFlow::Continue(()))?;
    Ok((classifier, compared.train.class_names().to_vec()))
}

/// The classifier of the data, trained if it was not before. `watch` is told how many steps are done; if it breaks,
/// that is an error.
fn classifier(compared: &Compared, watch: &mut dyn FnMut(usize) -> ControlFlow<()>) -> Result<Classifier> {
    if let Some(reason) = &compared.unlabelled {
        return Err(Error::Unfit(format!(
            "the classifier needs labelled images, and these have no classes ({reason}); measure in the features of \
             Inception instead: --features pt_inception-2015-12-05-6726825d.pth"
        )));
    }
    let cache = cache_dir()?.join("classifiers");
    let bar = bar("training the classifier", 0);
    let mut show = |progress: kakusan::eval::Progress| {
        if progress.step == 1 {
            bar.suspend(|| say("Classifier: it is being trained, once for these images."));
        }
        bar.set_length(progress.steps as u64);
        bar.set_position(progress.step as u64);
        watch(progress.step)
    };
    let (all, others) = (&compared.train, compared.other.as_deref());
    let (classifier, known) = Classifier::cached(&cache, all, others, ClassifierConfig::default(), &mut show)?;
    bar.finish_and_clear();
    let training = classifier.training();
    let (share, of) = (100.0 * training.accuracy, training.held_out);
    let since = if known { "from the cache" } else { "trained now" };
    say(&format!("Classifier: {since}; it knows {share:.2} % of {of} held-out images."));
    Ok(classifier)
}

impl EvalArgs {
    /// The folder for the results: a run's, unless they do not tell how good its samples are.
    fn out(&self) -> PathBuf {
        let run = self.model.as_ref().filter(|_| self.restore.is_none());
        let of_run = run.map(PathBuf::from).filter(|dir| dir.join("config.toml").is_file());
        self.out.clone().or(of_run).unwrap_or_else(|| "eval".into())
    }

    fn pipeline(&self, registry: &Registry) -> Result<Option<DDPMPipeline>> {
        let Some(model) = &self.model else { return Ok(None) };
        let Opened { device, fallback, .. } = self.device.open()?;
        if let Some(fallback) = fallback {
            warn(&format!("warning: {fallback}"));
        }
        let pipeline = self.sampling.load(model, registry, &device)?;
        if pipeline.inverts() {
            let scheduler = pipeline.scheduler().class_name();
            return Err(Error::Unfit(format!("{scheduler} goes from images to noise; choose another --scheduler")));
        }
        Ok(Some(pipeline))
    }

    /// How many samples of a model are measured.
    fn samples(&self) -> usize {
        self.images.unwrap_or(2048)
    }

    /// How many images are measured.
    fn count(&self, source: &Source) -> usize {
        match source {
            Source::Model(_) => self.samples(),
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
        let Some(known) = pipeline.model_config().num_classes() else {
            return classes::labels(&self.sampling.class, pipeline); // refuses classes
        };
        if !self.sampling.class.is_empty() {
            let labels = classes::labels(&self.sampling.class, pipeline)?.unwrap_or_default();
            compared.restrict(&labels, pipeline.labels().names())?;
            if self.restore.is_none() {
                return Ok(Some(labels.into_iter().cycle().take(self.samples()).collect()));
            }
        }
        if let Some(reason) = compared.unlabelled.as_ref().filter(|_| pipeline.labels().only_class().is_none()) {
            return Err(Error::Unfit(format!(
                "the model draws classes, and the data has none: {reason}; name --class"
            )));
        }
        let images = draw::some_of(compared, self.seed, self.samples());
        Ok(Some(compared.labels(&images, known, pipeline.labels())?))
    }

    /// Draws the samples, each from its own seed.
    fn draw(
        &self,
        pipeline: &DDPMPipeline,
        labels: Option<Vec<u32>>,
        restored: Option<Restored>,
    ) -> Result<(Pixels, Sampling)> {
        let options = self.sampling.options(pipeline)?;
        warn_of_poor(options.warnings(pipeline.scheduler()));
        let sampling = Sampling {
            scheduler: pipeline.scheduler().class_name().to_owned(),
            steps: self.sampling.steps(pipeline),
            fitted: self.sampling.say_fitted(pipeline)?,
            seed: self.seed,
            guidance: options.guidance_scale,
            guidance_interval: options.guidance_interval,
            guidance_rescale: options.guidance_rescale,
            restored: self.restore,
        };
        let bar = bar("sampling", self.samples());
        let (count, seed, batch) = (self.samples(), self.seed, self.batch);
        let samples = Samples { options, labels, count, seed, batch, restored };
        let pixels = samples.draw(pipeline, &mut watch(&bar))?;
        bar.finish_and_clear();
        Ok((pixels, sampling))
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
pub(crate) fn bar(what: &'static str, count: usize) -> ProgressBar {
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
