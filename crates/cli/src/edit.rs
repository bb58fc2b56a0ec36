//! The options with which `sample` edits pictures.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kakusan::candle::{Device, Tensor};
use kakusan::data::{ReadPicture, read_mask, read_pictures};
use kakusan::pipeline::{DDPMPipeline, Error, Registry, Result, SampleOptions, in_turns};

use crate::number::{real, whole};
use crate::table::{Side, Table};
use crate::terminal::say;

/// The share of the steps that is done from a picture, unless it is asked for or there is a mask.
const STRENGTH: f64 = 0.6;
/// Frames of an interpolation, unless they are asked for.
const FRAMES: usize = 30;

#[derive(Args)]
#[command(next_help_heading = "Editing")]
pub(crate) struct EditArgs {
    /// Start from this picture instead of noise; from those of a folder in turn. It is read as in training (grey with
    /// its own pixels, as --separate writes them): resized, its middle cropped, made grey where that is needed
    #[arg(long, value_name = "FILE|DIR", conflicts_with_all = ["invert", "interpolate"])]
    init: Option<PathBuf>,
    /// The share of the steps that is done from --init, above 0 and up to 1: the more, the further the images are from
    /// the picture [default: 0.6; with --mask 1]
    #[arg(long, value_name = "X", requires = "init", allow_hyphen_values = true, value_parser = real(0.0..=1.0))]
    strength: Option<f64>,
    /// Repaint --init where this picture is white, and keep it exactly where it is black. As large as --init, or as the
    /// model's images
    #[arg(long, value_name = "FILE", requires = "init")]
    mask: Option<PathBuf>,
    /// How the rest is repainted [default: blend]
    #[arg(long, value_name = "WAY", requires = "mask")]
    mask_way: Option<MaskWay>,
    /// Invert this picture (or each of a folder) to the noise that leads to it, by DDIM, draw it again from that, and
    /// print the mean error. --save-tensor saves the noise, too
    #[arg(long, value_name = "FILE|DIR", conflicts_with_all = [
        "interpolate", "grid", "batch", "seed", "seeds", "scheduler", "eta", "churn", "unfitted", "animate",
    ])]
    invert: Option<PathBuf>,
    /// Draw images on the way from the noise of seed A to that of seed B. --animate shows them one after the other and
    /// --out side by side; without --animate, --out (.png or .gif) is the animation
    #[arg(long, value_name = "A..B", conflicts_with_all = ["grid", "batch", "seed", "seeds"],
        allow_hyphen_values = true, value_parser = parse_ends)]
    interpolate: Option<[u64; 2]>,
    /// The number of images of --interpolate [default: 30]
    #[arg(long, value_name = "N", requires = "interpolate", allow_hyphen_values = true,
        value_parser = whole(2..=1000usize))]
    frames: Option<usize>,
    /// Draw a labelled table: the first setting varies from column to column, a second one from row to row, as in
    /// seeds=0..7 guidance=1,2,4. Settings: seeds, class, guidance, steps, scheduler, eta, strength (with --init)
    #[arg(long, value_name = "SETTING=VALUES", num_args = 1..=2, conflicts_with_all = ["batch", "seeds", "animate"],
        value_parser = Side::parse)]
    grid: Option<Vec<Side>>,
}

/// How the masked part of a picture is repainted.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MaskWay {
    /// After each step, the rest of the picture is put back, noised; with any scheduler
    Blend,
    /// RePaint: some steps are also undone and done again, which fits both parts together; about ten times the model
    /// calls, for models that predict the noise
    Repaint,
}

/// What is drawn.
pub(crate) enum Task {
    /// Images, from noise or from pictures.
    Draw(Option<Given>),
    /// Pictures that are inverted.
    Invert(Given),
    /// The way between the noises of two seeds.
    Interpolate([u64; 2]),
    /// A table.
    Grid(Table),
}

/// Pictures in the form of the model's images.
pub(crate) struct Given {
    /// Pixels in 0..1 `[n, c, h, w]`.
    pub(crate) unit: Tensor,
    /// Where they are repainted: 1, elsewhere 0 `[1, 1, h, w]`.
    pub(crate) mask: Option<Tensor>,
    /// Whether that is done by RePaint.
    pub(crate) repaint: bool,
}

impl EditArgs {
    /// Whether images are drawn as without these options, but for where they start.
    pub(crate) fn draws(&self) -> bool {
        self.invert.is_none() && self.grid.is_none() && !self.repaints()
    }

    /// Whether the class varies, so that --class is not needed.
    pub(crate) fn varies_class(&self) -> bool {
        self.varies("class")
    }

    fn varies(&self, name: &str) -> bool {
        self.grid.iter().flatten().any(|side| side.name == name)
    }

