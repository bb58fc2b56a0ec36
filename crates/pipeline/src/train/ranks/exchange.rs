//! How the gradients of several processes become one sum.

use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use kakusan_distributed::{Error as GroupError, Group};
use kakusan_ops::{AllReduce, PartialSum, Share, TreeSum, accumulate, tree_nodes};

use super::numbers_of;
use crate::{Error, Result};

/// Numbers of the gradient that are exchanged at once: a bound of memory and messages. It changes no result.
const BLOCK: usize = 1 << 23;

/// The sum over a batch in the order of its parts' tree, with the bits of one process.
///
/// The gradient of all weights is one long vector, of which each rank adds a slice: it receives that slice of each
/// node of the tree from the rank that computed it, and all ranks gather the sums. So each number travels as often as
/// with the all-reduce of a ring, and the order of the additions is that of the tree.
pub(super) fn by_tree(
    group: &dyn Group,
    batch: usize,
    own: &[PartialSum],
    vars: &[Var],
    device: &Device,
) -> Result<(f64, GradStore)> {
    let nodes: Nodes = (0..group.size()).map(|rank| tree_nodes(Share::new(rank, group.size()).parts(batch))).collect();
    let losses: Vec<f64> = own.iter().map(|node| node.loss).collect();
    let stores: Vec<&GradStore> = own.iter().map(|node| &node.gradients).collect();
    let (loss, reached) = tell(group, &losses, reached(&stores, vars), &nodes)?;
    let vector = |store: &&GradStore| -> Result<Vec<f32>> { Ok(flat(store, vars, device)?.to_vec1()?) };
    let own = stores.iter().map(vector).collect::<Result<Vec<_>>>()?;
    let length = vars.iter().map(|var| var.elem_count()).sum();
    let mut sums = Vec::with_capacity(length);
    while sums.len() < length {
        let block = sums.len()..length.min(sums.len() + BLOCK);
        add_block(group, &own, &nodes, block, &mut sums)?;
    }
    Ok((loss, into_store(&Tensor::from_vec(sums, length, device)?, vars, &reached)?))
}

/// The sum over a batch as a library adds it: of the gradients of each rank's images.
pub(super) fn by_library(
    group: &dyn Group,
    library: &dyn AllReduce,
    (loss, own): (f64, GradStore),
    vars: &[Var],
    device: &Device,
) -> Result<(f64, GradStore)> {
    let numbers = flat(&own, vars, device)?;
    device.synchronize()?; // so that of a rank that dies while it computes the group learns here: a library may wait for ever
    let nodes: Nodes = (0..group.size()).map(|rank| tree_nodes(rank..rank + 1)).collect();
    let (loss, reached) = tell(group, &[loss], reached(&[&own], vars), &nodes)?;
    library.sum(&numbers)?;
    Ok((loss, into_store(&numbers, vars, &reached)?))
}

/// The nodes of a tree that each rank has, by rank.
type Nodes = Vec<Vec<Range<usize>>>;

/// The loss of the whole batch, and which of `vars` have gradients anywhere: a rank that computes nothing knows none.
fn tell(group: &dyn Group, losses: &[f64], mut reached: Vec<u8>, nodes: &Nodes) -> Result<(f64, Vec<u8>)> {
    let head = [bytemuck::cast_slice(losses), &reached[..]].concat();
    let mut sum = TreeSum::new();
    for (rank, (message, nodes)) in group.all_gather(&head)?.iter().zip(nodes).enumerate() {
        let Some((losses, others)) = message.split_at_checked(nodes.len() * size_of::<f64>()) else {
            return Err(GroupError::Message { rank, reason: "it lacks losses".to_owned() }.into());
        };
        for (node, loss) in nodes.iter().zip(numbers_of::<f64>(losses, rank, nodes.len())?) {
            sum.add(node.clone(), loss, |a, b| Ok::<_, Error>(a + b))?;
        }
        let others = numbers_of::<u8>(others, rank, reached.len())?;
        for (own, other) in reached.iter_mut().zip(others) {
            *own |= other;
        }
    }
    Ok((sum.total(|a, b| Ok::<_, Error>(a + b))?.unwrap_or_default(), reached))
}

/// Adds a block of the vector over all nodes, and appends it to `sums`. `own` are the vectors of this rank's nodes.
fn add_block(
    group: &dyn Group,
    own: &[Vec<f32>],
    nodes: &Nodes,
    block: Range<usize>,
    sums: &mut Vec<f32>,
) -> Result<()> {
    let size = group.size();
    let slice = |rank: usize| block.start + block.len() * rank / size..block.start + block.len() * (rank + 1) / size;
    let to = |rank| -> Vec<u8> {
        let slices = own.iter().map(|node| bytemuck::cast_slice::<f32, u8>(&node[slice(rank)]));
        slices.collect::<Vec<_>>().concat()
    };
    let messages: Vec<Vec<u8>> = (0..size).map(to).collect();
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let length = slice(group.rank()).len();
    let mut sum = TreeSum::new();
    for (rank, (message, nodes)) in group.all_to_all(&messages)?.iter().zip(nodes).enumerate() {
        let numbers = numbers_of::<f32>(message, rank, nodes.len() * length)?;
        for (i, node) in nodes.iter().enumerate() {
            sum.add(node.clone(), numbers[i * length..(i + 1) * length].to_vec(), add)?;
        }
    }
    let sum = sum.total(add)?.unwrap_or_default();
    for (rank, message) in group.all_gather(bytemuck::cast_slice(&sum))?.iter().enumerate() {
        sums.extend(numbers_of::<f32>(message, rank, slice(rank).len())?);
    }
    Ok(())
}

fn add(mut sum: Vec<f32>, more: Vec<f32>) -> Result<Vec<f32>> {
    accumulate(&more, &mut sum)?;
    Ok(sum)
}

/// For each of `vars`, 1 if one of the stores has its gradient, otherwise 0.
fn reached(stores: &[&GradStore], vars: &[Var]) -> Vec<u8> {
    vars.iter().map(|var| u8::from(stores.iter().any(|store| store.get(var).is_some()))).collect()
}

/// The gradients of `vars` as one vector. Where there is none, it is -0: added to any number, that changes no bit.
fn flat(gradients: &GradStore, vars: &[Var], device: &Device) -> Result<Tensor> {
    let of = |var: &Var| match gradients.get(var) {
        Some(gradient) if gradient.dtype() == DType::F32 => Ok(gradient.flatten_all()?),
        Some(gradient) => {
            let dtype = gradient.dtype().as_str();
            Err(Error::Unfit(format!("several processes train in f32, and the model's weights are {dtype}")))
        }
        None => Ok(Tensor::full(-0.0f32, var.elem_count(), device)?),
    };
    Ok(Tensor::cat(&vars.iter().map(of).collect::<Result<Vec<_>>>()?, 0)?)
}

/// The vector's pieces as the gradients of those `vars` that are reached.
fn into_store(sums: &Tensor, vars: &[Var], reached: &[u8]) -> Result<GradStore> {
    let (mut gradients, mut begin) = (GradStore::default(), 0);
    for (var, reached) in vars.iter().zip(reached) {
        let length = var.elem_count();
        if *reached > 0 {
            gradients.insert(var, sums.narrow(0, begin, length)?.reshape(var.dims())?);
        }
        begin += length;
    }
    Ok(gradients)
}
