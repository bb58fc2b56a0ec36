//! The images that samples are compared with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kakusan::data::{
    DataConfig, DatasetName, ImageSet, Loaded, Resolution, SourceKind, Validation, load, load_with_hub,
};
use kakusan::eval::Pixels;
use kakusan::hub::Hub;
use kakusan::pipeline::{Error, Labels, Registry, Result, run_config};
use kakusan::rng::Generator;

use crate::set;
use crate::terminal::say;

/// The fewest images that can be measured.
pub(super) const LEAST: usize = 5;

/// The data's configuration: of the run, of a file, or of a folder, with the values of `--set`.
pub(super) fn config(
    model: Option<&str>,
    data: Option<&Path>,
    overrides: &[String],
    registry: &Registry,
) -> Result<DataConfig> {
    set::only_data(overrides)?;
    let run = model.map(Path::new).filter(|dir| dir.join("config.toml").is_file());
    let is_file = data.is_some_and(set::is_config);
    let config = match (data, run) {
        (Some(file), _) if is_file => return set::of_file(file, overrides),
        (_, Some(run)) => run_config(run, overrides, registry)?,
        (Some(dir), None) => return set::of_path(dir, overrides, registry),
        (None, None) => {
            let reason = "name the images to compare with: --data DIR, or --data FILE.toml for a configuration's";
            return Err(Error::Unfit(reason.into()));
        }
    };
    let Some(mut config) = config.data else {
        let reason = "the run was trained on images that a program provided: name them by --data DIR";
        return Err(Error::Unfit(reason.into()));
    };
    if let Some(dir) = data {
        config.dir = Some(dir.to_owned());
        config.sources = vec![SourceKind::Dir];
    }
    Ok(config)
}

/// A set, and the images of it that are used.
type Some = (Arc<ImageSet>, Vec<usize>);

/// The images that samples are compared with.
pub(super) struct Compared {
    /// What they are.
    pub(super) description: String,
    /// The images that the model was trained on.
    pub(super) reference: Some,
    /// The same set with the labels of its clusters, if the configuration divides its classes.
    clusters: Option<Arc<ImageSet>>,
    /// Real images of the same classes that are not in the reference, and what they are.
    held_out: Option<(Arc<ImageSet>, Vec<usize>, String)>,
    /// All images of the split that the model was trained on, of all classes, and those of another split: for the
    /// classifier.
    pub(super) train: Arc<ImageSet>,
    pub(super) other: Option<Arc<ImageSet>>,
    /// The reason if the images have no classes.
    pub(super) unlabelled: Option<String>,
}

impl Compared {
    /// Loads the images of the configuration; `against` is the split to compare with. Held out are those of another
    /// split: of `data.validation`, or the test split. If there is no other split, it is the share that
    /// `data.validation` keeps out of the training, or else half of the images.
    pub(super) fn load(config: &DataConfig, against: Option<&str>, hub: &Hub) -> Result<Self> {
        let in_clusters = config.clusters.map(|_| config);
        let config = &DataConfig { clusters: None, ..config.clone() };
        let all_classes = DataConfig { classes: None, validation: None, ..config.clone() };
        let Loaded { images: train, source, skipped, notes, unlabelled, .. } = load_with_hub(&all_classes, hub)?;
        for skipped in &skipped {
            say(&format!("Data: not from `{}`: {}", skipped.source, skipped.reason));
        }
        notes.iter().for_each(|note| say(&format!("Data: {note}.")));
        // from the same source, or they might be other images
        let same_source =
            |config: &DataConfig| DataConfig { sources: source.kind.into_iter().collect(), ..config.clone() };
        let (own, share) = match (&config.classes, &config.validation) {
            (None, None) => (train.clone(), None),
            _ => {
                let Loaded { images, validation, .. } = load_with_hub(&same_source(config), hub)?;
                (images, validation)
            }
        };
        let own_split = config.split.as_deref().unwrap_or("train");
        let against = against.filter(|split| *split != own_split);
        let clusters = match in_clusters.filter(|_| against.is_none()) {
            Some(config) => Some(load_with_hub(&same_source(config), hub)?.images),
            None => None,
        };
        let load = |split: &str| -> Result<Arc<ImageSet>> {
            let images = load_with_hub(&same_source(&all_classes).with_split(split), hub)?.images;
            match images.shape() == train.shape() && images.class_names() == train.class_names() {
                true => Ok(images),
                false => Err(Error::Unfit(format!("the split {split} has images of another shape, or other classes"))),
            }
        };
        let other = match (against, &config.validation) {
            (Some(split), _) => Some((split, load(split)?)),
            (None, Some(Validation::Split(split))) => Some((split.as_str(), load(split)?)),
            (None, _) => ["test", "validation"]
                .into_iter()
                .filter(|split| *split != own_split)
                .find_map(|split| Some((split, load(split).ok()?))),
        };
        let all_of = |set: &ImageSet| (0..set.len()).collect::<Vec<usize>>();
        let mut description = source.description;
        let (reference, held_out, other) = match (other, share) {
            (Some((split, other)), _) => {
                let own = (own.clone(), all_of(&own));
                let others = (other.clone(), of_classes(&other, &own.0));
                match against {
                    Some(_) => {
                        description = format!("{description}, the split {split}");
                        (others, (own, format!("{own_split} split")), Some(other))
                    }
                    None => (own, (others, format!("{split} split")), Some(other)),
                }
            }
            (None, Some(share)) => {
                say("Data: it has no test split, so the share of data.validation is the yardstick.");
                let share = (share.clone(), all_of(&share));
                ((own.clone(), all_of(&own)), (share, "held-out share".to_owned()), None)
            }
            (None, None) => {
                let order = Generator::new(0).randperm(own.len());
                let (first, second) = order.split_at(own.len().div_ceil(2));
                say("Data: it has no test split, so a random half is compared with; the other half is the yardstick.");
                ((own.clone(), first.to_vec()), ((own, second.to_vec()), "other half".to_owned()), None)
            }
        };
        let ((set, indices), what) = held_out;
        let held_out = Some((set, indices, what)).filter(|held_out| held_out.1.len() >= LEAST);
        Ok(Self { description, reference, clusters, held_out, train, other, unlabelled })
    }

