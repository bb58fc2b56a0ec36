//! The log of a run, read while another process writes it.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use kakusan::pipeline::Record;

/// The bytes that are read at a time; a longer line is none of ours.
const CHUNK: u64 = 4 << 20;
/// The bytes at the end of a log in which its last records are looked for.
const END: u64 = 1 << 16;
/// The most records that are held: of a longer log, every second one, then every fourth ...
const HELD: usize = 50_000;
/// The most records of an answer.
pub(crate) const ANSWERED: usize = 2_000;

/// The records of a log so far.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Which file was read: a training that resumes writes another one in its place.
    file: Option<u64>,
    /// The bytes that were read, up to the end of a line.
    offset: u64,
    records: Vec<Record>,
    /// Records between two that are held, less one.
    left_out: usize,
    /// How often the log was replaced.
    pub(crate) generation: usize,
    /// The steps of an epoch, once a second one has begun.
    pub(crate) steps_per_epoch: Option<usize>,
    seen: usize,
}

impl Log {
    /// Reads what was added. The last line may be torn: it is read when it is whole.
    pub(crate) fn refresh(&mut self, path: &Path) {
        let Ok(mut file) = File::open(path) else { return };
        let Ok(about) = file.metadata() else { return };
        if self.file.is_some_and(|file| file != identity(&about)) || about.len() < self.offset {
            let generation = self.generation + 1;
            *self = Self { generation, ..Self::default() };
        }
        self.file = Some(identity(&about));
        while self.offset < about.len() {
            let mut bytes = vec![];
            let read =
                file.seek(SeekFrom::Start(self.offset)).and_then(|_| (&file).take(CHUNK).read_to_end(&mut bytes));
            if read.is_err() || bytes.is_empty() {
                return;
            }
            let whole = match bytes.iter().rposition(|&byte| byte == b'\n') {
                Some(last) => last + 1,
                None if bytes.len() as u64 == CHUNK => bytes.len(),
                None => return,
            };
            bytes[..whole].split(|&byte| byte == b'\n').filter_map(record).for_each(|record| self.add(record));
            self.offset += whole as u64;
        }
    }

    fn add(&mut self, record: Record) {
        if self.records.last().is_some_and(|last| last.step >= record.step) {
            // the training went on from an earlier checkpoint
            self.records.retain(|earlier| earlier.step < record.step);
        }
        if self.steps_per_epoch.is_none() && record.epoch == 2 {
            self.steps_per_epoch = record.step.checked_sub(1);
        }
        self.seen += 1;
        if self.left_out > 0 && !self.seen.is_multiple_of(self.left_out + 1) && record.validated().is_none() {
            return;
        }
        self.records.push(record);
        if self.records.len() > HELD {
            self.left_out = 2 * self.left_out + 1;
            self.records = thinned(&self.records, HELD / 2);
        }
    }

    /// The records from a step on, at most [`ANSWERED`] of them.
    pub(crate) fn from(&self, step: usize) -> Vec<Record> {
        thinned(&self.records[self.records.partition_point(|record| record.step < step)..], ANSWERED)
    }
}

/// The last records of a log, without reading all of it.
pub(crate) fn last_records(path: &Path) -> Vec<Record> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(END);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![];
        file.take(END).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default().split(|&byte| byte == b'\n').filter_map(record).collect()
}

fn record(line: &[u8]) -> Option<Record> {
    serde_json::from_slice(line).ok().filter(|record: &Record| record.step > 0)
}

/// At most `most` of these records, evenly; those that measured the validation first, and the last one in any case.
fn thinned(records: &[Record], most: usize) -> Vec<Record> {
    if records.len() <= most {
        return records.to_vec();
    }
    let stride = records.len().div_ceil(most / 2);
    let measured = records.iter().filter(|record| record.validated().is_some()).count();
    let stride_of_measured = measured.div_ceil(most / 2 - 1).max(1);
    let mut measured = 0;
    let keeps = |(i, record): &(usize, &Record)| {
        if record.validated().is_some() {
            measured += 1;
            if measured % stride_of_measured == 0 {
                return true;
            }
        }
        i + 1 == records.len() || i % stride == 0
    };
    records.iter().enumerate().filter(keeps).map(|(_, record)| record.clone()).collect()
}

#[cfg(unix)]
fn identity(about: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(about)
}

#[cfg(not(unix))]
fn identity(_about: &Metadata) -> u64 {
    0 // a log that begins again is shorter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize, epoch: usize, validated: bool) -> String {
        let validation = if validated { ",\"validation_loss\":0.25" } else { "" };
        format!(
            "{{\"step\":{step},\"epoch\":{epoch},\"loss\":0.5,\"lr\":0.001,\"grad_norm\":1.0{validation},\"seconds\":1.0}}\n"
        )
    }

    fn steps(log: &Log, from: usize) -> Vec<usize> {
        log.from(from).iter().map(|record| record.step).collect()
    }

    #[test]
    fn a_growing_log_is_read_line_by_line_and_a_torn_line_when_it_is_whole() {
        let path = std::env::temp_dir().join(format!("kakusan-metrics-{}.jsonl", std::process::id()));
        let mut log = Log::default();
        log.refresh(&path); // not there yet
        let (third, torn) = (line(3, 2, true), 20);
        std::fs::write(&path, line(1, 1, false) + &line(2, 1, false) + &third[..torn]).unwrap();
        log.refresh(&path);
        assert_eq!((steps(&log, 0), log.steps_per_epoch), (vec![1, 2], None));
        std::fs::write(&path, line(1, 1, false) + &line(2, 1, false) + &third + "{\"torn\n" + &line(4, 2, false))
            .unwrap();
        log.refresh(&path);
        assert_eq!((steps(&log, 0), log.steps_per_epoch, log.generation), (vec![1, 2, 3, 4], Some(2), 0));
        assert_eq!((steps(&log, 3), last_records(&path).len()), (vec![3, 4], 4));

        // a training that resumes from step 2 writes another log
        let other = path.with_extension("other");
        std::fs::write(&other, line(1, 1, false) + &line(2, 1, false)).unwrap();
        std::fs::rename(&other, &path).unwrap();
        log.refresh(&path);
        assert_eq!((steps(&log, 0), log.generation), (vec![1, 2], 1));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_long_log_is_thinned_but_keeps_what_was_measured_and_its_end() {
        let all: Vec<Record> =
            (1..=100_003).map(|step| serde_json::from_str(line(step, 1, step % 10_000 == 7).trim()).unwrap()).collect();
        let some = thinned(&all, ANSWERED);
        assert!(some.len() <= ANSWERED && some.len() > ANSWERED / 3, "{}", some.len());
        assert_eq!(some.last().unwrap().step, 100_003);
        assert_eq!(some.iter().filter(|record| record.validated().is_some()).count(), 10);
        let mut log = Log::default();
        all.into_iter().for_each(|record| log.add(record));
        assert!(log.records.len() <= HELD, "{}", log.records.len());
        assert_eq!(log.records.iter().filter(|record| record.validated().is_some()).count(), 10);
    }
}
