//! The same bits on any number of threads.

mod common;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use common::{error, noise};
use kakusan_ops::{
    Activation, Adam, AdamConfig, Ema, EmaConfig, attention, clip_grad_norm, conv2d, conv2d_silu, gradients,
    group_norm_silu, linear, max_pool2d, mse_loss, network, predict, silu, upsample_add, upsample_nearest2d,
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

/// What `work` gives on 1, 2, 3 and 7 threads.
fn same_bits(work: impl Fn() -> Result<Vec<Tensor>> + Sync) -> Result<()> {
    let on = |threads| -> Result<Vec<u32>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let tensors = pool.install(&work)?;
        let bits = tensors.iter().map(|x| x.flatten_all()?.to_vec1::<f32>());
        Ok(bits.collect::<Result<Vec<_>>>()?.concat().into_iter().map(f32::to_bits).collect())
    };
    let one = on(1)?;
    assert!(!one.is_empty() && one.iter().all(|&bits| f32::from_bits(bits).is_finite()));
    for threads in [2, 3, 7] {
        assert!(on(threads)? == one, "{threads} threads differ from one");
    }
    Ok(())
}

#[test]
fn a_batch_in_parts_gives_the_same_bits_on_any_number_of_threads() -> Result<()> {
    let f32s = |seed, dims: &[usize], scale: f64| noise(seed, dims)?.affine(scale, 0.0)?.to_dtype(DType::F32);
    let var = |seed, dims: &[usize], scale| Var::from_tensor(&f32s(seed, dims, scale)?);
    let (first, second) = (var(1, &[16, 3, 3, 3], 0.3)?, var(2, &[3, 16, 5, 5], 0.1)?);
    for batch in [5, 37, 130] {
        let x = f32s(3, &[batch, 3, 8, 8], 1.0)?;
        let forward = |range: std::ops::Range<usize>| {
            let x = x.narrow(0, range.start, range.len())?;
            network([&x], |[x]| {
                let h = x.conv2d_silu(&first, None, 1)?;
                h.max_pool2d()?.upsample_add(&h)?.conv2d(&second, None, 2)?.add(&x)
            })
        };
        same_bits(|| {
            let (_, grads) = gradients(batch, &Device::Cpu, |range| -> Result<Tensor> {
                mse_loss(&forward(range.clone())?, &x.narrow(0, range.start, range.len())?)? * range.len() as f64
            })?;
            let of = |var: &Var| grads.get(var).expect("a gradient").clone();
            Ok(vec![predict(batch, &Device::Cpu, forward)?, of(&first), of(&second)])
        })?;
    }
    Ok(())
}

/// Few images, each so large that threads share it.
#[test]
fn large_images_give_the_same_bits_on_any_number_of_threads() -> Result<()> {
    let f32s = |seed, dims: &[usize], scale: f64| noise(seed, dims)?.affine(scale, 0.0)?.to_dtype(DType::F32);
    let x = Var::from_tensor(&f32s(1, &[1, 64, 30, 33], 1.0)?)?;
    for (k, co, stride) in [(3, 64, 1), (5, 64, 1), (3, 65, 1), (3, 128, 2), (1, 256, 1)] {
        let weight = Var::from_tensor(&f32s(2, &[co, 64, k, k], 0.1)?)?;
        let options = kakusan_ops::ConvOptions { stride, padding: [k / 2; 4] };
        same_bits(|| {
            let y = conv2d(&x, &weight, None, options)?;
            let grads = y.sqr()?.sum_all()?.backward()?;
            Ok(vec![y, grads.get(&x).expect("a gradient").clone(), grads.get(&weight).expect("a gradient").clone()])
        })?;
    }
    // a band of the results that wants as many rows as the image has, but not from its first on
    let x = Var::from_tensor(&f32s(6, &[1, 40, 8, 80], 1.0)?)?;
    let weight = Var::from_tensor(&f32s(7, &[40, 40, 5, 5], 0.1)?)?;
    let options = kakusan_ops::ConvOptions { stride: 1, padding: [0, 4, 0, 0] };
    same_bits(|| Ok(vec![conv2d(&x, &weight, None, options)?]))?;
    let x = Var::from_tensor(&f32s(1, &[1, 64, 30, 33], 1.0)?)?;
    let (scale, shift) = (Var::from_tensor(&f32s(3, &[64], 1.0)?)?, Var::from_tensor(&f32s(4, &[64], 1.0)?)?);
    let weight = Var::from_tensor(&f32s(5, &[64, 64], 0.1)?)?;
    same_bits(|| {
        let y = network([&x], |[x]| x.fir_downsample2d()?.fir_upsample2d()?.activate(Activation::Mish))?;
        let grads = y.sqr()?.sum_all()?.backward()?;
        Ok(vec![y, grads.get(&x).expect("a gradient").clone()])
    })?;
    same_bits(|| {
        let h = group_norm_silu(&x, 32, &scale, &shift, 1e-5)?;
        let y = attention(&h, &linear(&h, &weight, None)?, &h, 4)?;
        let grads = y.sqr()?.sum_all()?.backward()?;
        let gradients = [&x, &scale, &shift, &weight].map(|var| grads.get(var).expect("a gradient").clone());
        Ok([y].into_iter().chain(gradients).collect())
    })
}

