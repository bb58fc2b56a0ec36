use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use crate::choose::choose_weights;
use crate::file::DataFile;
use crate::{Error, Result, index, safetensors_file, torch_file};

/// A model's weights on disk: which tensors there are and where each of them lies. Opening one reads headers; the
/// values are read from the disk one tensor at a time, when they are asked for.
///
/// ```no_run
/// use kakusan_weights::Checkpoint;
///
/// # fn main() -> kakusan_weights::Result<()> {
/// let checkpoint = Checkpoint::find("ddpm-cat-256/unet".as_ref(), None)?;
/// for (name, info) in checkpoint.tensors() {
///     println!("{name}: {:?} {:?}", info.dtype, info.shape);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    variant: Option<String>,
    files: Vec<DataFile>,
    tensors: BTreeMap<String, Entry>,
    order: Vec<String>,
}

/// What a file says of one of its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type of its values.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Where a tensor lies; checked to lie within the file when it is made.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) info: TensorInfo,
    /// Which of the checkpoint's files.
    pub(crate) file: usize,
    /// Where its first value is, in bytes.
    pub(crate) start: u64,
    /// How many values to go on for one more along each dimension, where that is not what the shape says.
    pub(crate) strides: Option<Vec<usize>>,
    /// The CRC-32 of all its bytes, where the file has one.
    pub(crate) crc: Option<u32>,
}

