use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kakusan::candle::{DType, Device, Tensor};
use kakusan::pipeline::{
    Checkpointed, ConfigWarning, DDPMPipeline, DeviceChoice, Error, Opened, Registry, Result, SampleOptions,
    check_writable, write_whole,
};
use kakusan::report::pictures::{self, Images};
use kakusan::rng::{Generator, Noise, PerImage};
use kakusan::scheduler::{Churn, PixelRange, RunOptions};

use crate::machine::MachineArgs;
use crate::number::{real, whole};
use crate::terminal::{say, warn};
use crate::{classes, picture};

/// The most frames in an animation; of a longer sampling, this many evenly spaced steps are shown.
const MAX_FRAMES: usize = 100;

#[derive(Args)]
pub(crate) struct SampleArgs {
    /// The folder of a run or a saved pipeline, or owner/name[@revision] on the Hub
    #[arg(long, value_name = "DIR|owner/name", value_parser = NonEmptyStringValueParser::new())]
    model: String,
    /// Fail if the model's files have unknown content, instead of printing a warning
    #[arg(long)]
    strict: bool,
    /// Sample from a run's checkpoint of step N instead of its finished model or newest checkpoint
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(0..=usize::MAX))]
    checkpoint: Option<usize>,
    /// Sampling steps [default: 50; 1 for consistency models]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=100_000u64))]
    steps: Option<u64>,
    /// Number of images, all from one seed [default: 64]
    #[arg(long, value_name = "N", conflicts_with = "seeds", allow_hyphen_values = true, value_parser = whole(1..=4096u64))]
    batch: Option<u64>,
    /// The seed of all random numbers, as in torch.manual_seed
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = whole(0..=u64::MAX))]
    seed: u64,
    /// One image per seed, independent of the other images: 0..15 (both included) or 3,5,8
    #[arg(long, value_name = "A..B", conflicts_with = "seed", allow_hyphen_values = true, value_parser = parse_seeds)]
    seeds: Option<Seeds>,
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
    class: Vec<String>,
    /// Classifier-free guidance scale: 1 is off, larger values follow the class more closely
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_hyphen_values = true, value_parser = real(f64::NEG_INFINITY..=f64::INFINITY))]
    guidance: f64,
    /// Guide only at noise levels above LO and up to HI (σ of image + σ noise, whatever the scheduler); the other steps
    /// take one model call instead of two
    #[arg(long, num_args = 2, value_names = ["LO", "HI"], allow_hyphen_values = true, value_parser = real(0.0..=f64::INFINITY))]
    guidance_interval: Option<Vec<f64>>,
    /// The picture: a grid; grey images as dark ink on white. Its extension sets the format: .png, .jpg, .webp or .gif
    #[arg(long, value_name = "FILE", default_value = "samples.png", value_parser = picture::still)]
    out: PathBuf,
    /// Also save each image to its own file in this folder, with its own pixels, as diffusers returns them
    #[arg(long, value_name = "DIR")]
    separate: Option<PathBuf>,
    /// Also save the sampling as an animated picture: .png or .gif
    #[arg(long, value_name = "FILE", value_parser = picture::film)]
    animate: Option<PathBuf>,
    /// Also save the images as a tensor: `images`, f32 [n, c, h, w] in 0..1
    #[arg(long, value_name = "FILE.safetensors", value_parser = |text: &str| picture::with_ending(text, &["safetensors"]))]
    save_tensor: Option<PathBuf>,
    /// cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    machine: MachineArgs,
}

/// The seeds of `--seeds`, and the text they were parsed from.
#[derive(Debug, Clone)]
struct Seeds {
    seeds: Vec<u64>,
    text: String,
}

