//! The command `new`: writes a configuration that suits a set, this machine and the time at hand.

mod ask;
mod plan;
mod recipe;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use kakusan::candle::Device;
use kakusan::data::{Class, DataConfig, DatasetName, ImageSet};
use kakusan::pipeline::{
    DeviceChoice, Error, Opened, Registry, Result, RunConfig, Trainer, check_writable, write_whole,
};
use kakusan::report::{quote_path, thousands};
use kakusan::rng::Generator;

use self::ask::Questions;
use self::plan::{BATCH, Measured, Plan, plan};
use self::recipe::{Recipe, significant};
use crate::facts::{Facts, UNIT, is_stopped, look};
use crate::machine::MachineArgs;
use crate::number::real;
use crate::picture::with_ending;
use crate::program::program;
use crate::set;
use crate::terminal::{counted, say, warn};

const DETAILS: &str = "\
On a terminal, what no flag says is asked for. Elsewhere --data is needed, and the rest has defaults: the set's own
size, colour and classes, and 10 minutes.

The images are looked at first (as by `data`), and training steps of a few networks are timed on this machine. The
configuration has the widest network that gets enough steps in the time, and comments that say why. Edit it as you like:
the book describes every key (docs/book/src/en/training.md and images.md).

Examples:
  new                                                   asks
  new --data photographs --minutes 30 pets.toml
  new --data mnist --classes 1,8,4 --minutes 1
  new --data owner/name --size 32 --colour grey --classes none --overwrite small.toml";

/// Without a terminal, the time at hand.
const MINUTES: &str = "10";
/// Bad images that are named.
const NAMED: usize = 10;
/// How long a network is timed, and for how many steps at most.
const TIMED: Duration = Duration::from_millis(500);
const TIMED_STEPS: u32 = 20;

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct NewArgs {
    /// The configuration to write [default: named after the data, in this folder]
    #[arg(value_name = "FILE.toml", value_parser = |text: &str| with_ending(text, &["toml"]))]
    file: Option<PathBuf>,
    /// The images: a folder, archive or parquet file, owner/name on the Hub, mnist, fashion_mnist or cifar10
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    /// Set a value of [data], e.g. --set data.split=val (can be repeated)
    #[arg(long, value_name = "data.KEY=VALUE")]
    set: Vec<String>,
    /// The side of the images in pixels, a multiple of 4; others are resized and cropped
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = side)]
    size: Option<usize>,
    /// Grey images, or coloured ones
    #[arg(long, alias = "color", value_name = "COLOUR")]
    colour: Option<Colour>,
    /// The classes to draw: all, some (cat,dog or 1,8,4), or none to ignore the classes
    #[arg(long, value_name = "CLASSES")]
    classes: Option<String>,
    /// The time for the training, in minutes
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = real(0.1..=1e6))]
    minutes: Option<f64>,
    /// Replace the configuration if it exists
    #[arg(long)]
    overwrite: bool,
    /// cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Colour {
    Grey,
    Rgb,
}

impl Colour {
    fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Rgb => 3,
        }
    }
}