    fn repaints(&self) -> bool {
        self.mask_way == Some(MaskWay::Repaint)
    }

    /// The number of images that follows from these options, if one does.
    pub(crate) fn batch_size(&self, task: &Task) -> Option<usize> {
        match task {
            Task::Draw(Some(given)) => given.unit.dim(0).ok().filter(|&n| n > 1),
            Task::Draw(None) => None,
            Task::Invert(given) => given.unit.dim(0).ok(),
            Task::Interpolate(_) => Some(self.frames.unwrap_or(FRAMES)),
            Task::Grid(_) => Some(1),
        }
    }

    /// Refuses options that would have no effect. `is_set` says whether another option was set.
    pub(crate) fn check(&self, is_set: impl Fn(&str) -> bool) -> Result<()> {
        let refuse = |reason: String| Err(Error::Unfit(reason));
        let is_set = |name: &str| is_set(name) || name == "strength" && self.strength.is_some();
        if let Some(Side { name, .. }) = self.grid.iter().flatten().find(|side| is_set(side.name)) {
            return refuse(format!("--{name} has no effect where --grid varies it: leave out one of the two"));
        }
        if self.varies("strength") && self.init.is_none() {
            return refuse("a grid of strengths needs a picture to start from: add --init FILE".into());
        }
        if !self.repaints() {
            return Ok(());
        }
        if self.grid.is_some() {
            return refuse("--grid does not go with --mask-way repaint: take --mask-way blend".into());
        }
        match ["scheduler", "strength", "guidance", "churn"].into_iter().find(|name| is_set(name)) {
            Some(name) => refuse(format!(
                "--{name} has no effect with --mask-way repaint, which starts from noise and samples by \
                 RePaintScheduler, without guidance: leave it out, or take --mask-way blend"
            )),
            None => Ok(()),
        }
    }

    /// Reads the pictures, `most` at most, and prints what changes in them.
    pub(crate) fn task(&self, pipeline: &DDPMPipeline, registry: &Registry, most: Option<usize>) -> Result<Task> {
        let shape = pipeline.sample_shape()?;
        if self.repaints() && pipeline.model_config().num_classes().is_some() {
            return Err(Error::Unfit(
                "--mask-way repaint draws without classes, which this model needs: take --mask-way blend".into(),
            ));
        }
        if let Some(path) = &self.invert {
            return Ok(Task::Invert(Given { unit: read(path, shape, None)?.1, mask: None, repaint: false }));
        }
        if let Some(ends) = self.interpolate {
            return Ok(Task::Interpolate(ends));
        }
        let most = if self.grid.is_some() { Some(1) } else { most };
        let given = self.init.as_ref().map(|init| self.given(init, shape, most)).transpose()?;
        let Some(sides) = &self.grid else { return Ok(Task::Draw(given)) };
        Ok(Table::new(sides, given, pipeline, registry)?.map_or(Task::Draw(None), Task::Grid))
    }

    fn given(&self, init: &Path, shape: [usize; 3], most: Option<usize>) -> Result<Given> {
        let (pictures, unit) = read(init, shape, most)?;
        let mask = self.mask.as_ref().map(|mask| white(mask, &pictures, shape)).transpose()?;
        Ok(Given { unit, mask, repaint: self.repaints() })
    }

    /// How images are drawn from pictures, if any are given.
    pub(crate) fn start(
        &self,
        options: SampleOptions,
        given: Option<&Given>,
        pipeline: &DDPMPipeline,
    ) -> Result<SampleOptions> {
        let Some(given) = given else { return Ok(options) };
        let mask = given.mask.as_ref().map(|mask| mask.to_device(pipeline.weights().device())).transpose()?;
        let images = given.images(pipeline, options.batch_size)?;
        Ok(options.image_to_image(images, self.strength()).mask(mask))
    }

    fn strength(&self) -> f64 {
        self.strength.unwrap_or(if self.mask.is_some() { 1.0 } else { STRENGTH })
    }

    /// The options that were set, as metadata for picture files.
    pub(crate) fn about(&self) -> Vec<(&'static str, String)> {
        let mut about = vec![];
        let mut add = |keyword, text: Option<String>| about.extend(text.map(|text| (keyword, text)));
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let starts = self.init.is_some() && !self.repaints() && !self.varies("strength");
        let way = if self.repaints() { "repaint" } else { "blend" };
        add("init", path(&self.init));
        add("strength", starts.then(|| self.strength().to_string()));
        add("mask", path(&self.mask));
        add("mask way", self.mask.is_some().then(|| way.to_owned()));
        add("invert", path(&self.invert));
        add("interpolate", self.interpolate.map(|[first, last]| format!("{first}..{last}")));
        add("frames", self.interpolate.map(|_| self.frames.unwrap_or(FRAMES).to_string()));
        let sides = |sides: &Vec<Side>| sides.iter().map(|side| side.text.as_str()).collect::<Vec<_>>().join(" ");
        add("grid", self.grid.as_ref().map(sides));
        about
    }

