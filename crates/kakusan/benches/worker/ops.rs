//! The operations of kakusan-ops alone, on the shapes that the models have.
//!
//! A name says it all, and xtask/bench/pytorch.py reads the same names: `conv2d_silu 5x5 1-32 @28 b128 forward` is what
//! it is, the kernel, channels in and out, the side of the input, images in the batch, and the pass. `there-and-back`
//! is the forward pass and the gradients of everything that has one. An operation by itself takes and gives tensors in
//! candle's layout; inside a network, as the models use it, it is spared the way into ours and back.

use kakusan::candle::{Device, Tensor, Var};
use kakusan::ops::{Adam, AdamConfig, conv2d, conv2d_silu, max_pool2d, mse_loss, silu, upsample_add};
use kakusan::rng::Generator;

use crate::{Item, Result, Work, number};

/// Kind, kernel, channels in and out, side, batch.
const CONVOLUTIONS: [(&str, usize, usize, usize, usize, usize); 9] = [
    // BasicUNet's
    ("conv2d_silu", 5, 1, 32, 28, 128),
    ("conv2d_silu", 5, 32, 64, 14, 128),
    ("conv2d_silu", 5, 64, 64, 7, 128),
    ("conv2d_silu", 5, 64, 32, 14, 128),
    ("conv2d_silu", 5, 32, 1, 28, 128),
    // those of larger networks
    ("conv2d", 3, 32, 32, 28, 64),
    ("conv2d", 3, 64, 64, 14, 64),
    ("conv2d", 3, 128, 128, 32, 4),
    ("conv2d", 3, 256, 256, 16, 4),
];

/// Name, channels, side of the input, batch, and the operations on one element of the input, forward and backward: an
/// addition, a multiplication, a division, a comparison and an exponential are one each.
const OTHERS: [(&str, usize, usize, usize, [f64; 2]); 4] = [
    ("max_pool2d", 32, 28, 128, [0.75, 1.0]),
    ("upsample_add", 32, 14, 128, [4.0, 3.0]),
    ("silu", 32, 28, 128, [4.0, 8.0]),
    ("mse_loss", 1, 28, 128, [3.0, 2.0]),
];

/// BasicUNet's layers: channels in and out, kernels of 5 x 5.
const ADAM: [(usize, usize); 6] = [(1, 32), (32, 64), (64, 64), (64, 64), (64, 32), (32, 1)];
/// Parameters of these layers, and operations on one of them.
const ADAM_PARAMETERS: usize = 309_057;
const ADAM_FLOPS: f64 = 14.0;

pub(crate) fn items() -> impl Iterator<Item = Item> {
    let convolutions = CONVOLUTIONS.iter().flat_map(|&(kind, k, ci, co, side, batch)| {
        let flops = (2 * batch * ci * co * k * k * side * side) as f64;
        both(format!("{kind} {k}x{k} {ci}-{co} @{side} b{batch}"), [flops, 2.0 * flops])
    });
    let others = OTHERS.iter().flat_map(|&(kind, channels, side, batch, flops)| {
        let elements = (batch * channels * side * side) as f64;
        both(format!("{kind} {channels} @{side} b{batch}"), flops.map(|flops| flops * elements))
    });
    let adam = Item { name: "adam 309057".into(), flops: Some(ADAM_FLOPS * ADAM_PARAMETERS as f64) };
    convolutions.chain(others).chain([adam])
}

fn both(name: String, [forward, backward]: [f64; 2]) -> [Item; 2] {
    [("forward", forward), ("there-and-back", forward + backward)]
        .map(|(pass, flops)| Item { name: format!("{name} {pass}"), flops: Some(flops) })
}

pub(crate) fn prepare(words: &[&str], device: &Device) -> Result<Work> {
    let mut numbers = Numbers(Generator::new(0), device.clone());
    match words {
        ["adam", _] => adam(&mut numbers),
        [kind @ ("conv2d" | "conv2d_silu"), kernel, channels, side, batch, pass] => {
            let k = number(kernel.split('x').next().unwrap_or_default())?;
            let (ci, co) = channels.split_once('-').ok_or("channels are like 1-32")?;
            let (ci, co, side, batch) = (number(ci)?, number(co)?, number(side)?, number(batch)?);
            let x = numbers.var(&[batch, ci, side, side], 1.0)?;
            let weight = numbers.var(&[co, ci, k, k], 1.0 / ((ci * k * k) as f64).sqrt())?;
            let bias = numbers.var(&[co], 0.05)?;
            let conv = if *kind == "conv2d" { conv2d } else { conv2d_silu };
            pass_of(pass, &[x, weight, bias], move |of| conv(&of[0], &of[1], Some(&of[2]), k / 2))
        }
        [kind, channels, side, batch, pass] => {
            let (channels, side, batch) = (number(channels)?, number(side)?, number(batch)?);
            let x = numbers.var(&[batch, channels, side, side], 1.0)?;
            match *kind {
                "max_pool2d" => pass_of(pass, &[x], |of| max_pool2d(&of[0])),
                "silu" => pass_of(pass, &[x], |of| silu(&of[0])),
                "mse_loss" => {
                    let target = numbers.tensor(&[batch, channels, side, side], 1.0)?;
                    pass_of(pass, &[x], move |of| mse_loss(&of[0], &target))
                }
                "upsample_add" => {
                    let skip = numbers.var(&[batch, channels, 2 * side, 2 * side], 1.0)?;
                    pass_of(pass, &[x, skip], |of| upsample_add(&of[0], &of[1]))
                }
                _ => Err(format!("there is no operation `{kind}`").into()),
            }
        }
        _ => Err(format!("there is no work `{}`", words.join(" ")).into()),
    }
}

/// The forward pass without recording, or forward and backward.
fn pass_of(
    pass: &str,
    vars: &[Var],
    op: impl Fn(&[Tensor]) -> kakusan::candle::Result<Tensor> + 'static,
) -> Result<Work> {
    if pass == "forward" {
        let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_detached_tensor()).collect();
        return Ok(Box::new(move || Ok(op(&inputs).map(drop)?)));
    }
    let inputs: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    Ok(Box::new(move || Ok(op(&inputs)?.backward().map(drop)?))) // candle begins with a gradient of ones
}

fn adam(numbers: &mut Numbers) -> Result<Work> {
    let mut vars = vec![];
    for (ci, co) in ADAM {
        vars.push(numbers.var(&[co, ci, 5, 5], 0.05)?);
        vars.push(numbers.var(&[co], 0.05)?);
    }
    let mut losses = vars.iter().map(|var| var.as_tensor().sqr()?.sum_all());
    let first = losses.next().ok_or("no parameters")??;
    let gradients = losses.try_fold(first, |sum, loss| sum + loss?)?.backward()?;
    let mut adam = Adam::new(vars, AdamConfig::default())?;
    Ok(Box::new(move || Ok(adam.step(&gradients)?)))
}

struct Numbers(Generator, Device);

impl Numbers {
    fn tensor(&mut self, dims: &[usize], scale: f64) -> Result<Tensor> {
        let numbers = self.0.uniform(dims.iter().product(), -scale, scale);
        Ok(Tensor::from_vec(numbers, dims, &self.1)?)
    }

    fn var(&mut self, dims: &[usize], scale: f64) -> Result<Var> {
        Ok(Var::from_tensor(&self.tensor(dims, scale)?)?)
    }
}
