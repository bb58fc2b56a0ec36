#![cfg(test)]

//! The kernels on the host in several orders of threads, what is not finite, nothing at all; and faults that the tests
//! have to see.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::super::Cuda;
use super::super::buffer::{Buffer, Rows};
use super::super::card::Address;
use super::super::tests::{SIZES, check_losses, check_optimisers, f32s, tensors, vars};
use super::library::Library;
use super::{HostCard, Order};
use crate::backward::backward;
use crate::checkpoint::checkpoint;
use crate::features::Features;
use crate::kernels::{Backend, BackendKind};
use crate::network::operation_on;
use crate::op::activation::Activation;
use crate::op::conv_shape::ConvOptions;
use crate::op::table::{Case, TABLE, error};

const ORDERS: [Order; 3] = [Order::Forward, Order::Reverse, Order::Shuffled];

#[test]
fn no_size_and_no_order_of_threads_changes_a_result() -> Result<()> {
    for case in SIZES.iter().chain(TABLE) {
        let (arguments, reference) = case.reference()?;
        let mut first: Option<Vec<Vec<u64>>> = None;
        case.check(BackendKind::Cpu, &Device::Cpu, &arguments, &reference)?;
        for order in ORDERS {
            let card = HostCard::new(Library::of_kernels(), order);
            let results = card.with(|| case.check(BackendKind::Host, &Device::Cpu, &arguments, &reference))?;
            let bits = results.iter().map(bits).collect::<Result<Vec<_>>>()?;
            assert!(*first.get_or_insert_with(|| bits.clone()) == bits, "{}: {order:?}", case.name);
        }
    }
    Ok(())
}

fn bits(x: &Tensor) -> Result<Vec<u64>> {
    Ok(x.flatten_all()?.to_vec1::<f64>()?.into_iter().map(f64::to_bits).collect())
}

#[test]
fn very_many_rows_keep_their_digits() -> Result<()> {
    // more parts than a part has rows
    let (rows, width) = (70_001, 33);
    let x = (f32s(1, &[rows, width])? + 10.0)?;
    let numbers = Buffer::<HostCard>::of(&x)?;
    let sums = Buffer::new(numbers.card(), width)?;
    let of_all = Rows { groups: 1, rows, width, stride: width };
    of_all.sum(numbers.card(), [numbers.address(), Address::NULL], sums.address(), width)?;
    let error = error(&sums.tensor(&[width])?, &x.to_dtype(DType::F64)?.sum(0)?)?;
    assert!(error < 1e-6, "{error:.1e}");
    Ok(())
}

#[test]
fn a_large_mean_leaves_the_digits_that_there_are() -> Result<()> {
    let x = (f32s(1, &[2, 34, 20, 21])? + 1000.0)?;
    let (weight, bias) = (f32s(2, &[34])?, f32s(3, &[34])?);
    let run = |backend: BackendKind, dtype: DType| {
        let [x, weight, bias] = [&x, &weight, &bias].map(|x| x.to_dtype(dtype).expect("a float"));
        operation_on(backend, "test", [&x], &[], |[x]| x.group_norm(17, &weight, &bias, 1e-6))
    };
    let error = error(&run(BackendKind::Host, DType::F32)?, &run(BackendKind::Reference, DType::F64)?)?;
    assert!(error < 1e-4, "{error:.1e}");
    Ok(())
}

#[test]
fn what_is_not_finite_is_treated_as_on_the_cpu() -> Result<()> {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let x = Tensor::new(&[[[[1f32, nan, nan, 2.0, -inf, -inf], [3.0, 4.0, 5.0, nan, -inf, -inf]]]], &Device::Cpu)?;
    let builds: [fn(&Features) -> Result<Features>; 5] = [
        |x| x.max_pool2d(),
        |x| x.silu(),
        |x| x.activate(Activation::Relu),
        |x| x.activate(Activation::Mish),
        |x| x.activate(Activation::Gelu),
    ];
    for (i, build) in builds.into_iter().enumerate() {
        let run = |backend: BackendKind| -> Result<Vec<Option<f32>>> {
            let x = Var::from_tensor(&x)?;
            let y = operation_on(backend, "test", [x.as_tensor()], &[], |[x]| build(&x))?;
            let gradients = y.sum_all()?.backward()?;
            let all = [&y, gradients.get(&x).expect("a gradient")].map(|x| x.flatten_all()?.to_vec1::<f32>());
            let [y, dx] = all;
            Ok(y?.into_iter().chain(dx?).map(|x| (!x.is_nan()).then_some(x)).collect())
        };
        let (host, cpu) = (run(BackendKind::Host)?, run(BackendKind::Cpu)?);
        let close = |(a, b): (&Option<f32>, &Option<f32>)| match (a, b) {
            (Some(a), Some(b)) => a == b || (a - b).abs() < 1e-6,
            (a, b) => a == b,
        };
        assert!(host.iter().zip(&cpu).all(close), "{i}: {host:?}, {cpu:?}");
    }
    Ok(())
}

