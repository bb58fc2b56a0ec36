//! What bad, empty and non-finite input gets.

mod common;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use common::{noise, numbers};
use kakusan_ops::{
    Adam, AdamConfig, Ema, EmaConfig, clip_factor, clip_grad_norm, conv2d, conv2d_silu, grad_norm, huber_loss, l1_loss,
    max_pool2d, mse_loss, network, silu, upsample_add, upsample_nearest2d,
};

fn zeros(dims: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(dims, dtype, &Device::Cpu).expect("zeros")
}

fn f32s(dims: &[usize]) -> Tensor {
    zeros(dims, DType::F32)
}

#[track_caller]
fn refused<T>(result: Result<T>, words: &[&str]) {
    let message = result.err().expect("an error").to_string();
    for word in words {
        assert!(message.contains(word), "\"{message}\" does not say \"{word}\"");
    }
}

#[test]
fn convolutions_that_do_not_fit() {
    let (x, weight) = (f32s(&[2, 3, 8, 8]), f32s(&[4, 3, 5, 5]));
    refused(conv2d(&f32s(&[3, 8, 8]), &weight, None, 2), &["conv2d:", "[batch, channels, height, width]", "[3, 8, 8]"]);
    refused(conv2d(&f32s(&[2, 3, 0, 8]), &weight, None, 2), &["[2, 3, 0, 8]"]);
    refused(conv2d(&f32s(&[2, 4, 8, 8]), &weight, None, 2), &["4 channels", "for 3"]);
    refused(conv2d(&x, &f32s(&[4, 3, 5, 3]), None, 2), &["[4, 3, 5, 3]"]);
    refused(conv2d(&x, &f32s(&[4, 3, 5]), None, 2), &["[4, 3, 5]"]);
    refused(conv2d(&x, &f32s(&[0, 3, 5, 5]), None, 2), &["[0, 3, 5, 5]"]);
    refused(conv2d(&x, &weight, Some(&f32s(&[3])), 2), &["bias [4]", "[3]"]);
    refused(conv2d(&x, &weight, None, 5), &["padding is 5", "below", "5"]);
    refused(conv2d_silu(&f32s(&[2, 3, 2, 8]), &weight, None, 1), &["conv2d_silu:", "5x5", "2x8"]);
    refused(conv2d(&x, &zeros(&[4, 3, 5, 5], DType::F64), None, 2), &["F32", "F64"]);
}

#[test]
fn results_too_large_are_refused_before_they_are_made() -> Result<()> {
    let x = f32s(&[1, 1, 1, 1]).broadcast_as((1 << 31, 1, 1 << 15, 1 << 15))?;
    refused(upsample_nearest2d(&x), &["too large"]);
    refused(conv2d(&x, &f32s(&[64, 1, 1, 1]), None, 0), &["too large"]);
    Ok(())
}

#[test]
fn other_shapes_that_do_not_fit() {
    refused(max_pool2d(&f32s(&[1, 1, 1, 4])), &["max_pool2d:", "1x4"]);
    refused(max_pool2d(&f32s(&[4, 4])), &["[4, 4]"]);
    refused(upsample_nearest2d(&f32s(&[1, 4, 4])), &["[1, 4, 4]"]);
    refused(upsample_add(&f32s(&[1, 2, 3, 4]), &f32s(&[1, 2, 6, 7])), &["[1, 2, 6, 8]", "[1, 2, 6, 7]"]);
    refused(mse_loss(&f32s(&[2, 3]), &f32s(&[3])), &["[2, 3]", "[3]"]);
    refused(mse_loss(&f32s(&[2]), &zeros(&[2], DType::F64)), &["F32", "F64"]);
    refused(l1_loss(&f32s(&[2, 3]), &f32s(&[3])), &["l1_loss:", "[2, 3]", "[3]"]);
    refused(huber_loss(&f32s(&[2, 3]), &f32s(&[3]), 1.0), &["huber_loss:", "[2, 3]", "[3]"]);
    for delta in [0.0, -1.0, f64::NAN] {
        refused(huber_loss(&f32s(&[2]), &f32s(&[2]), delta), &["huber_loss:", "delta"]);
    }
}

