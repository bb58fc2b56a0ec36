#![cfg(test)]

//! Every operation on every backend in every dtype against the reference in f64, and the CPU's backward kernels against
//! finite differences of its own forward kernels.

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use kakusan_rng::Generator;

use crate::backward::backward;
use crate::features::Features;
use crate::kernels::BackendKind;
use crate::network::operation_on;
use crate::op::activation::Activation;
use crate::op::conv_shape::ConvOptions;

/// Features and weights to features.
pub(crate) type Build = fn(&[Features], &[Tensor]) -> Result<Features>;

/// An operation, the sizes of its inputs and of its weights.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    inputs: &'static [[usize; 4]],
    weights: &'static [&'static [usize]],
    build: Build,
}

pub(crate) const fn case(
    name: &'static str,
    inputs: &'static [[usize; 4]],
    weights: &'static [&'static [usize]],
    build: Build,
) -> Case {
    Case { name, inputs, weights, build }
}

const X: [usize; 4] = [2, 6, 5, 4];
const DOWNSAMPLE: ConvOptions = ConvOptions { stride: 2, padding: [0, 1, 0, 1] };

/// A line for each operation; further ones where a kernel goes another way by its sizes.
pub(crate) const TABLE: &[Case] = &[
    case("silu", &[X], &[], |x, _| x[0].silu()),
    case("gelu", &[X], &[], |x, _| x[0].activate(Activation::Gelu)),
    case("mish", &[X], &[], |x, _| x[0].activate(Activation::Mish)),
    case("relu", &[X], &[], |x, _| x[0].activate(Activation::Relu)),
    case("add", &[X, X], &[], |x, _| x[0].add(&x[1])),
    case("scale", &[X], &[], |x, _| x[0].scale(-1.7)),
    case("add_vector", &[X, [2, 6, 1, 1]], &[], |x, _| x[0].add_vector(&x[1])),
    case("scale_shift", &[X, [2, 12, 1, 1]], &[], |x, _| x[0].scale_shift(&x[1])),
    case("concat", &[X, [2, 3, 5, 4]], &[], |x, _| x[0].concat(&x[1])),
    case("dropout", &[X], &[], |x, _| x[0].dropout(&mask(&x[0].dims())?, 0.3)),
    case("avg_pool2d", &[X], &[], |x, _| x[0].avg_pool2d()),
    case("max_pool2d", &[X], &[], |x, _| x[0].max_pool2d()),
    case("max_pool2d of vectors", &[[1, 33, 4, 6]], &[], |x, _| x[0].max_pool2d()),
    case("max_pool2d of features used again", &[X], &[], |x, _| {
        let y = x[0].max_pool2d()?;
        x[0].scale(2.0)?.avg_pool2d()?.add(&y)
    }),
    case("upsample_nearest2d", &[X], &[], |x, _| x[0].upsample_nearest2d()),
    case("upsample_add", &[X, [2, 6, 10, 8]], &[], |x, _| x[0].upsample_add(&x[1])),
    case("fir_downsample2d", &[X], &[], |x, _| x[0].fir_downsample2d()),
    case("fir_upsample2d", &[X], &[], |x, _| x[0].fir_upsample2d()),
    case("conv2d", &[X], &[&[5, 6, 3, 3]], |x, w| x[0].conv2d(&w[0], None, 1)),
    case("conv2d with bias", &[X], &[&[5, 6, 3, 3], &[5]], |x, w| x[0].conv2d(&w[0], Some(&w[1]), 2)),
    case("conv2d_silu", &[X], &[&[5, 6, 3, 3], &[5]], |x, w| x[0].conv2d_silu(&w[0], Some(&w[1]), 1)),
    case("conv2d_silu without bias", &[X], &[&[5, 6, 3, 3]], |x, w| x[0].conv2d_silu(&w[0], None, 1)),
    case("conv2d of a pixel", &[X], &[&[4, 6, 1, 1]], |x, w| x[0].conv2d(&w[0], None, 0)),
    case("conv2d with a stride", &[X], &[&[4, 6, 3, 3], &[4]], |x, w| x[0].conv2d(&w[0], Some(&w[1]), DOWNSAMPLE)),
    case("conv2d to one channel", &[[1, 8, 6, 6]], &[&[1, 8, 5, 5]], |x, w| x[0].conv2d(&w[0], None, 2)),
    case("conv2d 3x3 by Winograd", &[[1, 16, 8, 8]], &[&[16, 16, 3, 3]], |x, w| x[0].conv2d(&w[0], None, 1)),
    case("conv2d 5x5 by Winograd", &[[1, 16, 8, 8]], &[&[16, 16, 5, 5]], |x, w| x[0].conv2d(&w[0], None, 2)),
    case("group_norm", &[X], &[&[6], &[6]], |x, w| x[0].group_norm(3, &w[0], &w[1], 1e-5)),
    case("group_norm_silu", &[X], &[&[6], &[6]], |x, w| x[0].group_norm_silu(2, &w[0], &w[1], 1e-5)),
    case("attention", &[X, X, X], &[], |x, _| x[0].attention(&x[1], &x[2], 2)),
    case("attention to other tokens", &[X, [2, 6, 3, 1], [2, 6, 3, 1]], &[], |x, _| x[0].attention(&x[1], &x[2], 3)),
    case("linear", &[X], &[&[5, 6]], |x, w| x[0].linear(&w[0], None)),
    case("linear with bias", &[X], &[&[5, 6], &[5]], |x, w| x[0].linear(&w[0], Some(&w[1]))),
    case("linear of few rows", &[[2, 40, 1, 1]], &[&[70, 40], &[70]], |x, w| x[0].linear(&w[0], Some(&w[1]))),
];

