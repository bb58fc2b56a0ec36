//! How long the optimiser takes on a UNet of 300 tensors: `cargo bench -p kakusan-ops --bench optim -- THREADS`.
//!
//! Milliseconds, the median and the least of a few runs. For figures that mean something let nothing else run.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use kakusan_ops::{Adam, AdamConfig, Ema, EmaConfig, clip_grad_norm, use_threads, vectors};

const RUNS: usize = 101;

fn main() -> Result<()> {
    let threads = std::env::args().find_map(|arg| arg.parse().ok());
    println!("{} threads, {}; ms, median (least)", use_threads(threads)?, vectors());
    for (name, width) in [("300 tensors, 0.37 million", 32usize), ("300 tensors, 5.8 million", 128)] {
        // fifty blocks: a convolution, a matrix, four vectors
        let block = [vec![width, width, 3], vec![width, width * 4], vec![width], vec![width * 4], vec![width], vec![1]];
        let mut params = vec![];
        let mut grads = GradStore::default();
        for dims in (0..50).flat_map(|_| &block) {
            let param = Var::zeros(dims.as_slice(), DType::F32, &Device::Cpu)?;
            grads.insert(&param, Tensor::full(0.01f32, dims.as_slice(), &Device::Cpu)?);
            params.push(param);
        }
        let config = AdamConfig { weight_decay: 0.01, ..Default::default() };
        let mut adam = Adam::new(params.clone(), config)?;
        let one = |param: &Var| Adam::new(vec![param.clone()], config);
        let mut one_by_one = params.iter().map(one).collect::<Result<Vec<_>>>()?;
        let mut ema = Ema::new(params.clone(), EmaConfig::default())?;
        println!("{name}");
        println!("{:>34} {}", "a step", time(|| adam.step(&grads))?);
        println!("{:>34} {}", "a step clipped", time(|| adam.step_clipped(&grads, 1.0).map(drop))?);
        println!("{:>34} {}", "clipping apart", time(|| clip_grad_norm(&mut grads, &params, 1e-9).map(drop))?);
        println!(
            "{:>34} {}",
            "a step, tensor by tensor",
            time(|| one_by_one.iter_mut().try_for_each(|a| a.step(&grads)))?
        );
        println!("{:>34} {}", "an average's step", time(|| ema.step().map(drop))?);
    }
    Ok(())
}

fn time(mut run: impl FnMut() -> Result<()>) -> Result<String> {
    let mut times = vec![];
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(format!("{:8.3} ({:.3})", times[RUNS / 2], times[0]))
}
