use std::path::Path;

use safetensors::tensor::Metadata;

use crate::checkpoint::{Entry, TensorFile, TensorInfo};
use crate::file::{DataFile, LFS_REMEDY};
use crate::{Error, Result};

/// The longest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;
const LENGTH: u64 = size_of::<u64>() as u64;

/// Reads the header of a safetensors file, whose offsets then cover the file exactly.
pub(crate) fn open(path: &Path) -> Result<TensorFile> {
    let file = DataFile::open(path)?;
    let damaged = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
    if file.is_lfs_pointer() {
        return Err(damaged(LFS_REMEDY.to_owned()));
    }
    let length = file.read(0, LENGTH)?.ok_or_else(|| damaged("it is shorter than its header".into()))?;
    let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
    if length > MAX_HEADER {
        return Err(damaged(format!("its header claims {length} bytes, at most {MAX_HEADER} are allowed")));
    }
    let header = file.read(LENGTH, length)?.ok_or_else(|| damaged("it ends within its header".into()))?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(format!("its header is wrong: {e}")))?;
    let (begin, size) = (LENGTH + length, header.data_len() as u64);
    if begin.checked_add(size) != Some(file.len()) {
        let found = file.len() - begin;
        return Err(damaged(format!("it has {found} bytes of tensors where its header says {size}")));
    }
    let names = header.offset_keys();
    let entry = |name: String| {
        let info = header.info(&name)?;
        let start = begin + info.data_offsets.0 as u64;
        let info = TensorInfo { dtype: info.dtype, shape: info.shape.clone() };
        Some((name, Entry { info, file: 0, start, strides: None, crc: None }))
    };
    let tensors = names.into_iter().filter_map(entry).collect();
    Ok((file, tensors))
}
