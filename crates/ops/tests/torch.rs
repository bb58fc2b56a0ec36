//! Values and gradients against PyTorch's, written by tests/golden/ops.py.

mod common;

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor, Var};
use common::{error, limit_vectors, numbers, strided};
use kakusan_ops::{
    Activation, Adam, AdamConfig, ConvOptions, attention, conv2d, conv2d_silu, fir_downsample2d, fir_upsample2d,
    group_norm, group_norm_silu, huber_loss, l1_loss, linear, max_pool2d, mse_loss, network, silu, upsample_nearest2d,
};

fn golden() -> Result<HashMap<String, Tensor>> {
    limit_vectors();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/ops.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu)
}

/// Runs one case on contiguous and on strided arguments; `same` judges (ours, torch's).
fn case(
    golden: &HashMap<String, Tensor>,
    name: &str,
    arguments: &[&str],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    same: impl Fn(&Tensor, &Tensor) -> Result<bool>,
) -> Result<()> {
    let get = |key: &str| &golden[&format!("{name}.{key}")];
    for view in [|x: &Tensor| Ok(x.clone()), strided] as [fn(&Tensor) -> Result<Tensor>; 2] {
        let vars = arguments.iter().map(|key| Var::from_tensor(get(key))).collect::<Result<Vec<_>>>()?;
        let y = op(&vars.iter().map(|var| view(var)).collect::<Result<Vec<_>>>()?)?;
        assert!(same(&y, get("y"))?, "{name}: the value");
        let grads = y.mul(get("g"))?.sum_all()?.backward()?;
        for (var, key) in vars.iter().zip(arguments) {
            let gradient = grads.get(var).expect("a gradient");
            assert!(same(gradient, get(&format!("d_{key}")))?, "{name}: the gradient of {key}");
        }
    }
    Ok(())
}

fn close(tolerance: f64) -> impl Fn(&Tensor, &Tensor) -> Result<bool> {
    move |ours, torch| Ok(error(ours, torch)? < tolerance)
}

/// The same element by element: NaN where torch has NaN, infinities alike, zero where torch is below the normal range.
fn alike(ours: &Tensor, torch: &Tensor) -> Result<bool> {
    let like = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 * b.abs() + 1e-35;
    Ok(numbers(ours)?.iter().zip(&numbers(torch)?).all(like))
}

#[test]
fn convolution() -> Result<()> {
    let golden = golden()?;
    let cases =
        [("conv_first", 2), ("conv_inner", 2), ("conv_last", 2), ("conv_3x3", 1), ("conv_wide", 2), ("conv_1x1", 0)];
    for (name, padding) in cases {
        let arguments = ["x", "weight", "bias"];
        case(&golden, name, &arguments, |a| conv2d(&a[0], &a[1], Some(&a[2]), padding), close(2e-6))?;
        let fused = |a: &[Tensor]| conv2d_silu(&a[0], &a[1], Some(&a[2]), padding);
        case(&golden, &format!("{name}_silu"), &arguments, fused, close(2e-6))?;
    }
    Ok(())
}

#[test]
fn pooling_with_ties_and_nan() -> Result<()> {
    let golden = golden()?;
    for name in ["max_pool", "max_pool_noise"] {
        case(&golden, name, &["x"], |a| max_pool2d(&a[0]), |a, b| Ok(error(a, b)? == 0.0))?;
    }
    case(&golden, "max_pool_special", &["x"], |a| max_pool2d(&a[0]), alike)
}

#[test]
fn upsampling() -> Result<()> {
    case(&golden()?, "upsample", &["x"], |a| upsample_nearest2d(&a[0]), close(1e-6))
}

#[test]
fn smooth_resampling() -> Result<()> {
    case(&golden()?, "fir_down", &["x"], |a| fir_downsample2d(&a[0]), close(1e-6))?;
    case(&golden()?, "fir_up", &["x"], |a| fir_upsample2d(&a[0]), close(1e-6))
}

#[test]
fn a_scale_and_a_shift() -> Result<()> {
    let op = |a: &[Tensor]| network([&a[0], &a[1]], |[x, vector]| x.scale_shift(&vector));
    case(&golden()?, "scale_shift", &["x", "vector"], op, close(1e-6))
}