/// Weights so large that no layout of them is held, and so few pixels that threads share the output channels.
#[test]
fn large_weights_give_the_same_bits_on_any_number_of_threads() -> Result<()> {
    for (k, ci, co, size, stride) in [(3, 192, 208, 8, 1), (5, 96, 96, 8, 1), (3, 264, 248, 12, 2), (1, 736, 760, 8, 1)]
    {
        let x = noise(1, &[2, ci, size, size])?;
        let [weight, bias] = [noise(2, &[co, ci, k, k])?.affine(0.05, 0.0)?, noise(3, &[co])?];
        let options = kakusan_ops::ConvOptions { stride, padding: [k / 2; 4] };
        let run = |dtype: DType| -> Result<Vec<Tensor>> {
            let vars = [&x, &weight, &bias].map(|x| x.to_dtype(dtype).and_then(|x| Var::from_tensor(&x)));
            let [x, weight, bias] = vars;
            let [x, weight, bias] = [x?, weight?, bias?];
            let y = conv2d_silu(&x, &weight, Some(&bias), options)?;
            let grads = y.sqr()?.sum_all()?.backward()?;
            Ok([&x, &weight, &bias]
                .map(|var| grads.get(var).expect("a gradient").clone())
                .into_iter()
                .chain([y])
                .collect())
        };
        same_bits(|| run(DType::F32))?;
        for (got, expected) in run(DType::F32)?.iter().zip(&run(DType::F64)?) {
            let error = error(got, expected)?;
            assert!(error < 2e-5, "{k}x{k} {ci}-{co}: {error:.1e}");
        }
        // an image that Winograd's method leaves to the direct one
        let huge = x.to_dtype(DType::F32)?.affine(1e26, 0.0)?;
        let direct = conv2d(&huge, &weight.to_dtype(DType::F32)?, None, options)?;
        let expected = conv2d(&huge.to_dtype(DType::F64)?, &weight, None, options)?;
        assert!(error(&direct, &expected)? < 2e-5);
    }
    Ok(())
}

/// Large images are computed in bands, on one thread too: as in f64, also where one band holds extreme numbers.
#[test]
fn images_in_bands_are_whole() -> Result<()> {
    let (x, weight) = (noise(1, &[2, 16, 66, 50])?, noise(2, &[16, 16, 3, 3])?);
    let huge = Tensor::cat(&[&x, &x.affine(1e26, 0.0)?], 2)?;
    for x in [x, huge] {
        let run = |dtype: DType| conv2d(&x.to_dtype(dtype)?, &weight.to_dtype(dtype)?, None, 1);
        same_bits(|| Ok(vec![run(DType::F32)?]))?;
        let error = error(&run(DType::F32)?, &run(DType::F64)?)?;
        assert!(error < 2e-5, "{error:.1e}");
    }
    Ok(())
}
