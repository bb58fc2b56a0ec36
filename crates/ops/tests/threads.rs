//! The same bits on any number of threads.

mod common;

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};
use common::noise;
use kakusan_ops::{
    Adam, AdamConfig, Ema, EmaConfig, clip_grad_norm, conv2d, conv2d_silu, max_pool2d, mse_loss, silu, upsample_add,
    upsample_nearest2d,
};

/// Three steps of a small U-Net: the losses, the weights and the last prediction.
fn train() -> Result<Vec<u32>> {
    let f32s = |seed, dims: &[usize], scale: f64| noise(seed, dims)?.affine(scale, 0.0)?.to_dtype(DType::F32);
    let layers = [(2, 16), (16, 32), (32, 16), (16, 2)];
    let mut params = Vec::new();
    for (i, (ci, co)) in layers.into_iter().enumerate() {
        params.push(Var::from_tensor(&f32s(10 + i as u64, &[co, ci, 5, 5], 0.2 / (ci as f64).sqrt())?)?);
        params.push(Var::from_tensor(&f32s(20 + i as u64, &[co], 0.1)?)?);
    }
    let x = f32s(1, &[37, 2, 14, 14], 1.0)?;
    let mut adam = Adam::new(params.clone(), AdamConfig { lr: 0.01, ..Default::default() })?;
    let mut bits = Vec::new();
    for _ in 0..3 {
        let layer = |i: usize, x: &Tensor| conv2d_silu(x, &params[2 * i], Some(&params[2 * i + 1]), 2);
        let a = layer(0, &x)?;
        let b = layer(1, &max_pool2d(&a)?)?;
        let c = layer(2, &silu(&b)?)?;
        let d = (upsample_add(&c, &a)? + upsample_nearest2d(&c)?)?;
        let y = conv2d(&d, &params[6], Some(&params[7]), 2)?;
        let loss = mse_loss(&y, &x)?;
        adam.step(&loss.backward()?)?;
        for tensor in params.iter().map(|param| param.as_tensor()).chain([&loss, &y]) {
            bits.extend(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits));
        }
    }
    Ok(bits)
}

/// Three steps on many tensors, small ones and some of several pieces: norms, weights and averages.
fn optimise() -> Result<Vec<u64>> {
    let sizes = (0..60).map(|i| 1 + 37 * i).chain([300_000, 70_001, 40_000]);
    let params = sizes.enumerate().map(|(i, size)| Var::from_tensor(&noise(i as u64, &[size])?.to_dtype(DType::F32)?));
    let params = params.collect::<Result<Vec<_>>>()?;
    let mut adam = Adam::new(params.clone(), AdamConfig { weight_decay: 0.1, ..Default::default() })?;
    let mut ema = Ema::new(params.clone(), EmaConfig::default())?;
    let mut bits = Vec::new();
    for step in 0..3u64 {
        let mut grads = GradStore::default();
        for (i, param) in params.iter().enumerate() {
            let noise = noise(100 * (1 + step) + i as u64, param.dims())?;
            grads.insert(param, noise.to_dtype(DType::F32)?);
        }
        bits.push(adam.step_clipped(&grads, 1.0)?.to_bits());
        bits.push(clip_grad_norm(&mut grads, &params, 1.0)?.to_bits());
        ema.step()?;
        for tensor in params.iter().map(|param| param.as_tensor()).chain(&ema.shadow()?) {
            bits.extend(tensor.to_vec1::<f32>()?.into_iter().map(|x| u64::from(x.to_bits())));
        }
    }
    Ok(bits)
}

#[test]
fn optimisers_give_the_same_bits_on_any_number_of_threads() -> Result<()> {
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(optimise);
    let one = on(1)?;
    for threads in [2, 3, 7] {
        assert!(on(threads)? == one, "{threads} threads differ from one");
    }
    Ok(())
}

#[test]
fn training_gives_the_same_bits_on_any_number_of_threads() -> Result<()> {
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(train);
    let one = on(1)?;
    assert!(one.iter().all(|&bits| f32::from_bits(bits).is_finite()));
    for threads in [2, 3, 7] {
        assert!(on(threads)? == one, "{threads} threads differ from one");
    }
    Ok(())
}
