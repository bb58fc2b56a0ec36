//! The f32 kernels against the f64 definitions, on many shapes.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{error, noise, numbers, strided};
use kakusan_ops::{
    Activation, ConvOptions, attention, conv2d, conv2d_silu, group_norm, group_norm_silu, huber_loss, l1_loss, linear,
    max_pool2d, mse_loss, network, silu, upsample_add, upsample_nearest2d,
};

/// Value and gradients in f32 and f64; the largest error of any of them.
fn compare(
    args: &[Tensor],
    view: impl Fn(&Tensor) -> Result<Tensor>,
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<f64> {
    let run = |dtype: DType| -> Result<Vec<Tensor>> {
        let vars = args.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype)?)).collect::<Result<Vec<_>>>()?;
        let views = vars.iter().map(|x| view(x)).collect::<Result<Vec<_>>>()?;
        let result = op(&views)?;
        let weights = noise(77, result.dims())?.to_dtype(dtype)?;
        let grads = result.mul(&weights)?.sum_all()?.backward()?;
        let gradients = vars.iter().map(|var| grads.get(var).expect("a gradient").clone());
        Ok([result].into_iter().chain(gradients).collect())
    };
    let errors =
        run(DType::F32)?.iter().zip(&run(DType::F64)?).map(|(a, b)| error(a, b)).collect::<Result<Vec<_>>>()?;
    Ok(errors.into_iter().fold(0.0, f64::max))
}

fn convolution(
    b: usize,
    [ci, co]: [usize; 2],
    [h, w]: [usize; 2],
    k: usize,
    options: impl Into<ConvOptions>,
) -> Result<()> {
    let options = options.into();
    let scale = 1.0 / ((ci * k * k) as f64).sqrt();
    let args = [noise(1, &[b, ci, h, w])?, (noise(2, &[co, ci, k, k])? * scale)?, noise(3, &[co])?];
    // f32 numbers, so that both compute from the same
    let args = args.map(|x| x.to_dtype(DType::F32).expect("f32"));
    let plain = compare(&args, |x| Ok(x.clone()), |a| conv2d(&a[0], &a[1], Some(&a[2]), options))?;
    let fused = compare(&args, strided, |a| conv2d_silu(&a[0], &a[1], Some(&a[2]), options))?;
    // whole vectors of channels, 5x5 or 3x3: Winograd's method
    let tolerance = if (k == 5 || k == 3) && ci % 16 == 0 && co % 16 == 0 { 2e-5 } else { 3e-6 };
    for error in [plain, fused] {
        assert!(error < tolerance, "{b}x{ci}x{h}x{w} to {co} by {k}x{k}, {options:?}: {error:.1e}");
    }
    Ok(())
}

#[test]
fn convolution_of_all_channel_counts() -> Result<()> {
    const CHANNELS: [usize; 9] = [1, 2, 3, 16, 17, 31, 32, 33, 64];
    for (i, ci) in CHANNELS.into_iter().enumerate() {
        for (j, co) in CHANNELS.into_iter().enumerate() {
            let k = [1, 3, 5][(i + j) % 3];
            convolution(2, [ci, co], [7, 9], k, (i + 2 * j) % k)?;
        }
    }
    Ok(())
}

#[test]
fn convolution_of_all_sizes() -> Result<()> {
    const SIZES: [usize; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 21, 28, 33, 40];
    for (i, h) in SIZES.into_iter().enumerate() {
        for (k, padding) in [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 2), (5, 0), (5, 2), (5, 4)] {
            let w = SIZES[(i * 7 + k * 5 + padding) % SIZES.len()];
            if h.min(w) + 2 * padding >= k {
                convolution(1 + i % 3, [3, 5], [h, w], k, padding)?;
                convolution(1, [5, 18], [h, w], k, padding)?;
            }
        }
    }
    Ok(())
}

#[test]
fn convolution_by_winograd() -> Result<()> {
    for (k, padding) in [(3, 0), (3, 1), (3, 2), (5, 0), (5, 1), (5, 2), (5, 4)] {
        for (i, [h, w]) in [[4, 4], [7, 7], [8, 5], [14, 14], [13, 18], [32, 32]].into_iter().enumerate() {
            let channels = [[16, 16], [32, 16], [16, 48], [64, 32], [48, 80], [16, 64]][i];
            convolution(1 + 2 * (i % 3), channels, [h + k - 1, w + k - 1], k, padding)?;
        }
    }
    Ok(())
}

#[test]
fn convolution_of_all_strides_and_paddings() -> Result<()> {
    const SIZES: [usize; 8] = [3, 4, 5, 7, 8, 14, 15, 28];
    const CHANNELS: [[usize; 2]; 6] = [[2, 5], [3, 16], [16, 3], [32, 32], [17, 33], [64, 64]];
    for stride in [1, 2, 3] {
        for (i, padding) in
            [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0], [2, 0, 1, 2], [0, 2, 2, 1]].into_iter().enumerate()
        {
            for (j, channels) in CHANNELS.into_iter().enumerate() {
                let size = |at: usize| SIZES[(i * 5 + j * 3 + stride + at) % SIZES.len()];
                convolution(1 + (i + j) % 3, channels, [size(0), size(j)], 3, ConvOptions { stride, padding })?;
                convolution(2, channels, [size(1), size(2)], 1, ConvOptions { stride, padding: [0; 4] })?;
            }
        }
    }
    Ok(())
}