#[test]
fn an_empty_batch_has_empty_results_and_gradients_of_zero() -> Result<()> {
    let x = Var::zeros((0, 3, 4, 4), DType::F32, &Device::Cpu)?;
    let (weight, wide) = (Var::from_tensor(&f32s(1, &[5, 3, 3, 3])?)?, Var::from_tensor(&f32s(2, &[7, 5])?)?);
    let scale = Var::from_tensor(&f32s(3, &[5])?)?;
    let y = operation_on(BackendKind::Host, "test", [x.as_tensor()], &[], |[x]| {
        let x = x
            .conv2d_silu(&weight, Some(&scale), ConvOptions { stride: 2, padding: [0, 1, 0, 1] })?
            .group_norm(5, &scale, &scale, 1e-5)?;
        x.attention(&x, &x, 5)?.linear(&wide, None)?.max_pool2d()
    })?;
    assert_eq!(y.dims(), [0, 7, 1, 1]);
    let gradients = backward(&y.sum_all()?)?;
    for var in [&weight, &wide, &scale] {
        let gradient = gradients.get(var).expect("a gradient").abs()?.sum_all()?.to_scalar::<f32>()?;
        assert_eq!(gradient, 0.0);
    }
    Ok(())
}

/// A network with features used twice, in a checkpoint and without one.
#[test]
fn a_checkpoint_gives_the_same_bits() -> Result<()> {
    let x = Var::from_tensor(&f32s(1, &[2, 4, 6, 6])?)?;
    let weight = Var::from_tensor(&f32s(2, &[4, 4, 3, 3])?)?;
    let scale = Var::from_tensor(&f32s(3, &[4])?)?;
    let run = |backend: BackendKind, checkpointed: bool| -> Result<Vec<Tensor>> {
        let (weight, scale) = (weight.clone(), scale.clone());
        let parts = [weight.as_tensor().clone(), scale.as_tensor().clone()];
        let block = move |[x]: [Features; 1]| {
            let y = x.group_norm_silu(2, &parts[1], &parts[1], 1e-5)?.conv2d(&parts[0], Some(&parts[1]), 1)?;
            x.add(&y)?.scale(0.7)
        };
        let y = operation_on(backend, "test", [x.as_tensor()], &[], |[x]| {
            if checkpointed { checkpoint([&x], block) } else { block([x]) }
        })?;
        let gradients = backward(&y.sqr()?.sum_all()?)?;
        Ok([&x, &weight, &scale].map(|var| gradients.get(var).expect("a gradient").clone()).to_vec())
    };
    let (plain, checkpointed) = (run(BackendKind::Host, false)?, run(BackendKind::Host, true)?);
    for ((plain, checkpointed), on_cpu) in plain.iter().zip(&checkpointed).zip(run(BackendKind::Cpu, false)?) {
        assert_eq!(plain.flatten_all()?.to_vec1::<f32>()?, checkpointed.flatten_all()?.to_vec1::<f32>()?);
        assert!(error(plain, &on_cpu)? < 2e-6);
    }
    Ok(())
}

#[test]
fn the_optimisers_step_as_the_reference_in_f64() -> Result<()> {
    let test = || check_optimisers::<Cuda<HostCard>>(&Device::Cpu);
    ORDERS.into_iter().try_for_each(|order| HostCard::new(Library::of_kernels(), order).with(test))
}

#[test]
fn an_average_is_rounded_as_on_the_cpu() -> Result<()> {
    let [params, _] = tensors(1, &Device::Cpu)?;
    let run = |on_host: bool| -> Result<Vec<Vec<f32>>> {
        let vars = vars(&params)?;
        let after = if on_host { averages::<Cuda<HostCard>>(&vars)? } else { averages::<crate::kernels::Cpu>(&vars)? };
        after.iter().map(|x| x.flatten_all()?.to_vec1::<f32>()).collect()
    };
    assert_eq!(run(true)?, run(false)?);
    Ok(())
}

