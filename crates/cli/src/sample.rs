use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kakusan::candle::{DType, Device, Tensor};
use kakusan::pipeline::{
    ConfigWarning, DDPMPipeline, DeviceChoice, Error, Opened, Registry, Result, SampleOptions, check_writable,
    write_whole,
};
use kakusan::report::pictures::{self, Images};
use kakusan::rng::{Generator, Noise, PerImage};
use kakusan::scheduler::PixelRange;

use crate::guide::GuideArgs;
use crate::machine::MachineArgs;
use crate::number::whole;
use crate::sampling::SamplingArgs;
use crate::terminal::{say, warn};
use crate::{classes, picture};

/// The most frames in an animation; of a longer sampling, this many evenly spaced steps are shown.
const MAX_FRAMES: usize = 100;

#[derive(Args)]
pub(crate) struct SampleArgs {
    /// The folder of a run or a saved pipeline, or owner/name[@revision] on the Hub
    #[arg(long, value_name = "DIR|owner/name", value_parser = NonEmptyStringValueParser::new())]
    model: String,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Number of images, all from one seed [default: 64]
    #[arg(long, value_name = "N", conflicts_with = "seeds", allow_hyphen_values = true, value_parser = whole(1..=4096u64))]
    batch: Option<u64>,
    /// The seed of all random numbers, as in torch.manual_seed
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = whole(0..=u64::MAX))]
    seed: u64,
    /// One image per seed, independent of the other images: 0..15 (both included) or 3,5,8
    #[arg(long, value_name = "A..B", conflicts_with = "seed", allow_hyphen_values = true, value_parser = parse_seeds)]
    seeds: Option<Seeds>,
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
    #[command(flatten)]
    guide: GuideArgs,
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
    let pipeline = args.sampling.load(&args.model, &registry, &device)?;
    if pipeline.inverts() {
        let scheduler = pipeline.scheduler().class_name().to_owned();
        warn(&format!("warning: {}", ConfigWarning::Inverts { scheduler }));
    }
    let options = args.guide.apply(args.options(&pipeline)?, &args.model, &pipeline, &registry)?;
    args.sampling.say_fitted(&pipeline)?;
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
    let steps = args.sampling.steps(&pipeline);
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
    args.guide.say_losses(&options, &images)?;
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
    fn options(&self, pipeline: &DDPMPipeline) -> Result<SampleOptions> {
        let batch_size = match &self.seeds {
            Some(Seeds { seeds, .. }) => seeds.len(),
            None => self.batch.unwrap_or(64) as usize,
        };
        let labels = classes::labels(&self.sampling.class, pipeline)?;
        let labels = labels.map(|labels| labels.into_iter().cycle().take(batch_size).collect::<Vec<_>>());
        let mut options = self.sampling.options(pipeline)?.class_labels(labels);
        options.batch_size = batch_size;
        Ok(options)
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
        about.extend(self.sampling.about());
        about.extend(self.guide.about());
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
