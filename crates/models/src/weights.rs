use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::Init;
use kakusan_rng::Generator;
use kakusan_weights::{Checkpoint, Dtype, TensorInfo, save_file};

use crate::builder::{Source, TensorSpec, VarBuilder, builder};
use crate::{Error, Result};

/// A model's tensors (f32), in the order in which the model asks for them: torch's constructor order.
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
    /// What the model said of it: [`TensorSpec::trained`].
    trained: bool,
}

impl Weights {
    /// Initialises the weights of the model that `build` builds, drawing from `rng` as torch does, and gives both.
    ///
    /// # Errors
    /// When `build` fails or asks for an initialisation that torch's layers do not use.
    pub fn initialise<M>(
        device: &Device,
        rng: &mut Generator,
        build: impl FnOnce(VarBuilder) -> Result<M>,
    ) -> Result<(Self, M)> {
        let source = Initialiser { rng: Mutex::new(rng.clone()), entries: Mutex::default() };
        let source = Arc::new(source);
        let model = build(builder(source.clone(), DType::F32, device))?;
        *rng = locked(&source.rng).clone();
        let entries = std::mem::take(&mut *locked(&source.entries));
        Ok((Self { entries, device: device.clone() }, model))
    }

    /// Loads the weights of the model that `build` builds from a file, as [`Checkpoint::open`] reads it. `rename` gives
    /// the name under which the model knows a tensor of the file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`from_checkpoint`](Self::from_checkpoint), and [`Error::Mismatch`] for a tensor that
    /// the model does not have.
    pub fn load<M>(
        path: &Path,
        device: &Device,
        rename: impl Fn(&str) -> String,
        build: impl FnOnce(VarBuilder) -> Result<M>,
    ) -> Result<(Self, M)> {
        let (weights, model, unexpected) = Self::from_checkpoint(Checkpoint::open(path)?, device, rename, build)?;
        match unexpected.is_empty() {
            true => Ok((weights, model)),
            false => Err(Error::Mismatch { path: path.to_owned(), problems: unexpected.iter().map(stray).collect() }),
        }
    }

    /// Loads the weights of the model that `build` builds, one tensor after the other: floats of any width become f32.
    /// `rename` gives the name under which the model knows a tensor of the checkpoint. Gives the weights, the model, and
    /// the names of the tensors that the checkpoint holds and the model does not have (diffusers' `unexpected_keys`).
    ///
    /// # Errors
    /// [`Error::Mismatch`] with a line for every tensor that is missing, mis-shaped, no float or not finite, and then for
    /// every unexpected one, too: it may be the missing one under another name.
    pub fn from_checkpoint<M>(
        checkpoint: Checkpoint,
        device: &Device,
        rename: impl Fn(&str) -> String,
        build: impl FnOnce(VarBuilder) -> Result<M>,
    ) -> Result<(Self, M, Vec<String>)> {
        let path = checkpoint.path().to_owned();
        let (mut names, mut problems) = (BTreeMap::new(), vec![]);
        for (name, _) in checkpoint.tensors() {
            if let Some(other) = names.insert(rename(name), name.to_owned()) {
                problems.push(format!("{name}: it is the model's {}, and so is {other}", rename(name)));
            }
        }
        let source = Arc::new(Loader {
            checkpoint,
            names,
            asked: Mutex::default(),
            entries: Mutex::default(),
            problems: Mutex::new(problems),
        });
        let model = build(builder(source.clone(), DType::F32, device))?;
        let mut problems = std::mem::take(&mut *locked(&source.problems));
        let asked = std::mem::take(&mut *locked(&source.asked));
        let unexpected = source.names.iter().filter(|(name, _)| !asked.contains(*name));
        let unexpected: Vec<String> = unexpected.map(|(_, name)| name.clone()).collect();
        if !problems.is_empty() {
            problems.extend(unexpected.iter().map(stray));
            return Err(Error::Mismatch { path, problems });
        }
        let entries = std::mem::take(&mut *locked(&source.entries));
        Ok((Self { entries, device: device.clone() }, model, unexpected))
    }