#[test]
fn dtypes_without_a_kernel() {
    for dtype in [DType::U8, DType::F16, DType::BF16, DType::I64] {
        let x = zeros(&[1, 2, 4, 4], dtype);
        let name = format!("{dtype:?}");
        refused(silu(&x), &["silu:", &name, "convert"]);
        refused(max_pool2d(&x), &["max_pool2d:", &name]);
        refused(upsample_nearest2d(&x), &["upsample_nearest2d:", &name]);
        refused(mse_loss(&x, &x), &["mse_loss:", &name]);
        refused(l1_loss(&x, &x), &["l1_loss:", &name]);
        refused(huber_loss(&x, &x, 1.0), &["huber_loss:", &name]);
        refused(conv2d(&x, &zeros(&[2, 2, 3, 3], dtype), None, 1), &["conv2d:", &name]);
    }
}

#[test]
fn empty_batches() -> Result<()> {
    let weight = Var::from_tensor(&f32s(&[5, 3, 3, 3]))?;
    let bias = Var::from_tensor(&f32s(&[5]))?;
    let x = Var::from_tensor(&f32s(&[0, 3, 6, 6]))?;
    let y = conv2d_silu(&x, &weight, Some(&bias), 1)?;
    assert_eq!(y.dims(), [0, 5, 6, 6]);
    let y = upsample_nearest2d(&max_pool2d(&silu(&y)?)?)?;
    assert_eq!(y.dims(), [0, 5, 6, 6]);
    let grads = upsample_add(&y, &f32s(&[0, 5, 12, 12]))?.sum_all()?.backward()?;
    for var in [&weight, &bias, &x] {
        let gradient = grads.get(var).expect("a gradient");
        assert_eq!(gradient.dims(), var.dims());
        assert!(numbers(gradient)?.iter().all(|&g| g == 0.0));
    }
    assert!(mse_loss(&x, &x)?.to_scalar::<f32>()?.is_nan());
    Ok(())
}

#[test]
fn what_is_not_finite_stays_where_the_kernel_reaches() -> Result<()> {
    for (channels, result_channels) in [(1, 16), (33, 17), (32, 1), (3, 2), (32, 16)] {
        for (bad, k) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].into_iter().flat_map(|bad| [(bad, 3), (bad, 5)]) {
            let mut x = numbers(&noise(1, &[2, channels, 9, 9])?)?;
            x[(channels - 1) * 81 + 4 * 9 + 2] = bad; // first image, last channel, row 4, column 2
            let x = Tensor::from_vec(x, (2, channels, 9, 9), &Device::Cpu)?;
            let weight = noise(2, &[result_channels, channels, k, k])?.abs()?;
            let run = |dtype| numbers(&conv2d(&x.to_dtype(dtype)?, &weight.to_dtype(dtype)?, None, k / 2)?);
            for (i, (ours, right)) in run(DType::F32)?.iter().zip(run(DType::F64)?).enumerate() {
                let (image, row, column) = (i / (result_channels * 81), i / 9 % 9, i % 9);
                let reached = image == 0 && row.abs_diff(4) <= k / 2 && column.abs_diff(2) <= k / 2;
                assert_eq!(ours.is_finite(), !reached, "{bad} at {image}, {row}, {column}");
                assert!(
                    reached != right.is_finite() && (!reached || ours == &right || right.is_nan() == ours.is_nan())
                );
            }
        }
    }
    Ok(())
}