#[test]
fn convolution_of_the_tutorial() -> Result<()> {
    for (channels, side, batch) in
        [([1, 32], 28, 9), ([32, 64], 14, 5), ([64, 64], 7, 18), ([64, 32], 14, 3), ([32, 1], 28, 2)]
    {
        convolution(batch, channels, [side, side], 5, 2)?;
    }
    Ok(())
}

#[test]
fn the_others() -> Result<()> {
    for dims in [[1, 1, 2, 2], [2, 3, 5, 7], [3, 17, 14, 14], [2, 33, 40, 28], [40, 32, 28, 28]] {
        let [b, c, h, w] = dims;
        let x = noise(1, &dims)?.to_dtype(DType::F32)?;
        let y = noise(2, &dims)?.to_dtype(DType::F32)?;
        let large = noise(3, &[b, c, 2 * h, 2 * w])?.to_dtype(DType::F32)?;
        for view in [|x: &Tensor| Ok(x.clone()), strided] as [fn(&Tensor) -> Result<Tensor>; 2] {
            let errors = [
                compare(std::slice::from_ref(&x), view, |a| silu(&(&a[0] * 4.0)?))?,
                compare(std::slice::from_ref(&x), view, |a| max_pool2d(&a[0]))?,
                compare(std::slice::from_ref(&x), view, |a| upsample_nearest2d(&a[0]))?,
                compare(&[x.clone(), large.clone()], view, |a| upsample_add(&a[0], &a[1]))?,
                compare(&[x.clone(), y.clone()], view, |a| mse_loss(&a[0], &a[1]))?,
                compare(&[x.clone(), y.clone()], view, |a| l1_loss(&a[0], &a[1]))?,
                compare(&[x.clone(), y.clone()], view, |a| huber_loss(&a[0], &a[1], 0.7))?,
            ];
            assert!(errors.iter().all(|&error| error < 1e-6), "{dims:?}: {errors:?}");
        }
    }
    Ok(())
}

#[test]
fn a_broadcast_input_is_read_as_what_it_stands_for() -> Result<()> {
    let x = noise(1, &[1, 3, 1, 8])?.to_dtype(DType::F32)?;
    let weight = noise(2, &[1, 1, 3, 3])?.to_dtype(DType::F32)?;
    let (wide, weights) = (x.broadcast_as((4, 3, 8, 8))?, weight.broadcast_as((5, 3, 3, 3))?);
    let got = conv2d(&wide, &weights, None, 1)?;
    assert_eq!(error(&got, &conv2d(&wide.force_contiguous()?, &weights.force_contiguous()?, None, 1)?)?, 0.0);
    assert_eq!(error(&max_pool2d(&wide)?, &max_pool2d(&wide.force_contiguous()?)?)?, 0.0);
    Ok(())
}

#[test]
fn group_normalisation() -> Result<()> {
    for ([b, c, h, w], groups) in [
        ([2, 4, 3, 3], 4),
        ([3, 6, 5, 7], 3),
        ([1, 17, 4, 4], 1),
        ([2, 32, 14, 14], 32),
        ([2, 64, 7, 7], 32),
        ([1, 96, 8, 8], 8),
    ] {
        let args = [noise(1, &[b, c, h, w])?, (noise(2, &[c])? + 1.0)?, noise(3, &[c])?];
        let args = args.map(|x| x.to_dtype(DType::F32).expect("f32"));
        for view in [|x: &Tensor| Ok(x.clone()), strided] as [fn(&Tensor) -> Result<Tensor>; 2] {
            let plain = compare(&args, view, |a| group_norm(&a[0], groups, &a[1], &a[2], 1e-5))?;
            let fused = compare(&args, view, |a| group_norm_silu(&a[0], groups, &a[1], &a[2], 1e-6))?;
            assert!(plain < 2e-6 && fused < 2e-6, "{c}x{h}x{w} in {groups}: {plain:.1e}, {fused:.1e}");
        }
    }
    Ok(())
}

#[test]
fn attention_of_all_heads() -> Result<()> {
    for ([b, c, h, w], heads) in [([2, 4, 2, 2], 1), ([1, 24, 5, 3], 3), ([2, 64, 7, 7], 8), ([1, 128, 16, 16], 1)] {
        let args =
            [1, 2, 3].map(|seed| noise(seed, &[b, c, h, w]).and_then(|x| x.to_dtype(DType::F32)).expect("noise"));
        let error = compare(&args, strided, |a| attention(&a[0], &a[1], &a[2], heads))?;
        assert!(error < 3e-6, "{c}x{h}x{w}, {heads} heads: {error:.1e}");
    }
    Ok(())
}

