//! Decompresses the pages of a column chunk. The parquet crate's codecs allocate whatever size a page claims, and those
//! of gzip and brotli continue until the stream ends, so a few kilobytes could expand to gigabytes.

use std::{io::Read, sync::Arc};

use ::parquet::{
    basic::Compression,
    column::page::{Page, PageMetadata, PageReader},
    errors::{ParquetError, Result},
    file::{metadata::ColumnChunkMetaData, serialized_reader::SerializedPageReader},
};
use brotli_decompressor::BrotliDecoderParameter::BROTLI_DECODER_PARAM_LARGE_WINDOW;

use super::{checked_file::CheckedFile, thrift};

/// A chunk is refused as a decompression bomb if it decompresses to more than this and to more than `MAX_RATIO` times
/// its size in the file. Pictures' files are already compressed and hardly shrink further.
const TRUSTED: u64 = 64 << 20;
const MAX_RATIO: u64 = 256;
/// The largest decompressed size of a chunk. All of a chunk is held in memory while its row group is read.
const MAX_BYTES: u64 = 1 << 32;

/// The sizes of a chunk's pages.
#[derive(Clone, Debug)]
pub(super) struct Sizes(Arc<[thrift::Page]>);

impl Sizes {
    /// Reads the headers of the pages, and checks that the decompressed sizes they claim are within the limits.
    pub(super) fn read(file: &CheckedFile, chunk: &ColumnChunkMetaData) -> std::result::Result<Self, String> {
        let (start, len) = chunk.byte_range();
        let most = TRUSTED.max(len.saturating_mul(MAX_RATIO)).min(MAX_BYTES);
        Ok(Self(thrift::pages(&file.0, start, len, most)?.into()))
    }

    /// The decompressed size of all pages together.
    pub(super) fn unpacked(&self) -> u64 {
        self.0.iter().map(|page| page.unpacked).fold(0, u64::saturating_add)
    }
}

/// The pages of a chunk, decompressed on demand.
pub(super) struct Pages {
    /// Reads the pages as they are in the file.
    packed: SerializedPageReader<CheckedFile>,
    compression: Compression,
    sizes: Sizes,
    /// The index of the next page.
    next: usize,
    /// The size of the dictionary page that was skipped.
    dictionary: Option<u64>,
}

impl Pages {
    pub(super) fn new(file: CheckedFile, chunk: &ColumnChunkMetaData, rows: usize, sizes: Sizes) -> Result<Self> {
        let as_it_is = chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let packed = SerializedPageReader::new(Arc::new(file), &as_it_is, rows, None)?;
        Ok(Self { packed, compression: chunk.compression(), sizes, next: 0, dictionary: None })
    }

    /// The size of the page that was just read or skipped.
    fn size(&mut self) -> Result<thrift::Page> {
        let size = self.sizes.0.get(self.next).copied();
        self.next += 1;
        size.ok_or_else(|| ParquetError::General("a page too many".to_owned()))
    }

    fn unpacked(&self, page: Page, size: u64) -> Result<Page> {
        // In data pages V2, the levels before the values are not compressed, and a flag may say that the values are
        // not, either.
        let levels = match &page {
            Page::DataPageV2 { is_compressed: false, .. } => return Ok(page),
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                (*def_levels_byte_len as usize).saturating_add(*rep_levels_byte_len as usize)
            }
            Page::DataPage { .. } | Page::DictionaryPage { .. } => 0,
        };
        if self.compression == Compression::UNCOMPRESSED {
            return Ok(page);
        }
        let wrong = || ParquetError::General("the sizes in the header of a page do not fit together".to_owned());
        let values = page.buffer().get(levels..).ok_or_else(wrong)?;
        let size = usize::try_from(size).ok().and_then(|size| size.checked_sub(levels)).ok_or_else(wrong)?;
        // A page of only nulls has no values, so there is nothing to decompress.
        let values = if size == 0 { Vec::new() } else { unpack(self.compression, values, size)? };
        let buffer = match levels {
            0 => values,
            _ => [&page.buffer()[..levels], &values].concat(),
        };
        Ok(with_buffer(page, buffer.into()))
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.packed.get_next_page()? else { return Ok(None) };
        let size = self.size()?;
        self.unpacked(page, size.unpacked).map(Some)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()?;
        let size = self.size()?;
        if size.is_dictionary {
            self.dictionary = Some(size.unpacked);
        }
        Ok(())
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.packed.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        match (self.packed.take_deferred_dictionary()?, self.dictionary.take()) {
            (Some(page), Some(size)) => self.unpacked(page, size).map(Some),
            _ => Ok(None),
        }
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.packed.at_record_boundary()
    }
}

