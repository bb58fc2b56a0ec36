//! What can be watched while a training runs: TensorBoard's log, and samples of every few epochs.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device};
use kakusan_data::ImageSet;
use kakusan_rng::Generator;

use crate::run_folder::RunFolder;
use crate::story::options;
use crate::tensorboard::Events;
use crate::{DDPMPipeline, Error, Event, Record, Result, RunConfig, Trainer, pictures};

/// Images in a row, and the side of one of their pixels.
const COLUMNS: usize = 8;
const SCALE: usize = 2;

/// Draws and logs beside a training, of which it takes no random number.
pub(crate) struct Previews<'a> {
    config: &'a RunConfig,
    folder: &'a RunFolder,
    images: Arc<ImageSet>,
    events: Option<Events>,
}

/// Where the samples of an epoch are.
pub(crate) fn preview_path(folder: &RunFolder, epoch: usize) -> PathBuf {
    folder.images().join(format!("epoch-{epoch:03}.png"))
}

impl<'a> Previews<'a> {
    /// Begins, or goes on where the trainer is after `records`.
    pub(crate) fn begin(
        config: &'a RunConfig,
        folder: &'a RunFolder,
        images: Arc<ImageSet>,
        trainer: &Trainer,
        records: &[Record],
        watch: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        let mut previews = Self { config, folder, images, events: None };
        let done = trainer.epochs_done();
        let is_at_its_end = records.last().is_some_and(|last| last.step == trainer.steps_done() && last.epoch == done);
        if is_at_its_end && !previews.path(done).is_file() {
            previews.draw(trainer, watch)?; // it was killed right after the epoch's checkpoint
        }
        if config.train.tensorboard {
            let mut before = vec![];
            for last in records.chunk_by(|a, b| a.epoch == b.epoch).filter_map(|epoch| epoch.last()) {
                let path = previews.path(last.epoch);
                if last.epoch <= done && previews.is_due(last.epoch) && path.is_file() {
                    before.push((last.step, fs::read(&path).map_err(Error::io("read", &path))?));
                }
            }
            previews.events = Some(Events::begin(&folder.logs(), records, &before)?);
        }
        Ok(previews)
    }

    pub(crate) fn after_step(&mut self, record: &Record) -> Result<()> {
        self.events.as_mut().map_or(Ok(()), |events| events.step(record))
    }

    /// Draws, if it is time to.
    pub(crate) fn after_epoch(&mut self, trainer: &Trainer, watch: &mut dyn FnMut(Event)) -> Result<()> {
        if let (Some(png), Some(events)) = (self.draw(trainer, watch)?, &mut self.events) {
            events.picture(trainer.steps_done(), &png)?;
        }
        Ok(())
    }

    fn is_due(&self, epoch: usize) -> bool {
        self.config.train.sample_every.is_some_and(|every| epoch.is_multiple_of(every))
    }

    fn path(&self, epoch: usize) -> PathBuf {
        preview_path(self.folder, epoch)
    }

    /// The samples of the epoch that has just ended, if it is time for some and they can be drawn.
    fn draw(&self, trainer: &Trainer, watch: &mut dyn FnMut(Event)) -> Result<Option<Vec<u8>>> {
        let epoch = trainer.epochs_done();
        if !self.is_due(epoch) {
            return Ok(None);
        }
        let path = self.path(epoch);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (png, trouble) = match self.samples(trainer, epoch) {
            Ok(drawn) => drawn,
            Err(error) => {
                let reason = format!("it could not be drawn: {error}");
                watch(Event::PictureTrouble { picture: &name, reason: &reason });
                return Ok(None);
            }
        };
        crate::files::write_whole(&path, &png)?;
        watch(Event::Samples { epoch: Some(epoch), picture: &path });
        if let Some(reason) = trouble {
            watch(Event::PictureTrouble { picture: &name, reason: &reason });
        }
        Ok(Some(png))
    }

    /// Samples as PNG, and what is wrong with them.
    fn samples(&self, trainer: &Trainer, epoch: usize) -> Result<(Vec<u8>, Option<String>)> {
        let RunConfig { model, sampler: scheduler, train, sample, .. } = self.config;
        let pipeline = DDPMPipeline::new(model.clone(), trainer.sampling_weights()?, scheduler.clone())?;
        let options = options(self.config, &self.images, sample.batch_size, sample.steps);
        let samples = pipeline.sample_with(&options, &mut Generator::new(train.seed), |_| {})?;
        let unit =
            scheduler.process().pixel_range().to_unit(&samples)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let [channels, height, width] = model.sample_shape()?;
        let pixels = unit.flatten_all()?.to_vec1()?;
        let images = pictures::Images { pixels: &pixels, channels, height, width };
        let about = [("epoch", epoch.to_string()), ("seed", train.seed.to_string())];
        let png = pictures::grid(images, COLUMNS, SCALE, &about)?;
        Ok((png, pictures::not_finite(pixels)))
    }
}
