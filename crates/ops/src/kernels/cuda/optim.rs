//! The optimisers' steps: one launch for all tensors, by a table of where they lie.

use candle_core::{Result, Tensor, Var, bail};

use super::Cuda;
use super::buffer::{Buffer, Read};
use super::card::{Address, Card, PIECE, arguments, launch};
use crate::kernels::Parameter;
use crate::optim::adam::Factors;
use crate::optim::sgd::SgdConfig;

/// A table of tensors, an `Entry` of `optim.cu` for each, and the number of blocks that they take.
#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    entries: usize,
    blocks: usize,
}

impl Table {
    /// Adds a tensor of `count` numbers: the parameter, its gradient and two states.
    fn add(&mut self, addresses: [Address; 4], count: usize) {
        if count == 0 {
            return;
        }
        addresses.iter().for_each(|address| self.bytes.extend(address.0.to_ne_bytes()));
        [self.blocks, count].iter().for_each(|&number| self.bytes.extend((number as u32).to_ne_bytes()));
        self.entries += 1;
        self.blocks += count.div_ceil(PIECE);
    }
}

/// The card that all of these tensors are on.
fn card_of<'a, C: Card>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Option<C>> {
    let mut card = None;
    for tensor in tensors {
        let own = C::of(tensor)?;
        if card.get_or_insert_with(|| own.clone()) != &own {
            bail!("an optimiser's parameters are on several cards; use an optimiser for each")
        }
    }
    Ok(card)
}

/// One step of Adam.
pub(crate) fn adam<C: Card>(params: Vec<Parameter<Cuda<C>, 2>>, f: &Factors) -> Result<()> {
    let Some(card) = card_of::<C>(params.iter().map(|param| param.var.as_tensor()))? else { return Ok(()) };
    let grads = params.iter().map(|param| Read::on(&card, param.grad)).collect::<Result<Vec<_>>>()?;
    let vars: Vec<&Var> = params.iter().map(|param| param.var).collect();
    card.update(&vars, |addresses| {
        let mut table = Table::default();
        for ((&address, grad), Parameter { states: [m, v], .. }) in addresses.iter().zip(&grads).zip(&params) {
            table.add([address, grad.address(), m.address(), v.address()], grad.len);
        }
        let entries = card.upload(&table.bytes)?;
        let [grad_scale, keep, correction, eps] = [f.grad_scale, f.keep, f.correction, f.eps].map(|x| x as f32);
        let [rate1, beta2, rate2] = [1.0 - f.beta1, f.beta2, 1.0 - f.beta2].map(|x| x as f32);
        let table_at = C::address(&entries);
        let step_size = f.step_size as f32;
        let arguments =
            arguments![table_at, table.entries, grad_scale, keep, rate1, beta2, rate2, correction, eps, step_size];
        launch(&card, "adam", table.blocks, arguments)
    })
}

/// One step of gradient descent.
pub(crate) fn sgd<C: Card>(
    params: Vec<(&Var, &Tensor, Option<&mut Buffer<C>>)>,
    config: &SgdConfig,
    scale: f64,
) -> Result<()> {
    let Some(card) = card_of::<C>(params.iter().map(|(var, ..)| var.as_tensor()))? else { return Ok(()) };
    let grads = params.iter().map(|(_, grad, _)| Read::on(&card, grad)).collect::<Result<Vec<_>>>()?;
    let vars: Vec<&Var> = params.iter().map(|(var, ..)| *var).collect();
    card.update(&vars, |addresses| {
        let mut table = Table::default();
        for ((&address, grad), (_, _, momentum)) in addresses.iter().zip(&grads).zip(&params) {
            let momentum = momentum.as_ref().map_or(Address::NULL, |momentum| momentum.address());
            table.add([address, grad.address(), momentum, Address::NULL], grad.len);
        }
        let entries = card.upload(&table.bytes)?;
        let [scale, weight_decay, momentum, lr] =
            [scale, config.weight_decay, config.momentum, config.lr].map(|factor| factor as f32);
        let table_at = C::address(&entries);
        launch(&card, "sgd", table.blocks, arguments![table_at, table.entries, scale, weight_decay, momentum, lr])
    })
}

/// One step of an average.
pub(crate) fn average<C: Card>(params: Vec<(&Var, &mut Buffer<C>)>, rate: f64) -> Result<()> {
    let Some(card) = card_of::<C>(params.iter().map(|(var, _)| var.as_tensor()))? else { return Ok(()) };
    let mut table = Table::default();
    let values = params.iter().map(|(var, _)| Read::on(&card, var)).collect::<Result<Vec<_>>>()?;
    for (value, (_, state)) in values.iter().zip(&params) {
        table.add([value.address(), Address::NULL, state.address(), Address::NULL], value.len);
    }
    let entries = card.upload(&table.bytes)?;
    launch(&card, "average", table.blocks, arguments![C::address(&entries), table.entries, rate as f32])
}

/// The sum of the squares of all numbers, in f64 and in an order that depends on the tensors alone.
pub(crate) fn sum_of_squares<C: Card>(tensors: &[&Tensor]) -> Result<f64> {
    let Some(card) = card_of::<C>(tensors.iter().copied())? else { return Ok(0.0) };
    let mut table = Table::default();
    let values = tensors.iter().map(|tensor| Read::on(&card, tensor)).collect::<Result<Vec<_>>>()?;
    for value in &values {
        table.add([Address::NULL, value.address(), Address::NULL, Address::NULL], value.len);
    }
    let entries = card.upload(&table.bytes)?;
    let (sums, total) = (Buffer::new(&card, 2 * table.blocks)?, Buffer::new(&card, 2)?); // in f64
    launch(&card, "squares", table.blocks, arguments![C::address(&entries), table.entries, &sums])?;
    launch(&card, "total", 1, arguments![&sums, table.blocks, 1.0, &total, Address::NULL])?;
    let mut bytes = [0; 8];
    card.read(total.memory(), &mut bytes)?;
    Ok(f64::from_ne_bytes(bytes))
}