fn with_buffer(mut page: Page, new: bytes::Bytes) -> Page {
    match &mut page {
        Page::DataPage { buf, .. } | Page::DataPageV2 { buf, .. } | Page::DictionaryPage { buf, .. } => *buf = new,
    }
    page
}

/// Decompresses `packed`. The result must have `size` bytes, and no more than that is ever held in memory.
fn unpack(compression: Compression, packed: &[u8], size: usize) -> Result<Vec<u8>> {
    let damaged = |reason: &dyn std::fmt::Display| {
        ParquetError::General(format!("a page is damaged ({}: {reason})", name(compression)))
    };
    let unpacked = match compression {
        Compression::UNCOMPRESSED => Ok(packed.to_vec()),
        Compression::SNAPPY => {
            let mut unpacked = vec![0; size];
            let written = snap::raw::Decoder::new().decompress(packed, &mut unpacked);
            written.map(|written| resized(unpacked, written)).map_err(|error| damaged(&error))
        }
        Compression::GZIP(_) => read(flate2::read::MultiGzDecoder::new(packed), size).map_err(|error| damaged(&error)),
        Compression::BROTLI(_) => {
            let mut decoder = brotli_decompressor::Decompressor::new(packed, 1 << 12);
            // Windows of up to 1 GB are an extension that parquet's brotli format does not include.
            decoder.set_parameter(BROTLI_DECODER_PARAM_LARGE_WINDOW, 0);
            read(decoder, size).map_err(|error| damaged(&error))
        }
        Compression::ZSTD(_) => zstd::bulk::decompress(packed, size).map_err(|error| damaged(&error)),
        Compression::LZ4_RAW => lz4_block(packed, size).map_err(|error| damaged(&error)),
        // Three formats have used this name: Hadoop's blocks, LZ4 frames, and plain LZ4 blocks.
        Compression::LZ4 => lz4_hadoop(packed, size)
            .or_else(|| read(lz4_flex::frame::FrameDecoder::new(packed), size).ok().filter(|all| all.len() == size))
            .map_or_else(|| lz4_block(packed, size), Ok)
            .map_err(|error| damaged(&error)),
        Compression::LZO => Err(ParquetError::General(
            "its pages are compressed by LZO, which is not supported; write the file again with zstd or snappy"
                .to_owned(),
        )),
    }?;
    match unpacked.len() == size {
        true => Ok(unpacked),
        false => Err(damaged(&format!("it does not decompress to the {size} bytes that it claims"))),
    }
}

fn name(compression: Compression) -> &'static str {
    match compression {
        Compression::UNCOMPRESSED => "not packed",
        Compression::SNAPPY => "snappy",
        Compression::GZIP(_) => "gzip",
        Compression::LZO => "LZO",
        Compression::BROTLI(_) => "brotli",
        Compression::LZ4 | Compression::LZ4_RAW => "LZ4",
        Compression::ZSTD(_) => "zstd",
    }
}

fn resized(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.truncate(len);
    bytes
}

/// Reads all of `from`, but at most `size` + 1 bytes.
fn read(from: impl Read, size: usize) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    from.take(size as u64 + 1).read_to_end(&mut all)?;
    Ok(all)
}

