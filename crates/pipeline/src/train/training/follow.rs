//! What the ranks other than 0 do in a training: the same steps. They write nothing.

use std::collections::BTreeMap;

use candle_core::Device;
use kakusan_data::{ImageSet, Loaded};
use kakusan_distributed::{Error as GroupError, Group};
use kakusan_ops::describe_cuda;
use sha2::{Digest, Sha256};

use super::{DataRecord, Existing, Outcome, Training};
use crate::train::checkpoint;
use crate::train::ranks::AllReduceMethod;
use crate::train::resume::{FREE, settings};
use crate::train::run_folder::CHECKPOINTS;
use crate::{Error, Result, RunConfig, Trainer};

/// What must be the same on all ranks: the configuration, the images, and how they compute.
pub(super) fn facts(
    config: &RunConfig,
    data: &DataRecord,
    loaded: &Loaded,
    device: &Device,
    all_reduce: AllReduceMethod,
) -> Result<BTreeMap<String, String>> {
    let mut facts = settings(config)?;
    FREE.iter().for_each(|key| drop(facts.remove(*key))); // the images count, not where they are
    facts.insert("--all-reduce".to_owned(), all_reduce.to_string());
    facts.insert("the device".to_owned(), kind(device)?);
    facts.insert("the number of images".to_owned(), data.images.to_string());
    facts.insert("the count of images per class".to_owned(), format!("{:?}", data.class_counts));
    facts.insert("the SHA-256 of some images".to_owned(), fingerprint(&loaded.images));
    if let Some(held_out) = &loaded.validation {
        facts.insert("the SHA-256 of some held-out images".to_owned(), fingerprint(held_out));
    }
    Ok(facts)
}

/// `cpu`, or the name of a card: the last bits of a result depend on it.
fn kind(device: &Device) -> Result<String> {
    Ok(describe_cuda(device)?.map_or_else(|| "cpu".to_owned(), |card| card.name))
}

/// The SHA-256 of all classes, and of the pixels of some images, evenly spaced.
fn fingerprint(images: &ImageSet) -> String {
    const SOME: usize = 64;
    let mut digest = Sha256::new();
    digest.update(bytemuck::cast_slice(images.labels()));
    let count = images.len().min(SOME);
    for i in (0..count).map(|i| i * images.len() / count) {
        match images.pixels_f32(&[i]) {
            Ok(pixels) => digest.update(bytemuck::cast_slice(&pixels)),
            Err(_) => digest.update(b"bad"), // the step that needs it says so, or leaves it out
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rank 0 tells the others after how many steps its training goes on.
pub(super) fn lead_to(group: &dyn Group, steps: usize) -> Result<usize> {
    let all = group.all_gather(&(steps as u64).to_le_bytes())?;
    let steps = all.first().and_then(|message| Some(u64::from_le_bytes(message[..].try_into().ok()?)));
    let wrong = || GroupError::Message { rank: 0, reason: "it does not name a step".to_owned() };
    Ok(steps.ok_or_else(wrong)? as usize)
}

impl Training<'_> {
    /// Trains until rank 0 is done or one of the ranks is asked to stop.
    pub(super) fn follow(self, mut trainer: Trainer) -> Result<Outcome> {
        let steps = lead_to(&*self.group, 0)?;
        if steps > 0 {
            let dir = checkpoint::find(&self.out.join(CHECKPOINTS), steps).map_err(|e| {
                let rank = self.group.rank();
                Error::Unfit(format!("{e}: rank {rank} must read the folder of the run that rank 0 resumes"))
            })?;
            match self.existing {
                Existing::Resume { allow_changes: true, .. } => trainer.load_changed_checkpoint(&dir)?,
                _ => trainer.load_checkpoint(&dir)?,
            }
        }
        trainer.check_same_state()?;
        let mut saved_at = trainer.steps_done();
        let mut save = |trainer: &Trainer| {
            if trainer.steps_done() == saved_at {
                return Ok(());
            }
            saved_at = trainer.steps_done();
            trainer.check_same_state()
        };
        while !trainer.meet(self.is_asked_to_stop())? {
            let Some(step) = trainer.step()? else {
                save(&trainer)?;
                return Ok(Outcome::Finished);
            };
            if self.is_saved(&step) {
                save(&trainer)?;
            }
        }
        save(&trainer)?;
        Ok(Outcome::Interrupted)
    }
}
