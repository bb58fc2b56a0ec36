//! Samples drawn every few epochs (`train.sample_every`), always from the same noise.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use kakusan_pipeline::{Error, Result, RunConfig, RunView, write_whole};
use kakusan_rng::Generator;

use crate::figures::sample_options;
use crate::pictures::{self, Images};
use crate::report::{Notice, Tell, picture_path};

/// Images per row, and the side of the square that a pixel becomes.
const IN_A_ROW: usize = 8;
const SCALE: usize = 2;
/// How many of the pictures the report shows.
const SHOWN: usize = 3;

/// The file of an epoch's samples.
pub(crate) fn path(dir: &Path, epoch: usize) -> PathBuf {
    picture_path(dir, &format!("epoch-{epoch:03}.png"))
}

fn is_due(config: &RunConfig, epoch: usize) -> bool {
    config.train.sample_every.is_some_and(|every| epoch.is_multiple_of(every))
}

/// The pictures of the epochs so far, each with the step after which it was drawn.
pub(crate) fn drawn(run: &RunView) -> Result<Vec<(usize, Vec<u8>)>> {
    let mut drawn = vec![];
    for last in run.records.chunk_by(|a, b| a.epoch == b.epoch).filter_map(|epoch| epoch.last()) {
        let path = path(run.dir, last.epoch);
        if last.epoch <= run.trainer.epochs_done() && is_due(run.config, last.epoch) && path.is_file() {
            let png = fs::read(&path).map_err(|source| Error::Io { action: "read", path, source })?;
            drawn.push((last.step, png));
        }
    }
    Ok(drawn)
}

/// Some of a run's pictures, including the first and the last: the epoch and the file's content.
pub(crate) fn some(dir: &Path, epochs: usize) -> Vec<(usize, Vec<u8>)> {
    let drawn: Vec<usize> = (1..=epochs).filter(|&epoch| path(dir, epoch).is_file()).collect();
    let mut shown: Vec<usize> = match drawn.len().checked_sub(1) {
        Some(last) => (0..SHOWN).map(|i| drawn[i * last / (SHOWN - 1)]).collect(),
        None => vec![],
    };
    shown.dedup();
    let read = |epoch| Some((epoch, fs::read(path(dir, epoch)).ok()?));
    shown.into_iter().filter_map(read).collect()
}

/// Draws the samples of the epoch that has just ended. `None` if none are due or they cannot be drawn.
pub(crate) fn draw(run: &RunView, tell: Tell) -> Result<Option<Vec<u8>>> {
    let epoch = run.trainer.epochs_done();
    if !is_due(run.config, epoch) {
        return Ok(None);
    }
    let path = path(run.dir, epoch);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (png, trouble) = match samples(run, epoch) {
        Ok(drawn) => drawn,
        Err(error) => {
            let reason = format!("it could not be drawn: {error}");
            tell(Notice::PictureTrouble { picture: &name, reason: &reason });
            return Ok(None);
        }
    };
    write_whole(&path, &png)?;
    tell(Notice::Samples { epoch: Some(epoch), picture: &path });
    if let Some(reason) = trouble {
        tell(Notice::PictureTrouble { picture: &name, reason: &reason });
    }
    Ok(Some(png))
}

/// Samples as PNG, and what is wrong with them.
fn samples(run: &RunView, epoch: usize) -> Result<(Vec<u8>, Option<String>)> {
    let RunConfig { model, sample_scheduler, train, sample, .. } = run.config;
    let options = sample_options(run, sample.batch_size, sample.steps);
    let mut rng = Generator::new(train.seed);
    let samples = run.pipeline()?.sample_with(&options, &mut rng, |_| ControlFlow::Continue(()))?;
    let range = sample_scheduler.process().pixel_range();
    let unit = range.to_unit(&samples)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let [channels, height, width] = model.sample_shape()?;
    let pixels = unit.flatten_all()?.to_vec1()?;
    let about = [("epoch", epoch.to_string()), ("seed", train.seed.to_string())];
    let png = pictures::grid(Images { pixels: &pixels, channels, height, width }, IN_A_ROW, SCALE, &about)?;
    Ok((png, pictures::not_finite(pixels)))
}
