//! From a loss back to the weights of every network that it depends on.
//!
//! candle knows a network as one operation with at most three arguments, and its weights not at all. So each network
//! leaves their gradients at its [`Outlet`], where [`backward`] collects them from all networks in the loss's graph.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, TensorId, bail};

use crate::kernels::Backend;
use crate::kernels::cpu::elementwise;

/// The gradients of weights, each in the memory of its backend.
#[derive(Default)]
pub(crate) struct WeightGradients(HashMap<TensorId, WeightGradient>);

struct WeightGradient {
    dims: Vec<usize>,
    value: Box<dyn Value>,
}

impl WeightGradients {
    /// Adds a gradient of `weight`.
    pub(crate) fn add<B: Backend>(&mut self, weight: &Tensor, gradient: B::Buffer) -> Result<()> {
        let value = Box::new(Gradient::<B>(Arc::new(gradient)));
        self.insert(weight.id(), WeightGradient { dims: weight.dims().to_vec(), value })
    }

    /// Adds all of `more`.
    pub(crate) fn extend(&mut self, more: Self) -> Result<()> {
        more.0.into_iter().try_for_each(|(id, gradient)| self.insert(id, gradient))
    }

    /// Takes out the gradient of one weight, as a tensor.
    pub(crate) fn take(&mut self, weight: &Tensor) -> Result<Option<Tensor>> {
        self.0.remove(&weight.id()).map(|gradient| gradient.tensor()).transpose()
    }

    fn insert(&mut self, id: TensorId, gradient: WeightGradient) -> Result<()> {
        match self.0.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(gradient);
            }
            Entry::Occupied(entry) => {
                let (id, WeightGradient { dims, value }) = entry.remove_entry();
                self.0.insert(id, WeightGradient { dims, value: value.add(gradient.value)? });
            }
        }
        Ok(())
    }
}

impl WeightGradient {
    fn tensor(&self) -> Result<Tensor> {
        self.value.tensor(&self.dims)
    }
}

/// A gradient in the memory of some backend.
trait Value: Any + Send {
    fn add(self: Box<Self>, more: Box<dyn Value>) -> Result<Box<dyn Value>>;
    fn tensor(&self, dims: &[usize]) -> Result<Tensor>;
}

struct Gradient<B: Backend>(Arc<B::Buffer>);

impl<B: Backend> Value for Gradient<B> {
    fn add(self: Box<Self>, more: Box<dyn Value>) -> Result<Box<dyn Value>> {
        let more: Box<dyn Any> = more;
        match more.downcast::<Self>() {
            Ok(more) => Ok(Box::new(Self(B::sum(self.0, more.0)?))),
            Err(_) => bail!("the gradients of a weight come from two backends"),
        }
    }

    fn tensor(&self, dims: &[usize]) -> Result<Tensor> {
        B::weight_gradient(&self.0, dims)
    }
}

/// Where a network leaves the gradients of its weights, for as long as candle's graph holds the network.
pub(crate) struct Outlet(Arc<Place>);

#[derive(Default)]
struct Place {
    /// The network's output.
    output: OnceLock<TensorId>,
    /// What was left, while a [`backward`] waits for it.
    gathered: Mutex<Option<WeightGradients>>,
}

/// The places of all networks in candle's graphs, by the networks' outputs.
static PLACES: LazyLock<Mutex<HashMap<TensorId, Arc<Place>>>> = LazyLock::new(Mutex::default);

fn places() -> MutexGuard<'static, HashMap<TensorId, Arc<Place>>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outlet {
    /// An outlet, and what makes it known under the network's output.
    pub(crate) fn new() -> (Self, impl FnOnce(&Tensor)) {
        let place = Arc::<Place>::default();
        (Self(place.clone()), move |output: &Tensor| {
            place.output.get_or_init(|| output.id());
            places().insert(output.id(), place);
        })
    }

    /// Leaves the network's gradients.
    pub(crate) fn leave(&self, gradients: WeightGradients) -> Result<()> {
        if gradients.0.is_empty() {
            return Ok(());
        }
        match &mut *self.0.gathered() {
            Some(gathered) => gathered.extend(gradients),
            None => {
                bail!("a network's weights get their gradients from kakusan_ops::backward(&loss), not loss.backward()")
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if let Some(output) = self.0.output.get() {
            places().remove(output);
        }
    }
}

impl Place {
    fn gathered(&self) -> MutexGuard<'_, Option<WeightGradients>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gradients of everything that `loss`, a scalar, depends on: candle's `loss.backward()`, and the weights of every
/// [`network`](crate::network) in its graph.
///
/// # Errors
/// When candle's backward pass fails, or a network was differentiated before: it drops its features meanwhile.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let (grads, weights) = backward_parts(loss)?;
    into_store(grads, weights)
}

/// The same with the networks' weights apart, in memory that can be added to. No tensor is in both.
pub(crate) fn backward_parts(loss: &Tensor) -> Result<(GradStore, WeightGradients)> {
    /// Ends the waiting, after a panic too.
    struct Waiting(Vec<Arc<Place>>);
    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.iter().for_each(|place| *place.gathered() = None);
        }
    }
    let nodes = loss.sorted_nodes();
    let waiting = {
        let all = places();
        Waiting(nodes.iter().filter_map(|node| all.get(&node.id()).cloned()).collect())
    };
    waiting.0.iter().for_each(|place| *place.gathered() = Some(WeightGradients::default()));
    let mut grads = loss.backward()?;
    let mut weights = WeightGradients::default();
    for place in &waiting.0 {
        let gathered = place.gathered().take();
        weights.extend(gathered.unwrap_or_default())?;
    }
    for id in grads.get_ids().copied().collect::<Vec<_>>() {
        if let (Some(gradient), Some(other)) = (weights.0.remove(&id), grads.get_id(id)) {
            let sum = other.add(&gradient.tensor()?)?;
            grads.insert_id(id, sum);
        }
    }
    Ok((grads, weights))
}

/// Adds the networks' weights to candle's store.
pub(crate) fn into_store(mut grads: GradStore, weights: WeightGradients) -> Result<GradStore> {
    for (id, gradient) in weights.0 {
        grads.insert_id(id, gradient.tensor()?);
    }
    Ok(grads)
}

/// The sum of what two calls of [`backward_parts`] gave.
pub(crate) fn add_stores(
    (mut grads, mut weights): (GradStore, WeightGradients),
    (more_grads, more_weights): (GradStore, WeightGradients),
) -> Result<(GradStore, WeightGradients)> {
    weights.extend(more_weights)?;
    for id in more_grads.get_ids() {
        let Some(more) = more_grads.get_id(*id) else { continue };
        let sum = match grads.get_id(*id) {
            Some(grad) => sum(grad, more)?,
            None => more.clone(),
        };
        grads.insert_id(*id, sum);
    }
    Ok((grads, weights))
}

/// `a + b`; in f32 on the CPU as our kernels add, whatever the size.
fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() != DType::F32 || !a.device().is_cpu() || a.dims() != b.dims() {
        return Ok(a.add(b)?.detach());
    }
    let mut sum = a.flatten_all()?.to_vec1::<f32>()?;
    elementwise::accumulate(&b.flatten_all()?.to_vec1::<f32>()?, &mut sum);
    Tensor::from_vec(sum, a.dims(), a.device())
}
