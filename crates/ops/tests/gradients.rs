//! Every gradient against finite differences, in f64, on contiguous and on strided input.

mod common;

use candle_core::{Result, Tensor, Var};
use common::{error, noise, numbers, strided};
use kakusan_ops::{
    Activation, ConvOptions, attention, conv2d, conv2d_silu, fir_downsample2d, fir_upsample2d, group_norm,
    group_norm_silu, huber_loss, l1_loss, linear, max_pool2d, mse_loss, network, silu, upsample_add,
    upsample_nearest2d,
};

/// Checks the gradient of `sum(op(args) * weights)` for each argument.
fn check(name: &str, shapes: &[&[usize]], op: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<()> {
    let args = shapes.iter().zip(1..).map(|(dims, seed)| noise(seed, dims)).collect::<Result<Vec<_>>>()?;
    let weights = noise(99, op(&args)?.dims())?;
    let value = |args: &[Tensor]| op(args)?.mul(&weights)?.sum_all();
    for view in [Ok, |x: Tensor| strided(&x)] as [fn(Tensor) -> Result<Tensor>; 2] {
        let vars = args.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
        let views = vars.iter().map(|var| view(var.as_tensor().clone())).collect::<Result<Vec<_>>>()?;
        let result = op(&views)?;
        assert!(error(&result, &op(&args)?)? == 0.0, "{name}: a strided input changes the result");
        // used twice, so that what an operation's gradient does to an earlier one is seen
        let grads =
            (value(&views)? + views.iter().map(|x| x.sum_all()).reduce(|a, b| a? + b?).unwrap()?)?.backward()?;
        for (i, var) in vars.iter().enumerate() {
            let gradient = grads.get(var).unwrap_or_else(|| panic!("{name}: argument {i} has no gradient"));
            assert!(error(gradient, &(differences(&args, i, &value)? + 1.0)?)? < 1e-7, "{name}: argument {i}");
        }
    }
    Ok(())
}

fn differences(args: &[Tensor], i: usize, value: &impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Tensor> {
    const STEP: f64 = 1e-5;
    let at = |place: usize, step: f64| {
        let mut moved = numbers(&args[i])?;
        moved[place] += step;
        let mut args = args.to_vec();
        args[i] = Tensor::from_vec(moved, args[i].shape(), args[i].device())?;
        value(&args)?.to_scalar::<f64>()
    };
    let slopes = (0..args[i].elem_count()).map(|place| Ok((at(place, STEP)? - at(place, -STEP)?) / (2.0 * STEP)));
    Tensor::from_vec(slopes.collect::<Result<Vec<_>>>()?, args[i].shape(), args[i].device())
}

#[test]
fn convolution() -> Result<()> {
    for (k, padding, h, w) in
        [(1, 0, 3, 4), (2, 1, 3, 3), (3, 0, 4, 3), (3, 1, 4, 5), (3, 2, 2, 3), (5, 2, 5, 4), (5, 4, 1, 2)]
    {
        let shapes: [&[usize]; 3] = [&[2, 3, h, w], &[2, 3, k, k], &[2]];
        check("conv2d", &shapes[..2], |a| conv2d(&a[0], &a[1], None, padding))?;
        check("conv2d with bias", &shapes, |a| conv2d(&a[0], &a[1], Some(&a[2]), padding))?;
        check("conv2d_silu", &shapes, |a| conv2d_silu(&a[0], &a[1], Some(&a[2]), padding))?;
    }
    Ok(())
}

#[test]
fn elementwise() -> Result<()> {
    check("silu", &[&[3, 5, 7]], |a| silu(&a[0]))?;
    let shapes: [&[usize]; 2] = [&[3, 5, 2], &[3, 5, 2]];
    check("mse_loss", &shapes, |a| mse_loss(&a[0], &a[1]))?;
    check("l1_loss", &shapes, |a| l1_loss(&a[0], &a[1]))?;
    check("huber_loss", &shapes, |a| huber_loss(&a[0], &a[1], 0.8))
}

#[test]
fn resampling() -> Result<()> {
    for (h, w) in [(2, 2), (4, 6), (5, 3)] {
        check("max_pool2d", &[&[2, 3, h, w]], |a| max_pool2d(&a[0]))?;
        check("upsample_nearest2d", &[&[2, 3, h, w]], |a| upsample_nearest2d(&a[0]))?;
        check("fir_downsample2d", &[&[2, 3, h, w]], |a| fir_downsample2d(&a[0]))?;
        check("fir_upsample2d", &[&[2, 3, h, w]], |a| fir_upsample2d(&a[0]))?;
        check("upsample_add", &[&[2, 3, h, w], &[2, 3, 2 * h, 2 * w]], |a| upsample_add(&a[0], &a[1]))?;
    }
    Ok(())
}

#[test]
fn strides_and_paddings() -> Result<()> {
    for (stride, padding) in [(2, [1, 1, 1, 1]), (2, [0, 1, 0, 1]), (3, [2, 0, 1, 2]), (1, [0, 2, 1, 0])] {
        let options = ConvOptions { stride, padding };
        let shapes: [&[usize]; 3] = [&[2, 3, 5, 4], &[2, 3, 3, 3], &[2]];
        check("conv2d", &shapes, |a| conv2d(&a[0], &a[1], Some(&a[2]), options))?;
    }
    Ok(())
}

#[test]
fn layers() -> Result<()> {
    let x: &[usize] = &[2, 6, 3, 2];
    check("group_norm", &[x, &[6], &[6]], |a| group_norm(&a[0], 3, &a[1], &a[2], 1e-5))?;
    check("group_norm_silu", &[x, &[6], &[6]], |a| group_norm_silu(&a[0], 2, &a[1], &a[2], 1e-5))?;
    check("attention", &[x, x, x], |a| attention(&a[0], &a[1], &a[2], 2))?;
    check("linear", &[x, &[4, 6], &[4]], |a| linear(&a[0], &a[1], Some(&a[2])))?;
    check("add", &[x, x], |a| network([&a[0], &a[1]], |[x, y]| x.add(&y)?.scale(0.5)?.add(&x)))?;
    check("concat", &[x, &[2, 1, 3, 2]], |a| network([&a[0], &a[1]], |[x, y]| x.concat(&y)))?;
    check("add_vector", &[x, &[2, 6, 1, 1]], |a| network([&a[0], &a[1]], |[x, v]| x.add_vector(&v)))?;
    for f in [Activation::Gelu, Activation::Mish, Activation::Relu] {
        check(&format!("{f:?}"), &[x], |a| network([&a[0]], |[x]| x.activate(f)))?;
    }
    check("scale_shift", &[x, &[2, 12, 1, 1]], |a| network([&a[0], &a[1]], |[x, v]| x.scale_shift(&v)))?;
    check("avg_pool2d", &[x], |a| network([&a[0]], |[x]| x.avg_pool2d()))
}