pub(crate) fn sample(args: SampleArgs) -> Result<ExitCode> {
    args.machine.apply()?;
    for file in [Some(&args.out), args.animate.as_ref(), args.save_tensor.as_ref()].into_iter().flatten() {
        check_writable(file)?; // fail before the work, not after it
    }
    if args.animate.as_ref() == Some(&args.out) {
        return Err(Error::Unfit(format!("--out and --animate both name {}; name two files", args.out.display())));
    }
    if let Some(dir) = &args.separate {
        std::fs::create_dir_all(dir).map_err(|source| Error::Io { action: "create", path: dir.clone(), source })?;
        check_writable(&dir.join("0000.png"))?;
    }
    let registry = Registry::default();
    let Opened { device, fallback, .. } = args.device.open()?;
    if let Some(fallback) = fallback {
        warn(&format!("warning: {fallback}"));
    }
    let mut pipeline = load(&args.model, args.checkpoint, args.strict, &registry, &device)?;
    if let Some(name) = &args.scheduler {
        let class_name = registry.schedulers.resolve(name)?;
        let scheduler = registry.schedulers.swap(class_name, pipeline.scheduler())?;
        pipeline.set_scheduler(scheduler)?;
    }
    if pipeline.inverts() {
        let scheduler = pipeline.scheduler().class_name().to_owned();
        warn(&format!("warning: {}", ConfigWarning::Inverts { scheduler }));
    }
    let steps = args.steps.unwrap_or(pipeline.class().default_steps().min(50) as u64) as usize;
    let options = args.options(steps, classes::labels(&args.class, &pipeline)?);
    if args.guidance_interval.is_some() && args.guidance == 1.0 {
        return Err(Error::Unfit("--guidance-interval has no effect without guidance: add --guidance 3".into()));
    }
    options.check_guidance(pipeline.scheduler())?;
    let mut noise: Box<dyn Noise> = match &args.seeds {
        Some(Seeds { seeds, .. }) => Box::new(PerImage::from_seeds(seeds.iter().copied())),
        None => Box::new(Generator::new(args.seed)),
    };
    let range = pipeline.scheduler().process().pixel_range();
    let mut film = Film { range, frames: vec![], failed: None };
    let bar = progress();
    let sample = pipeline.sample_with(&options, noise.as_mut(), |step| {
        bar.set_length(step.steps as u64);
        bar.set_position(step.index as u64 + 1);
        if args.animate.is_some() {
            film.take(step.index, step.steps, &step.output.prev_sample);
        }
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();

    let images = range.to_unit(&sample)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?; // non-finite values become NaN
    let about = args.about(pipeline.scheduler().class_name(), steps);
    let (count, shown) = (options.batch_size, visible(&images)?);
    if let Some(file) = &args.save_tensor {
        let tensors = [("images".to_owned(), images.contiguous()?)];
        let bytes = safetensors::serialize(tensors, None).map_err(|e| Error::Unfit(e.to_string()))?;
        write_whole(file, &bytes)?;
        say(&format!("The tensor `images` {:?}: {}", images.dims(), file.display()));
    }
    picture::write(&args.out, grid(&shown, &about)?)?;
    say(&format!("{count} images in {steps} steps: {}", args.out.display()));
    if shown.dim(1)? < images.dim(1)? {
        let which = if shown.dim(1)? == 1 { "first" } else { "first three" };
        warn(&format!("warning: the images have {} channels; pictures show the {which} of them", images.dim(1)?));
    }
    if let Some(dir) = &args.separate {
        args.save_each(dir, &shown, &about)?;
        say(&format!("Each image in a file of its own: {}", dir.display()));
    }
    if let Some(file) = &args.animate {
        picture::write(file, film.develop(&shown, &about)?)?;
        say(&format!("The sampling as an animation: {}", file.display()));
    }
    match not_finite(&images)? {
        Some(trouble) => {
            warn(&format!(
                "error: {trouble}; the model's weights have diverged in training, or do not fit the scheduler"
            ));
            Ok(ExitCode::FAILURE)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// How many values are not finite, and in which images; `None` if all are.
fn not_finite(images: &Tensor) -> Result<Option<String>> {
    let n = images.dim(0)?;
    let pixels = images.flatten_from(1)?.to_vec2::<f32>()?;
    let bad = pixels.iter().filter(|image| image.iter().any(|value| !value.is_finite())).count();
    let values = pictures::not_finite(pixels.into_iter().flatten());
    Ok(values.map(|values| format!("in {bad} of {n} images {values}")))
}

impl SampleArgs {
    fn options(&self, steps: usize, labels: Option<Vec<u32>>) -> SampleOptions {
        let batch_size = match &self.seeds {
            Some(Seeds { seeds, .. }) => seeds.len(),
            None => self.batch.unwrap_or(64) as usize,
        };
        let mut run = RunOptions { eta: self.eta, ..RunOptions::steps(steps) };
        run.churn = self.churn.map(|s_churn| Churn { s_churn, ..Churn::default() });
        let class_labels = labels.map(|labels| labels.into_iter().cycle().take(batch_size).collect::<Vec<_>>());
        let options = SampleOptions::new(batch_size).run(run).class_labels(class_labels);
        options.guidance_scale(self.guidance).guidance_interval(self.guidance_interval())
    }

    fn guidance_interval(&self) -> Option<[f64; 2]> {
        self.guidance_interval.as_ref().and_then(|ends| ends.as_slice().try_into().ok())
    }

    /// The metadata for the picture files.
    fn about(&self, scheduler: &str, steps: usize) -> Vec<(&'static str, String)> {
        let mut about = vec![
            ("Software", concat!("Kakusan ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("model", self.model.clone()),
            ("scheduler", scheduler.to_owned()),
            ("steps", steps.to_string()),
        ];
        about.push(match &self.seeds {
            Some(Seeds { text, .. }) => ("seeds", text.clone()),
            None => ("seed", self.seed.to_string()),
        });
        about.extend(self.eta.map(|eta| ("eta", eta.to_string())));
        about.extend(self.churn.map(|churn| ("churn", churn.to_string())));
        if !self.class.is_empty() {
            about.push(("class", self.class.join(",")));
        }
        if self.guidance != 1.0 {
            about.push(("guidance", self.guidance.to_string()));
        }
        about.extend(self.guidance_interval().map(|[low, high]| ("guidance interval", format!("{low} {high}"))));
        about
    }

    /// Writes each image into `dir`. Its file is named by its own seed if it has one, otherwise by its number.
    fn save_each(&self, dir: &Path, images: &Tensor, about: &[(&'static str, String)]) -> Result<()> {
        let (n, channels, height, width) = images.dims4()?;
        for i in 0..n {
            let pixels = images.narrow(0, i, 1)?.flatten_all()?.to_vec1::<f32>()?;
            let (name, own) = match &self.seeds {
                Some(Seeds { seeds, .. }) => (format!("seed-{}.png", seeds[i]), ("seed", seeds[i].to_string())),
                None => (format!("{i:04}.png"), ("image", i.to_string())),
            };
            let about = [about, &[own]].concat();
            let file = pictures::file(Images { pixels: &pixels, channels, height, width }, &about)?;
            write_whole(&dir.join(name), &file)?;
        }
        Ok(())
    }
}

/// The frames of an animation.
struct Film {
    range: PixelRange,
    /// Pixels in 0..1 `[n, c, h, w]`.
    frames: Vec<Vec<f32>>,
    failed: Option<Error>,
}

impl Film {
    fn take(&mut self, index: usize, steps: usize, sample: &Tensor) {
        let frame = |index: usize| index * MAX_FRAMES / steps.max(MAX_FRAMES);
        if index > 0 && steps > MAX_FRAMES && frame(index) == frame(index - 1) {
            return;
        }
        let pixels = || -> Result<Vec<f32>> {
            let unit = self.range.to_unit(&visible(sample)?)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            Ok(unit.flatten_all()?.to_vec1()?)
        };
        match pixels() {
            Ok(pixels) => self.frames.push(pixels),
            Err(e) => self.failed = Some(e),
        }
    }

    fn develop(self, images: &Tensor, about: &[(&'static str, String)]) -> Result<Vec<u8>> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (n, channels, height, width) = images.dims4()?;
        let last = images.flatten_all()?.to_vec1::<f32>()?;
        let frames = self.frames.iter().chain([&last]);
        let frames: Vec<Images> = frames.map(|pixels| Images { pixels, channels, height, width }).collect();
        Ok(pictures::animation(&frames, columns(n), scale(width), about)?)
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
    let dir = Path::new(model);
    let (id, revision) = model.split_once('@').unwrap_or((model, "main"));
    let is_id = id.split('/').count() == 2 && !model.starts_with(['.', '/', '~']);
    if dir.exists() || !is_id {
        return DDPMPipeline::from_pretrained(dir, registry, device);
    }
    let hub = crate::progress::hub()?;
    DDPMPipeline::from_hub(id, revision, &hub, registry, device)
}

/// The channels of images `[n, c, h, w]` that a picture can show: those of grey and coloured images, otherwise the
/// first or the first three.
fn visible(images: &Tensor) -> Result<Tensor> {
    let channels = images.dim(1)?;
    Ok(if matches!(channels, 1 | 3) {
        images.clone()
    } else {
        images.narrow(1, 0, if channels > 3 { 3 } else { 1 })?
    })
}

/// The images as a picture.
fn grid(images: &Tensor, about: &[(&str, String)]) -> Result<Vec<u8>> {
    let (n, channels, height, width) = images.dims4()?;
    let pixels = images.flatten_all()?.to_vec1::<f32>()?;
    Ok(pictures::grid(Images { pixels: &pixels, channels, height, width }, columns(n), scale(width), about)?)
}

/// Eight per row as in the tutorial, or a square for many images.
fn columns(n: usize) -> usize {
    if n <= 64 { n.min(8) } else { (n as f64).sqrt().ceil() as usize }
}

/// Enlarges small images.
fn scale(width: usize) -> usize {
    if width <= 64 { 3 } else { 1 }
}

/// A progress bar on a terminal, nothing elsewhere.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} model calls  {eta} left") {
        bar.set_style(style.progress_chars("━━ "));
    }
    bar
}

fn parse_seeds(text: &str) -> std::result::Result<Seeds, String> {
    let seeds = parse_numbers(text)?;
    Ok(Seeds { seeds, text: text.to_owned() })
}

/// Parses `0..15` (both included), `3,5,8`, or a mixture: `0..4,7`.
fn parse_numbers(text: &str) -> std::result::Result<Vec<u64>, String> {
    const MOST: u64 = 4096;
    let number = |text: &str| {
        text.trim().parse::<u64>().map_err(|_| format!("`{text}` is not a whole number from 0 to {}", u64::MAX))
    };
    let mut numbers = vec![];
    for part in text.split(',') {
        let (first, last) = part.split_once("..").unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last.trim_start_matches('='))?);
        if first > last || last - first >= MOST || numbers.len() as u64 + last - first >= MOST {
            return Err(format!("{first}..{last} is empty or has more than {MOST} seeds"));
        }
        numbers.extend(first..=last);
    }
    Ok(numbers)
}
