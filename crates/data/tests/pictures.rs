//! Pictures of every kind against what Pillow and torchvision make of them: `tests/golden/images.py`.

mod common;

use std::{fs, num::NonZeroUsize, path::Path};

use common::{epoch, folder_of, no_hub};
use kakusan_data::{Batch, DataConfig, ImageSet, load};
use kakusan_rng::{Generator, dataloader_permutation};
use safetensors::SafeTensors;

/// As in the script.
const BACKGROUND: [u8; 3] = [255, 128, 0];

fn golden() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/images.safetensors")).unwrap()
}

/// The pictures of the golden file: names and bytes.
fn files<'a>(golden: &'a SafeTensors) -> Vec<(&'a str, &'a [u8])> {
    let files = named(golden, "file.");
    assert_eq!(files.len(), 20);
    files
}

/// Its JPEGs of every kind.
fn jpegs<'a>(golden: &'a SafeTensors) -> Vec<(&'a str, &'a [u8])> {
    let jpegs = named(golden, "jpeg.");
    assert_eq!(jpegs.len(), 21);
    jpegs
}

fn named<'a>(golden: &'a SafeTensors, prefix: &str) -> Vec<(&'a str, &'a [u8])> {
    let tensors = golden.iter().map(|(name, tensor)| (name, tensor.data()));
    let mut named: Vec<_> = tensors.filter_map(|(name, data)| Some((name.strip_prefix(prefix)?, data))).collect();
    named.sort_unstable();
    named
}

fn one(name: &str, bytes: &[u8], config: impl FnOnce(DataConfig) -> DataConfig) -> ImageSet {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    let config = config(DataConfig { background: Some(BACKGROUND), ..folder_of(dir.path()) });
    (*load(&config, &no_hub()).unwrap().images).clone()
}

/// By how much of 255 a pixel is wrong at most.
fn worst(image: &[u8], expected: &[u8]) -> u8 {
    image.iter().zip(expected).map(|(ours, theirs)| ours.abs_diff(*theirs)).max().unwrap_or(0)
}

/// To the bit, JPEG too: the largest difference is 0 of 255.
#[test]
fn each_pixel_is_torchvisions() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    for (name, bytes) in files(&golden) {
        for (channels, side) in [1, 3].into_iter().flat_map(|channels| [16, 32, 45].map(|side| (channels, side))) {
            let set = one(name, bytes, |config| DataConfig {
                resolution: Some(side),
                center_crop: true,
                channels: Some(channels),
                ..config
            });
            assert_eq!(set.shape(), [channels, side, side]);
            let expected = golden.tensor(&format!("center.{name}.{channels}.{side}")).unwrap();
            assert_eq!(expected.shape(), set.shape());
            let image = set.image(0).unwrap();
            assert!(image == expected.data(), "{name}, {channels} x {side}: {}", worst(&image, expected.data()));
        }
    }
}

/// In every subsampling, baseline and progressive, smooth and noisy, of odd sizes, grey, RGB, CMYK and YCCK: decoded, resized, cut out and
/// mirrored to libjpeg-turbo's and torchvision's pixels. The largest difference is 0 of 255.
#[test]
fn jpegs_are_libjpeg_turbos() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let mut flips = [0; 2];
    for (name, bytes) in jpegs(&golden) {
        let compare = |image: &[u8], key: &str| {
            let expected = golden.tensor(&format!("{key}.{name}")).unwrap();
            assert!(image == expected.data(), "{name}, {key}: {}", worst(image, expected.data()));
        };
        let decoded = one("a.jpg", bytes, |config| DataConfig { channels: Some(3), ..config });
        compare(&decoded.image(0).unwrap(), "decoded");

        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.jpg"), bytes).unwrap();
        let (resolution, channels, center_crop, random_flip) = (Some(12), Some(3), true, true);
        let config = DataConfig { resolution, channels, center_crop, random_flip, ..folder_of(dir.path()) };
        let images = load(&config, &no_hub()).unwrap().images;
        for seed in 0..6 {
            let mut rng = Generator::new(seed);
            let mut twin = rng.clone();
            let image: Vec<u8> =
                epoch(&images, 1, 1, &mut rng)[0].images.iter().map(|pixel| (pixel * 255.0).round() as u8).collect();
            dataloader_permutation(&mut twin, 1);
            let flip = twin.rand(1)[0] < 0.5;
            flips[usize::from(flip)] += 1;
            compare(&image, if flip { "jpeg-flipped" } else { "jpeg-center" });
        }
    }
    assert!(flips[0] > 20 && flips[1] > 20, "{flips:?}");
}

