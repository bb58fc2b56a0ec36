//! What `torch.save` writes of a dictionary of tensors: a zip archive since PyTorch 1.6, pickles and bytes in a row
//! before.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Seek;
use std::path::Path;

use crate::checkpoint::{Entry, TensorFile, TensorInfo};
use crate::file::{DataFile, LFS_REMEDY, unreadable};
use crate::pickle::{MAX_PICKLE, Object, Pickle, PickledTensor, Value};
use crate::zip::{self, Stored};
use crate::{Error, Result};

const ZIP: &[u8] = b"PK\x03\x04";
/// Protocol 2, then torch's magic number, 0x1950a86a20f9469cfc6c, and the pickle's end.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// Where a storage's values lie, and what they should add up to.
struct Place {
    start: u64,
    bytes: u64,
    crc: Option<u32>,
}

/// Reads which tensors a file of PyTorch's holds. Nothing in it is executed.
pub(crate) fn open(path: &Path) -> Result<TensorFile> {
    let file = DataFile::open(path)?;
    if file.is_lfs_pointer() {
        return Err(refused(&file, LFS_REMEDY));
    }
    let beginning = file.read(0, file.len().min(LEGACY.len() as u64))?.unwrap_or_default();
    let tensors = if beginning.starts_with(ZIP) {
        open_zip(&file)?
    } else if beginning == LEGACY {
        open_legacy(&file)?
    } else {
        return Err(refused(&file, "it is in neither of the two formats that torch.save writes"));
    };
    Ok((file, tensors))
}

pub(crate) fn refused(file: &DataFile, reason: impl Into<String>) -> Error {
    Error::Pickle { path: file.path().to_owned(), reason: reason.into() }
}

const BIG_ENDIAN: &str = "its numbers are big-endian: save it again on a little-endian machine";

/// `archive/data.pkl` describes the tensors, `archive/data/0` and so on hold their values.
fn open_zip(file: &DataFile) -> Result<Vec<(String, Entry)>> {
    let entries = zip::directory(file)?;
    let description = entries.iter().find(|(name, _)| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let (name, description) =
        description.ok_or_else(|| refused(file, "it is a zip archive without data.pkl, not one of torch.save's"))?;
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    let contents = |entry: &Stored| Ok::<_, Error>(file.read(entry.start, entry.len)?.unwrap_or_default());
    if let Some(order) = entries.get(&format!("{folder}byteorder"))
        && (order.len > 16 || contents(order)? != b"little")
    {
        return Err(refused(file, BIG_ENDIAN));
    }
    if description.len > MAX_PICKLE {
        return Err(refused(file, "its description of tensors is too long"));
    }
    let pickle = Pickle::read(&mut contents(description)?.as_slice()).map_err(|reason| refused(file, reason))?;
    let place = |key: &str| {
        let entry = entries.get(&format!("{folder}data/{key}"))?;
        Some(Place { start: entry.start, bytes: entry.len, crc: Some(entry.crc) })
    };
    tensors(&pickle, place).map_err(|reason| refused(file, reason))
}

/// Five pickles (magic number, version, sizes of the machine's types, tensors, keys of the storages), then for each key
/// the number of values and the values.
fn open_legacy(file: &DataFile) -> Result<Vec<(String, Entry)>> {
    let mut reader = file.reader(0)?;
    let mut next = || Pickle::read(&mut reader).map_err(|reason| refused(file, reason));
    let (_magic, _version) = (next()?, next()?);
    let (system, description, keys) = (next()?, next()?, next()?);
    if !is_little_endian(&system) {
        return Err(refused(file, BIG_ENDIAN));
    }
    let mut at = reader.stream_position().map_err(unreadable(file.path()))?;
    let Some(Object::List(keys_in_order)) = keys.object(keys.root()) else {
        return Err(refused(file, "it has no list of its storages"));
    };
    let sizes = storages(&description);
    let mut places = BTreeMap::new();
    for &key in keys_in_order {
        let known = keys.text(key).and_then(|key| sizes.get_key_value(key));
        let (&key, size) = known.ok_or_else(|| refused(file, "it has values that belong to no tensor"))?;
        let count = file.read(at, 8)?.and_then(|bytes| bytes.first_chunk().map(|&bytes| u64::from_le_bytes(bytes)));
        let bytes = count.and_then(|count| count.checked_mul(*size)).filter(|&bytes| file.holds(at + 8, bytes));
        let bytes = bytes.ok_or_else(|| refused(file, "it ends within its values"))?;
        places.insert(key, (at + 8, bytes));
        at += 8 + bytes;
    }
    let place = |key: &str| places.get(key).map(|&(start, bytes)| Place { start, bytes, crc: None });
    tensors(&description, place).map_err(|reason| refused(file, reason))
}

fn is_little_endian(system: &Pickle) -> bool {
    match system.object(system.root()) {
        Some(Object::Dict(pairs)) => {
            pairs.iter().any(|&(key, value)| system.text(key) == Some("little_endian") && value == Value::Bool(true))
        }
        _ => false,
    }
}

/// The storages that tensors refer to, and how many bytes a value of each takes.
fn storages(description: &Pickle) -> BTreeMap<&str, u64> {
    let Some(Object::Dict(pairs)) = description.object(description.root()) else { return BTreeMap::new() };
    let tensors = pairs.iter().filter_map(|&(_, value)| match description.object(value) {
        Some(Object::Tensor(tensor)) => Some(&tensor.storage),
        _ => None,
    });
    let sizes = tensors.map(|storage| Some((description.text(storage.key)?, storage.dtype.bitsize() as u64 / 8)));
    sizes.flatten().collect()
}

/// The dictionary of tensors that a pickle holds, each with its place in the file.
fn tensors(
    pickle: &Pickle,
    place: impl Fn(&str) -> Option<Place>,
) -> std::result::Result<Vec<(String, Entry)>, String> {
    let Some(Object::Dict(pairs)) = pickle.object(pickle.root()) else {
        return Err("it does not hold a dictionary of tensors".to_owned());
    };
    let mut names = BTreeSet::new();
    let mut tensors = vec![];
    for &(key, value) in pairs {
        let name = pickle.text(key).ok_or("it holds a tensor whose name is not text")?;
        let Some(Object::Tensor(tensor)) = pickle.object(value) else {
            return Err(format!("its entry `{name}` is not a tensor: save only the model's state_dict()"));
        };
        if !names.insert(name) {
            return Err(format!("it holds two tensors called `{name}`"));
        }
        let place = pickle.text(tensor.storage.key).and_then(&place);
        let entry = place.and_then(|place| entry(tensor, &place));
        tensors.push((name.to_owned(), entry.ok_or_else(|| format!("the values of `{name}` are not in it"))?));
    }
    Ok(tensors)
}

/// Where a tensor lies, given where its storage does; `None` where that is shorter than it should be.
fn entry(tensor: &PickledTensor, place: &Place) -> Option<Entry> {
    let size = tensor.storage.dtype.bitsize() as u64 / 8;
    if tensor.storage.len.checked_mul(size)? != place.bytes {
        return None;
    }
    let contiguous = tensor.is_contiguous();
    let whole = contiguous && tensor.count() == Some(tensor.storage.len);
    Some(Entry {
        info: TensorInfo { dtype: tensor.storage.dtype, shape: tensor.shape.clone() },
        file: 0,
        start: place.start + tensor.offset * size,
        strides: (!contiguous).then(|| tensor.strides.clone()),
        crc: place.crc.filter(|_| whole),
    })
}