    /// Builds a view of the same weights that records no gradient: what training changes, it sees.
    ///
    /// # Errors
    /// When `build` fails or asks for a tensor that these weights lack.
    pub fn frozen<M>(&self, build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<M> {
        build(builder(Arc::new(Frozen(self.clone())), DType::F32, &self.device))
    }

    /// The same tensors once more, on memory of their own.
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

    /// Names and tensors of those that are trained, in order: all but the random frequencies of a Fourier embedding.
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
    format!("{name}: unexpected, the model has no such tensor")
}

/// A panic elsewhere leaves these plain values whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws each tensor as torch initialises it.
struct Initialiser {
    rng: Mutex<Generator>,
    entries: Mutex<Vec<Entry>>,
}

impl Source for Initialiser {
    fn tensor(&self, name: &str, shape: &Shape, spec: TensorSpec, device: &Device) -> candle_core::Result<Tensor> {
        let (mut rng, count) = (locked(&self.rng), shape.elem_count());
        let mut values = vec![];
        for _ in 0..spec.draws.max(1) {
            values = match spec.init {
                Init::Uniform { lo, up } => rng.uniform(count, lo, up),
                Init::Randn { mean, stdev } => rng.normal(count, mean, stdev),
                Init::Const(value) => vec![value as f32; count],
                Init::Kaiming { .. } => {
                    candle_core::bail!("{name}: {:?} is not an initialisation of torch's layers", spec.init)
                }
            };
        }
        drop(rng);
        let var = Var::from_vec(values, shape, device)?;
        let tensor = var.as_tensor().clone();
        locked(&self.entries).push(Entry { name: name.to_owned(), var, trained: spec.trained });
        Ok(tensor)
    }
}

/// Reads each tensor when it is asked for, noting what is missing or mis-shaped instead of stopping at the first.
struct Loader {
    checkpoint: Checkpoint,
    /// The checkpoint's names by the model's.
    names: BTreeMap<String, String>,
    asked: Mutex<BTreeSet<String>>,
    entries: Mutex<Vec<Entry>>,
    problems: Mutex<Vec<String>>,
}

impl Loader {
    /// The values of a tensor of the shape `expected`, or what keeps them from being used.
    fn values(&self, name: &str, expected: &Shape) -> std::result::Result<Vec<f32>, String> {
        let info = self.names.get(name).and_then(|own| Some((own, self.checkpoint.info(own)?)));
        let (own, info) = info.ok_or_else(|| format!("missing, expected shape {:?}", expected.dims()))?;
        if info.shape != expected.dims() {
            return Err(format!("its shape is {:?}, expected {:?}", info.shape, expected.dims()));
        }
        let values = self.checkpoint.values(own).map_err(|e| match e {
            kakusan_weights::Error::Tensor { reason, .. } => reason,
            other => other.to_string(),
        })?;
        match values.iter().filter(|value| !value.is_finite()).count() {
            0 => Ok(values),
            bad => Err(format!("{bad} of its {} values are NaN or infinite", values.len())),
        }
    }
}

impl Source for Loader {
    fn tensor(&self, name: &str, shape: &Shape, spec: TensorSpec, device: &Device) -> candle_core::Result<Tensor> {
        locked(&self.asked).insert(name.to_owned());
        match self.values(name, shape) {
            Ok(values) => {
                let var = Var::from_vec(values, shape, device)?;
                let tensor = var.as_tensor().clone();
                locked(&self.entries).push(Entry { name: name.to_owned(), var, trained: spec.trained });
                Ok(tensor)
            }
            Err(problem) => {
                locked(&self.problems).push(format!("{name}: {problem}"));
                Tensor::zeros(shape, DType::F32, device)
            }
        }
    }
}

/// Hands out the weights as plain tensors on the same memory.
struct Frozen(Weights);

impl Source for Frozen {
    fn tensor(&self, name: &str, shape: &Shape, _: TensorSpec, _: &Device) -> candle_core::Result<Tensor> {
        match self.0.find(name) {
            Some(var) if var.shape() == shape => Ok(var.as_detached_tensor()),
            Some(var) => candle_core::bail!("{name}: its shape is {:?}, expected {shape:?}", var.dims()),
            None => candle_core::bail!("the model has no tensor called {name}"),
        }
    }
}
