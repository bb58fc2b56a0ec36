//! Compares pictures of every kind with the results of Pillow and torchvision: `tests/golden/images.py` and
//! `formats.py`.

mod common;

use std::{fs, num::NonZeroUsize, path::Path};

use common::{epoch, folder_of};
use kakusan_data::{Batch, DataConfig, ImageSet, load, read_mask, read_pictures};
use kakusan_rng::{Generator, dataloader_permutation};
use safetensors::SafeTensors;

/// The same colour as in the script.
const BACKGROUND: [u8; 3] = [255, 128, 0];

fn golden() -> Vec<u8> {
    golden_of("images")
}

fn golden_of(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    fs::read(dir.join(name).with_extension("safetensors")).unwrap()
}

/// The pictures of the golden file: names and bytes.
fn files<'a>(golden: &'a SafeTensors) -> Vec<(&'a str, &'a [u8])> {
    let files = named(golden, "file.");
    assert_eq!(files.len(), 19);
    files
}

/// The JPEGs of every kind in the golden file.
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
    (*load(&config).unwrap().images).clone()
}

/// The largest difference of a pixel, from 0 to 255.
fn worst(image: &[u8], expected: &[u8]) -> u8 {
    image.iter().zip(expected).map(|(ours, theirs)| ours.abs_diff(*theirs)).max().unwrap_or(0)
}

/// Bit-exact, including JPEG: the largest difference is 0 of 255.
#[test]
fn each_pixel_is_torchvisions() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    for (name, bytes) in files(&golden) {
        for (channels, side) in [1, 3].into_iter().flat_map(|channels| [16, 32, 45].map(|side| (channels, side))) {
            let set = one(name, bytes, |config| DataConfig {
                resolution: Some(side.into()),
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

/// JPEGs with every subsampling, baseline and progressive, smooth and noisy, of odd sizes, in grey, RGB, CMYK and YCCK.
/// Decoding gives libjpeg-turbo's pixels; resizing, cropping and mirroring give torchvision's. The largest difference
/// is 0 of 255.
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
        let (resolution, channels, center_crop, random_flip) = (Some(12.into()), Some(3), true, true);
        let config = DataConfig { resolution, channels, center_crop, random_flip, ..folder_of(dir.path()) };
        let images = load(&config).unwrap().images;
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

/// A JPEG that is cut anywhere is refused. If only its end marker is missing, no pixel is lost.
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
            match load(&folder_of(dir.path())) {
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
        let grey = ["grey.jpg", "grey.png", "grey-alpha.png", "one-bit.png"].contains(&name);
        assert_eq!(set.channels(), if grey { 1 } else { 3 }, "{name}");
    }
}

/// Crops and flips are those that torch draws, in sequence, starting after the draw of the images' order.
#[test]
fn random_crops_and_flips_are_torchs() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let (name, bytes) = files(&golden)[16];
    let whole = golden.tensor(&format!("whole.{name}")).unwrap();
    let &[_, height, width] = whole.shape() else { panic!() };
    let mut flips = [0; 2];
    for (seed, cache_mb) in (0..20).flat_map(|seed| [(seed, None), (seed, Some(0))]) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), bytes).unwrap();
        let (resolution, background) = (Some(24.into()), Some(BACKGROUND));
        let config = DataConfig { resolution, background, random_flip: true, cache_mb, ..folder_of(dir.path()) };
        let images = load(&config).unwrap().images;
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

/// TIFF and BMP of every kind, and 16-bit pictures at full depth, bit for bit. `resolution = [height, width]` resizes
/// both sides.
#[test]
fn formats_and_depths_are_pillows() {
    let golden = golden_of("formats");
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let files = named(&golden, "file.");
    assert_eq!(files.len(), 21);
    for ((name, bytes), channels) in files.into_iter().flat_map(|file| [(file, 1), (file, 3)]) {
        let expected = golden.tensor(&format!("pair.{name}.{channels}")).unwrap();
        let (numbers, nearest): (Vec<f32>, Vec<u8>) = if name.starts_with("deep") {
            let values = expected.data().as_chunks::<2>().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
            values.map(|v| (f32::from(v) / 65_535.0, (f32::from(v) / 257.0).round() as u8)).unzip()
        } else {
            expected.data().iter().map(|&value| (f32::from(value) / 255.0, value)).unzip()
        };
        for cache_mb in [None, Some(0)] {
            let config = |config| DataConfig {
                resolution: Some([9, 20].into()),
                channels: Some(channels),
                random_flip: true,
                cache_mb,
                ..config
            };
            let set = one(name, bytes, config);
            assert_eq!((set.shape(), set.is_held()), ([channels, 9, 20], cache_mb.is_none()));
            if cache_mb.is_some() {
                continue; // its file was deleted
            }
            assert_eq!(expected.shape(), set.shape());
            let image = set.image(0).unwrap();
            assert!(*image == nearest, "{name}, {channels}: {}", worst(&image, &nearest));
            assert!(set.pixels_f32(&[0]).unwrap() == numbers, "{name}, {channels}");
        }
    }
}

/// No value of a batch is rounded to 8 bits, whether the pictures are held in memory or mirrored or not.
#[test]
fn batches_have_all_sixteen_bits() {
    let golden = golden_of("formats");
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let name = "deep-rgb.tif";
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), golden.tensor(&format!("file.{name}")).unwrap().data()).unwrap();
    let expected = golden.tensor(&format!("pair.{name}.3")).unwrap();
    let values = expected.data().as_chunks::<2>().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
    let plain: Vec<f32> = values.map(|value| f32::from(value) / 65_535.0).collect();
    let mirrored: Vec<f32> = plain.chunks_exact(20).flat_map(|row| row.iter().rev().copied()).collect();
    for cache_mb in [None, Some(0)] {
        let config =
            DataConfig { resolution: Some([9, 20].into()), random_flip: true, cache_mb, ..folder_of(dir.path()) };
        let images = load(&config).unwrap().images;
        let mut flips = [0; 2];
        for seed in 0..12 {
            let batch = &epoch(&images, 1, 1, &mut Generator::new(seed))[0].images;
            flips[usize::from(*batch == mirrored)] += 1;
            assert!(*batch == plain || *batch == mirrored, "{seed}, {cache_mb:?}");
        }
        assert!(flips[0] > 0 && flips[1] > 0, "{flips:?}");
    }
}

