//! Memory for time: a part of a network that is computed twice instead of kept.

use std::array;
use std::sync::Arc;

use candle_core::{Result, bail};

use crate::network::{Data, Features, Host};
use crate::tape::Tape;

/// Gradient checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"), as
/// `torch.utils.checkpoint.checkpoint`: runs `part` of a [`network`](crate::network) on `inputs` and keeps nothing of it but
/// these; on the way back it is run a second time, and gone back through at once.
///
/// `part` must give the same both times. Gradients equal those without up to the order of sums. In f64 and on other devices
/// than the CPU the part is run once, and candle keeps what it computed.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor, Var};
/// use kakusan_ops::{backward, checkpoint, mse_loss, network};
/// let weight = Var::ones((3, 3, 3, 3), DType::F32, &Device::Cpu)?;
/// let x = Tensor::ones((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let shared = weight.as_tensor().clone();
/// let y = network([&x], |[x]| checkpoint([&x], move |[x]| x.conv2d_silu(&shared, None, 1)?.conv2d(&shared, None, 1)))?;
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
    let Some(Data::Host(Host { tape, .. })) = inputs.first().map(|x| x.data()) else {
        return part(inputs.map(Features::clone));
    };
    let tape = tape.clone();
    let mut kept = Vec::with_capacity(N);
    for x in inputs {
        match x.data() {
            Data::Host(host) if Arc::ptr_eq(&host.tape, &tape) => kept.push((x.sizes(), host.floats.clone(), host.id)),
            _ => bail!("checkpoint: the inputs are of different networks"),
        }
    }
    let forgetting = Arc::new(tape.of_part(true));
    let y = part(array::from_fn(|i| Features::host(kept[i].0, kept[i].1.clone(), &forgetting, None)))?;
    let (dims, floats) = (y.sizes(), on_tape(&y, &forgetting)?.floats.clone());
    let by_features = kept.iter().any(|(_, _, id)| id.is_some());
    let id = tape.tracks(by_features, forgetting.used_weights()).then(|| {
        let again = tape.of_part(false);
        tape.record(Box::new(move |grad, gradients| {
            let again = Arc::new(again.keeping(gradients.still()));
            let leaves: [_; N] = array::from_fn(|i| kept[i].2.map(|_| again.leaf()));
            let inputs = array::from_fn(|i| Features::host(kept[i].0, kept[i].1.clone(), &again, leaves[i]));
            let outside: [_; N] = array::from_fn(|i| kept[i].2);
            drop(kept);
            let y = part(inputs)?;
            let Some(id) = on_tape(&y, &again)?.id else { return Ok(()) };
            drop(y);
            let Some(mut of_part) = again.backward(id, grad, gradients.still())? else { return Ok(()) };
            for (leaf, id) in leaves.into_iter().zip(outside) {
                if let (Some(leaf), Some(id)) = (leaf, id)
                    && let Some(grad) = of_part.take(leaf)
                {
                    gradients.add(id, grad)?;
                }
            }
            gradients.add_weights_of(of_part);
            Ok(())
        }))
    });
    Ok(Features::host(dims, floats, &tape, id))
}

/// The output of a part that was given features of `tape`.
fn on_tape<'a>(y: &'a Features, tape: &Arc<Tape>) -> Result<&'a Host> {
    match y.data() {
        Data::Host(host) if Arc::ptr_eq(&host.tape, tape) => Ok(host),
        _ => bail!("checkpoint: the output is of another network"),
    }
}
