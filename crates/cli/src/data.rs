//! The command `data`: looks at a set before hours are spent on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kakusan::data::{DataConfig, Inspection, SourceKind};
use kakusan::pipeline::{Error, Registry, Result, check_writable};
use kakusan::report::pictures::{Block, Images, figure};
use kakusan::report::thousands;
use kakusan::rng::Generator;

use crate::facts::{Facts, is_stopped, look};
use crate::machine::MachineArgs;
use crate::number::whole;
use crate::terminal::{counted, say, warn};
use crate::{picture, set};

const DETAILS: &str = "\
Every image is decoded, as a training would: each bad file is named, where a training stops at the first. The contact
sheet has a row for each class, with images chosen at random by --seed, cut as a training sees them. The suggested
[data] can be copied into a configuration; `new` writes a whole one.

Examples:
  data photographs                                      a folder, a zip, tar or tar.gz, parquet files, MNIST's files
  data photographs --set data.split=val                 another split
  data owner/name --set data.config_name=small          a data set of the Hub
  data --config configs/184.toml                        what a configuration trains on

Exit codes: 0 all images can be decoded, 1 some cannot, 130 stopped by Ctrl-C; what was seen until then is printed.";

/// The most images of a class on the contact sheet, the most classes, and the largest side of an image.
const COLUMNS: usize = 10;
const ROWS: usize = 40;
const SIDE: usize = 128;
/// The longest name of a class beside its row, in characters.
const LABEL: usize = 24;
/// How many classes and how many groups of duplicates are printed.
const CLASSES: usize = 100;
const GROUPS: usize = 10;

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct DataArgs {
    /// A folder, archive or parquet file, owner/name on the Hub, mnist, fashion_mnist or cifar10, or a configuration
    /// file
    #[arg(value_name = "DATA", required_unless_present = "config")]
    data: Option<String>,
    /// Look at the data of this configuration; DATA, if named, takes the place of its folder
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Set a value of the data's configuration, e.g. --set 'data.classes=["cat","dog"]' (can be repeated)
    #[arg(long, value_name = "data.KEY=VALUE")]
    set: Vec<String>,
    /// The contact sheet to write. Its extension sets the format: .png, .jpg, .webp or .gif
    #[arg(long, value_name = "FILE", default_value = "data.png", value_parser = picture::still)]
    out: PathBuf,
    /// The seed of the choice of images on the contact sheet
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = whole(0..=u64::MAX))]
    seed: u64,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn data(args: &DataArgs) -> Result<ExitCode> {
    args.machine.apply()?;
    check_writable(&args.out)?;
    let config = args.config(&Registry::default())?;
    let set = look(&config)?;
    let facts = Facts::of(&config, &set);
    describe(&set, &facts);
    if is_stopped(&set) {
        let seen = set.images.len() + set.bad.len();
        warn(&format!("Stopped after {} of {} images.", thousands(seen), thousands(set.total)));
        return Ok(ExitCode::from(130));
    }
    if !set.images.is_empty() {
        picture::write(&args.out, args.sheet(&set, &facts)?)?;
        say(&format!("The contact sheet: {}", args.out.display()));
        if args.config.is_none() {
            let section = facts.section(&facts.configured(facts.size(), facts.channels()))?;
            say(&format!("\nA configuration for it, of which `new` writes the rest:\n\n{}", section.join("\n")));
        }
    }
    Ok(if set.bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl DataArgs {
    fn config(&self, registry: &Registry) -> Result<DataConfig> {
        match (&self.config, &self.data) {
            (Some(file), dir) => {
                let mut config = set::of_file(file, &self.set)?;
                if let Some(dir) = dir {
                    (config.dir, config.sources) = (Some(dir.into()), vec![SourceKind::Dir]);
                }
                Ok(config)
            }
            (None, Some(word)) => set::of_word(word, &self.set, registry),
            (None, None) => Err(Error::Unfit(format!("name {}", set::WORDS))), // clap asks for one of them
        }
    }

    /// The contact sheet as PNG: a row for each class, or rows of images without classes.
    fn sheet(&self, set: &Inspection, facts: &Facts) -> Result<Vec<u8>> {
        let [height, width] = facts.size().map(|side| side.min(SIDE));
        let mut rng = Generator::new(self.seed);
        let mut choose = |places: &[usize], count: usize| -> Vec<usize> {
            rng.randperm(places.len()).into_iter().take(count).map(|at| places[at]).collect()
        };
        let mut of_class = BTreeMap::<u32, Vec<usize>>::new();
        for (i, image) in set.images.iter().enumerate() {
            of_class.entry(image.label).or_default().push(i);
        }
        let (mut rows, mut labels) = (vec![], vec![]);
        if facts.has_classes() {
            for (label, places) in of_class.iter().take(ROWS) {
                rows.push(choose(places, COLUMNS));
                labels.push(shortened(&set.class_names[*label as usize]));
            }
        } else {
            let chosen = choose(&(0..set.images.len()).collect::<Vec<_>>(), COLUMNS * COLUMNS);
            rows = chosen.chunks(COLUMNS).map(<[usize]>::to_vec).collect();
        }
        let columns = rows.iter().map(Vec::len).max().unwrap_or(1);
        let mut pixels = vec![];
        for row in &rows {
            for &i in row {
                pixels.extend(set.thumbnail(i, [height, width])?);
            }
            pixels.resize(pixels.len() + (columns - row.len()) * 3 * height * width, 1.0); // white
        }
        let title = match facts.has_classes() {
            true => {
                let cut = if of_class.len() > ROWS { format!(", the first {ROWS}") } else { String::new() };
                let (images, classes) = (counted(set.images.len(), "image"), thousands(of_class.len()));
                format!("{images} of {classes} classes{cut}")
            }
            false => counted(set.images.len(), "image"),
        };
        let images = Images { pixels: &pixels, channels: 3, height, width };
        let block = Block { title: "", images, columns, column_labels: vec![], row_labels: labels };
        let about = [("data", set.source.description.clone()), ("seed", self.seed.to_string())];
        Ok(figure(&title, &[block], &about)?)
    }
}

/// Prints what the set holds.
fn describe(set: &Inspection, facts: &Facts) {
    for skipped in &set.skipped {
        say(&format!("Data: skipped the source `{}`: {}", skipped.source, skipped.reason));
    }
    say(&format!("Data: {}.", set.source.description));
    set.notes.iter().for_each(|note| say(&format!("Data: {note}.")));
    if set.splits.len() > 1 {
        let splits = set.splits.iter().map(|(name, count)| match count {
            Some(count) => format!("{name} ({})", thousands(*count)),
            None => name.clone(),
        });
        say(&format!("Splits: {}; data.split selects one.", splits.collect::<Vec<_>>().join(", ")));
    }
    let images = set.images.len();
    match set.bad.len() {
        0 => say(&format!("Images: {}.", thousands(images))),
        bad => say(&format!("Images: {}, and {} that cannot be decoded.", thousands(images), thousands(bad))),
    }
    if facts.has_classes() {
        let classes: Vec<_> = facts.classes.iter().filter(|(_, count)| *count > 0).collect();
        let width = classes.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        say(&format!("Classes: {}.", thousands(classes.len())));
        for (name, count) in classes.iter().take(CLASSES) {
            say(&format!("  {name:width$}  {:>9}", thousands(*count)));
        }
        if let Some(rest) = classes.get(CLASSES..).filter(|rest| !rest.is_empty()) {
            let counts = || rest.iter().map(|(_, count)| *count);
            let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
            say(&format!("  and {} more, of {least} to {most} images each", rest.len()));
        }
    } else if let Some(reason) = &set.unlabelled {
        say(&format!("Classes: none: {reason}."));
    }
    if images > 0 {
        say(&format!("Sizes (width x height): {}.", sizes(set)));
        say(&format!("Modes: {}.", modes(set)));
        let list = |numbers: Vec<f64>| numbers.iter().map(|x| format!("{x:.4}")).collect::<Vec<_>>().join(", ");
        let (means, deviations): (Vec<f64>, Vec<f64>) = set.mean_and_std().into_iter().unzip();
        let channels = if means.len() == 3 { " (red, green, blue)" } else { "" };
        say(&format!(
            "Pixels from 0 to 1{channels}: mean {}; standard deviation {}; {:.0} % are black or white.",
            list(means),
            list(deviations),
            100.0 * set.black_or_white()
        ));
    }
    duplicates(set);
    for bad in &set.bad {
        say(&format!("Bad: {bad}"));
    }
}

/// The sizes of the images: the smallest, the largest, the most common.
fn sizes(set: &Inspection) -> String {
    let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for image in &set.images {
        *counts.entry((image.width, image.height)).or_default() += 1;
    }
    let text =
        |size: Option<(usize, usize)>| size.map_or(String::new(), |(width, height)| format!("{width} x {height}"));
    let area = |size: &(usize, usize)| size.0 * size.1;
    if counts.len() == 1 {
        return format!("all {}", text(counts.into_keys().next()));
    }
    let smallest = counts.keys().copied().min_by_key(area);
    let largest = counts.keys().copied().max_by_key(area);
    let (common, most) =
        counts.iter().max_by_key(|(_, count)| **count).map_or((None, 0), |(size, n)| (Some(*size), *n));
    let oblong = set.images.iter().filter(|image| image.width != image.height).count();
    format!(
        "{} different ones, from {} to {}; most often {} ({}); {} of {} are not square",
        thousands(counts.len()),
        text(smallest),
        text(largest),
        text(common),
        thousands(most),
        thousands(oblong),
        thousands(set.images.len())
    )
}

/// The modes of the files, and what they do not tell.
fn modes(set: &Inspection) -> String {
    let mut counts = BTreeMap::new();
    for image in &set.images {
        *counts.entry(image.mode).or_insert(0usize) += 1;
    }
    let mut parts: Vec<String> = counts.iter().map(|(mode, count)| format!("{mode} ({})", thousands(*count))).collect();
    let transparent = set.images.iter().filter(|image| image.is_transparent).count();
    if transparent > 0 {
        parts.push(format!("{} with transparent pixels", thousands(transparent)));
    }
    let grey = set.images.iter().filter(|image| image.mode.channels >= 3 && image.is_grey).count();
    if grey > 0 {
        parts.push(format!("{} of colour have grey pixels alone", thousands(grey)));
    }
    parts.join(", ")
}

fn duplicates(set: &Inspection) {
    let groups = set.duplicates();
    if groups.is_empty() {
        return;
    }
    let repeated: usize = groups.iter().map(|group| group.len() - 1).sum();
    let label = |i: usize| set.images[i].label;
    let mixed = groups.iter().filter(|group| group.iter().any(|&i| label(i) != label(group[0]))).count();
    let across = match mixed {
        0 => String::new(),
        1 => "; one group of them is in several classes".to_owned(),
        more => format!("; {more} groups of them are in several classes"),
    };
    let have = if repeated == 1 { "has" } else { "have" };
    say(&format!("Duplicates: {} {have} the pixels of an earlier one{across}.", counted(repeated, "image")));
    for group in groups.iter().take(GROUPS) {
        let more = if group.len() > 2 { format!(" and {} more", group.len() - 2) } else { String::new() };
        say(&format!("  {} = {}{more}", set.name(group[0]), set.name(group[1])));
    }
    if groups.len() > GROUPS {
        say(&format!("  and {} groups more", thousands(groups.len() - GROUPS)));
    }
}

/// A name that is not too long for a label.
fn shortened(name: &str) -> String {
    match name.chars().count() > LABEL {
        true => name.chars().take(LABEL - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}
