use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kakusan::candle::{DType, Device, Tensor};
use kakusan::pipeline::{
    ConfigWarning, DDPMPipeline, DeviceChoice, Error, Inversion, Opened, Registry, Result, SampleOptions, SampleStep,
    check_writable, write_whole,
};
use kakusan::report::pictures::{self, Block, Images};
use kakusan::scheduler::PixelRange;

use crate::edit::{EditArgs, Given, Task};
use crate::generator::GeneratorKind;
use crate::guide::GuideArgs;
use crate::machine::MachineArgs;
use crate::number::{numbers, whole};
use crate::sampling::{SamplingArgs, warn_of_poor};
use crate::terminal::{counted, say, warn};
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
    /// Also save the images as a tensor: `images`, f32 [n, c, h, w] in 0..1; with --invert also `noise`
    #[arg(long, value_name = "FILE.safetensors", value_parser = |text: &str| picture::with_ending(text, &["safetensors"]))]
    save_tensor: Option<PathBuf>,
    /// cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// The generator of the noise: on every device torch's for the CPU, or its generator for cards, for the images that
    /// torch.Generator("cuda") gives in Python
    #[arg(long, value_enum, default_value = "cpu", hide_possible_values = true, value_name = "cpu|cuda")]
    generator: GeneratorKind,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    guide: GuideArgs,
    #[command(flatten)]
    edit: EditArgs,
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
    let task = args.task(&pipeline, &registry)?;
    let options = args.guide.apply(args.options(&pipeline, &task)?, &args.model, &pipeline, &registry)?;
    if args.edit.draws() {
        args.sampling.say_fitted(&pipeline)?;
    }
    let bar = progress();
    let Drawn { images, noise, mut film, said } = args.draw(&pipeline, &task, &options, &bar)?;
    bar.finish_and_clear();

    let about = args.about(&pipeline, &task);
    let shown = visible(&images)?;
    if let Some(file) = &args.save_tensor {
        let mut tensors = vec![("images".to_owned(), images.contiguous()?)];
        tensors.extend(noise.as_ref().map(|noise| ("noise".to_owned(), noise.clone())));
        let bytes = safetensors::serialize(tensors, None).map_err(|e| Error::Unfit(e.to_string()))?;
        write_whole(file, &bytes)?;
        let with = if noise.is_some() { " and `noise`" } else { "" };
        say(&format!("The tensor `images`{with} {:?}: {}", images.dims(), file.display()));
    }
    let is_way = matches!(task, Task::Interpolate(_));
    let last = if is_way { shown.narrow(0, shown.dim(0)? - 1, 1)? } else { shown.clone() };
    let film_only = is_way && args.animate.is_none() && picture::can_move(&args.out);
    match &task {
        _ if film_only => picture::write(&args.out, film.develop(&last, &about)?)?,
        Task::Draw(_) | Task::Interpolate(_) => picture::write(&args.out, grid(&shown, &about)?)?,
        Task::Grid(table) => picture::write(&args.out, with_pixels(&shown, |images| table.figure(images, &about))?)?,
        Task::Invert(given) => {
            let noise = noise.iter().map(|noise| pixel_range(&pipeline).to_unit(noise)).next().transpose()?;
            let columns = [Some(&given.unit), noise.as_ref(), Some(&images)].into_iter().flatten();
            let columns = columns.map(visible).collect::<Result<Vec<_>>>()?;
            picture::write(&args.out, inversion(&columns, &about)?)?;
        }
    }
    say(&format!("{said}: {}", args.out.display()));
    if let Task::Draw(_) = task {
        args.guide.say_losses(&options, &images)?;
    }
    if shown.dim(1)? < images.dim(1)? {
        let which = if shown.dim(1)? == 1 { "first" } else { "first three" };
        warn(&format!("warning: the images have {} channels; pictures show the {which} of them", images.dim(1)?));
    }
    if let Some(dir) = &args.separate {
        args.save_each(dir, &shown, &task, &about)?;
        say(&format!("Each image in a file of its own: {}", dir.display()));
    }
    if let Some(file) = &args.animate {
        picture::write(file, film.develop(&last, &about)?)?;
        let what = if is_way { "images" } else { "sampling" };
        say(&format!("The {what} as an animation: {}", file.display()));
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

/// What was drawn.
struct Drawn {
    /// Pixels in 0..1 `[n, c, h, w]`; NaN where they are not finite.
    images: Tensor,
    /// The noise of an inversion.
    noise: Option<Tensor>,
    film: Film,
    /// What was done, in words.
    said: String,
}

impl SampleArgs {
    fn task(&self, pipeline: &DDPMPipeline, registry: &Registry) -> Result<Task> {
        let is_set = |name: &str| self.sampling.sets(name) || name == "seed" && self.seed != 0;
        self.edit.check(is_set)?;
        let most = self.seeds.as_ref().map(|seeds| seeds.seeds.len()).or(self.batch.map(|batch| batch as usize));
        self.edit.task(pipeline, registry, most)
    }

    fn options(&self, pipeline: &DDPMPipeline, task: &Task) -> Result<SampleOptions> {
        let batch_size = match &self.seeds {
            Some(Seeds { seeds, .. }) => seeds.len(),
            None => self.batch.map(|batch| batch as usize).or(self.edit.batch_size(task)).unwrap_or(64),
        };
        let mut labels = if self.edit.varies_class() { None } else { classes::labels(&self.sampling.class, pipeline)? };
        if let (Some(labels), Task::Interpolate(_) | Task::Grid(_)) = (&mut labels, task) {
            if classes::by_class(&self.sampling.class, pipeline)?.is_some_and(|classes| classes.len() > 1) {
                return Err(Error::Unfit("--interpolate and --grid draw one class: name one as --class".into()));
            }
            labels.truncate(1); // one of the class's labels: others would change the images, too
        }
        let labels = labels.map(|labels| labels.into_iter().cycle().take(batch_size).collect::<Vec<_>>());
        let mut options = self.sampling.options(pipeline)?.class_labels(labels);
        options.batch_size = batch_size;
        Ok(options)
    }

    fn draw(&self, pipeline: &DDPMPipeline, task: &Task, options: &SampleOptions, bar: &ProgressBar) -> Result<Drawn> {
        let (range, steps) = (pixel_range(pipeline), self.sampling.steps(pipeline));
        let unit = |sample: &Tensor| -> Result<Tensor> {
            Ok(range.to_unit(sample)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
        };
        let mut film = Film { range, frames: vec![], failed: None };
        let progress = |done: usize, total: usize| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            ControlFlow::Continue(())
        };
        let mut watch = |step: &SampleStep| {
            if self.animate.is_some() {
                film.take(step.index, step.steps, &step.output.prev_sample);
            }
            progress(step.index + 1, step.steps)
        };
        let device = pipeline.device();
        let mut noise = match &self.seeds {
            Some(Seeds { seeds, .. }) => self.generator.per_image(seeds, device)?,
            None => self.generator.seeded(self.seed, device)?,
        };
        let count = options.batch_size;
        self.check_generator(pipeline, task, count)?;
        match task {
            Task::Draw(given) => {
                let given = given.as_ref();
                let sample = match given {
                    Some(given) if given.repaint => {
                        if !options.guides.is_empty() {
                            return Err(Error::Unfit(
                                "--mask-way repaint samples without guides: take --mask-way blend".into(),
                            ));
                        }
                        let (images, mask) = given.to_repaint(pipeline, count)?;
                        let repaint = self.sampling.repaint(pipeline);
                        pipeline.repaint(&images, &mask, &repaint, noise.as_mut(), &mut watch)?
                    }
                    _ => {
                        let options = self.edit.start(options.clone(), given, pipeline)?;
                        warn_of_poor(options.warnings(pipeline.scheduler()));
                        pipeline.sample_with(&options, noise.as_mut(), &mut watch)?
                    }
                };
                let images = given.map_or_else(|| unit(&sample), |given| given.kept(&unit(&sample)?))?;
                Ok(Drawn {
                    images,
                    noise: None,
                    film,
                    said: format!("{} in {}", counted(count, "image"), counted(steps, "step")),
                })
            }
            Task::Invert(given) => {
                let mut done = 0;
                let inversion = pipeline.invert(&given.images(pipeline, count)?, options, |step| {
                    done += 1;
                    progress(done, 2 * step.steps)
                })?;
                let Inversion { noise, images, mean_error, .. } = inversion.ok_or_else(stopped)?;
                let (error, of_255) = (format!("{mean_error:.4}"), format!("{:.1}", 255.0 * mean_error));
                let pictures = if count == 1 { "The picture".to_owned() } else { format!("{count} pictures") };
                let said = format!(
                    "{pictures} inverted to noise in {steps} steps and drawn again in as many; the mean error of a \
                     pixel is {error} ({of_255} of 255)"
                );
                let noise = noise.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                Ok(Drawn { images: unit(&images)?, noise: Some(noise), film, said })
            }
            Task::Interpolate(ends) => {
                warn_of_poor(options.warnings(pipeline.scheduler()));
                let way = pipeline.interpolate(*ends, options, progress)?.ok_or_else(stopped)?;
                if way.draws_noise {
                    warn(&format!(
                        "warning: {} draws noise in its steps, the same for all images; they change more smoothly \
                         without: add --eta 0 or another scheduler, such as --scheduler ddim",
                        pipeline.scheduler().class_name()
                    ));
                }
                let images = unit(&way.images)?;
                let frame =
                    |i: usize| -> Result<Vec<f32>> { Ok(visible(&images.narrow(0, i, 1)?)?.flatten_all()?.to_vec1()?) };
                let frames = (0..count - 1).map(frame).collect::<Result<Vec<_>>>()?;
                let (drawn, steps) = (counted(count, "image"), counted(steps, "step"));
                let said = format!("{drawn} from seed {} to seed {} in {steps}", ends[0], ends[1]);
                Ok(Drawn { images, noise: None, film: Film { frames, ..film }, said })
            }
            Task::Grid(table) => {
                let options = self.edit.start(options.clone(), table.given.as_ref(), pipeline)?;
                let rows = table.rows.as_ref();
                warn_of_poor(pipeline.grid_warnings(&table.columns, rows, &options)?);
                let images = pipeline.grid(&table.columns, rows, &options, self.seed, progress)?.ok_or_else(stopped)?;
                let images = unit(&images)?;
                let images = table.given.as_ref().map_or_else(|| Ok(images.clone()), |given| given.kept(&images))?;
                let said = format!("A table of {}", counted(images.dim(0)?, "image"));
                Ok(Drawn { images, noise: None, film, said })
            }
        }
    }

    /// Refuses another generator where it would have no effect, and warns where its numbers depend on the card.
    fn check_generator(&self, pipeline: &DDPMPipeline, task: &Task, count: usize) -> Result<()> {
        if self.generator != GeneratorKind::Cpu && !matches!(task, Task::Draw(_)) {
            let reason = "--generator has no effect with --interpolate, --grid and --invert: leave it out";
            return Err(Error::Unfit(reason.into()));
        }
        let numbers = pipeline.sample_shape()?.iter().product::<usize>() * if self.seeds.is_some() { 1 } else { count };
        if self.generator.guesses_the_card(numbers, pipeline.device())? {
            warn(
                "warning: the noise has more numbers than an H100 has threads; here they are in that card's order, and \
                 torch's order is another one on cards of other sizes",
            );
        }
        Ok(())
    }

    /// The metadata for the picture files.
    fn about(&self, pipeline: &DDPMPipeline, task: &Task) -> Vec<(&'static str, String)> {
        let scheduler = match task {
            Task::Invert(_) => "DDIMScheduler",
            Task::Draw(Some(Given { repaint: true, .. })) => "RePaintScheduler",
            _ => pipeline.scheduler().class_name(),
        };
        let mut about = vec![
            ("Software", concat!("Kakusan ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("model", self.model.clone()),
            ("scheduler", scheduler.to_owned()),
            ("steps", self.sampling.steps(pipeline).to_string()),
        ];
        about.push(match &self.seeds {
            Some(Seeds { text, .. }) => ("seeds", text.clone()),
            None => ("seed", self.seed.to_string()),
        });
        about.extend((self.generator == GeneratorKind::Cuda).then(|| ("generator", "cuda".to_owned())));
        about.extend(self.sampling.about());
        about.extend(self.guide.about());
        about.retain(|(keyword, _)| !self.edit.replaces(keyword));
        about.extend(self.edit.about());
        about
    }

    /// Writes each image into `dir`. Its file is named by its own seed or its settings in a table if it has them,
    /// otherwise by its number.
    fn save_each(&self, dir: &Path, images: &Tensor, task: &Task, about: &[(&'static str, String)]) -> Result<()> {
        let (n, channels, height, width) = images.dims4()?;
        let cells = if let Task::Grid(table) = task { table.cells() } else { vec![] };
        for i in 0..n {
            let pixels = images.narrow(0, i, 1)?.flatten_all()?.to_vec1::<f32>()?;
            let (name, own) = match (&self.seeds, cells.get(i)) {
                (_, Some(cell)) => (file_name(cell), cell.clone()),
                (Some(Seeds { seeds, .. }), _) => {
                    (format!("seed-{}.png", seeds[i]), vec![("seed", seeds[i].to_string())])
                }
                _ => (format!("{i:04}.png"), vec![("image", i.to_string())]),
            };
            let about = [about, &own].concat();
            let file = pictures::file(Images { pixels: &pixels, channels, height, width }, &about)?;
            write_whole(&dir.join(name), &file)?;
        }
        Ok(())
    }
}

fn stopped() -> Error {
    Error::Unfit("stopped before the end".to_owned())
}

fn pixel_range(pipeline: &DDPMPipeline) -> PixelRange {
    pipeline.scheduler().process().pixel_range()
}

/// The name of a file for an image of a table: `seed-3-guidance-2.png`.
fn file_name(cell: &[(&str, String)]) -> String {
    let plain = |text: &str| text.replace(|c: char| !c.is_alphanumeric() && c != '.' && c != '-', "_");
    let words: Vec<String> = cell.iter().map(|(name, value)| format!("{name}-{}", plain(value))).collect();
    format!("{}.png", words.join("-"))
}

/// Pictures, their noise, and what was drawn from it, as a table of the first ones.
fn inversion(columns: &[Tensor], about: &[(&str, String)]) -> Result<Vec<u8>> {
    const ROWS: usize = 16;
    let rows = columns.iter().map(|column| column.dim(0)).collect::<std::result::Result<Vec<_>, _>>()?;
    let rows = rows.into_iter().min().unwrap_or(0).min(ROWS);
    let mut images = vec![];
    for row in 0..rows {
        for column in columns {
            images.push(column.narrow(0, row, 1)?);
        }
    }
    let column_labels = ["picture", "noise", "drawn again"].map(str::to_owned).to_vec();
    with_pixels(&Tensor::cat(&images, 0)?, |images| {
        let block = Block { title: "", images, columns: columns.len(), column_labels, row_labels: vec![] };
        Ok(pictures::figure("", &[block], about)?)
    })
}

/// What is made of the pixels of images `[n, c, h, w]`.
fn with_pixels<T>(images: &Tensor, make: impl FnOnce(Images) -> Result<T>) -> Result<T> {
    let (_, channels, height, width) = images.dims4()?;
    let pixels = images.flatten_all()?.to_vec1::<f32>()?;
    make(Images { pixels: &pixels, channels, height, width })
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

    fn develop(&mut self, images: &Tensor, about: &[(&'static str, String)]) -> Result<Vec<u8>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let (n, channels, height, width) = images.dims4()?;
        let last = images.flatten_all()?.to_vec1::<f32>()?;
        let frames = self.frames.iter().chain([&last]);
        let frames: Vec<Images> = frames.map(|pixels| Images { pixels, channels, height, width }).collect();
        let (columns, scale) = pictures::layout(n, width);
        Ok(pictures::animation(&frames, columns, scale, about)?)
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
    let (columns, scale) = pictures::layout(n, width);
    Ok(pictures::grid(Images { pixels: &pixels, channels, height, width }, columns, scale, about)?)
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
    let seeds = numbers(text)?;
    Ok(Seeds { seeds, text: text.to_owned() })
}
