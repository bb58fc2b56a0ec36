//! The images that samples are compared with.

use std::path::Path;
use std::sync::Arc;

use kakusan::data::{DataConfig, DatasetName, ImageSet, Loaded, Resolution, SourceKind, load, load_with_hub};
use kakusan::eval::Pixels;
use kakusan::hub::Hub;
use kakusan::pipeline::{Error, Registry, Result, RunConfig, run_config};
use kakusan::rng::Generator;

use crate::terminal::say;

/// The data's configuration: of the run, of a file, or of a folder, with the values of `--set`.
pub(super) fn config(
    model: Option<&str>,
    data: Option<&Path>,
    overrides: &[String],
    registry: &Registry,
) -> Result<DataConfig> {
    if let Some(other) = overrides.iter().find(|text| !text.trim_start().starts_with("data.")) {
        return Err(Error::Unfit(format!("--set {other}: only the data can be set here, as in data.classes=[1,8,4]")));
    }
    let run = model.map(Path::new).filter(|dir| dir.join("config.toml").is_file());
    let is_file = data.is_some_and(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let config = match (data, run) {
        (Some(file), _) if is_file => RunConfig::load(file, overrides, registry)?,
        (_, Some(run)) => run_config(run, overrides, registry)?,
        (Some(dir), None) => of_folder(dir, overrides, registry)?,
        (None, None) => {
            let reason = "name the images to compare with: --data DIR, or --data FILE.toml for a configuration's";
            return Err(Error::Unfit(reason.into()));
        }
    };
    let Some(mut config) = config.data else {
        let reason = "the run was trained on images that a program provided: name them by --data DIR";
        return Err(Error::Unfit(reason.into()));
    };
    if let Some(dir) = data.filter(|_| !is_file) {
        config.dir = Some(dir.to_owned());
        config.sources = vec![SourceKind::Dir];
    }
    Ok(config)
}

/// A configuration whose data is what the folder seems to hold.
fn of_folder(dir: &Path, overrides: &[String], registry: &Registry) -> Result<RunConfig> {
    let has =
        |names: &[&str]| names.iter().any(|name| dir.join(name).exists() || dir.join(format!("{name}.gz")).exists());
    let name = if has(&["train-images-idx3-ubyte", "train-images.idx3-ubyte", "MNIST/raw"]) {
        DatasetName::Mnist
    } else if has(&["FashionMNIST/raw"]) {
        DatasetName::FashionMnist
    } else if has(&["data_batch_1.bin", "cifar-10-batches-bin"]) {
        DatasetName::Cifar10
    } else {
        DatasetName::Folder
    };
    let text = format!(
        "data.name = \"{name}\"\nmodel._class_name = \"BasicUNet\"\nscheduler._class_name = \"DDPMScheduler\"\n"
    );
    Ok(RunConfig::parse(&text, &dir.display().to_string(), overrides, registry)?)
}

/// A set, and the images of it that are used.
type Some = (Arc<ImageSet>, Vec<usize>);

/// The images that samples are compared with.
pub(super) struct Compared {
    /// What they are.
    pub(super) description: String,
    /// The images that the model was trained on, of its classes.
    pub(super) reference: Some,
    /// Real images of the same classes that are not in the reference, and what they are.
    pub(super) held_out: Option<(Arc<ImageSet>, Vec<usize>, String)>,
    /// All images of the split that the model was trained on, of all classes, and those of another split: for the
    /// classifier.
    pub(super) train: Arc<ImageSet>,
    pub(super) other: Option<Arc<ImageSet>>,
    /// The reason if the images have no classes.
    pub(super) unlabelled: Option<String>,
}

impl Compared {
    /// Loads the images of the configuration; `against` is the split to compare with.
    pub(super) fn load(config: &DataConfig, against: Option<&str>, hub: &Hub) -> Result<Self> {
        let all_classes = DataConfig { classes: None, validation: None, ..config.clone() };
        let Loaded { images: train, source, skipped, notes, unlabelled, .. } = load_with_hub(&all_classes, hub)?;
        for skipped in &skipped {
            say(&format!("Data: not from `{}`: {}", skipped.source, skipped.reason));
        }
        notes.iter().for_each(|note| say(&format!("Data: {note}.")));
        let own_split = config.split.as_deref().unwrap_or("train");
        let against = against.filter(|split| *split != own_split);
        // from the same source, or they might be other images
        let load = |split: &str| -> Result<Arc<ImageSet>> {
            let same = DataConfig { sources: source.kind.into_iter().collect(), ..all_classes.clone() };
            let images = load_with_hub(&same.with_split(split), hub)?.images;
            match images.shape() == train.shape() && images.class_names() == train.class_names() {
                true => Ok(images),
                false => Err(Error::Unfit(format!("the split {split} has images of another shape, or other classes"))),
            }
        };
        let other = match against {
            Some(split) => Some((split, load(split)?)),
            None => ["test", "validation"]
                .into_iter()
                .filter(|split| *split != own_split)
                .find_map(|split| Some((split, load(split).ok()?))),
        };
        let chosen = chosen(&train, config)?;
        let description = source.description;
        let Some((split, other)) = other else {
            // without another split, half of the images
            let order = Generator::new(0).randperm(chosen.len());
            let (first, second) = order.split_at(chosen.len().div_ceil(2));
            let half = |order: &[usize]| order.iter().map(|&i| chosen[i]).collect::<Vec<usize>>();
            say("Data: it has no test split, so a random half is compared with; the other half is the yardstick.");
            let held_out =
                Some((train.clone(), half(second), "other half".to_owned())).filter(|half| half.1.len() >= 5);
            return Ok(Self {
                description,
                reference: (train.clone(), half(first)),
                held_out,
                train,
                other: None,
                unlabelled,
            });
        };
        let of_other = chosen_of(&other, &train, &chosen);
        let (own, others) = ((train.clone(), chosen), (other.clone(), of_other));
        let (reference, (set, indices), what) = match against {
            Some(_) => (others, own, own_split),
            None => (own, others, split),
        };
        let held_out = Some((set, indices, format!("{what} split"))).filter(|held_out| held_out.1.len() >= 5);
        let description = if against.is_some() { format!("{description}, the split {split}") } else { description };
        Ok(Self { description, reference, held_out, train, other: Some(other), unlabelled })
    }

    /// Keeps a random part of the reference.
    pub(super) fn keep_some(&mut self, count: Option<usize>) {
        if let Some(count) = count.filter(|&count| count < self.reference.1.len()) {
            let order = Generator::new(0).randperm(self.reference.1.len());
            self.reference.1 = order[..count].iter().map(|&i| self.reference.1[i]).collect();
        }
    }

    /// Channels, height and width of the images.
    pub(super) fn shape(&self) -> [usize; 3] {
        self.train.shape()
    }

    /// Keeps only images of these classes.
    pub(super) fn restrict(&mut self, labels: &[u32]) -> Result<()> {
        let keep = |set: &ImageSet, indices: &mut Vec<usize>| indices.retain(|&i| labels.contains(&set.label(i)));
        keep(&self.reference.0, &mut self.reference.1);
        if let Some((set, indices, _)) = &mut self.held_out {
            keep(set, indices);
        }
        self.held_out = self.held_out.take().filter(|(_, indices, _)| indices.len() >= 5);
        match self.reference.1.len() {
            0..5 => Err(Error::Unfit("the data has fewer than 5 images of the classes of --class".into())),
            _ => Ok(()),
        }
    }
}

/// The images of the classes that the configuration names.
fn chosen(all: &ImageSet, config: &DataConfig) -> Result<Vec<usize>> {
    let Some(classes) = &config.classes else { return Ok((0..all.len()).collect()) };
    let some = all.select(classes)?.class_counts();
    Ok((0..all.len()).filter(|&i| some[all.label(i) as usize] > 0).collect())
}

/// The images of `others` that are of the same classes as the `chosen` ones of `all`.
fn chosen_of(others: &ImageSet, all: &ImageSet, chosen: &[usize]) -> Vec<usize> {
    let mut wanted = vec![false; all.class_names().len()];
    chosen.iter().for_each(|&i| wanted[all.label(i) as usize] = true);
    (0..others.len()).filter(|&i| wanted[others.label(i) as usize]).collect()
}

/// The pictures of a folder, in the shape of the data.
pub(super) fn pictures(dir: &Path, shape: [usize; 3]) -> Result<Arc<ImageSet>> {
    let [channels, height, width] = shape;
    let config = DataConfig { dir: Some(dir.to_owned()), ..DataConfig::new(DatasetName::Folder) };
    if let Ok(loaded) = load(&config)
        && loaded.images.shape() == shape
    {
        return Ok(loaded.images);
    }
    let (channels, resolution) = (Some(channels), Some(Resolution::Both([height, width])));
    let loaded = load(&DataConfig { channels, resolution, ..config })?;
    say(&format!(
        "Pictures: they have another shape than the data, and are made {} of {height} x {width} pixels.",
        if channels == Some(1) { "grey" } else { "coloured" }
    ));
    Ok(loaded.images)
}

/// All images as pixels.
pub(super) fn pixels(set: &ImageSet) -> Result<Pixels> {
    let [c, h, w] = set.shape();
    let mut pixels = Pixels::none([c, h, w]);
    for i in 0..set.len() {
        let image =
            kakusan::candle::Tensor::from_vec(set.pixels_f32(&[i])?, (1, c, h, w), &kakusan::candle::Device::Cpu)?;
        pixels.add(&image)?;
    }
    Ok(pixels)
}
