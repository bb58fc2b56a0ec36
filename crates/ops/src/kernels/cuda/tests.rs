#![cfg(test)]

//! What every card is tested with: cases of sizes that nothing divides, the optimisers and the losses, each against the
//! reference in f64. `host` runs them without a device, in several ways; the last test here runs them on one.

use candle_core::{DType, Device, Result, Tensor, Var, bail};

use crate::kernels::reference::Reference;
use crate::kernels::{Backend, Parameter};
use crate::op::activation::Activation;
use crate::op::conv_shape::ConvOptions;
use crate::op::loss::Loss;
use crate::op::table::{Case, case, error, mask, noise};
use crate::optim::adam::{AdamConfig, Factors};
use crate::optim::sgd::SgdConfig;

const UNEVEN: ConvOptions = ConvOptions { stride: 2, padding: [0, 1, 0, 1] };
const LEFT: ConvOptions = ConvOptions { stride: 1, padding: [2, 0, 1, 2] };

/// Sizes of 1, sizes that no block, warp, tile or part divides, and sizes above each.
pub(crate) const SIZES: &[Case] = &[
    case("silu of one number", &[[1, 1, 1, 1]], &[], |x, _| x[0].silu()),
    case("silu of many", &[[3, 33, 7, 9]], &[], |x, _| x[0].silu()),
    case("gelu of many", &[[1, 5, 33, 7]], &[], |x, _| x[0].activate(Activation::Gelu)),
    case("add of many", &[[3, 33, 7, 9], [3, 33, 7, 9]], &[], |x, _| x[0].add(&x[1])),
    case("add_vector to a pixel", &[[3, 5, 1, 1], [3, 5, 1, 1]], &[], |x, _| x[0].add_vector(&x[1])),
    case("add_vector to many pixels", &[[2, 33, 17, 31], [2, 33, 1, 1]], &[], |x, _| x[0].add_vector(&x[1])),
    case("add_vector to one channel", &[[5, 1, 33, 7], [5, 1, 1, 1]], &[], |x, _| x[0].add_vector(&x[1])),
    case("scale_shift of many", &[[2, 33, 7, 50], [2, 66, 1, 1]], &[], |x, _| x[0].scale_shift(&x[1])),
    case("concat of few", &[[1, 1, 7, 1], [1, 33, 7, 1]], &[], |x, _| x[0].concat(&x[1])),
    case("concat of many", &[[3, 33, 7, 5], [3, 5, 7, 5]], &[], |x, _| x[0].concat(&x[1])),
    case("dropout of many", &[[2, 33, 7, 5]], &[], |x, _| x[0].dropout(&mask(&x[0].dims())?, 0.3)),
    case("avg_pool2d of a block", &[[1, 1, 2, 2]], &[], |x, _| x[0].avg_pool2d()),
    case("avg_pool2d of many", &[[3, 33, 7, 9]], &[], |x, _| x[0].avg_pool2d()),
    case("max_pool2d of a block", &[[1, 1, 2, 3]], &[], |x, _| x[0].max_pool2d()),
    case("max_pool2d of many", &[[3, 5, 7, 9]], &[], |x, _| x[0].max_pool2d()),
    case("upsample of a pixel", &[[1, 1, 1, 1]], &[], |x, _| x[0].upsample_nearest2d()),
    case("upsample of many", &[[3, 33, 7, 1], [3, 33, 14, 2]], &[], |x, _| x[0].upsample_add(&x[1])),
    case("fir_downsample2d of many", &[[3, 33, 7, 9]], &[], |x, _| x[0].fir_downsample2d()),
    case("fir_downsample2d of a block", &[[1, 1, 2, 3]], &[], |x, _| x[0].fir_downsample2d()),
    case("fir_upsample2d of many", &[[3, 33, 7, 9]], &[], |x, _| x[0].fir_upsample2d()),
    case("fir_upsample2d of a pixel", &[[1, 1, 1, 1]], &[], |x, _| x[0].fir_upsample2d()),
    case("conv2d of one channel", &[[1, 1, 7, 7]], &[&[33, 1, 5, 5], &[33]], |x, w| {
        x[0].conv2d_silu(&w[0], Some(&w[1]), 2)
    }),
    case("conv2d of odd channels", &[[2, 33, 7, 5]], &[&[3, 33, 3, 3], &[3]], |x, w| {
        x[0].conv2d_silu(&w[0], Some(&w[1]), 1)
    }),
    case("conv2d uneven", &[[2, 5, 7, 9]], &[&[33, 5, 3, 3], &[33]], |x, w| x[0].conv2d(&w[0], Some(&w[1]), UNEVEN)),
    case("conv2d uneven and even", &[[1, 3, 8, 8]], &[&[5, 3, 3, 3]], |x, w| x[0].conv2d(&w[0], None, UNEVEN)),
    case("conv2d to the left", &[[2, 3, 7, 5]], &[&[5, 3, 3, 3]], |x, w| x[0].conv2d(&w[0], None, LEFT)),
    case("conv2d of a large pixel", &[[1, 33, 17, 33]], &[&[35, 33, 1, 1]], |x, w| x[0].conv2d(&w[0], None, 0)),
    case("group_norm of a pixel", &[[3, 33, 1, 1]], &[&[33], &[33]], |x, w| x[0].group_norm(3, &w[0], &w[1], 1e-5)),
    case("group_norm of one channel", &[[3, 1, 7, 5]], &[&[1], &[1]], |x, w| x[0].group_norm(1, &w[0], &w[1], 1e-5)),
    case("group_norm of channels", &[[2, 33, 7, 5]], &[&[33], &[33]], |x, w| x[0].group_norm(33, &w[0], &w[1], 1e-5)),
    case("group_norm of many pixels", &[[2, 66, 17, 31]], &[&[66], &[66]], |x, w| {
        x[0].group_norm_silu(2, &w[0], &w[1], 1e-5)
    }),
    case("attention of one token", &[[1, 5, 1, 1]; 3], &[], |x, _| x[0].attention(&x[1], &x[2], 5)),
    case("attention of many tokens", &[[1, 33, 5, 7]; 3], &[], |x, _| x[0].attention(&x[1], &x[2], 1)),
    case("attention of many heads", &[[2, 33, 3, 11]; 3], &[], |x, _| x[0].attention(&x[1], &x[2], 11)),
    case("attention to many keys", &[[1, 3, 1, 1], [1, 3, 7, 9], [1, 3, 7, 9]], &[], |x, _| {
        x[0].attention(&x[1], &x[2], 1)
    }),
    case("linear of one row", &[[1, 33, 1, 1]], &[&[5, 33], &[5]], |x, w| x[0].linear(&w[0], Some(&w[1]))),
    case("linear of many rows", &[[2, 3, 17, 31]], &[&[33, 3], &[33]], |x, w| x[0].linear(&w[0], Some(&w[1]))),
];

