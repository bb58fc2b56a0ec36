//! Each kernel's error against f64, compared with that of PyTorch's f32 on the same numbers
//! (tests/golden/exactness.py): at most twice as large, or 2e-5 of the largest number.

#![allow(clippy::print_stdout)] // the figures, for those who run it with --nocapture

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::error;
use kakusan_ops::{ConvOptions, conv2d, conv2d_silu};
use kakusan_rng::Generator;

/// The errors of a result and of its arguments' gradients.
fn errors(op: impl Fn(&[Tensor]) -> Result<Tensor>, arguments: &[Tensor], rng: &mut Generator) -> Result<Vec<f64>> {
    let gradient = op(arguments)?;
    let gradient = Tensor::from_vec(rng.randn(gradient.elem_count()), gradient.shape(), &Device::Cpu)?;
    let run = |dtype: DType| -> Result<Vec<Tensor>> {
        let vars = arguments.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype)?)).collect::<Result<Vec<_>>>()?;
        let y = op(&vars.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>())?;
        let gradients = y.mul(&gradient.to_dtype(dtype)?)?.sum_all()?.backward()?;
        let gradients = vars.iter().map(|var| gradients.get(var).expect("a gradient").clone());
        Ok([y].into_iter().chain(gradients).collect())
    };
    run(DType::F32)?.iter().zip(&run(DType::F64)?).map(|(a, b)| error(a, b)).collect()
}

fn numbers(rng: &mut Generator, dims: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(rng.randn(dims.iter().product()), dims, &Device::Cpu)
}

#[test]
fn no_worse_than_pytorch() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/exactness.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu)?;
    let mut names: Vec<_> = golden.keys().filter(|name| !name.ends_with(" sizes")).collect();
    names.sort();
    assert!(names.len() >= 20);
    for name in names {
        let sizes = golden[&format!("{name} sizes")].to_vec1::<i64>()?;
        let [seed, b, ci, h, w, co, k, stride, padding] = sizes.iter().map(|&n| n as usize).collect::<Vec<_>>()[..]
        else {
            panic!("{name}: {sizes:?}")
        };
        let mut rng = Generator::new(seed as u64);
        let (x, weight) = (numbers(&mut rng, &[b, ci, h, w])?, numbers(&mut rng, &[co, ci, k, k])?);
        let weight = (weight / ((ci * k * k) as f64).sqrt())?;
        let arguments = [x, weight, numbers(&mut rng, &[co])?];
        let options = ConvOptions { stride, padding: [padding; 4] };
        let op = |a: &[Tensor]| {
            if name.starts_with("conv2d_silu") {
                conv2d_silu(&a[0], &a[1], Some(&a[2]), options)
            } else {
                conv2d(&a[0], &a[1], Some(&a[2]), options)
            }
        };
        let ours = errors(op, &arguments, &mut rng)?;
        let torch = golden[name].to_vec1::<f32>()?;
        assert_eq!(ours.len(), torch.len());
        println!("{name}: {}", ours.iter().zip(&torch).map(|(a, b)| format!("{a:.1e} ({b:.1e}) ")).collect::<String>());
        for (what, (ours, torch)) in ["result", "d x", "d weight", "d bias"].iter().zip(ours.iter().zip(torch)) {
            let limit = (2.0 * f64::from(torch)).max(2e-5);
            assert!(*ours <= limit, "{name}, {what}: {ours:.1e}, PyTorch {torch:.1e}");
        }
    }
    Ok(())
}
