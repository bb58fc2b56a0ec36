//! Weights as safetensors, named and split as diffusers does it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use half::{bf16, f16};
use kakusan_config::to_json;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo as Header};
use serde_json::json;

use crate::checkpoint::{TensorInfo, is_float, to_f32};
use crate::choose::{is_shard_suffix, is_variant};
use crate::disk::{self, WholeFile};
use crate::file::unwritable;
use crate::{Error, Result, write_file};

/// How weights are saved.
///
/// ```
/// use kakusan_weights::{FloatType, SaveOptions, parse_size};
///
/// let mut options = SaveOptions::default();
/// options.dtype = Some(FloatType::F16);
/// options.variant = Some("fp16".to_owned()); // diffusion_pytorch_model.fp16.safetensors
/// options.max_shard_size = parse_size("100MB").unwrap();
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SaveOptions {
    /// Which type floats are cast to; without one they stay as they are.
    pub dtype: Option<FloatType>,
    /// A word for the files' names, by convention of what the weights are: `fp16`, `ema`.
    pub variant: Option<String>,
    /// The most bytes of tensors in a file (10 GB, as diffusers has it); a single tensor may be larger.
    pub max_shard_size: u64,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { dtype: None, variant: None, max_shard_size: 10_000_000_000 }
    }
}

/// A type of floats that weights can be saved in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// 32 bits, the type that weights are trained in.
    F32,
    /// IEEE's 16 bits: values up to 65504.
    F16,
    /// The upper 16 bits of 32: the range of [`F32`](Self::F32), less precise than [`F16`](Self::F16).
    BF16,
}

impl FromStr for FloatType {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "f32" | "float32" | "fp32" => Ok(Self::F32),
            "f16" | "float16" | "fp16" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::BF16),
            _ => Err(format!("{text:?} is not a float type; known are f32, f16, bf16")),
        }
    }
}

impl FloatType {
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }
}

/// A number of bytes as diffusers writes it: `100MB`, in powers of 1000.
///
/// # Errors
/// A word on what is expected.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let units = [("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)];
    let upper = text.trim().to_ascii_uppercase();
    let size = units.iter().find_map(|(unit, bytes)| {
        let number: f64 = upper.strip_suffix(unit)?.trim().parse().ok()?;
        (number > 0.0 && number * bytes < 9e18).then_some((number * bytes) as u64)
    });
    size.filter(|&size| size > 0).ok_or_else(|| format!("{text:?} is not a size; expected one like 100MB or 1.5GB"))
}

/// Saves tensors in `dir`, in the order given, as `diffusion_pytorch_model.safetensors` or as shards and their index.
/// All files are written before the first gets its name, and what an earlier save of the same variant left in other
/// pieces is deleted at the end. `bytes` gives one tensor's values, little-endian.
///
/// # Errors
/// Those of `bytes`; [`Error::Io`] when the folder or a file cannot be written, [`Error::Tensor`] when a value does not
/// fit the type asked for, [`Error::Variant`].
pub fn save_tensors<E: From<Error>>(
    dir: &Path,
    tensors: &[(String, TensorInfo)],
    options: &SaveOptions,
    bytes: impl Fn(&str) -> std::result::Result<Vec<u8>, E>,
) -> std::result::Result<(), E> {
    let variant = options.variant.as_deref();
    if let Some(variant) = variant.filter(|variant| !is_variant(variant)) {
        return Err(Error::Variant { dir: dir.to_owned(), variant: variant.to_owned() }.into());
    }
    disk::create_folders(dir).map_err(|source| Error::Io { action: "create", path: dir.to_owned(), source })?;
    let sizes: Vec<u64> = tensors.iter().map(|(_, info)| saved_size(info, options.dtype)).collect();
    let shards = split(&sizes, options.max_shard_size);
    let dotted = variant.map(|variant| format!(".{variant}")).unwrap_or_default();
    let stem = format!("diffusion_pytorch_model{dotted}");
    let index = dir.join(format!("diffusion_pytorch_model.safetensors.index{dotted}.json"));
    let old_index = dir.join(format!("diffusion_pytorch_model.safetensors{dotted}.index.json"));

    let name = |number: usize| match shards.len() {
        1 => format!("{stem}.safetensors"),
        count => format!("{stem}-{:05}-of-{count:05}.safetensors", number + 1),
    };
    let mut files = vec![];
    let mut weight_map = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let members: Vec<&(String, TensorInfo)> = shard.iter().map(|&member| &tensors[member]).collect();
        weight_map.extend(members.iter().map(|(tensor, _)| (tensor.clone(), name(number))));
        files.push((
            dir.join(name(number)),
            write_safetensors(&dir.join(name(number)), &members, options.dtype, &bytes)?,
        ));
    }
    let kept: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
    if shards.len() > 1 && kept.iter().any(|path| path.exists()) {
        // The index that is there would take new shards for old ones, should we be stopped between two of them.
        remove(&index)?;
    }
    for (path, file) in files {
        file.commit().map_err(unwritable(&path))?;
    }
    match shards.len() {
        1 => remove(&index)?,
        _ => write_file(&index, index_text(sizes.iter().sum(), &weight_map).as_bytes())?,
    }
    if old_index != index {
        remove(&old_index)?;
    }
    Ok(remove_stale(dir, &stem, variant, &kept)?)
}

