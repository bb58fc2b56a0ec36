use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use kakusan_rng::Generator;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::store::{read_file, write_file};
use crate::{Error, Result};

/// A model's tensors (f32), in the order in which the model asks for them: torch's constructor order.
///
/// candle's `VarMap` keeps them in a hash map, whose order differs from process to process; here the order is part of
/// the result.
#[derive(Debug, Clone)]
pub struct Weights {
    entries: Vec<(String, Var)>,
    device: Device,
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
        let model = build(builder(Shared(source.clone()), device))?;
        *rng = locked(&source.rng).clone();
        let entries = std::mem::take(&mut *locked(&source.entries));
        Ok((Self { entries, device: device.clone() }, model))
    }

    /// Loads the weights of the model that `build` builds from a safetensors file. `rename` gives the name under which
    /// the model knows a tensor of the file.
    ///
    /// # Errors
    /// [`Error::Safetensors`] for a file that is not whole, [`Error::Mismatch`] with a line for every tensor that is
    /// missing, unexpected, mis-shaped, not f32 or not finite.
    pub fn load<M>(
        path: &Path,
        device: &Device,
        rename: impl Fn(&str) -> String,
        build: impl FnOnce(VarBuilder) -> Result<M>,
    ) -> Result<(Self, M)> {
        let bytes = read_file(path)?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| Error::Safetensors { path: path.to_owned(), reason: e.to_string() })?;
        let tensors = file.tensors().into_iter().map(|(name, view)| (rename(&name), to_tensor(&view))).collect();
        let source =
            Arc::new(Loader { tensors: Mutex::new(tensors), entries: Mutex::default(), problems: Mutex::default() });
        let model = build(builder(Shared(source.clone()), device))?;
        let mut problems = std::mem::take(&mut *locked(&source.problems));
        problems.extend(
            locked(&source.tensors).keys().map(|name| format!("{name}: unexpected, the model has no such tensor")),
        );
        if !problems.is_empty() {
            return Err(Error::Mismatch { path: path.to_owned(), problems });
        }
        let entries = std::mem::take(&mut *locked(&source.entries));
        Ok((Self { entries, device: device.clone() }, model))
    }

    /// Builds a view of the same weights that records no gradient: what training changes, it sees.
    ///
    /// # Errors
    /// When `build` fails or asks for a tensor that these weights lack.
    pub fn frozen<M>(&self, build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<M> {
        build(builder(Frozen(self.clone()), &self.device))
    }

    /// Names and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.entries.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The tensors that are trained, in order.
    pub fn vars(&self) -> Vec<Var> {
        self.trained().map(|(_, var)| var.clone()).collect()
    }

    /// Names and tensors of those that are trained, in order: all but the random frequencies of a Fourier embedding.
    pub fn trained(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.iter().filter(|(name, var)| !is_fixed(name, var.rank()))
    }

    /// The device that they are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.entries.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// Writes the weights as safetensors with diffusers' metadata, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut buffers = vec![];
        for (name, var) in &self.entries {
            let values = var.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            buffers.push((name, var.dims().to_vec(), bytes));
        }
        let unwritable =
            |e: safetensors::SafeTensorError| Error::Safetensors { path: path.to_owned(), reason: e.to_string() };
        let mut views = vec![];
        for (name, shape, bytes) in &buffers {
            let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).map_err(unwritable)?;
            views.push((name.as_str(), view));
        }
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        write_file(path, &safetensors::serialize(views, Some(metadata)).map_err(unwritable)?)
    }
}

/// The tensor of a safetensors view, or what is wrong with it.
fn to_tensor(view: &TensorView) -> std::result::Result<Tensor, String> {
    if view.dtype() != safetensors::Dtype::F32 {
        return Err(format!("its dtype is {:?}, expected F32", view.dtype()));
    }
    let values = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let values: Vec<f32> = values.collect();
    let bad = values.iter().filter(|value| !value.is_finite()).count();
    if bad > 0 {
        return Err(format!("{bad} of its {} values are NaN or infinite", values.len()));
    }
    Tensor::from_vec(values, view.shape(), &Device::Cpu).map_err(|e| e.to_string())
}

