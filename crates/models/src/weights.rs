use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;
use kakusan_rng::Generator;
use kakusan_weights::{Checkpoint, Dtype, TensorInfo, save_file};

pub use self::adapted::{Adaptation, Change, Misfit};
use crate::builder::{TensorSource, TensorSpec, VarBuilder, builder};
use crate::outline::is_part_of;
use crate::{Error, Outline, OutlinedTensor, Result};

mod adapted;

/// A model's tensors (f32), in the order in which the model requests them: torch's constructor order.
///
/// candle's `VarMap` keeps them in a hash map, whose order differs from process to process; here the order is part of
/// the result.
#[derive(Debug, Clone)]
pub struct Weights {
    entries: Vec<Entry>,
    device: Device,
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    var: Var,
    /// [`TensorSpec::trained`].
    trained: bool,
}

impl Weights {
    /// Initialises the weights of the model that `build` builds, drawing from `rng` as torch does, and gives both.
    ///
    /// # Errors
    /// When `build` fails.
    pub fn initialise<M>(
        device: &Device,
        rng: &mut Generator,
        build: impl Fn(VarBuilder) -> Result<M>,
    ) -> Result<(Self, M)> {
        let outline = Outline::of(&build)?;
        let drawn = |tensor: &OutlinedTensor| Entry::new(tensor, draw(&tensor.spec, &tensor.shape, rng), device);
        let entries = outline.tensors().iter().map(drawn).collect::<Result<_>>()?;
        let weights = Self { entries, device: device.clone() };
        let model = weights.build(build)?;
        Ok((weights, model))
    }

    /// Loads the weights of the model that `build` builds from a file, as [`Checkpoint::open`] reads it. `rename` gives
    /// the name under which the model knows a tensor of the file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`from_checkpoint`](Self::from_checkpoint), and [`Error::Mismatch`] for a tensor
    /// that the model does not have.
    pub fn load<M>(
        path: &Path,
        device: &Device,
        rename: impl Fn(&str) -> String,
        build: impl Fn(VarBuilder) -> Result<M>,
    ) -> Result<(Self, M)> {
        let outline = Outline::of(&build)?;
        let (weights, unexpected) = Self::from_checkpoint(&Checkpoint::open(path)?, &outline, device, rename)?;
        if !unexpected.is_empty() {
            return Err(Error::Mismatch { path: path.to_owned(), problems: unexpected.iter().map(stray).collect() });
        }
        let model = weights.build(build)?;
        Ok((weights, model))
    }

    /// Loads the tensors of an `outline`, one after the other: floats of any width become f32. `rename` gives the name
    /// under which the model knows a tensor of the checkpoint. Gives the weights, and the names of the tensors that the
    /// checkpoint holds and the model does not have (diffusers' `unexpected_keys`).
    ///
    /// # Errors
    /// [`Error::Mismatch`] with a line for every tensor that is missing, mis-shaped, no float or not finite, and then
    /// for every unexpected one, too: it may be the missing one under another name.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        outline: &Outline,
        device: &Device,
        rename: impl Fn(&str) -> String,
    ) -> Result<(Self, Vec<String>)> {
        let (names, mut problems) = names_in(checkpoint, rename);
        let mut entries = vec![];
        for tensor in outline.tensors() {
            match values(checkpoint, names.get(tensor.name.as_str()).copied(), &tensor.shape) {
                Ok(values) if problems.is_empty() => entries.push(Entry::new(tensor, values, device)?),
                Ok(_) => {}
                Err(problem) => problems.push(format!("{}: {problem}", tensor.name)),
            }
        }
        let known: BTreeSet<&str> = outline.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        let unexpected = names.iter().filter(|(name, _)| !known.contains(name.as_str()));
        let unexpected: Vec<String> = unexpected.map(|(_, &name)| name.to_owned()).collect();
        if !problems.is_empty() {
            problems.extend(unexpected.iter().map(stray));
            return Err(Error::Mismatch { path: checkpoint.path().to_owned(), problems });
        }
        Ok((Self { entries, device: device.clone() }, unexpected))
    }

    /// Builds a model that trains these weights.
    ///
    /// # Errors
    /// When `build` fails or asks for a tensor that these weights do not have.
    pub fn build<M>(&self, build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<M> {
        self.view(true, build)
    }

    /// Builds a model on the same weights that records no gradient: what training changes, it sees.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn frozen<M>(&self, build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<M> {
        self.view(false, build)
    }

    fn view<M>(&self, trains: bool, build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<M> {
        let tensor = |entry: &Entry| match trains && entry.trained {
            true => entry.var.as_tensor().clone(),
            false => entry.var.as_detached_tensor(),
        };
        let tensors = self.entries.iter().map(|entry| (entry.name.clone(), tensor(entry))).collect();
        build(builder(Arc::new(View(tensors)), DType::F32, &self.device))
    }

    /// Leaves a part of the network out of the training: the tensor `part`, or all within `part`, such as `down_blocks`
    /// or `down_blocks.0`. Models that are built from then on record no gradients for it.
    pub fn freeze(&mut self, part: &str) {
        let entries = self.entries.iter_mut().filter(|entry| is_part_of(&entry.name, part));
        entries.for_each(|entry| entry.trained = false);
    }

    /// The tensors that `outline` has too, in shared memory.
    pub fn only(&self, outline: &Outline) -> Self {
        let known: BTreeSet<&str> = outline.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        let entries = self.entries.iter().filter(|entry| known.contains(entry.name.as_str()));
        Self { entries: entries.cloned().collect(), device: self.device.clone() }
    }

    /// A copy of the tensors.
    ///
    /// # Errors
    /// Those of candle's copies.
    pub fn copy(&self) -> Result<Self> {
        let copied =
            |entry: &Entry| Ok(Entry { var: Var::from_tensor(&entry.var.as_detached_tensor())?, ..entry.clone() });
        Ok(Self { entries: self.entries.iter().map(copied).collect::<Result<_>>()?, device: self.device.clone() })
    }

    /// Names and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), &entry.var))
    }

    /// The tensors that are trained, in order.
    pub fn vars(&self) -> Vec<Var> {
        self.trained().map(|(_, var)| var.clone()).collect()
    }

    /// Names and tensors of those that are trained, in order: all but the random frequencies of a Fourier embedding,
    /// and what was [frozen](Self::freeze).
    pub fn trained(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.entries.iter().filter(|entry| entry.trained).map(|entry| (entry.name.as_str(), &entry.var))
    }

    /// The device that they are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The first tensor that holds a value which is not finite, by its name.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn not_finite(&self) -> Result<Option<&str>> {
        for (name, var) in self.iter() {
            let values = var.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
            if values.iter().any(|value| !value.is_finite()) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Writes the weights as safetensors with diffusers' metadata, atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        save_file(path, &self.infos(), |name| self.bytes(name))
    }

    /// Names, types and shapes, in order.
    pub(crate) fn infos(&self) -> Vec<(String, TensorInfo)> {
        let info = |var: &Var| TensorInfo { dtype: Dtype::F32, shape: var.dims().to_vec() };
        self.iter().map(|(name, var)| (name.to_owned(), info(var))).collect()
    }

    fn find(&self, name: &str) -> Option<&Var> {
        self.iter().find(|(own, _)| *own == name).map(|(_, var)| var)
    }

    /// The values of one tensor, little-endian.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let values = match self.find(name) {
            Some(var) => var.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?,
            None => vec![],
        };
        Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
    }
}