fn index_text(total_size: u64, weight_map: &BTreeMap<String, String>) -> String {
    let fields = [("metadata", json!({ "total_size": total_size })), ("weight_map", json!(weight_map))];
    to_json(&fields.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
}

/// Saves tensors in one safetensors file, whatever their size, atomically. `bytes` gives one tensor's values,
/// little-endian.
///
/// # Errors
/// Those of `bytes`, and [`Error::Io`] when the file cannot be written; a file that was there before is then untouched.
pub fn save_file<E: From<Error>>(
    path: &Path,
    tensors: &[(String, TensorInfo)],
    bytes: impl Fn(&str) -> std::result::Result<Vec<u8>, E>,
) -> std::result::Result<(), E> {
    let file = write_safetensors(path, &tensors.iter().collect::<Vec<_>>(), None, bytes)?;
    Ok(file.commit().map_err(unwritable(path))?)
}

/// Removes the same weights from an earlier save, in other pieces, by today's names or those from before diffusers
/// 0.32.
fn remove_stale(dir: &Path, stem: &str, variant: Option<&str>, kept: &[PathBuf]) -> Result<()> {
    let old_end = variant.map(|variant| format!(".{variant}.safetensors"));
    let unreadable = |source| Error::Io { action: "read", path: dir.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".safetensors"));
        let old = old_end.as_ref().and_then(|end| name.strip_prefix("diffusion_pytorch_model")?.strip_suffix(end));
        let ours = rest == Some("") || [rest, old].into_iter().flatten().any(is_shard_suffix);
        if ours && !kept.contains(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    disk::remove_file(path).map_err(|source| Error::Io { action: "delete", path: path.to_owned(), source })
}

fn saved_dtype(info: &TensorInfo, float: Option<FloatType>) -> Dtype {
    float.filter(|_| is_float(info.dtype)).map_or(info.dtype, FloatType::dtype)
}

fn saved_size(info: &TensorInfo, float: Option<FloatType>) -> u64 {
    info.shape.iter().product::<usize>() as u64 * saved_dtype(info, float).bitsize() as u64 / 8
}

/// Which tensors go into which file: in their order, a file at a time, as huggingface_hub's
/// `split_state_dict_into_shards_factory` does it. A tensor larger than `max` gets a separate file, before the open
/// one.
fn split(sizes: &[u64], max: u64) -> Vec<Vec<usize>> {
    let (mut shards, mut open, mut filled) = (vec![], vec![], 0u64);
    for (tensor, &size) in sizes.iter().enumerate() {
        if size > max {
            shards.push(vec![tensor]);
            continue;
        }
        if filled.saturating_add(size) > max {
            shards.push(std::mem::take(&mut open));
            filled = 0;
        }
        open.push(tensor);
        filled += size;
    }
    if !open.is_empty() || shards.is_empty() {
        shards.push(open);
    }
    shards
}

/// Writes a file, byte for byte as Python's safetensors does, up to giving it its name: wider types first, then by
/// name.
fn write_safetensors<E: From<Error>>(
    path: &Path,
    tensors: &[&(String, TensorInfo)],
    float: Option<FloatType>,
    bytes: impl Fn(&str) -> std::result::Result<Vec<u8>, E>,
) -> std::result::Result<WholeFile, E> {
    let mut order: Vec<(&str, Dtype, &TensorInfo)> =
        tensors.iter().map(|(name, info)| (name.as_str(), saved_dtype(info, float), info)).collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut end = 0;
    let mut headers = vec![];
    for &(name, dtype, info) in &order {
        let start = end;
        end += saved_size(info, float) as usize;
        headers.push((name.to_owned(), Header { dtype, shape: info.shape.clone(), data_offsets: (start, end) }));
    }
    let unfit = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let header = Metadata::new(metadata, headers).map_err(|e| unfit(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| unfit(e.to_string()))?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');

    let unwritable = unwritable(path);
    let mut file = WholeFile::create(path).map_err(&unwritable)?;
    file.write(&(header.len() as u64).to_le_bytes()).map_err(&unwritable)?;
    file.write(&header).map_err(&unwritable)?;
    for (name, dtype, info) in order {
        let cast = cast(bytes(name)?, info.dtype, dtype);
        let refused = |reason| Error::Tensor { path: path.to_owned(), name: name.to_owned(), reason };
        file.write(&cast.map_err(refused)?).map_err(&unwritable)?;
    }
    Ok(file)
}

/// Floats of one type as another, rounded to the nearest (as torch does, doubles by way of f32); what that type is too
/// narrow for is an error.
fn cast(bytes: Vec<u8>, from: Dtype, to: Dtype) -> std::result::Result<Vec<u8>, String> {
    if from == to {
        return Ok(bytes);
    }
    let values = to_f32(from, &bytes);
    let doubles = bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value));
    let infinite = match from {
        Dtype::F64 => doubles.filter(|value| value.is_infinite()).count(),
        _ => values.iter().filter(|value| value.is_infinite()).count(),
    };
    let cast: Vec<u8> = match to {
        Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&value| value.to_le_bytes()).collect(),
    };
    match to_f32(to, &cast).iter().filter(|value| value.is_infinite()).count() - infinite {
        0 => Ok(cast),
        lost => Err(format!("{lost} of its values are too large for {to}")),
    }
}