pub(crate) fn f32s(seed: u64, dims: &[usize]) -> Result<Tensor> {
    noise(seed, dims)?.to_dtype(DType::F32)
}

/// Sizes of tensors whose pieces begin and end in every way.
const PARAMS: [&[usize]; 6] = [&[1], &[3, 5], &[1024], &[1025], &[33, 70], &[4096]];

/// Parameters or gradients of these sizes in f32 on a device, and the same in f64 on the CPU.
pub(crate) fn tensors(seed: u64, device: &Device) -> Result<[Vec<Tensor>; 2]> {
    let all = PARAMS.iter().zip(seed..).map(|(dims, seed)| f32s(seed, dims)).collect::<Result<Vec<_>>>()?;
    let wide = all.iter().map(|x| x.to_dtype(DType::F64)).collect::<Result<_>>()?;
    Ok([all.iter().map(|x| x.to_device(device)).collect::<Result<_>>()?, wide])
}

pub(crate) fn vars(tensors: &[Tensor]) -> Result<Vec<Var>> {
    tensors.iter().map(Var::from_tensor).collect()
}

/// Parameters and states after three steps of Adam.
fn adam<B: Backend>(params: &[Tensor], grads: &[Tensor]) -> Result<Vec<Tensor>> {
    let vars = vars(params)?;
    let zeros = |var: &Var| B::state(&var.as_tensor().zeros_like()?);
    let mut moments = vars.iter().map(|var| Ok([zeros(var)?, zeros(var)?])).collect::<Result<Vec<_>>>()?;
    for step in 1..=3 {
        let config = AdamConfig { lr: 0.1, weight_decay: 0.1, ..AdamConfig::default() };
        let all = vars.iter().zip(grads).zip(&mut moments);
        let all = all.map(|((var, grad), [m, v])| Parameter::<B, 2> { var, grad, states: [m, v] });
        B::adam(all.collect(), &Factors::new(&config, step, 0.5))?;
    }
    let mut after = vec![];
    for (var, [m, v]) in vars.iter().zip(&moments) {
        after.extend([var.as_detached_tensor(), B::state_tensor(m, var)?, B::state_tensor(v, var)?]);
    }
    Ok(after)
}