/// A JPEG cut short anywhere is refused; one that lacks its end marker alone has lost no pixel.
#[test]
fn no_jpeg_is_filled_up_with_grey() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jpg");
    for (name, bytes) in jpegs(&golden) {
        let whole = one("a.jpg", bytes, |config| config).image(0).unwrap().into_owned();
        for lost in (1..40).chain((40..bytes.len()).step_by(53)) {
            fs::write(&path, &bytes[..bytes.len() - lost]).unwrap();
            match load(&folder_of(dir.path()), &no_hub()) {
                Ok(loaded) => {
                    assert!(lost <= 2 && *loaded.images.image(0).unwrap() == whole, "{name} without {lost} bytes")
                }
                Err(error) => assert!(error.to_string().contains("a.jpg"), "{error}"),
            }
        }
    }
}

#[test]
fn grey_stays_grey_unless_asked() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    for (name, bytes) in files(&golden) {
        let set = one(name, bytes, |config| config);
        let grey = ["grey.jpg", "grey.png", "grey-alpha.png", "one-bit.png", "sixteen.png"].contains(&name);
        assert_eq!(set.channels(), if grey { 1 } else { 3 }, "{name}");
    }
}

/// The crops and flips are those that torch draws, one after the other, from where the order of the images was drawn.
#[test]
fn random_crops_and_flips_are_torchs() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let (name, bytes) = files(&golden)[17];
    let whole = golden.tensor(&format!("whole.{name}")).unwrap();
    let &[_, height, width] = whole.shape() else { panic!() };
    let mut flips = [0; 2];
    for (seed, cache_mb) in (0..20).flat_map(|seed| [(seed, None), (seed, Some(0))]) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), bytes).unwrap();
        let (resolution, background) = (Some(24), Some(BACKGROUND));
        let config = DataConfig { resolution, background, random_flip: true, cache_mb, ..folder_of(dir.path()) };
        let images = load(&config, &no_hub()).unwrap().images;
        assert_eq!(images.is_held(), cache_mb.is_none());
        let mut rng = Generator::new(seed);
        let mut twin = rng.clone();
        let batches: Vec<Batch> = epoch(&images, 1, 1, &mut rng);

        dataloader_permutation(&mut twin, 1);
        let mut place = |room: usize| twin.randint(1, 0, room as i64 + 1).unwrap()[0] as usize;
        let (top, left) = (place(height - 24), place(width - 24));
        let flip = twin.rand(1)[0] < 0.5;
        assert_eq!(rng.next_u64(), twin.next_u64());
        flips[usize::from(flip)] += 1;
        for (i, &pixel) in batches[0].images.iter().enumerate() {
            let (channel, y, x) = (i / 576, i / 24 % 24, i % 24);
            let x = if flip { 23 - x } else { x };
            let expected = whole.data()[(channel * height + top + y) * width + left + x];
            assert!((pixel * 255.0 - f32::from(expected)).abs() < 1.01, "{name}, seed {seed}: {pixel}, {expected}");
        }
    }
    assert!(flips[0] > 5 && flips[1] > 5, "{flips:?}");
}

/// Cut short anywhere or with any byte changed, a picture is refused or read, and nothing panics.
#[test]
fn damage_is_an_error_or_another_picture() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = DataConfig { resolution: Some(8), ..folder_of(dir.path()) };
    for (name, bytes) in files(&golden) {
        let path = dir.path().join(name);
        for i in (0..bytes.len()).step_by(1 + bytes.len() / 30).chain(0..30) {
            let mut damaged = bytes.to_vec();
            damaged[i] ^= 0xff;
            for damaged in [&damaged[..], &bytes[..i]] {
                fs::write(&path, damaged).unwrap();
                match load(&config, &no_hub()) {
                    Ok(loaded) => assert_eq!(loaded.images.len(), 1),
                    Err(error) => assert!(error.to_string().contains(name), "{error}"),
                }
            }
        }
        fs::remove_file(&path).unwrap();
    }
}

/// The same pixels for any number of threads, any prefetch, held or decoded anew.
#[test]
fn batches_do_not_depend_on_threads_or_memory() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&golden) {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    for center_crop in [false, true] {
        let config = DataConfig { resolution: Some(24), random_flip: true, center_crop, ..folder_of(dir.path()) };
        let held = load(&config, &no_hub()).unwrap().images;
        let lazy = load(&DataConfig { cache_mb: Some(0), ..config }, &no_hub()).unwrap().images;
        assert_eq!((held.is_held(), lazy.is_held(), held.len()), (true, false, 20));
        assert_eq!(held.mean_image().unwrap(), lazy.mean_image().unwrap());
        let expected = epoch(&held, 1, 1, &mut Generator::new(7));
        for (threads, prefetch) in [(1, 1), (2, 3), (3, 2), (4, 4), (16, 7)] {
            assert_eq!(epoch(&lazy, threads, prefetch, &mut Generator::new(7)), expected);
            assert_eq!(epoch(&held, threads, prefetch, &mut Generator::new(7)), expected);
        }
        // In the middle of an epoch, too.
        let loader = kakusan_data::Loader::new(lazy, NonZeroUsize::new(3).unwrap());
        let rest: Vec<Batch> = loader.epoch(&mut Generator::new(7)).skip_batches(4).map(Result::unwrap).collect();
        assert_eq!(rest, expected[4..]);
    }
}
