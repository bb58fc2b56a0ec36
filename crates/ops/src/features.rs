//! Features on their way through a network.

use std::any::Any;
use std::sync::Arc;

use candle_core::Shape;

use crate::kernels::{Backend, BackendKind};
use crate::tape::{NodeId, Tape};

/// Features `[b, c, h, w]` inside a [`network`](crate::network).
///
/// On the CPU and on CUDA devices in f32 they lie channels last, in memory that is used again as soon as nothing needs
/// them any more; on other devices and in f64 they are candle's tensors.
#[derive(Debug, Clone)]
pub struct Features {
    dims: Dims,
    backend: BackendKind,
    /// A [`Node`] of the backend.
    node: Arc<dyn Any + Send + Sync>,
}

/// Features in a backend's memory.
pub(crate) struct Node<B: Backend> {
    pub(crate) buffer: Arc<B::Buffer>,
    pub(crate) tape: Arc<Tape<B>>,
    /// Their place on the tape, where they need a gradient.
    pub(crate) id: Option<NodeId>,
}

/// The sizes of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dims {
    pub(crate) b: usize,
    pub(crate) c: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
}

impl Dims {
    pub(crate) fn count(self) -> usize {
        self.b * self.pixels() * self.c
    }

    pub(crate) fn pixels(self) -> usize {
        self.h * self.w
    }

    /// `[b, c, h, w]`
    pub(crate) fn array(self) -> [usize; 4] {
        [self.b, self.c, self.h, self.w]
    }

    pub(crate) fn shape(self) -> Shape {
        Shape::from(self.array().to_vec())
    }
}

impl Features {
    /// Batch, channels, height and width.
    pub fn dims(&self) -> [usize; 4] {
        self.dims.array()
    }

    pub(crate) fn sizes(&self) -> Dims {
        self.dims
    }

    pub(crate) fn backend(&self) -> BackendKind {
        self.backend
    }

    /// Features on a `tape`; `id` is their place on it if they need a gradient.
    pub(crate) fn new<B: Backend>(
        backend: BackendKind,
        dims: Dims,
        buffer: Arc<B::Buffer>,
        tape: &Arc<Tape<B>>,
        id: Option<NodeId>,
    ) -> Self {
        Self { dims, backend, node: Arc::new(Node { buffer, tape: tape.clone(), id }) }
    }

    /// The features in the memory of backend `B`; `None` if they are in another's.
    pub(crate) fn node<B: Backend>(&self) -> Option<&Node<B>> {
        self.node.downcast_ref()
    }

    /// The same, if they belong to the network of `tape`.
    pub(crate) fn on_tape<B: Backend>(&self, tape: &Arc<Tape<B>>) -> Option<&Node<B>> {
        self.node().filter(|node| Arc::ptr_eq(&node.tape, tape))
    }
}
