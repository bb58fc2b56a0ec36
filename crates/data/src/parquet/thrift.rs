//! Validates Thrift's compact structures before the parquet crate reads them. That crate iterates over a list of
//! booleans for as long as the list claims to be, without consuming a byte per element.

use std::io::{BufReader, Read, Seek, SeekFrom};

/// The deepest nesting of structures. Parquet's own structures nest about ten deep.
const MAX_DEPTH: usize = 32;
/// Kinds of pages, by parquet's numbers.
const INDEX_PAGE: i64 = 1;
const DICTIONARY_PAGE: i64 = 2;

/// Types of values, by the compact protocol's numbers.
const TRUTH: [u8; 2] = [1, 2];
const BYTE: u8 = 3;
const INTEGERS: [u8; 3] = [4, 5, 6];
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LISTS: [u8; 2] = [9, 10];
const MAP: u8 = 11;
const STRUCTURE: u8 = 12;
const UUID: u8 = 13;

/// Checks that a footer of `len` bytes at `start` can be read in a time bounded by its length.
pub(super) fn check_footer(file: impl Read + Seek, start: u64, len: u64) -> Result<(), String> {
    Walk::new(file, start, len)
        .and_then(|mut walk| walk.structure(0, &mut |_, _| {}))
        .ok_or_else(|| "not a valid parquet file: its footer is damaged".to_owned())
}

/// The content of a page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// The page holds a dictionary, not values.
    pub(super) is_dictionary: bool,
    /// The claimed decompressed size, in bytes.
    pub(super) unpacked: u64,
}

/// The pages of a column chunk of `len` bytes, in order, without pages that hold no values. An error if together they
/// decompress to more than `most` bytes.
pub(super) fn pages(mut file: impl Read + Seek, mut start: u64, mut len: u64, most: u64) -> Result<Vec<Page>, String> {
    let (of_chunk, mut all, mut pages) = (len, 0u64, Vec::new());
    while len > 0 {
        let (mut kind, mut unpacked, mut packed) = (-1, 0, 0);
        let page = Walk::new(&mut file, start, len).and_then(|mut walk| {
            walk.structure(0, &mut |field, value| match field {
                1 => kind = value,
                2 => unpacked = value,
                3 => packed = value,
                _ => {}
            })?;
            let size = |size: i64| i32::try_from(size).ok().and_then(|size| u64::try_from(size).ok());
            Some((size(unpacked)?, walk.left.checked_sub(size(packed)?)?))
        });
        let (unpacked, left) = page.ok_or("the header of a page is damaged")?;
        all = all.saturating_add(unpacked);
        if all > most {
            return Err(format!("its {of_chunk} bytes claim to decompress to {all}; at most {most} are read"));
        }
        if kind != INDEX_PAGE {
            pages.push(Page { is_dictionary: kind == DICTIONARY_PAGE, unpacked });
        }
        (start, len) = (start + (len - left), left);
    }
    Ok(pages)
}

/// The position of a walk through a structure. Each step returns `None` if the bytes are invalid.
struct Walk<R> {
    reader: BufReader<R>,
    left: u64,
}

impl<R: Read + Seek> Walk<R> {
    fn new(mut file: R, start: u64, len: u64) -> Option<Self> {
        file.seek(SeekFrom::Start(start)).ok()?;
        Some(Self { reader: BufReader::with_capacity(1 << 10, file), left: len })
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.left = self.left.checked_sub(1)?;
        self.reader.read_exact(&mut byte).ok()?;
        Some(byte[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in 0..10 {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, count: u64) -> Option<()> {
        self.left = self.left.checked_sub(count)?;
        self.reader.seek_relative(i64::try_from(count).ok()?).ok()
    }

    /// A signed number.
    fn integer(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// Walks through a structure and calls `see` with the integer fields.
    fn structure(&mut self, depth: usize, see: &mut dyn FnMut(i16, i64)) -> Option<()> {
        let mut field = 0i16;
        loop {
            let head = self.byte()?;
            let (kind, step) = (head & 0xf, i16::from(head >> 4));
            if kind == 0 {
                return Some(());
            }
            field = if step == 0 { self.integer()?.try_into().ok()? } else { field.checked_add(step)? };
            match kind {
                _ if TRUTH.contains(&kind) => {}
                _ if INTEGERS.contains(&kind) => see(field, self.integer()?),
                _ => self.value(kind, depth + 1)?,
            }
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            _ if depth > MAX_DEPTH || TRUTH.contains(&kind) => None,
            BYTE => self.bytes(1),
            DOUBLE => self.bytes(8),
            UUID => self.bytes(16),
            BINARY => self.number().and_then(|len| self.bytes(len)),
            STRUCTURE => self.structure(depth, &mut |_, _| {}),
            MAP => match self.number()? {
                0 => Some(()),
                len => {
                    let kinds = self.byte()?;
                    (0..len).try_for_each(|_| {
                        self.value(kinds >> 4, depth + 1)?;
                        self.value(kinds & 0xf, depth + 1)
                    })
                }
            },
            _ if INTEGERS.contains(&kind) => self.number().map(drop),
            _ if LISTS.contains(&kind) => {
                let head = self.byte()?;
                let len = if head >> 4 == 0xf { self.number()? } else { u64::from(head >> 4) };
                (0..len).try_for_each(|_| self.value(head & 0xf, depth + 1))
            }
            _ => None,
        }
    }
}