pub(crate) fn mask(dims: &[usize; 4]) -> Result<Tensor> {
    noise(5, dims)?.gt(-0.5)
}

/// Numbers that f32 holds too.
pub(crate) fn noise(seed: u64, dims: &[usize]) -> Result<Tensor> {
    let numbers = Generator::new(seed).randn(dims.iter().product());
    Tensor::from_vec(numbers, dims, &Device::Cpu)?.to_dtype(DType::F64)
}

/// Numbers in a random order, each at least 0.05 from the next and 0.025 from zero: no step of a difference crosses a
/// kink.
fn apart(seed: u64, dims: &[usize]) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let order = noise(seed, &[count])?.to_dtype(DType::F32)?.arg_sort_last_dim(true)?.to_dtype(DType::F64)?;
    ((order - (count / 2) as f64)? * 0.05)?
        .affine(1.0, 0.025)?
        .to_dtype(DType::F32)?
        .to_dtype(DType::F64)?
        .reshape(dims)
}

impl Case {
    /// Inputs, then weights.
    fn arguments(&self) -> Result<Vec<Tensor>> {
        let inputs = self.inputs.iter().map(|dims| dims.as_slice());
        let all = inputs.chain(self.weights.iter().copied()).zip(1..);
        let has_kinks = self.name.starts_with("relu") || self.name.starts_with("max_pool2d");
        all.map(|(dims, seed)| if has_kinks { apart(seed, dims) } else { noise(seed, dims) }).collect()
    }

    fn result(&self, backend: BackendKind, arguments: &[Tensor]) -> Result<Tensor> {
        let (inputs, weights) = arguments.split_at(self.inputs.len());
        match inputs {
            [a] => operation_on(backend, "table", [a], &[], |x| (self.build)(&x, weights)),
            [a, b] => operation_on(backend, "table", [a, b], &[], |x| (self.build)(&x, weights)),
            [a, b, c] => operation_on(backend, "table", [a, b, c], &[], |x| (self.build)(&x, weights)),
            _ => panic!("{}: {} inputs", self.name, inputs.len()),
        }
    }

    /// The result, and the gradients of `sum(result * direction)` for inputs and weights; all in f64.
    fn run(&self, backend: BackendKind, dtype: DType, device: &Device, arguments: &[Tensor]) -> Result<Vec<Tensor>> {
        let var = |x: &Tensor| Var::from_tensor(&x.to_dtype(dtype)?.to_device(device)?);
        let vars = arguments.iter().map(var).collect::<Result<Vec<_>>>()?;
        let y = self.result(backend, &vars.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>())?;
        let gradients = backward(&y.mul(&direction(&y)?.to_dtype(dtype)?.to_device(device)?)?.sum_all()?)?;
        let gradients = vars.iter().map(|var| gradients.get(var).expect("a gradient").clone());
        let narrow = [y].into_iter().chain(gradients).map(|x| x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64));
        narrow.collect()
    }

    /// Arguments, and what the reference makes of them in f64.
    pub(crate) fn reference(&self) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let arguments = self.arguments()?;
        let reference = self.run(BackendKind::Reference, DType::F64, &Device::Cpu, &arguments)?;
        Ok((arguments, reference))
    }

    /// What a backend makes of them in f32 on a device.
    ///
    /// # Errors
    /// Where it is not what the reference made of them.
    pub(crate) fn check(
        &self,
        backend: BackendKind,
        device: &Device,
        arguments: &[Tensor],
        reference: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        let results = self.run(backend, DType::F32, device, arguments)?;
        let tolerance = if self.name.contains("Winograd") { 2e-5 } else { 2e-6 };
        for (i, (got, expected)) in results.iter().zip(reference).enumerate() {
            let error = error(got, expected)?;
            if error >= tolerance {
                bail!("{backend:?}, {}: {error:.1e}", self.name_of(i))
            }
        }
        Ok(results)
    }

    fn name_of(&self, i: usize) -> String {
        let (name, inputs) = (self.name, self.inputs.len());
        match i.checked_sub(1) {
            None => format!("{name}: the result"),
            Some(i) if i < inputs => format!("{name}: the gradient of input {i}"),
            Some(i) => format!("{name}: the gradient of weight {}", i - inputs),
        }
    }
}