fn stray(name: &String) -> String {
    format!("{name}: unexpected; the model has no such tensor")
}

impl Entry {
    fn new(tensor: &OutlinedTensor, values: Vec<f32>, device: &Device) -> Result<Self> {
        let var = Var::from_vec(values, &tensor.shape, device)?;
        Ok(Self { name: tensor.name.clone(), var, trained: tensor.spec.trained })
    }
}

/// Values as torch, or candle, draws them for an initialisation.
fn draw(spec: &TensorSpec, shape: &Shape, rng: &mut Generator) -> Vec<f32> {
    let count = shape.elem_count();
    let mut values = vec![];
    for _ in 0..spec.draws.max(1) {
        values = match spec.init {
            Init::Uniform { lo, up } => rng.uniform(count, lo, up),
            Init::Randn { mean, stdev } => rng.normal(count, mean, stdev),
            Init::Const(value) => vec![value as f32; count],
            Init::Kaiming { dist, fan, non_linearity } => {
                let stdev = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                match dist {
                    NormalOrUniform::Normal => rng.normal(count, 0.0, stdev),
                    NormalOrUniform::Uniform => rng.uniform(count, -3f64.sqrt() * stdev, 3f64.sqrt() * stdev),
                }
            }
        };
    }
    values
}

/// The names of a checkpoint's tensors by those in the model, and a problem for each of two that are the same there.
fn names_in(checkpoint: &Checkpoint, rename: impl Fn(&str) -> String) -> (BTreeMap<String, &str>, Vec<String>) {
    let (mut names, mut problems) = (BTreeMap::new(), vec![]);
    for (name, _) in checkpoint.tensors() {
        if let Some(other) = names.insert(rename(name), name) {
            problems.push(format!("{name}: it is the model's {}, and so is {other}", rename(name)));
        }
    }
    (names, problems)
}

/// The values of the checkpoint's tensor `name`, which must have the shape `expected`. The error is a reason for the
/// user.
fn values(checkpoint: &Checkpoint, name: Option<&str>, expected: &Shape) -> std::result::Result<Vec<f32>, String> {
    let found = name.and_then(|name| Some((name, checkpoint.info(name)?)));
    let (name, info) = found.ok_or_else(|| format!("missing; expected shape {:?}", expected.dims()))?;
    if info.shape != expected.dims() {
        return Err(format!("its shape is {:?}, expected {:?}", info.shape, expected.dims()));
    }
    let values = checkpoint.values(name).map_err(|e| match e {
        kakusan_weights::Error::Tensor { reason, .. } => reason,
        other => other.to_string(),
    })?;
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(values),
        bad => Err(format!("{bad} of its {} values are NaN or infinite", values.len())),
    }
}

/// Hands out the weights: as variables if they are trained, otherwise as plain tensors on the same memory.
struct View(HashMap<String, Tensor>);

impl TensorSource for View {
    fn tensor(&self, name: &str, shape: &Shape, _: TensorSpec, _: &Device) -> candle_core::Result<Tensor> {
        match self.0.get(name) {
            Some(tensor) if tensor.shape() != shape => {
                candle_core::bail!("{name}: its shape is {:?}, expected {shape:?}", tensor.dims())
            }
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("there is no tensor {name}"),
        }
    }
}
