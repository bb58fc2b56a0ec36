//! InceptionV3 against pytorch-fid's and torchvision's, with random weights: `tests/golden/inception.py`.

use std::path::Path;

use candle_core::{Device, Tensor};
use kakusan_eval::{FeatureNetwork, Features, Gaussian, InceptionV3, InceptionVariant};
use kakusan_rng::Generator;
use safetensors::SafeTensors;

/// The network with the weights that the script draws.
fn network(variant: InceptionVariant) -> InceptionV3 {
    let mut rng = Generator::new(3);
    let mut draw = |name: &str, shape: &[usize]| {
        let mut values = rng.randn(shape.iter().product());
        if name.ends_with("conv.weight") {
            let scale = (2.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
            values.iter_mut().for_each(|x| *x *= scale as f32);
        } else if name.ends_with("running_var") {
            values.iter_mut().for_each(|x| *x = 1.0 + 0.1 * *x * *x);
        } else {
            let mean = if name.ends_with("bn.weight") { 1.0 } else { 0.0 };
            values.iter_mut().for_each(|x| *x = 0.2 * *x + mean);
        }
        Ok(values)
    };
    InceptionV3::from_tensors(variant, &mut draw).unwrap()
}

fn images(rng: &mut Generator, shape: [usize; 4]) -> Tensor {
    let count: usize = shape.iter().product();
    let mut pixels = rng.rand(count);
    pixels[shape[0] / 2 * (count / shape[0])..].iter_mut().for_each(|x| *x *= 0.6);
    pixels.iter_mut().for_each(|x| *x = (*x * 255.0).round_ties_even() / 255.0);
    Tensor::from_vec(pixels, &shape[..], &Device::Cpu).unwrap()
}

fn agrees(name: &str, variant: InceptionVariant, sizes: &[(&str, [usize; 4])]) {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/inception.safetensors"));
    let bytes = bytes.unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let read = |what: &str| -> Vec<f64> {
        let tensor = golden.tensor(&format!("{name}.{what}")).unwrap();
        match tensor.dtype() {
            safetensors::Dtype::F32 => {
                tensor.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
            }
            _ => tensor.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        }
    };
    let (network, mut rng) = (network(variant), Generator::new(4));
    for &(size, shape) in sizes {
        let (features, classes) = network.features(&images(&mut rng, shape)).unwrap();
        assert!(classes.is_none() && features.dims() == [shape[0], 2048]);
        let rows = features.to_vec2::<f32>().unwrap();
        let expected = read(&format!("{size}.features"));
        let got = rows.iter().flat_map(|row| row.iter().step_by(32)).map(|&x| f64::from(x));
        for (i, (got, expected)) in got.zip(&expected).enumerate() {
            assert!((got - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{size} {i}: {got}, not {expected}");
        }
        for (row, expected) in rows.iter().zip(read(&format!("{size}.norm"))) {
            let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            assert!((norm - expected).abs() <= 1e-5 * expected, "{size}: {norm}, not {expected}");
        }
        if size == "small" {
            let (first, second) = rows.split_at(rows.len() / 2);
            let gaussian = |rows: &[Vec<f32>]| Gaussian::of(&Features::new(2048, rows.concat()).unwrap()).unwrap();
            let (distance, expected) = (gaussian(first).distance(&gaussian(second)).unwrap(), read("small.frechet")[0]);
            assert!((distance - expected).abs() <= 1e-3 * expected, "{distance}, not {expected}");
        }
    }
}

#[test]
fn the_features_and_the_distance_are_pytorch_fids() {
    let sizes = [("small", [8, 3, 32, 32]), ("large", [2, 3, 310, 340]), ("grey", [2, 1, 28, 28])];
    agrees("fid", InceptionVariant::Fid, &sizes);
}

#[test]
fn the_features_are_torchvisions() {
    agrees("torchvision", InceptionVariant::Torchvision, &[("small", [8, 3, 32, 32])]);
}