    /// The labels by which a model knows the classes of these images of the reference. If several of its labels stand
    /// for one class, they are the labels of the images' clusters, or else all of the class in turn.
    ///
    /// # Errors
    /// A class that the model does not have.
    pub(super) fn labels(&self, images: &[usize], known: usize, of_model: &Labels) -> Result<Vec<u32>> {
        let set = &self.reference.0;
        let name = |label: u32| &set.class_names()[label as usize];
        let classes = of_model.by_class();
        let turns: Vec<_> = classes.iter().map(|(_, labels)| of_model.in_turn(std::slice::from_ref(labels))).collect();
        let mut taken = vec![0; classes.len()];
        let label = |&i: &usize| {
            let label = set.label(i);
            let cluster = self.clusters.as_ref().map(|set| set.label(i));
            let class = match classes.len() {
                1 => 0, // all images are of this class, whatever the data calls them
                _ if classes.iter().all(|(_, labels)| labels.len() == 1) => {
                    let its = cluster.filter(|_| of_model.names().is_empty()).unwrap_or(label);
                    return Some(its).filter(|&its| (its as usize) < known).ok_or(label);
                }
                _ => classes.iter().position(|(class, _)| class == name(label)).ok_or(label)?,
            };
            taken[class] += 1;
            let in_turn = turns[class][(taken[class] - 1) % turns[class].len()];
            Ok(cluster.filter(|cluster| classes[class].1.contains(cluster)).unwrap_or(in_turn))
        };
        let labels: std::result::Result<Vec<u32>, u32> = images.iter().map(label).collect();
        labels.map_err(|label| {
            let class = name(label);
            Error::Unfit(format!("the data has a class {class}, with the label {label}, and the model {known} labels"))
        })
    }

    /// At most so many of the held-out images, chosen at random, and what they are.
    pub(super) fn some_held_out(&self, count: usize) -> Option<(&ImageSet, Vec<usize>, &str)> {
        let (set, indices, what) = self.held_out.as_ref()?;
        let order = Generator::new(0).randperm(indices.len());
        Some((set, order.into_iter().take(count).map(|i| indices[i]).collect(), what))
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

    /// Keeps only images of these classes, by the names or else the labels of a model.
    pub(super) fn restrict(&mut self, labels: &[u32], names: &BTreeMap<u32, String>) -> Result<()> {
        let own = |label: &u32| match names.get(label) {
            Some(name) if names.values().filter(|other| *other == name).count() > 1 => {
                self.reference.0.class_names().iter().position(|own| own == name).map_or(*label, |own| own as u32)
            }
            _ => *label,
        };
        let labels: Vec<u32> = labels.iter().map(own).collect();
        let keep = |set: &ImageSet, indices: &mut Vec<usize>| indices.retain(|&i| labels.contains(&set.label(i)));
        keep(&self.reference.0, &mut self.reference.1);
        if let Some((set, indices, _)) = &mut self.held_out {
            keep(set, indices);
        }
        self.held_out = self.held_out.take().filter(|(_, indices, _)| indices.len() >= LEAST);
        match self.reference.1.len() {
            0..LEAST => Err(Error::Unfit("the data has fewer than 5 images of the classes of --class".into())),
            _ => Ok(()),
        }
    }
}

/// The images of `others` that are of the same classes as those of `own`.
fn of_classes(others: &ImageSet, own: &ImageSet) -> Vec<usize> {
    let wanted = own.class_counts();
    (0..others.len()).filter(|&i| wanted[others.label(i) as usize] > 0).collect()
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