#[test]
fn activations() -> Result<()> {
    for (name, f) in [("gelu", Activation::Gelu), ("mish", Activation::Mish), ("relu", Activation::Relu)] {
        case(
            &golden()?,
            name,
            &["x"],
            |a| network([&a[0]], |[x]| x.activate(f)),
            |a, b| {
                // torch's own gelu cancels where it is small
                let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 2e-6 * b.abs() + 1e-6;
                Ok(numbers(a)?.iter().zip(&numbers(b)?).all(near))
            },
        )?;
    }
    Ok(())
}

#[test]
fn silu_and_its_extremes() -> Result<()> {
    let golden = golden()?;
    case(&golden, "silu", &["x"], |a| silu(&a[0]), close(3e-7))?;
    case(&golden, "silu", &["x"], |a| silu(&a[0]), alike)?;
    case(&golden, "silu_special", &["x"], |a| silu(&a[0]), alike)
}

#[test]
fn losses() -> Result<()> {
    let (golden, arguments) = (golden()?, ["x", "target"]);
    case(&golden, "mse", &arguments, |a| mse_loss(&a[0], &a[1]), close(5e-7))?;
    case(&golden, "l1", &arguments, |a| l1_loss(&a[0], &a[1]), close(5e-7))?;
    case(&golden, "l1_special", &arguments, |a| l1_loss(&a[0], &a[1]), alike)?;
    for (name, delta) in [("huber", 1.0), ("huber_narrow", 0.3)] {
        case(&golden, name, &arguments, |a| huber_loss(&a[0], &a[1], delta), close(5e-7))?;
    }
    case(&golden, "huber_special", &arguments, |a| huber_loss(&a[0], &a[1], 2.0), alike)
}

#[test]
fn adam_over_20_steps_saved_and_restored_on_the_way() -> Result<()> {
    let golden = golden()?;
    let params = (0..2).map(|i| Var::from_tensor(&golden[&format!("adam.{i}.start")])).collect::<Result<Vec<_>>>()?;
    let config = AdamConfig { lr: 3e-3, ..AdamConfig::default() };
    let mut adam = Adam::new(params.clone(), config)?;
    for step in 0..20 {
        // the gradient of sum(p g) is g
        let term = |(i, p): (usize, &Var)| p.mul(&golden[&format!("adam.{i}.grad.{step}")])?.sum_all();
        let loss = params.iter().enumerate().map(term).reduce(|a, b| a? + b?).expect("two parameters")?;
        adam.step(&loss.backward()?)?;
        for (i, param) in params.iter().enumerate() {
            if let Some(after) = golden.get(&format!("adam.{i}.after.{step}")) {
                assert!(error(param, after)? < 2e-7, "parameter {i} after step {step}");
            }
        }
        if step == 12 {
            let state = adam.state()?;
            adam = Adam::new(params.clone(), config)?;
            adam.load_state(&state)?;
        }
    }
    let state = adam.state()?;
    assert_eq!(state.steps, 20);
    for (i, (m, v)) in state.moments.iter().enumerate() {
        assert!(error(m, &golden[&format!("adam.{i}.exp_avg")])? < 5e-7, "exp_avg of {i}");
        assert!(error(v, &golden[&format!("adam.{i}.exp_avg_sq")])? < 5e-7, "exp_avg_sq of {i}");
    }
    Ok(())
}

#[test]
fn strides_and_paddings() -> Result<()> {
    let golden = golden()?;
    let cases =
        [("conv_stride", 2, [1, 1, 1, 1]), ("conv_downsample", 2, [0, 1, 0, 1]), ("conv_skew", 1, [2, 0, 1, 2])];
    for (name, stride, padding) in cases {
        let options = ConvOptions { stride, padding };
        let op = |a: &[Tensor]| conv2d(&a[0], &a[1], Some(&a[2]), options);
        case(&golden, name, &["x", "weight", "bias"], op, close(1e-5))?; // Winograd's method
    }
    Ok(())
}

#[test]
fn layers_of_unets() -> Result<()> {
    let (golden, weighted) = (golden()?, ["x", "weight", "bias"]);
    case(&golden, "group_norm", &weighted, |a| group_norm(&a[0], 4, &a[1], &a[2], 1e-5), close(1e-6))?;
    case(&golden, "group_norm_silu", &weighted, |a| group_norm_silu(&a[0], 2, &a[1], &a[2], 1e-6), close(1e-6))?;
    case(&golden, "linear", &weighted, |a| linear(&a[0], &a[1], Some(&a[2])), close(1e-6))?;
    case(&golden, "attention", &["q", "k", "v"], |a| attention(&a[0], &a[1], &a[2], 2), close(1e-6))
}