#[test]
fn adam_refuses_what_it_cannot_do() -> Result<()> {
    let (used, unused) = (Var::from_tensor(&f32s(&[2]))?, Var::from_tensor(&f32s(&[3]))?);
    for config in [
        AdamConfig { lr: -1.0, ..Default::default() },
        AdamConfig { lr: f64::NAN, ..Default::default() },
        AdamConfig { betas: (1.0, 0.9), ..Default::default() },
        AdamConfig { betas: (0.9, -0.1), ..Default::default() },
        AdamConfig { eps: -1e-8, ..Default::default() },
        AdamConfig { weight_decay: -0.1, ..Default::default() },
        AdamConfig { weight_decay: f64::INFINITY, ..Default::default() },
    ] {
        refused(Adam::new(vec![used.clone()], config), &["adam:"]);
    }
    refused(Adam::new(vec![Var::from_tensor(&zeros(&[2], DType::U8))?], AdamConfig::default()), &["U8"]);

    refused(Adam::new(vec![used.clone(), used.clone()], AdamConfig::default()), &["parameter 1", "[2]", "before"]);
    let grads = (used.as_tensor() + 1.0)?.sqr()?.sum_all()?.backward()?;
    let mut both = Adam::new(vec![used.clone(), unused], AdamConfig::default())?;
    refused(both.step(&grads), &["parameter 1", "[3]", "no gradient"]);
    assert_eq!((numbers(&used)?, both.state()?.steps), (vec![0.0; 2], 0), "something was changed");

    let mut one = Adam::new(vec![used.clone()], AdamConfig::default())?;
    refused(one.step_clipped(&grads, -1.0), &["largest norm", "-1"]);
    refused(one.step_clipped(&grads, f64::NAN), &["largest norm", "NaN"]);
    refused(one.set_lr(-1e-3), &["learning rate", "-0.001"]);
    refused(one.set_lr(f64::NAN), &["learning rate", "NaN"]);
    assert_eq!((one.lr(), one.state()?.steps, numbers(&used)?), (1e-3, 0, vec![0.0; 2]), "something was changed");
    refused(both.load_state(&one.state()?), &["state of 1", "expected 2"]);
    let mut state = one.state()?;
    state.moments[0].0 = f32s(&[4]);
    refused(Adam::new(vec![used], AdamConfig::default())?.load_state(&state), &["parameter 0", "[2]", "[4]"]);
    Ok(())
}

#[test]
fn clipping_refuses_what_it_cannot_do() -> Result<()> {
    let (used, unused) = (Var::from_tensor(&f32s(&[2]))?, Var::from_tensor(&f32s(&[3]))?);
    let mut grads = ((used.as_tensor() + 1.0)?.sqr()?.sum_all()? * 100.0)?.backward()?;
    refused(clip_factor(1.0, -0.5), &["-0.5"]);
    refused(clip_grad_norm(&mut grads, std::slice::from_ref(&used), f64::NAN), &["clip_grad_norm:", "NaN"]);
    let both = [used.clone(), unused.clone()];
    refused(grad_norm(&grads, &both), &["grad_norm:", "parameter 1", "[3]", "no gradient"]);
    refused(clip_grad_norm(&mut grads, &both, 1.0), &["parameter 1", "no gradient"]);
    for wrong in [f32s(&[4]), zeros(&[3], DType::F64)] {
        grads.insert(&unused, wrong);
        refused(clip_grad_norm(&mut grads, &both, 1.0), &["parameter 1 is [3] F32, its gradient"]);
    }
    assert_eq!(numbers(grads.get(&used).expect("a gradient"))?, [200.0; 2], "something was changed");
    assert_eq!(grad_norm(&grads, &[])?, 0.0);
    Ok(())
}

/// A gradient that is a parameter, put there by hand, is read as it was before the step.
#[test]
fn parameters_as_gradients() -> Result<()> {
    let (a, b) = (Var::new(&[1f32, 2.0], &Device::Cpu)?, Var::new(&[3f32, -4.0], &Device::Cpu)?);
    let mut grads = GradStore::default();
    grads.insert(&a, b.as_tensor().clone());
    grads.insert(&b, b.as_detached_tensor());
    let mut adam = Adam::new(vec![a.clone(), b.clone()], AdamConfig { lr: 0.5, ..Default::default() })?;
    adam.step(&grads)?;
    for (var, right) in [(a, [0.5, 2.5]), (b, [2.5, -3.5])] {
        assert!(numbers(&var)?.iter().zip(right).all(|(x, right)| (x - right).abs() < 1e-6));
    }
    Ok(())
}