    /// Whether these options determine what otherwise stands under this keyword of the metadata.
    pub(crate) fn replaces(&self, keyword: &str) -> bool {
        let no_seed = self.invert.is_some() || self.interpolate.is_some();
        self.varies(keyword) || no_seed && keyword == "seed"
    }
}

impl Given {
    /// So many images in the scheduler's range, the pictures in turn, on the pipeline's device.
    pub(crate) fn images(&self, pipeline: &DDPMPipeline, count: usize) -> Result<Tensor> {
        let unit = in_turns(&self.unit, count)?.to_device(pipeline.weights().device())?;
        pipeline.preprocess(&unit)
    }

    /// The same for [`DDPMPipeline::repaint`], and where they are kept: 1, elsewhere 0.
    pub(crate) fn to_repaint(&self, pipeline: &DDPMPipeline, count: usize) -> Result<(Tensor, Tensor)> {
        let images = self.images(pipeline, count)?;
        let kept = match &self.mask {
            Some(mask) => mask.affine(-1.0, 1.0)?.to_device(images.device())?,
            None => images.zeros_like()?,
        };
        Ok((images, kept))
    }

    /// Images with pixels in 0..1, in which the part that is not repainted is exactly that of the pictures.
    pub(crate) fn kept(&self, images: &Tensor) -> Result<Tensor> {
        let Some(mask) = &self.mask else { return Ok(images.clone()) };
        let repainted = mask.ge(0.5f64)?.broadcast_as(images.shape())?.contiguous()?;
        Ok(repainted.where_cond(images, &in_turns(&self.unit, images.dim(0)?)?)?)
    }
}

/// A mask for pictures, 1 where it is white, elsewhere 0 `[1, 1, h, w]`.
fn white(mask: &Path, pictures: &[ReadPicture], [_, height, width]: [usize; 3]) -> Result<Tensor> {
    let mut pairs = pictures.iter().zip(pictures.iter().skip(1));
    if let Some((one, other)) = pairs.find(|(one, other)| one.size != other.size) {
        return Err(Error::Unfit(format!(
            "one mask is for pictures of one size, but {} and {} differ in size: name one picture as --init",
            one.path.display(),
            other.path.display()
        )));
    }
    let Some(picture) = pictures.first() else { return Err(Error::Unfit("a mask needs a picture".into())) };
    let white = read_mask(mask, [height, width], picture)?;
    let count = white.iter().filter(|white| **white).count();
    if count == 0 {
        return Err(Error::Unfit(format!(
            "{} is black everywhere, so that nothing would be repainted: paint white what is to change",
            mask.display()
        )));
    }
    say(&format!("{count} of {} pixels are repainted, those that are white in {}.", white.len(), mask.display()));
    let mask: Vec<f32> = white.into_iter().map(|white| if white { 1.0 } else { 0.0 }).collect();
    Ok(Tensor::from_vec(mask, (1, 1, height, width), &Device::Cpu)?)
}

/// Pictures in the form of the model's images, `most` at most, and their pixels `[n, c, h, w]`. What changes in them is
/// printed.
fn read(path: &Path, shape: [usize; 3], most: Option<usize>) -> Result<(Vec<ReadPicture>, Tensor)> {
    let mut pictures = read_pictures(path, shape)?;
    let count = pictures.len();
    if let Some(most) = most.filter(|&most| most < count) {
        pictures.truncate(most);
        let of = if most == 1 { "The first".to_owned() } else { format!("The first {most}") };
        say(&format!("{of} of the {count} pictures in {}.", path.display()));
    }
    let mut changed = pictures.iter().filter_map(|picture| Some((picture, picture.changed.as_ref()?)));
    if let Some((picture, change)) = changed.next() {
        let more = match changed.count() {
            0 => String::new(),
            more => format!(" ({more} more are changed, too)"),
        };
        say(&format!("{}: {change}{more}.", picture.path.display()));
    }
    let pixels: Vec<f32> = pictures.iter().flat_map(|picture| picture.pixels.iter().copied()).collect();
    let [channels, height, width] = shape;
    let unit = Tensor::from_vec(pixels, (pictures.len(), channels, height, width), &Device::Cpu)?;
    Ok((pictures, unit))
}

fn parse_ends(text: &str) -> std::result::Result<[u64; 2], String> {
    let ends = text.split_once("..").map(|(first, last)| (first.trim().parse(), last.trim().parse()));
    match ends {
        Some((Ok(first), Ok(last))) if first != last => Ok([first, last]),
        _ => Err("expected two different seeds, as in 3..7".to_owned()),
    }
}
