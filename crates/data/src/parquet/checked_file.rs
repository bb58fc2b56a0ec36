//! Checked file access for the parquet crate, which trusts the sizes in headers.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read},
};

use ::parquet::{
    errors::{ParquetError, Result},
    file::reader::{ChunkReader, Length},
};
use bytes::Bytes;

use super::thrift;

/// A file that refuses reads beyond its end.
pub(super) struct CheckedFile(pub(super) File);

impl CheckedFile {
    /// Checks that the footer can be read. Its length and the magic number are the last eight bytes of the file.
    pub(super) fn check_footer(&self) -> std::result::Result<(), String> {
        let size = self.len();
        let tail = size.checked_sub(TAIL).and_then(|start| self.get_bytes(start, TAIL as usize).ok());
        let len = tail.and_then(|tail| tail.first_chunk().map(|&len| u32::from_le_bytes(len).into()));
        match len.and_then(|len: u64| Some((size.checked_sub(TAIL)?.checked_sub(len)?, len))) {
            Some((start, len)) => thrift::check_footer(&self.0, start, len),
            None => Err("not a valid parquet file: it is cut short".to_owned()),
        }
    }
}

/// The bytes of the footer's length and of the magic number `PAR1`.
const TAIL: u64 = 8;

impl Length for CheckedFile {
    fn len(&self) -> u64 {
        Length::len(&self.0)
    }
}

impl ChunkReader for CheckedFile {
    type T = ToTheEnd;

    fn get_read(&self, start: u64) -> Result<ToTheEnd> {
        Ok(ToTheEnd(self.0.get_read(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        match start.checked_add(length as u64) {
            Some(end) if end <= self.len() => self.0.get_bytes(start, length),
            _ => Err(ParquetError::EOF(format!("{length} bytes from {start} on are more than there are"))),
        }
    }
}

/// Turns EOF into an error, so that a header claiming 2 billion values cannot loop on empty reads.
pub(super) struct ToTheEnd(BufReader<File>);

impl Read for ToTheEnd {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}