#[test]
fn ema_refuses_what_it_cannot_do() -> Result<()> {
    let param = Var::from_tensor(&f32s(&[2]))?;
    for config in [
        EmaConfig { max_decay: 1.5, ..Default::default() },
        EmaConfig { max_decay: f64::NAN, ..Default::default() },
        EmaConfig { min_decay: -0.1, ..Default::default() },
        EmaConfig { min_decay: 0.9, max_decay: 0.5, ..Default::default() },
        EmaConfig { inv_gamma: 0.0, ..Default::default() },
        EmaConfig { power: -1.0, ..Default::default() },
    ] {
        refused(Ema::new(vec![param.clone()], config), &["ema:"]);
    }
    refused(Ema::new(vec![Var::from_tensor(&zeros(&[2], DType::U8))?], EmaConfig::default()), &["U8"]);
    let mut ema = Ema::new(vec![param.clone(), Var::from_tensor(&f32s(&[3]))?], EmaConfig::default())?;
    ema.step()?;
    let mut state = ema.state()?;
    state.shadow[1] = f32s(&[4]);
    refused(ema.load_state(&state), &["parameter 1", "[3]", "state", "[4]"]);
    state.shadow[1] = zeros(&[3], DType::F64);
    refused(ema.load_state(&state), &["parameter 1", "F32", "F64"]);
    state.shadow.pop();
    refused(ema.load_state(&state), &["2 parameters", "got 1"]);
    let other = Var::from_tensor(&f32s(&[2]).ones_like()?)?;
    refused(ema.copy_to(&[other.clone(), param.clone()]), &["parameter 1", "[2]"]);
    refused(ema.copy_to(std::slice::from_ref(&other)), &["2 parameters", "got 1"]);
    assert_eq!((numbers(&other)?, ema.steps()), (vec![1.0; 2], 1), "something was changed");
    Ok(())
}

#[test]
fn a_networks_gradients_are_never_lost_without_a_word() -> Result<()> {
    let (x, weight) = (f32s(&[2, 3, 4, 4]), Var::from_tensor(&f32s(&[3, 3, 3, 3]))?);
    let forward = |weight: &Tensor| network([&x], |[x]| x.conv2d(weight, None, 1));
    let loss = forward(&weight)?.sum_all()?;
    refused(loss.backward(), &["kakusan_ops::backward"]);
    let loss = forward(&weight)?.sum_all()?;
    assert!(kakusan_ops::backward(&loss)?.get(&weight).is_some());
    refused(kakusan_ops::backward(&loss), &["second time"]);
    refused(forward(&(weight.as_tensor() * 2.0)?), &["computed from variables"]);
    let mut other = None;
    network([&x], |[x]| {
        other = Some(x.clone());
        x.silu()
    })?;
    refused(network([&x], |[x]| x.add(other.as_ref().expect("features"))), &["different networks"]);
    refused(network([&x], |_| Ok(other.clone().expect("features"))), &["another network"]);
    Ok(())
}

#[test]
fn layers_that_do_not_fit() {
    let (x, one) = (f32s(&[2, 6, 4, 4]), f32s(&[6]));
    refused(kakusan_ops::group_norm(&x, 4, &one, &one, 1e-5), &["6 channels", "4 groups"]);
    refused(kakusan_ops::group_norm(&x, 3, &f32s(&[5]), &one, 1e-5), &["weight [6]", "[5]"]);
    refused(kakusan_ops::group_norm(&x, 3, &one, &one, -1.0), &["eps", "-1"]);
    refused(kakusan_ops::attention(&x, &x, &x, 4), &["6 channels", "4 heads"]);
    refused(kakusan_ops::attention(&x, &f32s(&[2, 5, 4, 4]), &x, 2), &["do not fit"]);
    refused(kakusan_ops::linear(&x, &f32s(&[3, 5]), None), &["[out channels, 6]", "[3, 5]"]);
    refused(kakusan_ops::linear(&x, &f32s(&[3, 6]), Some(&one)), &["bias [3]", "[6]"]);
    refused(network([&x], |[x]| x.dropout(&f32s(&[2, 6, 4, 4]), 0.5)), &["U8"]);
    refused(network([&x], |[x]| x.scale_shift(&x)), &["[2, 12, 1, 1]", "[2, 6, 4, 4]"]);
    refused(kakusan_ops::fir_downsample2d(&f32s(&[1, 2, 1, 4])), &["1x4"]);
    refused(kakusan_ops::fir_upsample2d(&f32s(&[2, 4, 4])), &["[2, 4, 4]"]);
    refused(network([&x], |[x]| x.concat(&x.avg_pool2d()?)), &["concat", "[2, 6, 2, 2]"]);
}
