//! What is known of a set before it is trained on, and the `[data]` that suits it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kakusan::data::{DataConfig, DatasetName, Inspection, OnBadImage, Resolution, inspect_with_hub};
use kakusan::pipeline::{Error, Result};
use serde_json::Value;

use crate::terminal::warn;

/// The sides of images that are suggested. A step costs four times as much at twice the side.
const SIDES: [usize; 5] = [16, 24, 32, 48, 64];
/// What the sides of images have to be multiples of: the suggested networks halve them twice.
pub(crate) const UNIT: usize = 4;
/// Where comments begin in a configuration.
const COMMENTS: usize = 36;

/// The keys of `[data]` in the order in which they are written; others follow.
const KEYS: [&str; 14] = [
    "name",
    "dir",
    "repo",
    "config_name",
    "split",
    "classes",
    "sources",
    "image_column",
    "label_column",
    "resolution",
    "center_crop",
    "channels",
    "background",
    "on_bad_image",
];

/// Reads all images of a set, with a bar on a terminal. The first Ctrl-C stops it, and what was read until then is
/// returned; one before the first image ends the program.
pub(crate) fn look(config: &DataConfig) -> Result<Inspection> {
    let (stop, reading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (seen, begun) = (stop.clone(), reading.clone());
    let handler = move || {
        if seen.swap(true, Ordering::Relaxed) || !begun.load(Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        warn(&format!("warning: Ctrl-C will end this at once: {e}"));
    }
    let (hub, bar) = (crate::progress::hub()?, crate::eval::bar("images", 0));
    let inspection = inspect_with_hub(config, &hub, &mut |done, total| {
        reading.store(done < total, Ordering::Relaxed);
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    reading.store(false, Ordering::Relaxed);
    bar.finish_and_clear();
    Ok(inspection)
}

/// Whether [`look`] was stopped.
pub(crate) fn is_stopped(inspection: &Inspection) -> bool {
    inspection.images.len() + inspection.bad.len() < inspection.total
}

/// What decides how a set is configured.
pub(crate) struct Facts {
    /// The data as it was asked for.
    pub(crate) config: DataConfig,
    /// All classes, with their numbers of images.
    pub(crate) classes: Vec<(String, usize)>,
    /// The reason if the images have no classes.
    pub(crate) unlabelled: Option<String>,
    /// The width and height of all images, if they have one size.
    common: Option<(usize, usize)>,
    /// A side that nine of ten images have at least.
    shorter: usize,
    /// Whether all images look grey, and whether all of their files are.
    is_grey: bool,
    is_stored_grey: bool,
    transparent: usize,
    pub(crate) bad: usize,
    /// The share of the pixels that are black or white.
    pub(crate) black_or_white: f64,
}

impl Facts {
    pub(crate) fn of(config: &DataConfig, set: &Inspection) -> Self {
        let sizes = || set.images.iter().map(|image| (image.width, image.height));
        let first = sizes().next();
        let mut sides: Vec<usize> = sizes().map(|(width, height)| width.min(height)).collect();
        sides.sort_unstable();
        Self {
            config: config.clone(),
            classes: set.class_names.iter().cloned().zip(set.class_counts()).collect(),
            unlabelled: set.unlabelled.clone(),
            common: first.filter(|first| sizes().all(|size| size == *first)),
            shorter: sides.get(sides.len() / 10).copied().unwrap_or_default(),
            is_grey: set.is_grey(),
            is_stored_grey: set.images.iter().all(|image| image.mode.channels < 3),
            transparent: set.images.iter().filter(|image| image.is_transparent).count(),
            bad: set.bad.len(),
            black_or_white: set.black_or_white(),
        }
    }

    /// What is known of a named set without looking.
    pub(crate) fn of_named(config: &DataConfig) -> Self {
        let names = config.name.class_names();
        let (side, channels, images) = match config.name {
            DatasetName::Cifar10 => (32, 3, 50_000),
            _ => (28, 1, 60_000),
        };
        let count = images / names.len().max(1);
        let is_grey = channels == 1;
        Self {
            config: config.clone(),
            classes: names.into_iter().map(|name| (name, count)).collect(),
            unlabelled: None,
            common: Some((side, side)),
            shorter: side,
            is_grey,
            is_stored_grey: is_grey,
            transparent: 0,
            bad: 0,
            black_or_white: if is_grey { 0.5 } else { 0.0 }, // the background
        }
    }

    pub(crate) fn images(&self) -> usize {
        self.classes.iter().map(|(_, count)| count).sum()
    }

    /// Whether a model can be told the classes.
    pub(crate) fn has_classes(&self) -> bool {
        self.unlabelled.is_none() && self.classes.len() > 1
    }

    /// The height and width of the images that suit the set: its own where they are small, else a square.
    pub(crate) fn size(&self) -> [usize; 2] {
        match (self.config.resolution, self.common) {
            (Some(Resolution::Shorter(side)), _) => [side; 2],
            (Some(Resolution::Both(size)), _) => size,
            (None, Some((width, height)))
                if [width, height].iter().all(|side| side.is_multiple_of(UNIT) && (8..=64).contains(side)) =>
            {
                [height, width]
            }
            _ => [SIDES.into_iter().rfind(|side| *side <= self.shorter).unwrap_or(SIDES[0]); 2],
        }
    }

    /// 1 for grey images, 3 for others.
    pub(crate) fn channels(&self) -> usize {
        self.config.channels.unwrap_or(if self.is_grey { 1 } else { 3 })
    }

    /// The data as images of this height, width and number of channels.
    pub(crate) fn configured(&self, size: [usize; 2], channels: usize) -> DataConfig {
        let mut config = self.config.clone();
        let is_pictures = matches!(config.name, DatasetName::Folder | DatasetName::Hub);
        if self.common.map(|(width, height)| [height, width]) != Some(size) {
            let [height, width] = size;
            config.resolution = Some(if height == width { height.into() } else { size.into() });
            config.center_crop = is_pictures && height == width;
        }
        if is_pictures || channels != if self.is_stored_grey { 1 } else { 3 } {
            config.channels = Some(channels);
        }
        if self.bad > 0 {
            config.on_bad_image = OnBadImage::Skip;
        }
        config
    }

    /// The lines of `[data]`, with comments.
    ///
    /// # Errors
    /// When the folder's name is not Unicode, as TOML is.
    pub(crate) fn section(&self, config: &DataConfig) -> Result<Vec<String>> {
        let value = serde_json::to_value(config).map_err(|e| Error::Unfit(format!("[data]: {e}")))?;
        let Value::Object(mut fields) = value else { return Ok(vec![]) };
        let default = serde_json::to_value(DataConfig::new(config.name)).unwrap_or_default();
        fields.retain(|key, value| key == "name" || default.get(key) != Some(&*value));
        let shorter = format!("the shorter side; nine of ten images have at least {}", self.shorter);
        let bad = format!("{} cannot be decoded", self.bad);
        let channels = match (config.channels, self.transparent, config.background) {
            (Some(1), ..) => "grey",
            (_, 1.., None) => "RGB; transparent pixels become white",
            _ => "RGB",
        };
        let mut comments = BTreeMap::from([("center_crop", "the middle of images that are not square")]);
        if self.common.is_none() && matches!(config.resolution, Some(Resolution::Shorter(_))) {
            comments.insert("resolution", &shorter);
        }
        if self.bad > 0 {
            comments.insert("on_bad_image", &bad);
        }
        comments.insert("channels", channels);
        let mut lines = vec!["[data]".to_owned()];
        let known = KEYS.iter().filter_map(|key| Some(((*key).to_owned(), fields.remove(*key)?)));
        let known: Vec<_> = known.collect();
        for (key, value) in known.into_iter().chain(fields) {
            // JSON's texts, numbers and arrays are TOML's
            lines.push(line(&format!("{key} = {value}"), comments.get(key.as_str()).copied().unwrap_or_default()));
        }
        if matches!(config.name, DatasetName::Folder | DatasetName::Hub) && !config.random_flip {
            lines.push(line("# random_flip = true", "if a mirrored image is as good: not for text or digits"));
        }
        Ok(lines)
    }
}

/// A line of a configuration.
pub(crate) fn line(code: &str, comment: &str) -> String {
    match comment.is_empty() {
        true => code.to_owned(),
        false => format!("{code:width$} # {comment}", width = COMMENTS - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(common: Option<(usize, usize)>, shorter: usize) -> Facts {
        Facts { common, shorter, ..Facts::of_named(&DataConfig::new(DatasetName::Folder)) }
    }

    #[test]
    fn small_images_keep_their_size_and_others_get_a_square() {
        for (common, shorter, size) in [
            (Some((28, 28)), 28, [28, 28]),
            (Some((64, 48)), 48, [48, 64]),
            (Some((30, 30)), 30, [24, 24]), // no multiple of 4
            (Some((128, 128)), 128, [64, 64]),
            (None, 47, [32, 32]),
            (None, 5, [16, 16]),
        ] {
            assert_eq!(facts(common, shorter).size(), size, "{common:?} {shorter}");
        }
        let mut asked = facts(None, 500);
        asked.config.resolution = Some([96, 128].into());
        assert_eq!(asked.size(), [96, 128]);
    }

    #[test]
    fn a_section_says_no_more_than_it_has_to() {
        let mnist = Facts::of_named(&DataConfig::new(DatasetName::Mnist));
        let lines = |config: DataConfig| mnist.section(&config).unwrap();
        assert_eq!(lines(mnist.configured([28, 28], 1)), ["[data]", "name = \"mnist\""]);
        let grey = lines(mnist.configured([32, 32], 3).with_classes([1, 8]));
        assert_eq!(grey[1..4], ["name = \"mnist\"", "classes = [1,8]", "resolution = 32"]);
        assert!(grey[4].starts_with("channels = 3 ") && grey.len() == 5, "{grey:?}");

        let mut folder = facts(None, 40);
        (folder.bad, folder.config.dir) = (2, Some("a \"b\"".into()));
        let lines = folder.section(&folder.configured([32, 32], 1)).unwrap().join("\n");
        for part in
            ["dir = \"a \\\"b\\\"\"", "resolution = 32 ", "center_crop = true", "on_bad_image = \"skip\" ", "2 cannot"]
        {
            assert!(lines.contains(part), "{lines}");
        }
    }
}