#[test]
fn grey_tiffs_and_bmps_stay_grey_unless_asked() {
    let golden = golden_of("formats");
    let golden = SafeTensors::deserialize(&golden).unwrap();
    for (name, bytes) in named(&golden, "file.") {
        let grey = ["grey", "one-bit", "fax"].iter().any(|part| name.contains(part));
        assert_eq!(one(name, bytes, |config| config).channels(), if grey { 1 } else { 3 }, "{name}");
    }
}

/// A TIFF with a palette is refused with the reason, not interpreted by guesswork.
#[test]
fn a_tiff_that_is_not_read_says_why() {
    let golden = golden_of("formats");
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let tiff = golden.tensor("file.deep-grey.tif").unwrap().data().to_vec();
    let dir = tempfile::tempdir().unwrap();
    // The tag of the photometric interpretation, a 16-bit integer with the value 1: black is zero.
    let tag = [&262u16.to_le_bytes()[..], &3u16.to_le_bytes(), &1u32.to_le_bytes(), &1u16.to_le_bytes()].concat();
    let at = tiff.windows(tag.len()).position(|bytes| *bytes == tag).unwrap() + 8;
    let mut palette = tiff.clone();
    palette[at] = 3;
    fs::write(dir.path().join("a.tif"), palette).unwrap();
    let message = load(&folder_of(dir.path())).unwrap_err().to_string();
    assert!(message.contains("a.tif") && message.contains("is of an unsupported kind"), "{message}");
}

/// If a picture is cut at any point or has any byte changed, it is refused or read, but nothing panics.
#[test]
fn damage_is_an_error_or_another_picture() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = DataConfig { resolution: Some(8.into()), ..folder_of(dir.path()) };
    let formats = golden_of("formats");
    let formats = SafeTensors::deserialize(&formats).unwrap();
    let of_formats = named(&formats, "file.").into_iter().map(|file| (file, 10));
    for ((name, bytes), places) in files(&golden).into_iter().map(|file| (file, 30)).chain(of_formats) {
        let path = dir.path().join(name);
        for i in (0..bytes.len()).step_by(1 + bytes.len() / places).chain(0..places) {
            let mut damaged = bytes.to_vec();
            damaged[i] ^= 0xff;
            for damaged in [&damaged[..], &bytes[..i]] {
                fs::write(&path, damaged).unwrap();
                match load(&config) {
                    Ok(loaded) => assert_eq!(loaded.images.len(), 1),
                    Err(error) => assert!(error.to_string().contains(name), "{error}"),
                }
            }
        }
        fs::remove_file(&path).unwrap();
    }
}

