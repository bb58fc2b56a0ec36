//! The record of what a network computed, and the way back through it.
//!
//! candle's own graph costs a buffer of zeros and an addition at every edge, and knows no layout but channels first. Here
//! every operation leaves one closure; on the way back each is called once and dropped with the features that it holds,
//! so that their memory serves the next gradient.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Shape, Tensor, TensorId, bail};
use rayon::prelude::*;

use crate::kernels::cpu::buffer::Buffer;
use crate::kernels::cpu::elementwise::accumulate;
use crate::kernels::cpu::host::{PIECE, grain};
use crate::still::Still;

/// The way back through one operation: from the gradient of its result to those of its arguments.
///
/// It holds features by their memory and their number, never by [`Host`](crate::network::Host): the tape owns it, and
/// would own itself.
pub(crate) type Backward = Box<dyn FnOnce(Arc<Buffer>, &mut Gradients) -> Result<()> + Send>;

/// Which features of a tape: they are numbered in the order in which they came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(usize);

/// What was computed on features that need a gradient, in order.
pub(crate) struct Tape {
    /// The weights that candle computed and has to take the gradients of.
    computed: Vec<TensorId>,
    /// What is kept of weights that stand still.
    still: Option<Arc<Still>>,
    count: AtomicUsize,
    /// Nothing once somebody went back through it.
    steps: Mutex<Option<Vec<(NodeId, Backward)>>>,
    /// Whether nothing is to be recorded, because all of it will be computed again.
    forgets: bool,
    /// Whether a weight was used that needs a gradient.
    used_weights: AtomicBool,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape").field("features", &self.count).finish_non_exhaustive()
    }
}

impl Tape {
    pub(crate) fn new(computed: Vec<TensorId>, still: Option<Arc<Still>>) -> Self {
        Self {
            computed,
            still,
            count: AtomicUsize::new(0),
            steps: Mutex::new(Some(Vec::new())),
            forgets: false,
            used_weights: AtomicBool::new(false),
        }
    }

    /// An empty tape for a part of the network that this one is of, which records nothing if it `forgets`.
    pub(crate) fn of_part(&self, forgets: bool) -> Self {
        Self { forgets, ..Self::new(self.computed.clone(), self.still.clone()) }
    }

    /// The same with what is kept now.
    pub(crate) fn keeping(self, still: Option<Arc<Still>>) -> Self {
        Self { still, ..self }
    }

    /// What is kept of weights that stand still.
    pub(crate) fn still(&self) -> Option<&Still> {
        self.still.as_deref()
    }

    /// Whether an operation is to be recorded whose features or weights need a gradient.
    pub(crate) fn tracks(&self, features: bool, weights: bool) -> bool {
        if weights {
            self.used_weights.store(true, Ordering::Relaxed);
        }
        !self.forgets && (features || weights)
    }

    /// Whether an operation so far used a weight that needs a gradient.
    pub(crate) fn used_weights(&self) -> bool {
        self.used_weights.load(Ordering::Relaxed)
    }

    /// Refuses a weight whose gradient would be lost: one that candle computed from variables, where only
    /// [`backward`] would see its gradient.
    pub(crate) fn check_weight(&self, op: &str, weight: &Tensor) -> Result<()> {
        if weight.track_op() && !weight.is_variable() && !self.computed.contains(&weight.id()) {
            bail!(
                "{op}: a weight {:?} was computed from variables; inside a network weights are variables",
                weight.dims()
            )
        }
        Ok(())
    }

    /// Features that nothing computed: an input.
    pub(crate) fn leaf(&self) -> NodeId {
        NodeId(self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// The result of an operation.
    pub(crate) fn record(&self, backward: Backward) -> NodeId {
        let id = self.leaf();
        if let Some(steps) = &mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner) {
            steps.push((id, backward));
        }
        id
    }

    /// Goes back from `output`, whose gradient is `grad`, with what is kept now; nothing if somebody did so before.
    pub(crate) fn backward(
        &self,
        output: NodeId,
        grad: Arc<Buffer>,
        still: Option<Arc<Still>>,
    ) -> Result<Option<Gradients>> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(steps) = steps else { return Ok(None) };
        let count = self.count.load(Ordering::Relaxed);
        let mut gradients = Gradients { features: vec![None; count], weights: HashMap::new(), still };
        gradients.features[output.0] = Some(grad);
        for (id, backward) in steps.into_iter().rev() {
            if let Some(grad) = gradients.features[id.0].take() {
                backward(grad, &mut gradients)?;
            }
        }
        Ok(Some(gradients))
    }
}

/// The gradients gathered on the way back.
pub(crate) struct Gradients {
    features: Vec<Option<Arc<Buffer>>>,
    weights: WeightGradients,
    still: Option<Arc<Still>>,
}

impl Gradients {
    /// What is kept of weights that stand still.
    pub(crate) fn still(&self) -> Option<Arc<Still>> {
        self.still.clone()
    }

    /// The gradient of an input.
    pub(crate) fn take(&mut self, id: NodeId) -> Option<Arc<Buffer>> {
        self.features[id.0].take()
    }

    /// Adds a gradient of features that another operation may have a gradient for too.
    pub(crate) fn add(&mut self, id: NodeId, grad: Arc<Buffer>) -> Result<()> {
        let slot = &mut self.features[id.0];
        *slot = Some(match slot.take() {
            None => grad,
            Some(held) => {
                // into the one that nobody else holds
                let (held, grad) = if Arc::strong_count(&held) == 1 { (held, grad) } else { (grad, held) };
                let mut sum = owned(held)?;
                accumulate(&grad, &mut sum);
                Arc::new(sum)
            }
        });
        Ok(())
    }

