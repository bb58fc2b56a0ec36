//! The errors of the generator and their messages.

use kakusan_rng::{Error, Generator};

/// A state in the middle of a block, with a cached normal, altered by `alter`.
fn altered(alter: impl Fn(&mut Vec<u8>)) -> Result<Generator, Error> {
    let mut generator = Generator::new(9);
    generator.randn(3);
    let mut bytes = generator.state();
    alter(&mut bytes);
    Generator::from_state(&bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[test]
fn a_state_continues_unaltered() {
    let mut generator = Generator::new(9);
    generator.randn(3);
    let mut resumed = altered(|_| ()).unwrap();
    assert_eq!(resumed.seed(), 9);
    assert_eq!(resumed.randn(1001), generator.randn(1001));
    assert_eq!(resumed, generator);
}

#[test]
fn an_invalid_state_is_refused() {
    let refused = |alter: &dyn Fn(&mut Vec<u8>), reason: &str| {
        let message = altered(alter).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
        assert!(message.contains("torch.get_rng_state()"), "no remedy in: {message}");
    };
    refused(&|b| b.clear(), "0 bytes instead of 5056");
    refused(&|b| b.truncate(5048), "5048 bytes instead of 5056");
    refused(&|b| b.push(0), "5057 bytes instead of 5056");
    refused(&|b| put(b, 12, &[0]), "seeded");
    refused(&|b| put(b, 16, &u64::MAX.to_le_bytes()), "draws made");
    refused(&|b| put(b, 16, &625_u64.to_le_bytes()), "625 draws made");
    refused(&|b| put(b, 16, &0_u64.to_le_bytes()), "0 draws made");
    refused(&|b| put(b, 8, &0_u32.to_le_bytes()), "0 left");
    refused(&|b| put(b, 8, &u32::MAX.to_le_bytes()), "4294967295 left");
    refused(&|b| put(b, 24 + 8 * 623, &[0xff; 8]), "word 623");
    refused(&|b| put(b, 24, &[0; 8 * 624]), "all zeros");
    refused(&|b| put(b, 5024, &f64::NAN.to_le_bytes()), "NaN");
    refused(&|b| put(b, 5024, &f64::INFINITY.to_le_bytes()), "inf");
    refused(&|b| put(b, 5040, &2_u32.to_le_bytes()), "is 2 instead of 0 or 1");
}

#[test]
fn an_empty_range_is_refused() {
    for (low, high) in [(3, 3), (3, 2), (i64::MAX, i64::MIN)] {
        assert_eq!(Generator::new(0).randint(4, low, high), Err(Error::EmptyRange { low, high }));
    }
}

#[test]
fn an_invalid_probability_is_refused() {
    let mut generator = Generator::new(0);
    for p in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(generator.bernoulli(4, p), Err(Error::Probability(_))));
        assert!(matches!(generator.bernoulli_tensor(&[0.5, p as f32]), Err(Error::Probability(_))));
    }
    assert_eq!(generator, Generator::new(0), "a refusal draws nothing");
}