/// What a result is multiplied by before it is summed.
fn direction(y: &Tensor) -> Result<Tensor> {
    noise(99, y.dims())
}

/// The largest difference over the largest number; infinite where one is NaN.
pub(crate) fn error(got: &Tensor, expected: &Tensor) -> Result<f64> {
    assert_eq!(got.dims(), expected.dims());
    let numbers = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (got, expected) = (numbers(got)?, numbers(expected)?);
    let largest = expected.iter().fold(1e-30, |largest: f64, x| largest.max(x.abs()));
    let differences = got.iter().zip(&expected).map(|(got, expected)| (got - expected).abs() / largest);
    Ok(differences.fold(0.0, |worst: f64, x| if x.is_nan() { f64::INFINITY } else { worst.max(x) }))
}

#[test]
fn every_backend_agrees_with_the_reference_in_f64() -> Result<()> {
    let backends = [
        BackendKind::Cpu,
        BackendKind::Reference,
        #[cfg(target_os = "linux")]
        BackendKind::Host,
    ];
    for case in TABLE {
        let (arguments, reference) = case.reference()?;
        for backend in backends {
            case.check(backend, &Device::Cpu, &arguments, &reference)?;
        }
    }
    Ok(())
}

#[test]
fn the_references_gradients_are_finite_differences() -> Result<()> {
    differences(BackendKind::Reference, DType::F64, 1e-5, |_| 1e-6)
}

/// In f32 a step has to be large, or rounding hides the difference: what remains is the third derivative's part.
#[test]
fn the_kernels_gradients_are_finite_differences() -> Result<()> {
    differences(BackendKind::Cpu, DType::F32, 0.02, |case| if case.contains("Winograd") { 3e-3 } else { 1e-3 })
}

fn differences(backend: BackendKind, dtype: DType, step: f64, tolerance: impl Fn(&str) -> f64) -> Result<()> {
    for case in TABLE {
        let arguments = case.arguments()?;
        let gradients = case.run(backend, dtype, &Device::Cpu, &arguments)?.split_off(1);
        let direction = direction(&case.result(BackendKind::Reference, &arguments)?)?;
        let value = |arguments: &[Tensor]| {
            let arguments = arguments.iter().map(|x| x.to_dtype(dtype)).collect::<Result<Vec<_>>>()?;
            case.result(backend, &arguments)?.to_dtype(DType::F64)?.mul(&direction)?.sum_all()?.to_scalar::<f64>()
        };
        for (i, gradient) in gradients.iter().enumerate() {
            let numbers = arguments[i].flatten_all()?.to_vec1::<f64>()?;
            let at = |place: usize, step: f64| {
                let mut moved = numbers.clone();
                moved[place] += step;
                let mut arguments = arguments.clone();
                arguments[i] = Tensor::from_vec(moved, arguments[i].shape(), &Device::Cpu)?;
                value(&arguments)
            };
            // about a hundred places of a large argument
            let every = numbers.len().div_ceil(100);
            let (gradient, largest) = (gradient.flatten_all()?.to_vec1::<f64>()?, gradient.abs()?.flatten_all()?);
            let largest = largest.max(0)?.to_scalar::<f64>()?;
            for place in (0..numbers.len()).step_by(every) {
                let slope = (at(place, step)? - at(place, -step)?) / (2.0 * step);
                let error = (gradient[place] - slope).abs() / largest;
                assert!(error < tolerance(case.name), "{} at {place}: {error:.1e}", case.name_of(i + 1));
            }
        }
    }
    Ok(())
}
