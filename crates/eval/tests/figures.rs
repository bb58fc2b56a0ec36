//! The figures against numpy and scipy: `tests/golden/eval.py`.

use std::path::Path;

use kakusan_eval::{Features, Gaussian, Subsets, kernel_distance, nearest, precision_recall};
use kakusan_rng::Generator;
use safetensors::SafeTensors;

/// The features that the script draws.
fn features(rng: &mut Generator, n: usize, d: usize, shift: f32) -> Features {
    let x = rng.randn(n * d);
    let value = |i: usize| {
        let x = if i.is_multiple_of(d) { x[i] } else { x[i] + 0.5 * x[i - 1] };
        let bent = if x < 0.0 { x * -0.2 } else { x };
        ((bent + shift) * 4096.0).round_ties_even() / 4096.0
    };
    Features::new(d, (0..n * d).map(value).collect()).unwrap()
}

/// The sets of a case, and its numbers by name.
fn each_case(mut check: impl FnMut(&str, &Features, &Features, &dyn Fn(&str) -> Vec<f64>)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/eval.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    for (name, n, m, d) in [("full", 700, 500, 48), ("wide", 300, 260, 96), ("singular", 60, 80, 96)] {
        let mut rng = Generator::new(11);
        let (a, b) = (features(&mut rng, n, d, 0.0), features(&mut rng, m, d, 0.3));
        let read = |what: &str| -> Vec<f64> {
            let tensor = golden.tensor(&format!("{name}.{what}")).unwrap();
            let numbers = tensor.data().as_chunks::<8>().0.iter();
            match tensor.dtype() {
                safetensors::Dtype::I64 => numbers.map(|bytes| i64::from_le_bytes(*bytes) as f64).collect(),
                _ => numbers.map(|bytes| f64::from_le_bytes(*bytes)).collect(),
            }
        };
        check(name, &a, &b, &read);
    }
}

#[track_caller]
fn close(got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance * expected.abs().max(1.0), "{got}, expected {expected}");
}

#[test]
fn the_frechet_distance_is_scipys() {
    each_case(|_, a, b, golden| {
        let (one, other) = (Gaussian::of(a).unwrap(), Gaussian::of(b).unwrap());
        // scipy's general eigenvalues are good to 1e-7 where the product is singular
        close(one.distance(&other).unwrap(), golden("frechet")[0], 1e-6);
        close(other.distance(&one).unwrap(), golden("frechet")[0], 1e-6);
        close(one.distance(&one).unwrap(), 0.0, 1e-6);
    });
}

#[test]
fn the_kernel_distance_is_numpys() {
    each_case(|_, a, b, golden| {
        let kid = kernel_distance(a, b, Subsets { count: 7, size: 100 }, &mut Generator::new(5)).unwrap();
        close(kid.mean, golden("kid")[0], 1e-12);
        close(kid.std, golden("kid")[1], 1e-12);
    });
}

#[test]
fn precision_recall_and_neighbours_are_numpys() {
    each_case(|_, a, b, golden| {
        let both = precision_recall(a, b, 3).unwrap();
        assert_eq!(vec![both.precision, both.recall], golden("precision_recall"));
        let found = nearest(b, a, 3).unwrap();
        assert_eq!(found.len(), b.len());
        let first: Vec<_> = found.into_iter().take(20).flatten().collect();
        assert_eq!(first.iter().map(|n| n.index as f64).collect::<Vec<_>>(), golden("nearest"));
        for (neighbour, expected) in first.iter().zip(golden("nearest_distance")) {
            close(neighbour.distance, expected, 1e-12);
        }
    });
}

#[test]
fn the_same_numbers_on_any_number_of_threads() {
    let mut rng = Generator::new(3);
    let (a, b) = (features(&mut rng, 900, 300, 0.0), features(&mut rng, 700, 300, 0.1));
    let figures = || {
        let kid = kernel_distance(&a, &b, Subsets { count: 2, size: 300 }, &mut Generator::new(0)).unwrap();
        let manifolds = precision_recall(&a, &b, 3).unwrap();
        let distance = Gaussian::of(&a).unwrap().distance(&Gaussian::of(&b).unwrap()).unwrap();
        (distance.to_bits(), kid.mean.to_bits(), manifolds)
    };
    let [one, five] = [1, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(figures)
    });
    assert_eq!(one, five);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let features = |n: usize| Features::new(2, (0..2 * n).map(|i| i as f32).collect()).unwrap();
    let said = |error: kakusan_pipeline::Error| error.to_string();
    assert!(said(Gaussian::of(&features(1)).unwrap_err()).contains("at least 2 images"));
    let kid = kernel_distance(&features(3), &features(9), Subsets::default(), &mut Generator::new(0));
    assert!(said(kid.unwrap_err()).contains("at least 4 images, and there are 3"));
    let manifolds = precision_recall(&features(9), &features(3), 3);
    assert!(said(manifolds.unwrap_err()).contains("more than 3 images, and there are 3"));
    let other = Features::new(3, vec![0.0; 30]).unwrap();
    assert!(said(nearest(&features(9), &other, 1).unwrap_err()).contains("2 and of 3 numbers"));
    let error = Features::new(2, vec![0.0, 1.0, f32::NAN, 1.0]).unwrap_err();
    assert!(said(error).contains("the features of image 1 are not finite"));
    assert!(said(Features::new(3, vec![0.0; 4]).unwrap_err()).contains("4 numbers are no rows of 3"));
    // one point, many times: the covariance is 0
    let same = Gaussian::of(&Features::new(2, vec![1.0; 20]).unwrap()).unwrap();
    assert_eq!(same.distance(&same).unwrap(), 0.0);
}
