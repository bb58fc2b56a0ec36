//! The record of what a network computed, and the backward pass through it.
//!
//! candle's own graph costs a buffer of zeros and an addition at every edge, and knows no layout but channels first.
//! Here every operation leaves one closure; the backward pass calls each once and drops it with the features that it
//! holds, so that their memory serves the next gradient.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor, TensorId, bail};

use crate::backward::WeightGradients;
use crate::kernels::Backend;

/// The backward pass of one operation: from the gradient of its result to those of its arguments.
///
/// It holds features by their memory and their place, never by [`Features`](crate::Features): the tape owns it, and
/// would own itself.
pub(crate) type Backward<B> = Box<dyn FnOnce(Arc<<B as Backend>::Buffer>, &mut Gradients<B>) -> Result<()> + Send>;

type Steps<B> = Vec<(NodeId, Backward<B>)>;

/// Which features of a tape: they are numbered in the order in which they were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(usize);

/// What was computed on features that need a gradient, in order.
pub(crate) struct Tape<B: Backend> {
    /// The weights that candle computed and takes the gradients of.
    computed: Vec<TensorId>,
    count: AtomicUsize,
    /// `None` once a backward pass has consumed it.
    steps: Mutex<Option<Steps<B>>>,
    /// Record nothing: the forward pass is run again during the backward pass (gradient checkpointing).
    discards: bool,
    /// Whether a weight was used that needs a gradient.
    used_weights: AtomicBool,
}

impl<B: Backend> Tape<B> {
    pub(crate) fn new(computed: Vec<TensorId>) -> Self {
        Self {
            computed,
            count: AtomicUsize::new(0),
            steps: Mutex::new(Some(Vec::new())),
            discards: false,
            used_weights: AtomicBool::new(false),
        }
    }

    /// An empty tape for a part of this network, which records nothing if it `discards`.
    pub(crate) fn of_part(&self, discards: bool) -> Self {
        Self { discards, ..Self::new(self.computed.clone()) }
    }

    /// Whether to record an operation whose features or weights need a gradient.
    pub(crate) fn tracks(&self, features: bool, weights: bool) -> bool {
        if weights {
            self.used_weights.store(true, Ordering::Relaxed);
        }
        !self.discards && (features || weights)
    }

    /// Whether an operation so far used a weight that needs a gradient.
    pub(crate) fn used_weights(&self) -> bool {
        self.used_weights.load(Ordering::Relaxed)
    }

    /// Refuses a weight whose gradient would be lost: one that candle computed from variables, where only
    /// [`backward`](crate::backward) would see its gradient.
    pub(crate) fn check_weight(&self, op: &str, weight: &Tensor) -> Result<()> {
        if weight.track_op() && !weight.is_variable() && !self.computed.contains(&weight.id()) {
            bail!(
                "{op}: a weight {:?} was computed from variables; inside a network weights are variables",
                weight.dims()
            )
        }
        Ok(())
    }

    /// The place of an input.
    pub(crate) fn leaf(&self) -> NodeId {
        NodeId(self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// The place of an operation's result.
    pub(crate) fn record(&self, backward: Backward<B>) -> NodeId {
        let id = self.leaf();
        if let Some(steps) = &mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner) {
            steps.push((id, backward));
        }
        id
    }

    /// Runs the backward pass from `output`, whose gradient is `grad`. `None` if this tape was already consumed.
    pub(crate) fn backward(&self, output: NodeId, grad: Arc<B::Buffer>) -> Result<Option<Gradients<B>>> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(steps) = steps else { return Ok(None) };
        let mut features = Vec::new();
        features.resize_with(self.count.load(Ordering::Relaxed), || None);
        let mut gradients = Gradients { features, weights: WeightGradients::default() };
        gradients.features[output.0] = Some(grad);
        for (id, backward) in steps.into_iter().rev() {
            if let Some(grad) = gradients.features[id.0].take() {
                backward(grad, &mut gradients)?;
            }
        }
        Ok(Some(gradients))
    }
}

/// The gradients gathered in a backward pass.
pub(crate) struct Gradients<B: Backend> {
    features: Vec<Option<Arc<B::Buffer>>>,
    weights: WeightGradients,
}

impl<B: Backend> Gradients<B> {
    /// The gradient of an input.
    pub(crate) fn take(&mut self, id: NodeId) -> Option<Arc<B::Buffer>> {
        self.features[id.0].take()
    }

    /// Adds a gradient to what the features `to` have gathered; nothing where they need none.
    pub(crate) fn add(&mut self, to: Option<NodeId>, grad: impl Into<Arc<B::Buffer>>) -> Result<()> {
        let Some(NodeId(to)) = to else { return Ok(()) };
        self.features[to] = Some(match self.features[to].take() {
            None => grad.into(),
            Some(gathered) => B::sum(gathered, grad.into())?,
        });
        Ok(())
    }

    /// The gradients of the weights.
    pub(crate) fn weights(&mut self) -> &mut WeightGradients {
        &mut self.weights
    }

    pub(crate) fn into_weights(self) -> WeightGradients {
        self.weights
    }
}

/// Where an operation's backward pass leaves the gradients of its `N` inputs and of its weights.
pub(crate) struct Targets<'a, B: Backend, const N: usize> {
    inputs: [Option<NodeId>; N],
    gradients: &'a mut Gradients<B>,
}

impl<'a, B: Backend, const N: usize> Targets<'a, B, N> {
    /// Inputs without a place need no gradient.
    pub(crate) fn new(inputs: [Option<NodeId>; N], gradients: &'a mut Gradients<B>) -> Self {
        Self { inputs, gradients }
    }

    /// Whether input `i` needs a gradient.
    pub(crate) fn wants(&self, i: usize) -> bool {
        self.place(i).is_some()
    }

    /// Adds a gradient to what input `i` has gathered; nothing where there is no such input or it needs none.
    pub(crate) fn add(&mut self, i: usize, grad: impl Into<Arc<B::Buffer>>) -> Result<()> {
        self.gradients.add(self.place(i), grad)
    }

    /// Lets `compute` make the gradient of input `i`, given what it has gathered.
    pub(crate) fn add_with(
        &mut self,
        i: usize,
        compute: impl FnOnce(Option<Arc<B::Buffer>>) -> Result<B::Buffer>,
    ) -> Result<()> {
        if let Some(NodeId(place)) = self.place(i) {
            let gathered = self.gradients.features[place].take();
            self.gradients.features[place] = Some(Arc::new(compute(gathered)?));
        }
        Ok(())
    }

    /// Adds the gradient of a weight, if it needs one.
    pub(crate) fn add_weight(&mut self, weight: &Tensor, grad: impl FnOnce() -> Result<B::Buffer>) -> Result<()> {
        if weight.track_op() { self.gradients.weights.add::<B>(weight, grad()?) } else { Ok(()) }
    }

    fn place(&self, i: usize) -> Option<NodeId> {
        self.inputs.get(i).copied().flatten()
    }
}
