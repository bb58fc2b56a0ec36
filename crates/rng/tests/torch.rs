//! Every value compared with torch's, bit for bit. `tests/golden/rng.py` writes the golden file.

mod cuda;

use kakusan_rng::{Generator, dataloader_permutation};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

/// One step of a stream: draws, and returns the bytes of torch's tensor.
fn draw(generator: &mut Generator, operation: &str, arguments: &[f64], golden: &[u8]) -> Vec<u8> {
    let n = arguments.first().copied().unwrap_or_default() as usize;
    let f32s = |values: Vec<f32>| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let f64s = |values: Vec<f64>| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let i64s = |values: Vec<i64>| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let indices = |values: Vec<usize>| values.iter().flat_map(|&v| (v as u64).to_le_bytes()).collect();
    let coins = |values: Vec<bool>| values.into_iter().map(u8::from).collect();
    match operation {
        "rand" => f32s(generator.rand(n)),
        "rand_f64" => f64s(generator.rand_f64(n)),
        "uniform" => f32s(generator.uniform(n, arguments[1], arguments[2])),
        "randn" => f32s(generator.randn(n)),
        "randn_f64" => f64s(generator.randn_f64(n)),
        "randn_strided" => f32s(generator.randn_strided(n)),
        "normal" => f32s(generator.normal(n, arguments[1], arguments[2])),
        // as i64 saturates, which is right: the one bound that f64 cannot hold is i64::MAX
        "randint" => i64s(generator.randint(n, arguments[1] as i64, arguments[2] as i64).unwrap()),
        "random" => i64s(vec![generator.random()]),
        "randperm" => indices(generator.randperm(n)),
        "bernoulli" => coins(generator.bernoulli(n, arguments[1]).unwrap()),
        "bernoulli_tensor" => {
            let probabilities: Vec<f32> = (0..n).map(|i| i as f32 / n as f32).collect();
            coins(generator.bernoulli_tensor(&probabilities).unwrap())
        }
        "dataloader" => indices(dataloader_permutation(generator, n)),
        "state" => generator.state(),
        "resume" => {
            let before = std::mem::replace(generator, Generator::from_state(golden).unwrap());
            assert!(*generator == before, "the state written by torch is not the one this generator is in");
            generator.state()
        }
        other => panic!("rng.py draws {other}, this test does not"),
    }
}

#[test]
fn every_stream_is_torchs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/rng.safetensors");
    let file = std::fs::read(path).unwrap();
    let golden = SafeTensors::deserialize(&file).unwrap();
    let mut names: Vec<&str> = golden.names().into_iter().filter(|name| !name.ends_with("/head")).collect();
    names.sort_unstable(); // steps have three digits each
    assert!(names.len() > 500, "the golden file is incomplete");

    let mut generator = Generator::default();
    for name in names {
        let [seed, step, operation, arguments] = name.split('/').collect::<Vec<_>>()[..] else { panic!("{name}") };
        if step == "000" {
            generator = Generator::new(seed.parse().unwrap());
        }
        let arguments: Vec<f64> = arguments.split(',').filter(|a| !a.is_empty()).map(|a| a.parse().unwrap()).collect();
        let expected = golden.tensor(name).unwrap();
        let drawn = draw(&mut generator, operation, &arguments, expected.data());
        match golden.tensor(&format!("{name}/head")) {
            Ok(head) => {
                let first = drawn.get(..head.data().len()).unwrap_or(&drawn);
                assert_eq!(first, head.data(), "{name}: the first values");
                assert_eq!(Sha256::digest(&drawn)[..], *expected.data(), "{name}: a value after the first");
            }
            Err(_) => assert_eq!(drawn, expected.data(), "{name}"),
        }
    }
}

#[test]
fn the_default_generator_is_torchs() {
    // torch.Generator().initial_seed(), and torch.rand(3) drawn from it
    let mut generator = Generator::default();
    assert_eq!(generator.seed(), 67_280_421_310_721);
    assert_eq!(generator, Generator::new(67_280_421_310_721));
    assert_eq!(generator.rand(3), [0.26729524, 0.8725283, 0.33528882]);
}

#[test]
fn filling_draws_what_allocating_draws() {
    for n in [0, 1, 15, 16, 100] {
        let (mut one, mut other) = (Generator::new(3), Generator::new(3));
        let mut out = vec![f32::NAN; n];
        one.fill_rand(&mut out);
        assert_eq!(out, other.rand(n));
        one.fill_randn(&mut out);
        assert_eq!(out, other.randn(n));
        assert_eq!(one, other);
    }
}

/// The tutorial's draws up to its first batch: the weights of six convolutions, then an epoch's order.
#[test]
fn the_tutorial_begins_as_in_torch() {
    for (file, seed) in [("tutorial-184-seed0", 0), ("tutorial-35-seed7", 7)] {
        let path = format!("{}/../../tests/golden/{file}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&file).unwrap();
        let metadata = header.metadata().as_ref().unwrap();

        let mut generator = Generator::new(seed);
        let mut weights = Vec::new();
        for (inputs, outputs) in [(1, 32), (32, 64), (64, 64), (64, 64), (64, 32), (32, 1)] {
            let fan_in = f64::from(inputs * 5 * 5);
            let bound = 3_f64.sqrt() * ((2.0_f64 / 6.0).sqrt() / fan_in.sqrt());
            weights.extend(generator.uniform(outputs * fan_in as usize, -bound, bound));
            weights.extend(generator.uniform(outputs, -1.0 / fan_in.sqrt(), 1.0 / fan_in.sqrt()));
        }
        assert_eq!(weights.len(), 309_057);
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, metadata["initial_weights_sha256"]);

        let order = dataloader_permutation(&mut generator, metadata["images"].parse().unwrap());
        let batch: Vec<u8> = order[..128].iter().flat_map(|&i| (i as u64).to_le_bytes()).collect();
        let golden = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(batch, golden.tensor("first_batch_indices").unwrap().data());
    }
}
