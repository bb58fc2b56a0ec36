//! TensorBoard's event files: TFRecord frames that contain Protocol Buffers messages of type `Event`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kakusan_pipeline::{Error, Record, Result, RunView, write_whole};
use kakusan_weights::disk;

/// One file per run: TensorBoard reads every file with `tfevents` in its name.
const FILE: &str = "events.out.tfevents.0.kakusan";

/// A run's event file.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates the file in the run's `logs/` with the steps so far and `pictures`, each with its step. A resumed run
    /// thus has neither gaps nor repetitions.
    pub(crate) fn begin(run: &RunView, pictures: &[(usize, Vec<u8>)]) -> Result<Self> {
        let dir = run.dir.join("logs");
        disk::create_folders(&dir).map_err(io("create", &dir))?;
        let (records, now, path) = (run.records, now(), dir.join(FILE));
        let end = records.last().map_or(0.0, |record| record.seconds);
        let time = |record: &Record| now - end + record.seconds;
        let mut bytes = frame(&version(records.first().map_or(now, time)));
        for record in records {
            bytes.extend(frame(&step_event(time(record), record)));
            for (step, png) in pictures.iter().filter(|(step, _)| *step == record.step) {
                bytes.extend(frame(&picture_event(time(record), *step, png)));
            }
        }
        write_whole(&path, &bytes)?;
        let file = File::options().append(true).open(&path).map_err(io("open", &path))?;
        Ok(Self { path, file })
    }

    /// Adds a step's values.
    pub(crate) fn step(&mut self, record: &Record) -> Result<()> {
        self.append(&step_event(now(), record))
    }

    /// Adds a PNG.
    pub(crate) fn picture(&mut self, step: usize, png: &[u8]) -> Result<()> {
        self.append(&picture_event(now(), step, png))
    }

    fn append(&mut self, event: &[u8]) -> Result<()> {
        disk::append(&mut self.file, &self.path, &frame(event)).map_err(io("write", &self.path))
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |passed| passed.as_secs_f64())
}

/// A TFRecord: length and data, each with its masked CRC-32C.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let [of_length, of_data] = [masked_crc(&length), masked_crc(data)].map(u32::to_le_bytes);
    [&length, of_length.as_slice(), data, &of_data].concat()
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial. Computed bit by bit: the files are small.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// The first event of a file: `file_version`, field 3.
fn version(time: f64) -> Vec<u8> {
    [double(1, time), bytes(3, b"brain.Event:2")].concat()
}

fn step_event(time: f64, record: &Record) -> Vec<u8> {
    let scalar = |(tag, value): (&str, f64)| {
        let value = [bytes(1, tag.as_bytes()), float(2, value as f32)].concat();
        bytes(1, &value)
    };
    let figures = [
        ("loss", f64::from(record.loss)),
        ("lr", record.lr),
        ("grad_norm", record.grad_norm),
        ("epoch", record.epoch as f64),
    ];
    let optional = [
        ("ema_decay", record.ema_decay),
        ("validation_loss", record.validation_loss.map(f64::from)),
        ("ema_validation_loss", record.ema_validation_loss.map(f64::from)),
    ];
    let optional = optional.into_iter().filter_map(|(tag, value)| Some((tag, value?)));
    let figures = figures.into_iter().chain(optional);
    event(time, record.step, &figures.flat_map(scalar).collect::<Vec<u8>>())
}

fn picture_event(time: f64, step: usize, png: &[u8]) -> Vec<u8> {
    let side = |at: usize| png.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
    let (width, height) = (u64::from(side(16)), u64::from(side(20))); // in the header chunk, which is always first
    let image = [number(1, height), number(2, width), number(3, 3), bytes(4, png)].concat();
    let value = [bytes(1, b"samples"), bytes(4, &image)].concat();
    event(time, step, &bytes(1, &value))
}

/// An event: `wall_time`, `step`, and the `summary` in field 5.
fn event(time: f64, step: usize, summary: &[u8]) -> Vec<u8> {
    [double(1, time), number(2, step as u64), bytes(5, summary)].concat()
}

/// Fields of Protocol Buffers: a key from number and wire type, then the value.
fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn double(field: u64, value: f64) -> Vec<u8> {
    [varint(field << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn float(field: u64, value: f32) -> Vec<u8> {
    [varint(field << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // the check value of its specification
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa); // RFC 3720, B.4
    }

    /// The expected file was written by TensorBoard's writer, in tests/golden/tensorboard_events.py.
    #[test]
    fn the_bytes_are_those_that_tensorboard_writes() {
        let golden = include_bytes!("../../../tests/golden/tensorboard_events.bin");
        let record = Record {
            step: 300,
            epoch: 3,
            loss: 0.25,
            lr: 1e-3,
            grad_norm: 1.5,
            ema_decay: Some(0.75),
            validation_loss: None,
            ema_validation_loss: None,
            seconds: 9.0,
            waited: None,
        };
        let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &5u32.to_be_bytes(), &7u32.to_be_bytes()].concat();
        let events = [version(1.5), step_event(2.5, &record), picture_event(3.5, 300, &png)];
        let ours: Vec<u8> = events.iter().flat_map(|event| frame(event)).collect();
        assert_eq!(ours, golden);
    }
}
