//! The zip archives that `torch.save` writes: entries are stored as they are, so that a tensor is a range of the file.
//!
//! The directory is read here, not by a crate, because what is wanted of it is where each entry's bytes begin, and that
//! no count in a header is believed before the file is known to be that long.

use std::collections::BTreeMap;

use crate::Result;
use crate::file::DataFile;
use crate::torch_file::refused;

/// A stored entry, all of which lies within the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";
const LOCAL_LEN: u64 = 30;
const CENTRAL_LEN: usize = 46;
const END_LEN: u64 = 22;
const END64_LEN: u64 = 56;
const LOCATOR64_LEN: u64 = 20;
/// The longest comment that may stand behind the end of the directory.
const MAX_COMMENT: u64 = 0xffff;
/// A hundred thousand tensors' worth.
const MAX_DIRECTORY: u64 = 100_000_000;

/// The entries by their names.
pub(crate) fn directory(file: &DataFile) -> Result<BTreeMap<String, Stored>> {
    let bytes = central_directory(file)?.ok_or_else(|| refused(file, "it is a zip archive that is cut short"))?;
    let mut entries = BTreeMap::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let entry = central_entry(rest).ok_or_else(|| refused(file, "the directory of its zip archive is damaged"))?;
        let (name, header, next) = entry;
        rest = next;
        if name.ends_with('/') {
            continue;
        }
        if header.method != 0 || header.flags & 1 != 0 || header.packed != header.len {
            let reason = format!("its entry {name} is compressed or encrypted, which torch.save never does");
            return Err(refused(file, reason));
        }
        let stored = stored(file, &header)?;
        let stored = stored.ok_or_else(|| refused(file, format!("its entry {name} is not where it should be")))?;
        if entries.insert(name.to_owned(), stored).is_some() {
            return Err(refused(file, format!("it has two entries called {name}")));
        }
    }
    Ok(entries)
}

struct Header {
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    len: u64,
    offset: u64,
}

/// All of the central directory.
fn central_directory(file: &DataFile) -> Result<Option<Vec<u8>>> {
    let tail = file.len().min(END_LEN + MAX_COMMENT);
    let tail_start = file.len() - tail;
    let Some(bytes) = file.read(tail_start, tail)? else { return Ok(None) };
    // The record and its comment, whose length it tells, are the last of the file.
    let is_end = |at: usize| {
        let comment = u16_at(&bytes, at + 20);
        let end = comment.map(|comment| at + END_LEN as usize + usize::from(comment));
        bytes[at..].starts_with(END) && end == Some(bytes.len())
    };
    let Some(at) = (0..bytes.len()).rev().find(|&at| is_end(at)) else { return Ok(None) };
    let Some((mut size, mut start)) = u32_at(&bytes, at + 12).zip(u32_at(&bytes, at + 16)) else { return Ok(None) };
    // Archives with more, or larger, entries say so in a second record, which a third one points to.
    let locator = (tail_start + at as u64).checked_sub(LOCATOR64_LEN);
    let locator = locator.map(|start| file.read(start, LOCATOR64_LEN)).transpose()?.flatten();
    if let Some(locator) = locator.filter(|bytes| bytes.starts_with(LOCATOR64)) {
        let record = u64_at(&locator, 8).map(|start| file.read(start, END64_LEN)).transpose()?.flatten();
        let Some(record) = record.filter(|bytes| bytes.starts_with(END64)) else { return Ok(None) };
        (size, start) = u64_at(&record, 40).zip(u64_at(&record, 48)).unwrap_or_default();
    }
    if size > MAX_DIRECTORY { Ok(None) } else { file.read(start, size) }
}

/// The first entry of a central directory, and what follows it.
fn central_entry(bytes: &[u8]) -> Option<(&str, Header, &[u8])> {
    let fixed = bytes.get(..CENTRAL_LEN).filter(|fixed| fixed.starts_with(CENTRAL))?;
    let lengths = [28, 30, 32].map(|at| u16_at(fixed, at).unwrap_or_default() as usize);
    let (name, rest) = bytes[CENTRAL_LEN..].split_at_checked(lengths[0])?;
    let (extra, rest) = rest.split_at_checked(lengths[1])?;
    let (_comment, rest) = rest.split_at_checked(lengths[2])?;
    let mut header = Header {
        flags: u16_at(fixed, 8)?,
        method: u16_at(fixed, 10)?,
        crc: u32_at(fixed, 16)? as u32,
        packed: u32_at(fixed, 20)?,
        len: u32_at(fixed, 24)?,
        offset: u32_at(fixed, 42)?,
    };
    // What does not fit 32 bits stands in the extra field 1, in this order.
    let mut wide = extra_field(extra, 1).unwrap_or_default();
    for value in [&mut header.len, &mut header.packed, &mut header.offset] {
        if *value == u64::from(u32::MAX) {
            *value = u64_at(wide, 0)?;
            wide = &wide[8..];
        }
    }
    Some((std::str::from_utf8(name).ok()?, header, rest))
}

fn extra_field(mut extra: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (id, len) = (u16_at(extra, 0)?, u16_at(extra, 2)? as usize);
        let (field, rest) = extra[4..].split_at_checked(len)?;
        if id == wanted {
            return Some(field);
        }
        extra = rest;
    }
}

/// The entry's own header says once more how long names are; its bytes follow.
fn stored(file: &DataFile, header: &Header) -> Result<Option<Stored>> {
    let Some(local) = file.read(header.offset, LOCAL_LEN)?.filter(|local| local.starts_with(LOCAL)) else {
        return Ok(None);
    };
    let lengths = [26, 28].map(|at| u64::from(u16_at(&local, at).unwrap_or_default()));
    let start = header.offset + LOCAL_LEN + lengths[0] + lengths[1];
    let entry = Stored { start, len: header.len, crc: header.crc };
    Ok(file.holds(start, header.len).then_some(entry))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?).into())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}