/// Parameters and momenta after three steps of gradient descent, then averages of the parameters.
fn descent<B: Backend>(params: &[Tensor], grads: &[Tensor], momentum: f64) -> Result<Vec<Tensor>> {
    let vars = vars(params)?;
    let zeros = |var: &Var| B::state(&var.as_tensor().zeros_like()?);
    let mut momenta = vars.iter().map(zeros).collect::<Result<Vec<_>>>()?;
    let mut averages = vars.iter().map(|var| B::state(var)).collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        let config = SgdConfig { lr: 0.1, momentum, weight_decay: 0.1 };
        let all = vars.iter().zip(grads).zip(&mut momenta);
        let all = all.map(|((var, grad), state)| (var, grad, (momentum > 0.0).then_some(state)));
        B::sgd(all.collect(), &config, 0.5)?;
        B::average(vars.iter().zip(&mut averages).collect(), 0.3)?;
    }
    let mut after = vec![];
    for ((var, momentum), average) in vars.iter().zip(&momenta).zip(&averages) {
        after.extend([var.as_detached_tensor(), B::state_tensor(momentum, var)?, B::state_tensor(average, var)?]);
    }
    Ok(after)
}

/// Compares the optimisers, and the norm of gradients, with the reference in f64.
pub(crate) fn check_optimisers<B: Backend>(device: &Device) -> Result<()> {
    let [[params, wide_params], [grads, wide_grads]] = [tensors(1, device)?, tensors(20, device)?];
    let mut pairs = vec![(adam::<B>(&params, &grads)?, adam::<Reference>(&wide_params, &wide_grads)?)];
    for momentum in [0.0, 0.9] {
        let got = descent::<B>(&params, &grads, momentum)?;
        pairs.push((got, descent::<Reference>(&wide_params, &wide_grads, momentum)?));
    }
    for (got, expected) in pairs.iter().flat_map(|(got, expected)| got.iter().zip(expected)) {
        let error = error(&got.to_device(&Device::Cpu)?, expected)?;
        if error > 1e-6 {
            bail!("a step of {:?} is off by {error:.1e}", got.dims())
        }
    }
    let references: Vec<&Tensor> = grads.iter().collect();
    let sum = B::sum_of_squares(&references)?;
    let expected: f64 = wide_grads.iter().map(|x| x.sqr()?.sum_all()?.to_scalar::<f64>()).sum::<Result<f64>>()?;
    if (sum - expected).abs() > 1e-12 * expected {
        bail!("the sum of squares is {sum}, not {expected}")
    }
    Ok(())
}

/// Value and gradients of a loss, times 3 so that the gradient that comes back is not 1.
fn loss<B: Backend>(loss: Loss, [a, b]: [&Tensor; 2]) -> Result<Vec<Tensor>> {
    let [a, b] = [Var::from_tensor(a)?, Var::from_tensor(b)?];
    let value = B::loss(loss, &a, &b)?;
    let gradients = (&value * 3.0)?.backward()?;
    Ok(vec![value, gradients.get(&a).expect("a gradient").clone(), gradients.get(&b).expect("a gradient").clone()])
}

/// Compares values and gradients of the losses with the reference in f64.
pub(crate) fn check_losses<B: Backend>(device: &Device) -> Result<()> {
    for dims in [&[1usize][..], &[2, 3], &[1023], &[33, 70], &[5, 1024]] {
        let (a, b) = (f32s(1, dims)?, f32s(2, dims)?);
        // of equal numbers, too, where |d| has no slope
        for (kind, b) in [Loss::Squared, Loss::Absolute, Loss::Huber(0.7)].map(|kind| [(kind, &b), (kind, &a)]).concat()
        {
            let expected = loss::<Reference>(kind, [&a.to_dtype(DType::F64)?, &b.to_dtype(DType::F64)?])?;
            let got = loss::<B>(kind, [&a.to_device(device)?, &b.to_device(device)?])?;
            for (got, expected) in got.iter().zip(&expected) {
                let error = error(&got.to_device(&Device::Cpu)?, expected)?;
                if error > 1e-6 {
                    bail!("{kind:?} of {dims:?} is off by {error:.1e}")
                }
            }
        }
    }
    Ok(())
}

/// On the first card of this machine. `cargo test` shows it as ignored, because few machines have one.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a CUDA device"]
fn a_card_computes_what_the_host_does() -> Result<()> {
    use crate::kernels::BackendKind;
    use crate::kernels::cuda::Cuda;
    use crate::op::table::TABLE;

    let device = crate::open_cuda(0)?;
    for case in SIZES.iter().chain(TABLE) {
        let (arguments, reference) = case.reference()?;
        let results = case.check(BackendKind::Cuda, &device, &arguments, &reference)?;
        let again = case.check(BackendKind::Cuda, &device, &arguments, &reference)?;
        for (first, second) in results.iter().zip(&again) {
            assert_eq!(error(first, second)?, 0.0, "{}: two runs differ", case.name);
        }
    }
    check_optimisers::<Cuda<super::device::Device>>(&device)?;
    check_losses::<Cuda<super::device::Device>>(&device)
}