pub(crate) fn new(args: &NewArgs) -> Result<ExitCode> {
    args.machine.apply()?;
    let registry = Registry::default();
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let mut questions = Questions { terminal: input.is_terminal().then(|| (input.lock(), output)) };
    let word = match &args.data {
        Some(word) => word.clone(),
        None if questions.terminal.is_some() => {
            let read = |word: &str| set::of_word(word, &args.set, &registry).map_err(|e| e.to_string());
            questions.ask(&format!("Images ({})", set::WORDS), "mnist", |word| read(word).map(|_| word.to_owned()))?
        }
        None => {
            let reason = format!("name the images, {}: --data DATA (there is no terminal to ask at)", set::WORDS);
            return Err(Error::Unfit(reason));
        }
    };
    let config = set::of_word(&word, &args.set, &registry)?;
    let file = args.file.as_ref().map_or_else(|| named_after(&word), |file| file.with_extension("toml"));
    if file.exists() && !args.overwrite {
        let file = file.display();
        return Err(Error::Unfit(format!("{file} exists already; name another file, or replace it with --overwrite")));
    }
    check_writable(&file)?;

    let Some(mut facts) = known(&config)? else { return Ok(ExitCode::from(130)) };
    let size = match args.size {
        Some(side) => [side; 2],
        None => {
            let [height, width] = facts.size();
            let own = if height == width { height.to_string() } else { format!("{width}x{height}") };
            questions.ask("Size in pixels, a side or WIDTHxHEIGHT", &own, sides)?
        }
    };
    let channels = match args.colour {
        Some(colour) => colour.channels(),
        None => {
            let own = if facts.channels() == 1 { "grey" } else { "rgb" };
            let read = |word: &str| Colour::from_str(word, true).map_err(|_| "expected grey or rgb".to_owned());
            questions.ask("Colour, grey or rgb", own, read)?.channels()
        }
    };
    let classes = match &args.classes {
        Some(text) => chosen(text, &facts).map_err(Error::Unfit)?,
        None if facts.has_classes() => {
            let names: Vec<&str> = facts.classes.iter().take(12).map(|(name, _)| name.as_str()).collect();
            let more = if facts.classes.len() > names.len() { ", ..." } else { "" };
            let question = format!("Classes, all, none, or some of {}{more}", names.join(", "));
            questions.ask(&question, "all", |text| chosen(text, &facts))?
        }
        None => Chosen::None,
    };
    let minutes = match args.minutes {
        Some(minutes) => minutes,
        None => questions.ask("Minutes for the training", MINUTES, real(0.1..=1e6))?,
    };

    let Opened { device, fallback, .. } = args.device.open()?;
    if let Some(fallback) = fallback {
        warn(&format!("warning: {fallback}"));
    }
    let used = classes.apply(&mut facts);
    let known = facts.classes.len();
    let mut recipe = Recipe {
        data: vec![],
        images: facts.images(),
        size,
        channels,
        classes: used.map(|used| (known, used)),
        width: 0,
        steps: 0,
        black_or_white: facts.black_or_white,
    };
    let plan = plan(minutes * 60.0, recipe.images, |width| {
        (recipe.width, recipe.steps) = (width, 100_000);
        measure(&recipe, &registry, &device)
    })?;
    let network = plan.network;
    (recipe.width, recipe.steps) = (network.width, plan.steps);
    let parameters = unmeasured(&recipe, &registry)?.model.outline()?.parameter_count();
    recipe.data = facts.section(&facts.configured(size, channels))?;
    let text = recipe.head(&file, minutes) + &recipe.text(parameters, network.seconds);
    let parsed = RunConfig::parse(&text, &file.display().to_string(), &[], &registry)?;
    write_whole(&file, text.as_bytes())?;
    tell(&plan, parameters, &recipe, minutes);
    parsed.warnings().iter().for_each(|warning| warn(&format!("warning: {warning}")));
    say(&format!("Written: {}. Train with: {} train --config {}", file.display(), program(), quote_path(&file)));
    Ok(ExitCode::SUCCESS)
}

/// What is known of the images, after a look at them; `None` if Ctrl-C stopped it.
fn known(config: &DataConfig) -> Result<Option<Facts>> {
    let is_named = !matches!(config.name, DatasetName::Folder | DatasetName::Hub);
    if is_named && config.dir.is_none() && config.classes.is_none() {
        return Ok(Some(Facts::of_named(config)));
    }
    let set = look(config)?;
    if is_stopped(&set) {
        warn("Stopped; nothing is written.");
        return Ok(None);
    }
    set.notes.iter().for_each(|note| say(&format!("Data: {note}.")));
    for bad in set.bad.iter().take(NAMED) {
        warn(&format!("warning: {bad}"));
    }
    if set.bad.len() > NAMED {
        warn(&format!("warning: and {} more; `data` names all of them", set.bad.len() - NAMED));
    }
    if set.images.is_empty() {
        return Err(Error::Unfit(format!("there is no image to train on in {}", set.source.description)));
    }
    say(&format!("Data: {}, {}.", counted(set.images.len(), "image"), set.source.description));
    if let Some(reason) = &set.unlabelled {
        say(&format!("Data: the images have no classes: {reason}"));
    }
    Ok(Some(Facts::of(config, &set)))
}

/// The classes that were chosen.
enum Chosen {
    All,
    Some(Vec<Class>),
    /// The model is not told them.
    None,
}

/// Reads a choice of classes.
fn chosen(text: &str, facts: &Facts) -> std::result::Result<Chosen, String> {
    match text {
        "none" => return Ok(Chosen::None),
        _ if !facts.has_classes() => return Err("the images have no classes; --classes none says so".to_owned()),
        "all" => return Ok(Chosen::All),
        _ => {}
    }
    let is_known = |word: &str| facts.classes.iter().any(|(name, count)| name == word && *count > 0);
    let words: Vec<&str> = if is_known(text) { vec![text] } else { text.split(',').map(str::trim).collect() };
    if let Some(wrong) = words.iter().find(|word| !is_known(word)) {
        let names = facts.classes.iter().take(20).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(format!("there is no class `{wrong}`; expected all, none, or some of {names}"));
    }
    // a number that is written otherwise, such as 07, is a name
    let number = |word: &str| word.parse::<u32>().ok().filter(|number| number.to_string() == word);
    let mut classes: Vec<Class> = vec![];
    for word in words {
        let class = number(word).map_or_else(|| Class::from(word), Class::Number);
        if !classes.contains(&class) {
            classes.push(class);
        }
    }
    Ok(Chosen::Some(classes))
}