impl Checkpoint {
    /// The weights in the folder `dir`, found as diffusers finds them: a sharded checkpoint's index, else
    /// `diffusion_pytorch_model.safetensors`, else the same as `.bin` (PyTorch's pickle, of which nothing is executed).
    /// With a `variant` such as `fp16`, the files of that variant. Without one, a folder that holds a single variant
    /// and no plain file gives that variant.
    ///
    /// # Errors
    /// [`Error::NoWeights`] where there are none to be chosen, and as [`open`](Self::open).
    pub fn find(dir: &Path, variant: Option<&str>) -> Result<Self> {
        let mut names = vec![];
        let unreadable = |source| Error::Io { action: "read", path: dir.to_owned(), source };
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            names.extend(entry.map_err(unreadable)?.file_name().into_string().ok());
        }
        let chosen = choose_weights(names.iter().map(String::as_str), variant)
            .map_err(|reason| Error::NoWeights { dir: dir.to_owned(), reason })?;
        let mut checkpoint = Self::open(&dir.join(&chosen.name))?;
        checkpoint.variant = chosen.variant;
        Ok(checkpoint)
    }

    /// The weights in one file: `.safetensors`, `.bin` (or any other name for PyTorch's pickle), or the `.json` index
    /// of a sharded checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Safetensors`], [`Error::Pickle`] and [`Error::Shards`], each naming the file.
    pub fn open(path: &Path) -> Result<Self> {
        let files = match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => index::open(path)?,
            _ => vec![open_file(path)?],
        };
        let mut checkpoint =
            Self { path: path.to_owned(), variant: None, files: vec![], tensors: BTreeMap::new(), order: vec![] };
        for (number, (file, tensors)) in files.into_iter().enumerate() {
            checkpoint.files.push(file);
            for (name, entry) in tensors {
                let entry = Entry { file: number, ..entry };
                if checkpoint.tensors.insert(name.clone(), entry).is_none() {
                    checkpoint.order.push(name); // two shards may hold one that their index does not know
                }
            }
        }
        Ok(checkpoint)
    }

    /// The file it was opened by: for a sharded checkpoint, the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The variant that [`find`](Self::find) took.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// The files that hold the values, more than one for a sharded checkpoint.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(DataFile::path)
    }

    /// Names and descriptions, in the order in which the files have them.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.order.iter().filter_map(|name| Some((name.as_str(), &self.tensors.get(name)?.info)))
    }

    /// The description of one tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|entry| &entry.info)
    }

    /// One tensor's values, read from the file, as f32 in the order of its shape.
    ///
    /// # Errors
    /// [`Error::Tensor`] where there is no tensor of that name, its values are no floats, or they cannot be read.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let values = || {
            let entry = self.tensors.get(name).ok_or("missing")?;
            let dtype = entry.info.dtype;
            if !is_float(dtype) {
                return Err(format!("its dtype is {dtype}, expected F32, F64, F16 or BF16"));
            }
            self.values_of(entry)
        };
        values().map_err(|reason| self.refusal(name, reason))
    }

    /// One tensor's bytes as the file has them, but in the order of its shape.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let entry = self.tensors.get(name).ok_or_else(|| "missing".to_owned());
        entry.and_then(|entry| self.bytes_of(entry)).map_err(|reason| self.refusal(name, reason))
    }

    fn refusal(&self, name: &str, reason: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), reason }
    }

    /// Values that lie in the file as they lie in memory are read to where they stay.
    fn values_of(&self, entry: &Entry) -> std::result::Result<Vec<f32>, String> {
        let dtype = entry.info.dtype;
        if dtype != Dtype::F32 || entry.strides.is_some() || cfg!(target_endian = "big") {
            return Ok(to_f32(dtype, &self.bytes_of(entry)?));
        }
        let mut values = vec![0f32; self.count_of(entry)?];
        self.read_all(entry, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    fn bytes_of(&self, entry: &Entry) -> std::result::Result<Vec<u8>, String> {
        let TensorInfo { dtype, shape } = &entry.info;
        let (count, bits) = (self.count_of(entry)?, dtype.bitsize());
        match &entry.strides {
            Some(strides) if count > 0 => {
                let extent = shape.iter().zip(strides).map(|(&size, &stride)| (size - 1) * stride);
                let len = (extent.sum::<usize>() as u64 + 1) * bits as u64 / 8;
                let bytes = self.files[entry.file].read(entry.start, len).map_err(|e| e.to_string())?;
                Ok(gather(&bytes.ok_or(CUT_SHORT)?, shape, strides, bits / 8))
            }
            _ => {
                let mut bytes = vec![0; (count as u64 * bits as u64 / 8) as usize];
                self.read_all(entry, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// The number of a tensor's values, if the file may hold so many.
    fn count_of(&self, entry: &Entry) -> std::result::Result<usize, String> {
        let TensorInfo { dtype, shape } = &entry.info;
        // where one dimension is 0 the others may be anything, and their product overflow
        if shape.iter().try_fold(1usize, |size, &side| size.checked_mul(side.max(1))).is_none() {
            return Err(format!("its shape is {shape:?}, which is too large"));
        }
        let count = shape.iter().product::<usize>();
        let bytes = (count as u64).checked_mul(dtype.bitsize() as u64).map(|bits| bits / 8);
        let held = bytes.is_some_and(|bytes| self.files[entry.file].holds(entry.start, bytes));
        if held || entry.strides.is_some() { Ok(count) } else { Err(CUT_SHORT.to_owned()) }
    }

    /// Reads all bytes of a tensor whose values lie one after the other, and checks their checksum.
    fn read_all(&self, entry: &Entry, bytes: &mut [u8]) -> std::result::Result<(), String> {
        self.files[entry.file].read_into(entry.start, bytes).map_err(|e| e.to_string())?;
        match entry.crc {
            Some(crc) if crc32fast::hash(bytes) != crc => Err(WRONG_CRC.to_owned()),
            _ => Ok(()),
        }
    }
}

const CUT_SHORT: &str = "the file ends before it";
const WRONG_CRC: &str = "its checksum is not the one that was saved with it (the file is damaged, or was written with \
                         torch.serialization.set_crc32_options(False): save it again)";

/// A file and what it holds, in its order, each name once; the entries' file numbers are not yet right.
pub(crate) type TensorFile = (DataFile, Vec<(String, Entry)>);

pub(crate) fn open_file(path: &Path) -> Result<TensorFile> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => safetensors_file::open(path),
        _ => torch_file::open(path),
    }
}

pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16)
}

/// Floats of any width, little-endian, as f32; of another type, nothing.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value) as f32).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|&value| bf16::from_le_bytes(value).to_f32()).collect(),
        _ => vec![],
    }
}

/// Values of `size` bytes that lie `strides` apart, one after the other in the order of `shape`.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(shape.iter().product::<usize>() * size);
    let mut index = vec![0; shape.len()];
    loop {
        let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        out.extend_from_slice(&bytes[at * size..][..size]);
        // the next index, the last dimension fastest
        let Some(axis) = (0..shape.len()).rev().find(|&axis| index[axis] + 1 < shape[axis]) else { return out };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}
