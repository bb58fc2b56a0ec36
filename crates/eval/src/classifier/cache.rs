//! Trained classifiers in a folder, each under a name that follows from its images and its settings.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::Device;
use kakusan_data::ImageSet;
use kakusan_models::Weights;
use kakusan_pipeline::{Error, Result};
use kakusan_weights::disk;
use sha2::{Digest, Sha256};

use super::network::Network;
use super::{Classifier, ClassifierConfig, Progress, Training};

/// Changes whenever the network or its training changes.
const VERSION: u32 = 2;
/// The most images that a fingerprint reads, if they are not held in memory.
const MOST: usize = 4096;

impl Classifier {
    /// The classifier that [`train`](Self::train) would train, from the folder `cache` if it was trained before; else
    /// it is trained and kept there. Returns also whether it was there. A damaged file is replaced.
    ///
    /// # Errors
    /// As [`train`](Self::train), and when the folder cannot be written.
    pub fn cached(
        cache: &Path,
        images: &ImageSet,
        held_out: Option<&ImageSet>,
        config: ClassifierConfig,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(Self, bool)> {
        let dir = cache.join(name(images, held_out, config)?);
        if let Some(known) = Self::load(&dir, images, config) {
            return Ok((known, true));
        }
        let classifier = Self::train(images, held_out, config, watch)?;
        classifier.save(&dir)?;
        Ok((classifier, false))
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { action: "write", path, source }
        };
        disk::create_folders(dir).map_err(failed(dir))?;
        self.weights.save(&weights_file(dir))?;
        let text = serde_json::to_string_pretty(&self.training).map_err(|e| Error::Unfit(e.to_string()))?;
        let path = training_file(dir);
        disk::write_whole(&path, text.as_bytes()).map_err(failed(&path))
    }

    /// The classifier in a folder, if there is a whole one.
    fn load(dir: &Path, images: &ImageSet, config: ClassifierConfig) -> Option<Self> {
        let text = kakusan_weights::read_text(&training_file(dir), 1 << 16).ok()??;
        let training: Training = serde_json::from_str(&text).ok()?;
        let (shape, classes) = (images.shape(), images.class_names().len());
        let build = |vb| Network::new(shape, classes, vb);
        let (weights, _) = Weights::load(&weights_file(dir), &Device::Cpu, str::to_owned, build).ok()?;
        let network = weights.frozen(build).ok()?;
        (training.config == config).then_some(Self { network, weights, shape, classes, training })
    }
}

fn weights_file(dir: &Path) -> PathBuf {
    dir.join("classifier.safetensors")
}

/// Written last.
fn training_file(dir: &Path) -> PathBuf {
    dir.join("classifier.json")
}

/// The name of the folder: a digest of the images, their classes, and the settings.
fn name(images: &ImageSet, held_out: Option<&ImageSet>, config: ClassifierConfig) -> Result<String> {
    let mut digest = Sha256::new();
    let settings = serde_json::to_string(&config).map_err(|e| Error::Unfit(e.to_string()))?;
    digest.update(format!("{VERSION} {settings}"));
    for set in std::iter::once(images).chain(held_out) {
        digest.update(format!("{:?} {} {:?}", set.shape(), set.len(), set.class_names()));
        digest.update(set.labels().iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>());
        let step = if set.is_held() { 1 } else { set.len().div_ceil(MOST).max(1) };
        for i in (0..set.len()).step_by(step) {
            match set.image(i) {
                Err(kakusan_data::Error::BadImage(_)) if set.may_skip() => {}
                image => digest.update(image?),
            }
        }
    }
    Ok(digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}
