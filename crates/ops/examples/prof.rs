#![allow(clippy::print_stdout, missing_docs)]
use candle_core::{Device, Result, Tensor, Var};
use kakusan_ops::*;
use kakusan_rng::Generator;
#[repr(C)] struct Ts { s: i64, n: i64 }
unsafe extern "C" { fn clock_gettime(c: i32, t: *mut Ts) -> i32; }
fn cpu() -> f64 { let mut t = Ts { s: 0, n: 0 }; unsafe { clock_gettime(2, &mut t) }; t.s as f64 * 1e3 + t.n as f64 / 1e6 }
const BATCH: usize = 128;
const LAYERS: [(usize, usize, usize); 6] = [(1, 32, 28), (32, 64, 14), (64, 64, 7), (64, 64, 7), (64, 32, 14), (32, 1, 28)];
fn time(mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..25 { let s = cpu(); f()?; best = best.min(cpu() - s); }
    Ok(best)
}
fn main() -> Result<()> {
    keep_freed_memory();
    let mut generator = Generator::new(0);
    let mut noise = |dims: &[usize], scale: f64| Tensor::from_vec(generator.uniform(dims.iter().product(), -scale, scale), dims, &Device::Cpu);
    let mut params = Vec::new();
    let mut total = [0.0; 3];
    let only = std::env::args().nth(1).is_some();
    for (ci, co, side) in LAYERS {
        let bound = 1.0 / ((ci * 25) as f64).sqrt();
        let w = Var::from_tensor(&noise(&[co, ci, 5, 5], bound)?)?;
        let b = Var::from_tensor(&noise(&[co], bound)?)?;
        params.push(w.clone()); params.push(b.clone());
        if only { continue }
        let x = noise(&[8, ci, side, side], 1.0)?;
        let xv = Var::from_tensor(&x)?;
        const N: usize = 16;
        // N parts of 8 images = 128
        let run = |x: &Tensor, w: &Tensor, back: bool| time(|| with_still_weights(|| in_parts(8, |_| { for _ in 0..N { let y = network([x], |[x]| x.conv2d_silu(w, Some(&b.as_detached_tensor()), 2))?; if back { backward(&y.sum_all()?)?; } } Ok(()) }, |_| Ok(()))));
        let wd = w.as_detached_tensor();
        let f = run(&x, &wd, false)?;
        let ft = run(&xv, &wd, false)?;
        let bi = run(&xv, &wd, true)? - ft;
        let bw = run(&x, w.as_tensor(), true)? - run(&x, w.as_tensor(), false)?;
        println!("{ci}-{co} @{side}: fwd {f:.2} (tracked {ft:.2}), dx {bi:.2}, dw {bw:.2}");
        total[0] += f; total[1] += bi; total[2] += bw;
    }
    println!("sum fwd {:.1} dx {:.1} dw {:.1}  total {:.1}", total[0], total[1], total[2], total.iter().sum::<f64>());
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
    let mut adam = Adam::new(params.clone(), AdamConfig::default())?;
    let x = noise(&[BATCH, 1, 28, 28], 1.0)?;
    let f = time(|| in_parts(BATCH, |r| unet(&x.narrow(0, r.start, r.len())?), |_| Ok(())))?;
    if only { for _ in 0..40 {
        gradients(BATCH, &Device::Cpu, |r| {
            let x = x.narrow(0, r.start, r.len())?;
            mse_loss(&unet(&x)?, &x)? * (r.len() as f64 / BATCH as f64)
        })?; } }
    let g = time(|| gradients(BATCH, &Device::Cpu, |r| {
            let x = x.narrow(0, r.start, r.len())?;
            mse_loss(&unet(&x)?, &x)? * (r.len() as f64 / BATCH as f64)
        }).map(drop))?;
    let (_, grads) = gradients(8, &Device::Cpu, |_| { let x = x.narrow(0, 0, 8)?; mse_loss(&unet(&x)?, &x) })?;
    let a = time(|| adam.step(&grads))?;
    println!("unet fwd (tracked) {f:.1}, fwd+bwd {g:.1}, adam {a:.2} ms of one thread's time");
    Ok(())
}