    /// Lets `compute` make the gradient of features, given what other operations have gathered for it.
    pub(crate) fn add_with(
        &mut self,
        id: NodeId,
        compute: impl FnOnce(Option<Arc<Buffer>>) -> Result<Buffer>,
    ) -> Result<()> {
        let held = self.features[id.0].take();
        self.features[id.0] = Some(Arc::new(compute(held)?));
        Ok(())
    }

    /// Adds a gradient of a weight.
    pub(crate) fn add_weight(&mut self, weight: &Tensor, grad: Buffer) {
        add_weight(&mut self.weights, weight.id(), weight.shape().clone(), grad);
    }

    /// The gradient of a weight that is an input of the network.
    pub(crate) fn take_weight(&mut self, id: TensorId) -> Option<Buffer> {
        self.weights.remove(&id).map(|(_, grad)| grad)
    }

    /// Adds the weights' gradients of a part of the network.
    pub(crate) fn add_weights_of(&mut self, part: Self) {
        for (id, (shape, grad)) in part.weights {
            add_weight(&mut self.weights, id, shape, grad);
        }
    }
}

pub(crate) type WeightGradients = HashMap<TensorId, (Shape, Buffer)>;

fn add_weight(weights: &mut WeightGradients, id: TensorId, shape: Shape, grad: Buffer) {
    match weights.entry(id) {
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert((shape, grad));
        }
        std::collections::hash_map::Entry::Occupied(mut entry) => accumulate(&grad, &mut entry.get_mut().1),
    }
}

thread_local! {
    /// Where networks leave their weights' gradients while [`backward`] runs on this thread.
    static DEPOSIT: RefCell<Option<Deposit>> = const { RefCell::new(None) };
}

/// The gradients of the weights of the networks that one loss depends on.
struct Deposit {
    /// All that candle goes back through. While the thread waits for others it may take up another call's job, which goes
    /// back from another loss and has no business here.
    graph: HashSet<TensorId>,
    weights: WeightGradients,
}

/// Hands the weights' gradients of the network that gave `output` to the [`backward`] under way.
pub(crate) fn deposit(output: &Tensor, gradients: Gradients) -> Result<()> {
    if gradients.weights.is_empty() {
        return Ok(());
    }
    // Taken out meanwhile: nothing is borrowed while gradients are added up, and nobody else finds it.
    match DEPOSIT.take() {
        Some(Deposit { graph, mut weights }) if graph.contains(&output.id()) => {
            for (id, (shape, grad)) in gradients.weights {
                add_weight(&mut weights, id, shape, grad);
            }
            DEPOSIT.set(Some(Deposit { graph, weights }));
            Ok(())
        }
        other => {
            DEPOSIT.set(other);
            bail!("a network's weights get their gradients from kakusan_ops::backward(&loss), not loss.backward()")
        }
    }
}

/// The gradients of everything that `loss`, a scalar, depends on: candle's `loss.backward()`, and the weights of every
/// [`network`](crate::network) on the way.
///
/// # Errors
/// When candle's backward fails, or a network was gone back through before: it forgets its features on the way.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let (grads, weights) = backward_parts(loss)?;
    into_store(grads, weights)
}

/// The same with the networks' weights apart, as buffers that can be added to.
pub(crate) fn backward_parts(loss: &Tensor) -> Result<(GradStore, WeightGradients)> {
    /// Puts the deposit of the call around this one back, after a panic too.
    struct Restore(Option<Deposit>);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEPOSIT.set(self.0.take());
        }
    }
    let graph = loss.sorted_nodes().iter().map(|node| node.id()).collect();
    let _restore = Restore(DEPOSIT.replace(Some(Deposit { graph, weights: HashMap::new() })));
    let grads = loss.backward()?;
    let weights = DEPOSIT.take().map(|deposit| deposit.weights).unwrap_or_default();
    Ok((grads, weights))
}

/// Adds the networks' weights to candle's store.
pub(crate) fn into_store(mut grads: GradStore, weights: WeightGradients) -> Result<GradStore> {
    for (id, (shape, grad)) in weights {
        let grad = Tensor::from_slice(&grad, shape, &Device::Cpu)?;
        let grad = match grads.get_id(id) {
            Some(other) => other.add(&grad)?,
            None => grad,
        };
        grads.insert_id(id, grad);
    }
    Ok(grads)
}

/// The buffer itself where nobody else holds it, else a copy.
pub(crate) fn owned(buffer: Arc<Buffer>) -> Result<Buffer> {
    Arc::try_unwrap(buffer).or_else(|shared| {
        let mut copy = Buffer::new(shared.len())?;
        copy.par_chunks_mut(PIECE).zip(shared.par_chunks(PIECE)).with_min_len(grain()).for_each(|(to, from)| {
            to.copy_from_slice(from);
        });
        Ok(copy)
    })
}

/// The sum of what two calls of [`backward_parts`] gave.
pub(crate) fn add_stores(
    (mut grads, mut weights): (GradStore, WeightGradients),
    (more_grads, more_weights): (GradStore, WeightGradients),
) -> Result<(GradStore, WeightGradients)> {
    for (id, (shape, grad)) in more_weights {
        add_weight(&mut weights, id, shape, grad);
    }
    grads.extend(more_grads)?;
    Ok((grads, weights))
}
