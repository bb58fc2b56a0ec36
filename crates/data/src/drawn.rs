//! Drawn digits: training data that needs neither a network nor a folder.

mod glyphs;
mod pen;

use kakusan_rng::Generator;
use rayon::prelude::*;

use crate::{DatasetName, Error, ImageSet, class::known_classes};

/// Draws `per_class` digits of each class in `classes` in MNIST's style: 28 x 28 pixels, white ink on black, in a box
/// of 20 x 20 centred by its mass. Hand, pen, slant and wobble differ from digit to digit.
///
/// The classes alternate in ascending order. A digit depends only on the seed, its class and its index within the
/// class, so it is the same for any selection of classes, on every machine and for any number of threads.
///
/// # Errors
///
/// If no class is given, a class is over 9 or named twice, or `per_class` is over 60,000.
pub fn draw_digits(classes: &[u8], per_class: usize, seed: u64) -> Result<ImageSet, Error> {
    let class_names = DatasetName::Mnist.class_names();
    let mut classes = classes.to_vec();
    classes.sort_unstable();
    if classes.is_empty() {
        return Err(Error::EmptySelection);
    }
    if let Some(pair) = classes.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::DuplicateClass { class: u32::from(pair[0]).into() });
    }
    if let Some(&class) = classes.iter().find(|&&class| class > 9) {
        return Err(Error::UnknownClass { class: u32::from(class).into(), known: known_classes(0..10, &class_names) });
    }
    if per_class > 60_000 {
        return Err(Error::Config {
            key: "drawn_per_class",
            reason: format!("is {per_class}; it must be at most 60000"),
        });
    }

    let labels: Vec<u8> = classes.iter().copied().cycle().take(classes.len() * per_class).collect();
    let mut pixels = vec![0; labels.len() * pen::SIDE * pen::SIDE];
    pixels.par_chunks_exact_mut(pen::SIDE * pen::SIDE).enumerate().for_each(|(i, image)| {
        let mut rng = generator(seed, labels[i], (i / classes.len()) as u32);
        let style = glyphs::pick(labels[i], pen::uniform(&mut rng));
        pen::draw(style, &mut rng, image);
    });
    let labels = labels.into_iter().map(u32::from).collect();
    ImageSet::new([1, pen::SIDE, pen::SIDE], pixels, labels, class_names)
}

/// The generator of one digit. A generator's seed has 32 bits; within one `seed`, no two digits share it.
fn generator(seed: u64, class: u8, index: u32) -> Generator {
    let key = mix(mix(seed as u32) ^ (seed >> 32) as u32);
    Generator::new(u64::from(mix(u32::from(class) << 16 | index) ^ key))
}

/// A bijection of 32-bit numbers that maps neighbours far apart.
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
