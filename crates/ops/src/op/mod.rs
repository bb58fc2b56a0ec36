//! The operations. Each is a value that was checked when it was made; it knows how to go forward and back on any
//! [`Backend`], and what the backward pass keeps.

pub(crate) mod activation;
mod arithmetic;
pub(crate) mod attention;
mod concat;
pub(crate) mod conv;
pub(crate) mod conv_shape;
mod dropout;
pub(crate) mod fir;
pub(crate) mod linear;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod pool;
pub(crate) mod table;
pub(crate) mod upsample;

use std::array;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::features::{Dims, Features};
use crate::kernels::{Backend, Work};
use crate::tape::Targets;

/// The result of an operation, and what its backward pass keeps.
pub(crate) type Output<B, Kept> = (Arc<<B as Backend>::Buffer>, Kept);

/// An operation on `N` features that gives one.
pub(crate) trait Op<const N: usize>: Sized + Send + 'static {
    /// What the backward pass needs of the forward pass.
    type Kept<B: Backend>: Send + 'static;

    /// What errors call it.
    fn name(&self) -> &'static str;

    /// The sizes of the result.
    fn output(&self) -> Dims;

    /// The weights that it reads.
    fn weights(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    /// The result, and what is kept; `recorded` says whether a backward pass may follow.
    fn forward<B: Backend>(&self, inputs: [Arc<B::Buffer>; N], recorded: bool) -> Result<Output<B, Self::Kept<B>>>;

    /// Adds the gradients of inputs and weights to their targets, given the result's.
    fn backward<B: Backend>(self, kept: Self::Kept<B>, grad: Arc<B::Buffer>, to: Targets<B, N>) -> Result<()>;
}

/// Applies an operation to features of one network, and records it where they or its weights need a gradient.
pub(crate) fn apply<O: Op<N>, const N: usize>(op: O, inputs: [&Features; N]) -> Result<Features> {
    inputs[0].backend().run(Apply { op, inputs })
}

struct Apply<'a, O, const N: usize> {
    op: O,
    inputs: [&'a Features; N],
}

impl<O: Op<N>, const N: usize> Work for Apply<'_, O, N> {
    type Output = Result<Features>;

    fn on<B: Backend>(self) -> Result<Features> {
        let Self { op, inputs } = self;
        let name = op.name();
        let Some(first) = inputs[0].node::<B>() else { bail!("{name}: the features are of another backend") };
        let tape = &first.tape;
        let mut nodes = [first; N];
        for (node, input) in nodes.iter_mut().zip(inputs) {
            *node = match input.on_tape(tape) {
                Some(node) => node,
                None => bail!("{name}: the features are of different networks"),
            };
        }
        for weight in op.weights() {
            tape.check_weight(name, weight)?;
        }
        let to: [_; N] = array::from_fn(|i| nodes[i].id);
        let recorded = tape.tracks(to.iter().any(Option::is_some), op.weights().iter().any(|weight| weight.track_op()));
        let (y, kept) = op.forward::<B>(nodes.map(|node| node.buffer.clone()), recorded)?;
        let dims = op.output();
        let id = recorded.then(|| {
            tape.record(Box::new(move |grad, gradients| op.backward::<B>(kept, grad, Targets::new(to, gradients))))
        });
        Ok(Features::new(inputs[0].backend(), dims, y, tape, id))
    }
}
