//! Gradient checkpointing: recompute a block's activations in the backward pass.

use std::array;
use std::sync::Arc;

use candle_core::{Result, bail};

use crate::features::{Features, Node};
use crate::kernels::{Backend, BackendKind, Work};
use crate::tape::Tape;

/// Gradient checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"), as
/// `torch.utils.checkpoint.checkpoint`: runs `part` of a [`network`](crate::network) on `inputs` and keeps only
/// these; the backward pass runs it a second time for its activations.
///
/// `part` must give the same both times. Gradients equal those without up to the order of sums.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor, Var};
/// use kakusan_ops::{Features, backward, checkpoint, mse_loss, network};
/// let weight = Var::ones((3, 3, 3, 3), DType::F32, &Device::Cpu)?;
/// let x = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let shared = weight.as_tensor().clone();
/// let block = move |[x]: [Features; 1]| x.conv2d_silu(&shared, None, 1)?.conv2d(&shared, None, 1);
/// let y = network([&x], |[x]| checkpoint([&x], block))?;
/// let gradients = backward(&mse_loss(&y, &x)?)?;
/// assert_eq!(gradients.get(&weight).unwrap().dims(), [3, 3, 3, 3]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of `part`; inputs of different networks.
pub fn checkpoint<const N: usize>(
    inputs: [&Features; N],
    part: impl Fn([Features; N]) -> Result<Features> + Send + 'static,
) -> Result<Features> {
    match inputs.first() {
        Some(first) => first.backend().run(Checkpoint { backend: first.backend(), inputs, part }),
        None => part(inputs.map(Features::clone)),
    }
}

struct Checkpoint<'a, F, const N: usize> {
    backend: BackendKind,
    inputs: [&'a Features; N],
    part: F,
}

impl<F, const N: usize> Work for Checkpoint<'_, F, N>
where
    F: Fn([Features; N]) -> Result<Features> + Send + 'static,
{
    type Output = Result<Features>;

    fn on<B: Backend>(self) -> Result<Features> {
        let Self { backend, inputs, part } = self;
        let Some(first) = inputs[0].node::<B>() else { bail!("checkpoint: the inputs are of another backend") };
        let tape = first.tape.clone();
        let mut kept = Vec::with_capacity(N);
        for x in inputs {
            match x.on_tape(&tape) {
                Some(node) => kept.push((x.sizes(), node.buffer.clone(), node.id)),
                None => bail!("checkpoint: the inputs are of different networks"),
            }
        }
        let discarding = Arc::new(tape.of_part(true));
        let y = part(array::from_fn(|i| Features::new(backend, kept[i].0, kept[i].1.clone(), &discarding, None)))?;
        let (dims, buffer) = (y.sizes(), on_tape(&y, &discarding)?.buffer.clone());
        let by_features = kept.iter().any(|(_, _, id)| id.is_some());
        let id = tape.tracks(by_features, discarding.used_weights()).then(|| {
            let again = Arc::new(tape.of_part(false));
            tape.record(Box::new(move |grad, gradients| {
                let leaves: [_; N] = array::from_fn(|i| kept[i].2.map(|_| again.leaf()));
                let inputs =
                    array::from_fn(|i| Features::new(backend, kept[i].0, kept[i].1.clone(), &again, leaves[i]));
                let outside: [_; N] = array::from_fn(|i| kept[i].2);
                drop(kept);
                let y = part(inputs)?;
                let Some(id) = on_tape(&y, &again)?.id else { return Ok(()) };
                drop(y);
                let Some(mut of_part) = again.backward(id, grad)? else { return Ok(()) };
                for (leaf, to) in leaves.into_iter().zip(outside) {
                    if let Some(grad) = leaf.and_then(|leaf| of_part.take(leaf)) {
                        gradients.add(to, grad)?;
                    }
                }
                gradients.weights().extend(of_part.into_weights())
            }))
        });
        Ok(Features::new(backend, dims, buffer, &tape, id))
    }
}

/// The output of a part that was given features of `tape`.
fn on_tape<'a, B: Backend>(y: &'a Features, tape: &Arc<Tape<B>>) -> Result<&'a Node<B>> {
    match y.on_tape(tape) {
        Some(node) => Ok(node),
        None => bail!("checkpoint: the output is of another network"),
    }
}