#[test]
fn linear_layers() -> Result<()> {
    for ([b, i, h, w], o) in [([1, 3, 1, 1], 5), ([4, 32, 1, 1], 128), ([2, 17, 3, 5], 33), ([3, 64, 7, 7], 64)] {
        let args = [noise(1, &[b, i, h, w])?, (noise(2, &[o, i])? / (i as f64).sqrt())?, noise(3, &[o])?];
        let args = args.map(|x| x.to_dtype(DType::F32).expect("f32"));
        let biased = compare(&args, strided, |a| linear(&a[0], &a[1], Some(&a[2])))?;
        let bare = compare(&args[..2], strided, |a| linear(&a[0], &a[1], None))?;
        assert!(biased < 2e-6 && bare < 2e-6, "{i} to {o}: {biased:.1e}, {bare:.1e}");
    }
    Ok(())
}

#[test]
fn what_holds_a_network_together() -> Result<()> {
    let f32s = |seed, dims: &[usize]| noise(seed, dims)?.to_dtype(DType::F32);
    for [b, c, h, w] in [[1, 1, 2, 2], [2, 3, 5, 4], [3, 32, 8, 8], [2, 17, 7, 9]] {
        let (x, y) = (f32s(1, &[b, c, h, w])?, f32s(2, &[b, c, h, w])?);
        let (z, v) = (f32s(3, &[b, c + 2, h, w])?, f32s(4, &[b, c, 1, 1])?);
        let both = f32s(6, &[b, 2 * c, 1, 1])?;
        let mask = noise(5, &[b, c, h, w])?.gt(0.0)?;
        let errors = [
            compare(&[x.clone(), y], strided, |a| network([&a[0], &a[1]], |[x, y]| x.add(&y)?.add(&x)?.scale(0.7)))?,
            compare(&[x.clone(), z], strided, |a| network([&a[0], &a[1]], |[x, z]| x.concat(&z)?.concat(&x)))?,
            compare(&[x.clone(), v], strided, |a| network([&a[0], &a[1]], |[x, v]| x.add_vector(&v)))?,
            compare(std::slice::from_ref(&x), strided, |a| network([&a[0]], |[x]| x.activate(Activation::Gelu)))?,
            compare(std::slice::from_ref(&x), strided, |a| network([&a[0]], |[x]| x.activate(Activation::Mish)))?,
            compare(std::slice::from_ref(&x), strided, |a| network([&a[0]], |[x]| x.activate(Activation::Relu)))?,
            compare(&[x.clone(), both], strided, |a| network([&a[0], &a[1]], |[x, v]| x.scale_shift(&v)))?,
            compare(std::slice::from_ref(&x), strided, |a| network([&a[0]], |[x]| x.avg_pool2d()))?,
            compare(std::slice::from_ref(&x), strided, |a| network([&a[0]], |[x]| x.fir_downsample2d()))?,
            compare(std::slice::from_ref(&x), strided, |a| network([&a[0]], |[x]| x.fir_upsample2d()))?,
            compare(&[x], strided, |a| network([&a[0]], |[x]| x.dropout(&mask, 0.3)))?,
        ];
        assert!(errors.iter().all(|&error| error < 1e-6), "{b}x{c}x{h}x{w}: {errors:?}");
    }
    Ok(())
}

/// Features that several operations use, with gradients through convolutions, against f64.
#[test]
fn a_residual_block() -> Result<()> {
    let shapes: [&[usize]; 3] = [&[3, 32, 8, 8], &[32, 32, 3, 3], &[32]];
    let args =
        [0, 1, 2].map(|i| noise(i as u64, shapes[i]).and_then(|x| (x * 0.1)?.to_dtype(DType::F32)).expect("noise"));
    let error = compare(&args, strided, |a| {
        // weights that candle computed have to be arguments of the operation itself
        let h = group_norm_silu(&a[0], 8, &a[2], &a[2], 1e-5)?;
        let h = conv2d_silu(&h, &a[1], Some(&a[2]), 1)?;
        (conv2d(&h, &a[1], None, 1)? + &a[0])? * 0.5
    })?;
    assert!(error < 2e-5, "{error:.1e}");
    Ok(())
}

#[test]
fn nan_is_pooled_alike() -> Result<()> {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let x = Tensor::new(&[[[[1.0, nan, nan, 2.0, -inf, -inf], [3.0, 4.0, 5.0, nan, -inf, -inf]]]], &Device::Cpu)?;
    let run = |dtype: DType| -> Result<[Vec<f64>; 2]> {
        let x = Var::from_tensor(&x.to_dtype(dtype)?)?;
        let y = max_pool2d(&x)?;
        let gradients = y.sum_all()?.backward()?;
        Ok([numbers(&y)?, numbers(gradients.get(&x).expect("a gradient"))?])
    };
    let bits = |both: [Vec<f64>; 2]| {
        both.concat().into_iter().map(|x| if x.is_nan() { None } else { Some(x) }).collect::<Vec<_>>()
    };
    assert_eq!(bits(run(DType::F32)?), bits(run(DType::F64)?));
    Ok(())
}