/// The pixels are the same for any number of threads and any prefetch, held in memory or decoded again.
#[test]
fn batches_do_not_depend_on_threads_or_memory() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&golden) {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    for center_crop in [false, true] {
        let config =
            DataConfig { resolution: Some(24.into()), random_flip: true, center_crop, ..folder_of(dir.path()) };
        let held = load(&config).unwrap().images;
        let lazy = load(&DataConfig { cache_mb: Some(0), ..config }).unwrap().images;
        assert_eq!((held.is_held(), lazy.is_held(), held.len()), (true, false, 19));
        assert_eq!(held.mean_image().unwrap(), lazy.mean_image().unwrap());
        let expected = epoch(&held, 1, 1, &mut Generator::new(7));
        for (threads, prefetch) in [(1, 1), (2, 3), (3, 2), (4, 4), (16, 7)] {
            assert_eq!(epoch(&lazy, threads, prefetch, &mut Generator::new(7)), expected);
            assert_eq!(epoch(&held, threads, prefetch, &mut Generator::new(7)), expected);
        }
        // Also when resuming in the middle of an epoch.
        let loader = kakusan_data::Loader::new(lazy, NonZeroUsize::new(3).unwrap());
        let rest: Vec<Batch> = loader.epoch(&mut Generator::new(7)).skip_batches(4).map(Result::unwrap).collect();
        assert_eq!(rest, expected[4..]);
    }
}

/// A picture that a program edits has the pixels that training would see of it.
#[test]
fn a_single_picture_changes_as_in_training() {
    let golden = golden();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&golden) {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        for shape in [[1, 32, 32], [3, 16, 16], [3, 20, 30]] {
            let [channels, height, width] = shape;
            let set = one(name, bytes, |config| DataConfig {
                resolution: Some(if height == width { height.into() } else { [height, width].into() }),
                center_crop: true,
                channels: Some(channels),
                background: None,
                ..config
            });
            let read = read_pictures(&path, shape).unwrap();
            assert_eq!(read[0].pixels, set.pixels_f32(&[0]).unwrap(), "{name}");
            assert_eq!((read.len(), &read[0].path), (1, &path));
        }
    }
    fs::create_dir(dir.path().join("below")).unwrap();
    fs::copy(dir.path().join(files(&golden)[0].0), dir.path().join("below/a.png")).unwrap();
    assert_eq!(read_pictures(dir.path(), [3, 8, 8]).unwrap().len(), 20);
    let refused = |path: &Path, shape| read_pictures(path, shape).unwrap_err().to_string();
    assert!(refused(dir.path(), [4, 8, 8]).contains("the model's images have 4"));
    assert!(refused(dir.path(), [1, 10_000, 8]).contains("cannot be resized to 8 x 10000 pixels"));
    fs::create_dir(dir.path().join("below/empty")).unwrap();
    assert!(refused(&dir.path().join("below/empty"), [1, 8, 8]).contains("holds no picture; expected PNG"));
}

#[test]
fn a_mask_changes_with_its_picture() {
    let dir = tempfile::tempdir().unwrap();
    let save = |name: &str, width, height, grey: &dyn Fn(u32, u32) -> u8| {
        let path = dir.path().join(name);
        image::GrayImage::from_fn(width, height, |x, y| image::Luma([grey(x, y)])).save(&path).unwrap();
        path
    };
    let picture = &read_pictures(&save("picture.png", 24, 8, &|x, _| x as u8), [1, 4, 4]).unwrap()[0];
    assert_eq!(picture.size, [24, 8]);
    assert_eq!(picture.changed.as_deref(), Some("24 x 8 pixels, resized, and its middle cropped, to 4 x 4"));
    let read =
        |path: &Path| -> Vec<u8> { read_mask(path, [4, 4], picture).unwrap().into_iter().map(u8::from).collect() };
    // the middle of the picture, columns 8 to 15, is what the images show of it; half of grey is 127.5
    let columns = [0, 0, 1, 1];
    assert_eq!(read(&save("same.png", 24, 8, &|x, _| if x < 12 { 127 } else { 128 })), columns.repeat(4));
    assert_eq!(read(&save("double.png", 48, 16, &|x, _| if x < 24 { 0 } else { 255 })), columns.repeat(4));
    assert_eq!(
        read(&save("square.png", 4, 4, &|x, y| if x == 3 && y == 0 { 255 } else { 0 })),
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    let clear = dir.path().join("clear.png");
    let white = |x: u32, _| image::Rgba([255, 255, 255, if x < 2 { 0 } else { 255 }]);
    image::RgbaImage::from_fn(4, 4, white).save(&clear).unwrap();
    assert_eq!(read(&clear), columns.repeat(4));
    let other = save("other.png", 8, 24, &|_, _| 255);
    let error = read_mask(&other, [4, 4], picture).unwrap_err().to_string();
    assert!(error.contains("has 8 x 24 pixels, which fit neither the picture (24 x 8) nor the model's"), "{error}");
    // a stretched picture stretches its mask
    let wide = &read_pictures(&dir.path().join("picture.png"), [1, 4, 6]).unwrap()[0];
    assert_eq!(wide.changed.as_deref(), Some("24 x 8 pixels, resized to 6 x 4"));
    assert_eq!(read_mask(&other, [4, 6], wide).unwrap(), [true; 24]);
}