impl Chosen {
    /// Leaves only the images of the chosen classes. Returns how many classes the model is told, if any.
    fn apply(self, facts: &mut Facts) -> Option<usize> {
        match self {
            Self::None => None,
            Self::All => Some(facts.classes.iter().filter(|(_, count)| *count > 0).count()),
            Self::Some(classes) => {
                for (name, count) in &mut facts.classes {
                    let is_it = |class: &Class| match class {
                        Class::Number(number) => number.to_string() == *name,
                        Class::Name(own) => own == name,
                    };
                    *count = if classes.iter().any(is_it) { *count } else { 0 };
                }
                let used = classes.len();
                facts.config.classes = Some(classes);
                Some(used)
            }
        }
    }
}

/// The configuration with what is known before anything is measured, for as many epochs as a measurement may take.
fn unmeasured(recipe: &Recipe, registry: &Registry) -> Result<RunConfig> {
    Ok(RunConfig::parse(&recipe.text(0, 0.0), "the measurement", &["train.epochs=1000".to_owned()], registry)?)
}

/// Builds the network and times a few training steps, on noise.
fn measure(recipe: &Recipe, registry: &Registry, device: &Device) -> Result<Measured> {
    let config = unmeasured(recipe, registry)?;
    let parameters = config.model.outline()?.parameter_count();
    let shape = config.model.sample_shape()?;
    let (count, size) = (2 * BATCH, shape.iter().product::<usize>());
    let pixels = Generator::new(0).rand(count * size).into_iter().map(|value| (value * 255.0) as u8).collect();
    let images = ImageSet::new(shape, pixels, vec![0; count], vec!["noise".to_owned()])?;
    let mut trainer = Trainer::new(&config, Arc::new(images), device)?;
    for _ in 0..2 {
        trainer.step()?; // the first steps allocate
    }
    let (start, mut steps) = (Instant::now(), 0);
    while steps < TIMED_STEPS && start.elapsed() < TIMED {
        trainer.step()?;
        steps += 1;
    }
    Ok(Measured { width: recipe.width, parameters, seconds: start.elapsed().as_secs_f64() / f64::from(steps) })
}

/// Says what was measured and chosen, and why.
fn tell(plan: &Plan, parameters: usize, recipe: &Recipe, minutes: f64) {
    let Plan { network, steps, measured, reason, is_short } = plan;
    let times = measured.iter().map(|of| format!("{} s with {} channels", significant(of.seconds), of.width));
    say(&format!("Measured: a step of {BATCH} images takes {}.", times.collect::<Vec<_>>().join(", ")));
    let (width, parameters) = (network.width, thousands(parameters));
    say(&format!("Chosen: {width} channels in the first block, {parameters} parameters; {reason}."));
    let passes = (*steps * BATCH) as f64 / recipe.images as f64;
    say(&format!(
        "Training: {}, {passes:.1} passes over {}; with its pictures about {:.1} of {minutes} min.",
        counted(*steps, "step"),
        counted(recipe.images, "image"),
        network.total(*steps, recipe.images) / 60.0
    ));
    if *is_short {
        warn("warning: so few steps give rough images; more --minutes or a smaller --size give better ones");
    }
}

/// The file for a set: `photographs.toml` for the folder `photographs/`.
fn named_after(word: &str) -> PathBuf {
    let path = Path::new(word);
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = [".tar.gz", ".tgz", ".tar", ".zip", ".parquet", ".toml"].iter().find_map(|end| name.strip_suffix(end));
    let stem = stem.unwrap_or(&name);
    PathBuf::from(format!("{}.toml", if stem.is_empty() { "images" } else { stem }))
}

/// One side of images.
fn side(text: &str) -> std::result::Result<usize, String> {
    let side = text.parse().ok().filter(|side: &usize| (8..=512).contains(side) && side.is_multiple_of(UNIT));
    side.ok_or_else(|| format!("expected a multiple of {UNIT} from 8 to 512"))
}

/// The height and width of images, from a side or WIDTHxHEIGHT.
fn sides(text: &str) -> std::result::Result<[usize; 2], String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    Ok([side(height.trim())?, side(width.trim())?])
}