/// Whether a tensor is saved and loaded as the others, but never trained: torch's parameters without `requires_grad`.
///
/// There is one: the frequencies of `GaussianFourierProjection` (`time_proj.weight` of a table has two dimensions). The
/// model detaches it.
fn is_fixed(name: &str, rank: usize) -> bool {
    name == "time_proj.weight" && rank == 1
}

fn builder(source: impl SimpleBackend + 'static, device: &Device) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(source), DType::F32, device.clone())
}

/// A panic elsewhere leaves these plain values whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where [`builder`] gets its tensors from: each answers a name and a shape.
trait Source: Send + Sync {
    fn tensor(&self, name: &str, shape: &Shape, init: Init, device: &Device) -> candle_core::Result<Tensor>;
}

/// Lets the caller keep hold of a source while the builder uses it.
struct Shared<S>(Arc<S>);

impl<S: Source> SimpleBackend for Shared<S> {
    fn get(&self, shape: Shape, name: &str, init: Init, _: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.0.tensor(name, &shape, init, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Draws each tensor as torch initialises it.
struct Initialiser {
    rng: Mutex<Generator>,
    entries: Mutex<Vec<(String, Var)>>,
}

impl Source for Initialiser {
    fn tensor(&self, name: &str, shape: &Shape, init: Init, device: &Device) -> candle_core::Result<Tensor> {
        let (mut rng, count) = (locked(&self.rng), shape.elem_count());
        if is_fixed(name, shape.rank()) {
            rng.randn(count); // torch draws them twice and forgets the first
        }
        let values = match init {
            Init::Uniform { lo, up } => rng.uniform(count, lo, up),
            Init::Randn { mean, stdev } => rng.normal(count, mean, stdev),
            Init::Const(value) => vec![value as f32; count],
            Init::Kaiming { .. } => {
                candle_core::bail!("{name}: {init:?} is not an initialisation of torch's layers")
            }
        };
        drop(rng);
        let var = Var::from_vec(values, shape, device)?;
        let tensor = var.as_tensor().clone();
        locked(&self.entries).push((name.to_owned(), var));
        Ok(tensor)
    }
}

/// Takes each tensor out of a file, noting what is missing or mis-shaped instead of stopping at the first.
struct Loader {
    tensors: Mutex<BTreeMap<String, std::result::Result<Tensor, String>>>,
    entries: Mutex<Vec<(String, Var)>>,
    problems: Mutex<Vec<String>>,
}

impl Source for Loader {
    fn tensor(&self, name: &str, shape: &Shape, _: Init, device: &Device) -> candle_core::Result<Tensor> {
        let problem = match locked(&self.tensors).remove(name) {
            Some(Ok(tensor)) if tensor.shape() == shape => {
                let var = Var::from_tensor(&tensor.to_device(device)?)?;
                let tensor = var.as_tensor().clone();
                locked(&self.entries).push((name.to_owned(), var));
                return Ok(tensor);
            }
            Some(Err(problem)) => problem,
            Some(Ok(tensor)) => format!("its shape is {:?}, expected {:?}", tensor.dims(), shape.dims()),
            None => format!("missing, expected shape {:?}", shape.dims()),
        };
        locked(&self.problems).push(format!("{name}: {problem}"));
        Tensor::zeros(shape, DType::F32, device)
    }
}

/// Hands out the weights as plain tensors on the same memory.
struct Frozen(Weights);

impl SimpleBackend for Frozen {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, DType::F32, &self.0.device)?;
        if tensor.shape() != &shape {
            candle_core::bail!("{name}: its shape is {:?}, expected {shape:?}", tensor.dims());
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        match self.0.entries.iter().find(|(own, _)| own == name) {
            Some((_, var)) => Ok(var.as_detached_tensor()),
            None => candle_core::bail!("the model has no tensor called {name}"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.entries.iter().any(|(own, _)| own == name)
    }
}
