//! MNIST as it is published. The tests use its first 512 images (`tests/golden/mnist`).
//! `cargo test -- --ignored whole_mnist` uses all of it, from the folder that the environment variable
//! `KAKUSAN_MNIST_DIR` names.

mod common;

use std::{fs, io::Read, path::Path, path::PathBuf, sync::Arc};

use common::{from_dir, header};
use flate2::read::GzDecoder;
use kakusan_data::{ImageSet, draw_digits, load};

fn excerpt() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mnist")
}

mod whole_mnist {
    use super::*;

    fn folder() -> PathBuf {
        std::env::var_os("KAKUSAN_MNIST_DIR").expect("KAKUSAN_MNIST_DIR names the folder of MNIST's files").into()
    }

    #[test]
    #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR"]
    fn the_tutorials_digits() {
        let images = digits_of_the_tutorial(&folder(), 60_000);
        assert_eq!(images.class_counts(), [0, 6742, 0, 0, 5842, 0, 0, 0, 5851, 0]);
    }

    #[test]
    #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR"]
    fn candle_reads_the_same() {
        candle_reads_the_same_of(&folder());
    }

    #[test]
    #[ignore = "needs all of MNIST, in KAKUSAN_MNIST_DIR"]
    fn drawn_digits_teach_to_read_real_ones() {
        drawn_digits_teach_to_read(&folder(), [0.9, 0.75]);
    }
}

/// Checks that the folder has `count` images, and returns its ones, eights and fours.
fn digits_of_the_tutorial(dir: &Path, count: usize) -> Arc<ImageSet> {
    let all = load(&from_dir(dir)).unwrap().images;
    assert_eq!((all.shape(), all.len()), ([1, 28, 28], count));
    assert_eq!(all.labels()[..12], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5]); // in the file's order
    let row = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 18, 18, 18, 126, 136, 175, 26, 166, 255, 247, 127, 0, 0, 0, 0];
    assert_eq!(all.image(0).unwrap()[5 * 28..6 * 28], row);
    let images = load(&from_dir(dir).with_classes([1, 8, 4])).unwrap().images;
    assert_eq!(images.labels()[..8], [4, 1, 1, 1, 4, 1, 8, 4]);
    images
}

#[test]
fn the_tutorials_digits() {
    let images = digits_of_the_tutorial(&excerpt(), 512);
    assert_eq!(images.class_counts(), [0, 69, 0, 0, 52, 0, 0, 0, 40, 0]);
}

/// Compares with candle's reader, which reads only uncompressed files and also requires the test files.
fn candle_reads_the_same_of(dir: &Path) {
    let plain = tempfile::tempdir().unwrap();
    for name in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
        let mut bytes = Vec::new();
        let packed = dir.join(format!("{name}.gz"));
        if packed.exists() {
            GzDecoder::new(fs::File::open(packed).unwrap()).read_to_end(&mut bytes).unwrap();
        } else {
            bytes = fs::read(dir.join(name)).unwrap();
        }
        fs::write(plain.path().join(name), bytes).unwrap();
    }
    fs::write(plain.path().join("t10k-images-idx3-ubyte"), header(&[2051, 0, 28, 28])).unwrap();
    fs::write(plain.path().join("t10k-labels-idx1-ubyte"), header(&[2049, 0])).unwrap();
    let theirs = candle_datasets::vision::mnist::load_dir(plain.path()).unwrap();
    let ours = load(&from_dir(dir)).unwrap().images;
    assert_eq!(theirs.train_labels.to_dtype(candle_core::DType::U32).unwrap().to_vec1::<u32>().unwrap(), ours.labels());
    let pixels = theirs.train_images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for i in 0..ours.len() {
        for (ours, theirs) in ours.pixels_f32(&[i]).unwrap().iter().zip(&pixels[i * 784..]) {
            assert!((ours - theirs).abs() <= f32::EPSILON / 2.0); // candle multiplies by 1/255; torchvision divides
        }
    }
}

#[test]
fn candle_reads_the_same() {
    candle_reads_the_same_of(&excerpt());
}

/// The fraction of images in `set` whose nearest neighbour in `known` has the same class.
fn nearest_neighbour(known: &ImageSet, set: &ImageSet, count: usize) -> f64 {
    let distance =
        |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(&a, &b)| (i32::from(a) - i32::from(b)).pow(2)).sum::<i32>();
    let right = (0..count).filter(|&i| {
        let nearest = (0..known.len()).min_by_key(|&j| distance(&set.image(i).unwrap(), &known.image(j).unwrap()));
        nearest.is_some_and(|j| known.label(j) == set.label(i))
    });
    right.count() as f64 / count as f64
}

/// Classifies the ones, eights and fours, and then all digits, by drawn digits. `least` is the lowest accepted fraction
/// of correct answers for each.
fn drawn_digits_teach_to_read(dir: &Path, least: [f64; 2]) {
    let mut config = from_dir(dir);
    for (classes, least) in [vec![1u8, 8, 4], (0..10).collect()].into_iter().zip(least) {
        config = config.with_classes(classes.iter().map(|&class| u32::from(class)));
        let real: Arc<ImageSet> = load(&config).unwrap().images;
        let drawn = draw_digits(&classes, 300, 0).unwrap();
        let share = nearest_neighbour(&drawn, &real, real.len().min(500));
        assert!(share > least, "{share} of {classes:?}");
    }
}

#[test]
fn drawn_digits_teach_to_read_real_ones() {
    drawn_digits_teach_to_read(&excerpt(), [0.9, 0.75]);
}
