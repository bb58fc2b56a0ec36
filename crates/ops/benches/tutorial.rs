//! How long the tutorial's training step takes, layer by layer: `cargo bench -p kakusan-ops`.
//!
//! Milliseconds, the median and the least of a few runs. For figures that mean something let nothing else run.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use kakusan_ops::{Adam, AdamConfig, Features, conv2d_silu, gradients, keep_freed_memory, mse_loss, network, predict};
use kakusan_rng::Generator;

const BATCH: usize = 128;
const RUNS: usize = 21;

/// Input channels, output channels, side of the images.
const LAYERS: [(usize, usize, usize); 6] =
    [(1, 32, 28), (32, 64, 14), (64, 64, 7), (64, 64, 7), (64, 32, 14), (32, 1, 28)];

fn main() -> Result<()> {
    if !std::env::args().any(|arg| arg == "--map-afresh") {
        keep_freed_memory();
    }
    let mut generator = Generator::new(0);
    let mut noise = |dims: &[usize], scale: f64| {
        let numbers = generator.uniform(dims.iter().product(), -scale, scale);
        Tensor::from_vec(numbers, dims, &Device::Cpu)
    };
    println!("{:>14} {:>15} {:>15} {:>15}   median (least)", "ms", "forward", "d input", "d weight");
    for (ci, co, side) in LAYERS {
        let x = noise(&[BATCH, ci, side, side], 1.0)?;
        let weight = noise(&[co, ci, 5, 5], 0.05)?;
        let bias = noise(&[co], 0.05)?;
        let (x_var, weight_var) = (Var::from_tensor(&x)?, Var::from_tensor(&weight)?);
        let forward = time(|| conv2d_silu(&x, &weight, Some(&bias), 2).map(drop))?;
        let input = time(|| conv2d_silu(&x_var, &weight, Some(&bias), 2)?.sum_all()?.backward().map(drop))?;
        let weights = time(|| conv2d_silu(&x, &weight_var, Some(&bias), 2)?.sum_all()?.backward().map(drop))?;
        println!("{:>14} {forward:>15} {input:>15} {weights:>15}", format!("{ci}-{co} @{side}"));
    }

    let mut params = Vec::new();
    for (ci, co, _) in LAYERS {
        let bound = 1.0 / ((ci * 25) as f64).sqrt();
        params.push(Var::from_tensor(&noise(&[co, ci, 5, 5], bound)?)?);
        params.push(Var::from_tensor(&noise(&[co], bound)?)?);
    }
    let mut adam = Adam::new(params.clone(), AdamConfig::default())?;
    let x = noise(&[BATCH, 1, 28, 28], 1.0)?;
    let unet = |x: &Tensor| {
        network([x], |[x]| {
            let conv = |x: &Features, layer: usize| x.conv2d_silu(&params[2 * layer], Some(&params[2 * layer + 1]), 2);
            let a = conv(&x, 0)?;
            let b = conv(&a.max_pool2d()?, 1)?;
            let c = conv(&b.max_pool2d()?, 2)?;
            let c = conv(&c, 3)?;
            let d = conv(&c.upsample_add(&b)?, 4)?;
            drop((b, c));
            conv(&d.upsample_add(&a)?, 5)
        })
    };
    let mut parts = [const { Vec::new() }; 3];
    for _ in 0..RUNS {
        let start = Instant::now();
        predict(BATCH, &Device::Cpu, |r| unet(&x.narrow(0, r.start, r.len())?))?;
        let forward = start.elapsed();
        let (_, grads) = gradients(BATCH, &Device::Cpu, |r| {
            let x = x.narrow(0, r.start, r.len())?;
            mse_loss(&unet(&x)?, &x)? * (r.len() as f64 / BATCH as f64)
        })?;
        let backward = start.elapsed();
        adam.step(&grads)?;
        drop(grads);
        let step = start.elapsed();
        for (part, time) in parts.iter_mut().zip([forward, backward - forward, step - forward]) {
            part.push(time.as_secs_f64() * 1e3);
        }
    }
    for (name, part) in ["forward", "backward", "step"].iter().zip(&mut parts) {
        println!("{name:>14} {:>15}", summary(part));
    }
    Ok(())
}

fn time(mut work: impl FnMut() -> Result<()>) -> Result<String> {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(summary(&mut times))
}

fn summary(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    format!("{:.2} ({:.2})", times[times.len() / 2], times[0])
}