fn averages<B: Backend>(vars: &[Var]) -> Result<Vec<Tensor>> {
    let mut states = vars.iter().map(|var| B::state(&(var.as_tensor() * 0.3)?)).collect::<Result<Vec<_>>>()?;
    B::average(vars.iter().zip(&mut states).collect(), 0.1)?;
    vars.iter().zip(&states).map(|(var, state)| B::state_tensor(state, var)).collect()
}

#[test]
fn the_losses_are_those_of_the_reference_in_f64() -> Result<()> {
    let test = || check_losses::<Cuda<HostCard>>(&Device::Cpu);
    ORDERS.into_iter().try_for_each(|order| HostCard::new(Library::of_kernels(), order).with(test))
}

/// A fault: a file, what is in it, and what it becomes; then the case that has to see it, and what it says.
type Fault = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// A fault of each kind.
const FAULTS: &[Fault] = &[
    // an index off by one
    ("layout.cu", ": b[pixel * cb + c - ca];", ": b[pixel * cb + c - ca + 1];", "concat", "the result"),
    // one thread too many
    (
        "elementwise.cu",
        "EACH(i, count) y[i] = x[i] * factor;",
        "EACH(i, count + 1) y[i] = x[i] * factor;",
        "scale",
        "wrote outside",
    ),
    // the rest of a piece forgotten
    ("common.cuh", "lesser(count, (blockIdx.x + 1) * PIECE)", "count / 32 * 32", "silu of many", "the result"),
    // a part that does not end with its image
    (
        "norm.cu",
        "channel < c ? lesser(pixels, (which + 1) * part) : 0",
        "channel < c ? (which + 1) * part : 0",
        "group_norm",
        "wrote outside",
    ),
    // a wrong stride
    ("sums.cu", "* stride + column", "* out_stride + column", "scale_shift", "input 1"),
    // no barrier between what is written and what others read of it
    ("layout.cu", "    __syncthreads();\n", "", "add of many", "the result"),
    // no barrier before shared memory is written again
    (
        "common.cuh",
        "    __syncthreads(); // the room may still be read\n",
        "",
        "group_norm of many pixels",
        "the gradient",
    ),
    // a barrier that some threads never reach
    (
        "layout.cu",
        "    __syncthreads();\n",
        "    if (left + lane >= columns) return;\n    __syncthreads();\n",
        "add of many",
        "not all threads reach",
    ),
    // memory that nothing was written to
    ("norm.cu", "        to[c] = along_one;\n", "", "group_norm", "the gradient"),
    // a warp that does not add up what its threads have
    ("attention.cu", "    sum = sum_warp(sum);\n", "", "attention", "the result"),
];

fn find(name: &str) -> &'static Case {
    TABLE.iter().chain(SIZES).find(|case| case.name == name).expect("a case")
}

/// What is said by the first order of threads that shows a fault.
fn said_by(library: &Arc<Library>, test: impl Fn() -> Result<()>) -> Option<String> {
    let mut said = ORDERS.into_iter().filter_map(|order| HostCard::new(library.clone(), order).with(&test).err());
    said.next().map(|error| error.to_string())
}

#[test]
fn every_planted_fault_is_seen() -> Result<()> {
    for &(file, from, to, name, words) in FAULTS {
        let case = find(name);
        let (arguments, reference) = case.reference()?;
        let test = || case.check(BackendKind::Host, &Device::Cpu, &arguments, &reference).map(drop);
        assert_eq!(said_by(&Library::of_kernels(), test), None, "{name} fails without a fault");
        let said = said_by(&Library::with_fault(file, from, to), test);
        let said = said.unwrap_or_else(|| panic!("{name} does not see `{from}` become `{to}` in {file}"));
        assert!(said.contains(words), "`{from}` as `{to}` in {file}: {said}");
    }
    Ok(())
}

#[test]
fn a_fault_of_an_optimiser_is_seen() {
    let test = || check_optimisers::<Cuda<HostCard>>(&Device::Cpu);
    // the last of several tensors that begin at one block
    assert_eq!(said_by(&Library::of_kernels(), test), None);
    let library =
        Library::with_fault("optim.cu", "table[middle].begin <= blockIdx.x", "table[middle].begin < blockIdx.x");
    let said = said_by(&library, test);
    assert!(said.is_some_and(|said| said.contains("adam") || said.contains("a step of")));
}