fn lz4_block(packed: &[u8], size: usize) -> std::result::Result<Vec<u8>, lz4_flex::block::DecompressError> {
    let mut unpacked = vec![0; size];
    let written = lz4_flex::block::decompress_into(packed, &mut unpacked)?;
    Ok(resized(unpacked, written))
}

/// Hadoop's format: blocks, each preceded by its decompressed and its compressed size as 4-byte big-endian integers.
fn lz4_hadoop(mut packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut unpacked = vec![0; size];
    let mut rest = &mut unpacked[..];
    while !packed.is_empty() {
        let (of_block, after) = packed.split_first_chunk()?;
        let (in_file, after) = after.split_first_chunk()?;
        let (block, after) = after.split_at_checked(u32::from_be_bytes(*in_file) as usize)?;
        let (here, others) = rest.split_at_mut_checked(u32::from_be_bytes(*of_block) as usize)?;
        let written = lz4_flex::block::decompress_into(block, here).ok()?;
        (written == here.len()).then_some(())?;
        (packed, rest) = (after, others);
    }
    rest.is_empty().then_some(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Writes blocks of 1,000 bytes as Hadoop does.
    fn hadoop(bytes: &[u8]) -> Vec<u8> {
        let block = |bytes: &[u8]| {
            let packed = lz4_flex::block::compress(bytes);
            [&(bytes.len() as u32).to_be_bytes()[..], &(packed.len() as u32).to_be_bytes(), &packed].concat()
        };
        bytes.chunks(1000).flat_map(block).collect()
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn snappy(bytes: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(bytes).unwrap()
    }

    /// Every codec, with `bytes` compressed by it.
    fn packed(bytes: &[u8]) -> [(Compression, Vec<u8>); 7] {
        [
            (Compression::SNAPPY, snappy(bytes)),
            (Compression::GZIP(Default::default()), gzip(bytes)),
            (Compression::ZSTD(Default::default()), zstd::bulk::compress(bytes, 1).unwrap()),
            (Compression::LZ4_RAW, lz4_flex::block::compress(bytes)),
            (Compression::LZ4, hadoop(bytes)),
            (Compression::LZ4, frame(bytes)),
            (Compression::LZ4, lz4_flex::block::compress(bytes)),
        ]
    }

    #[test]
    fn what_unpacks_to_other_than_it_claims_is_refused() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| ((i * i) >> 5) as u8).collect();
        for (compression, packed) in packed(&bytes) {
            assert_eq!(unpack(compression, &packed, bytes.len()).unwrap(), bytes);
            for size in [0, 1, bytes.len() - 1, bytes.len() + 1, 2 * bytes.len()] {
                assert!(unpack(compression, &packed, size).is_err(), "{compression:?}: {size}");
            }
            for end in [0, 1, 4, 8, packed.len() / 2, packed.len() - 5] {
                assert!(unpack(compression, &packed[..end], bytes.len()).is_err(), "{compression:?} cut at {end}");
            }
        }
        let error = unpack(Compression::LZO, b"x", 1).unwrap_err().to_string();
        assert!(error.contains("LZO"), "{error}");
    }

    /// The stream holds 1 GB of zeros, but no more is decompressed than the page claims. Decompressing all of it would
    /// take seconds.
    #[test]
    fn more_than_a_page_claims_is_never_unpacked() {
        let member = gzip(&vec![0; 1 << 20]);
        let gigabyte = member.repeat(1 << 10);
        let mut decoder = flate2::read::MultiGzDecoder::new(&gigabyte[..]);
        assert_eq!(read(&mut decoder, 1000).unwrap().len(), 1001);
        assert!(unpack(Compression::GZIP(Default::default()), &gigabyte, 1000).is_err());
    }

    /// The window has 1 GB, which standard brotli does not allow.
    #[test]
    fn brotlis_large_windows_are_refused() {
        let large_window = [0x11, 30, 0x03];
        assert!(unpack(Compression::BROTLI(Default::default()), &large_window, 1).is_err());
    }
}
