//! `CudaGenerator` against cuRAND's own code, and against what torch printed on cards.

use kakusan_rng::{Card, CudaGenerator, Error, Noise, PerImage};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

fn bytes<T: Copy, const N: usize>(values: &[T], bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

/// `tests/golden/cuda_rng.py` has cuRAND's own code compute the numbers, thread by thread.
#[test]
fn every_stream_is_curands() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/cuda_rng.safetensors");
    let file = std::fs::read(path).unwrap();
    let golden = SafeTensors::deserialize(&file).unwrap();
    let mut names = golden.names();
    names.sort_unstable();
    assert_eq!(names.len(), 3 * 3 * 14);

    let mut generator = CudaGenerator::new(0);
    for name in names {
        let [card, seed, step, operation, arguments] = name.split('/').collect::<Vec<_>>()[..] else {
            panic!("{name}")
        };
        if step == "000" {
            let (multiprocessors, threads) = card.split_once(',').unwrap();
            let card = Card { multiprocessors: multiprocessors.parse().unwrap(), threads: threads.parse().unwrap() };
            generator = CudaGenerator::on(card, seed.parse().unwrap());
        }
        let arguments: Vec<f64> = arguments.split(',').map(|argument| argument.parse().unwrap()).collect();
        let (n, a, b) = (arguments[0] as usize, arguments[1], arguments[2]);
        let expected = golden.tensor(name).unwrap();
        let exact = match operation {
            "normal" => {
                let expected: Vec<f32> =
                    expected.data().as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect();
                let drawn = generator.normal(n, a, b);
                assert_eq!(drawn.len(), expected.len());
                let error = drawn.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error < 2e-6, "{name}: {error}"); // two roundings: the C library's functions are not ours
                continue;
            }
            "rand" => bytes(&generator.rand(n), f32::to_le_bytes),
            "randint" => bytes(&generator.randint(n, a as i64, a as i64 + b as i64).unwrap(), i64::to_le_bytes),
            other => panic!("cuda_rng.py draws {other}, this test does not"),
        };
        assert!(Sha256::digest(exact)[..] == *expected.data(), "{name}");
    }
}

const A100: Card = Card { multiprocessors: 108, threads: 2048 };
const A4000: Card = Card { multiprocessors: 48, threads: 1536 };

fn assert_near(drawn: &[f32], printed: &[f32]) {
    assert_eq!(drawn.len(), printed.len());
    assert!(drawn.iter().zip(printed).all(|(drawn, printed)| (drawn - printed).abs() <= 6e-5), "{drawn:?} {printed:?}");
}

/// What torch printed on cards of others, to four digits.
#[test]
fn cards_print_the_same() {
    // pytorch/pytorch#47347
    assert_near(&CudaGenerator::new(0).rand(5), &[0.3990, 0.5167, 0.0249, 0.9401, 0.9459]);
    // three draws, one after the other
    let mut generator = CudaGenerator::new(0);
    let first = generator.randn(80);
    assert_near(&first[..8], &[-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284]);
    assert_near(&first[74..], &[0.6898, -1.5517, 0.3805, -0.0436, 0.3597, -0.5043]);
    assert_near(
        &generator.randn(10),
        &[0.1808, -0.5523, 0.9238, -0.7350, 1.3800, 0.8676, 0.1297, -0.9406, 0.8109, 0.8821],
    );
    assert_near(&generator.randn(80)[..5], &[2.5441, -0.7163, -0.4934, 0.1267, 0.1014]);
    // pytorch/pytorch#79496
    assert_near(&CudaGenerator::new(10).randn(3), &[-0.1029, 1.6810, -0.2708]);
    // pytorch/pytorch#158398, the first rows of 2048 on two cards
    let rows = CudaGenerator::new(42).randn(3 * 2048);
    assert_near(&rows[..3], &[0.1940, 2.1614, -0.1721]);
    assert_near(&rows[3 * 2048 - 3..3 * 2048], &[-1.0001, -1.1552, -0.6955]);
}

/// Larger tensors than a card has threads, on cards of two sizes.
#[test]
fn the_order_follows_the_card() {
    // pytorch/pytorch#143086
    let n = 49 * 12 * 112 * 144;
    for (card, last) in [(Card::default(), [-0.6970, -0.7780, 0.3267]), (A100, [0.1549, -0.6797, -0.1656])] {
        let drawn = CudaGenerator::on(card, 1).randn(n);
        assert_near(&drawn[..3], &[-0.2963, 2.6764, -0.1408]);
        assert_near(&drawn[n - 3..], &last);
    }
    // pytorch/pytorch#97097: normal_(5, 5 ** 0.5) of 1000 x 100
    let drawn = CudaGenerator::on(A4000, 14).normal(100_000, 5.0, 5f64.sqrt());
    assert_near(&drawn[..3], &[2.8731, 5.2727, 2.9889]);
    assert_near(&drawn[99_997..], &[8.2207, 6.5395, 4.2604]);
}

#[test]
fn nothing_drawn_changes_nothing() {
    let mut generator = CudaGenerator::new(3);
    assert!(generator.randn(0).is_empty());
    assert_eq!(generator, CudaGenerator::new(3));
    assert_eq!(generator.randint(1, 2, 2), Err(Error::EmptyRange { low: 2, high: 2 }));
}

#[test]
fn each_image_has_a_generator() {
    let alone = CudaGenerator::new(8).randn(16);
    let mut both = PerImage::new([7, 8].map(CudaGenerator::new).to_vec());
    assert_eq!(both.randn_tensor(&[2, 1, 4, 4]).unwrap()[16..], alone);
}
