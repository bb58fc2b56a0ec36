//! `sample` with pictures: from one, repainting a part, inverting; interpolations and tables.

use std::collections::HashMap;
use std::fs;

use image::{AnimationDecoder, GrayImage, RgbImage};
use safetensors::SafeTensors;

use crate::command::Workplace;

/// A workplace with a model of each kind after two steps, and pictures.
fn workplace() -> Workplace {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "2"]).expect(0);
    place.train("ddpm", &["--max-steps", "2", "--set", "scheduler._class_name=DDPMScheduler"]).expect(0);
    let grey = |x: u32, y: u32| image::Luma([(x * 9 + y) as u8]);
    GrayImage::from_fn(28, 28, grey).save(place.path("grey.png")).unwrap();
    RgbImage::from_fn(56, 40, |x, y| image::Rgb([x as u8 * 4, 90, y as u8 * 6])).save(place.path("photo.png")).unwrap();
    let right = |x: u32, _| image::Luma([if x < 14 { 127 } else { 128 }]);
    GrayImage::from_fn(28, 28, right).save(place.path("right.png")).unwrap();
    GrayImage::new(28, 28).save(place.path("black.png")).unwrap();
    GrayImage::from_pixel(90, 30, image::Luma([255])).save(place.path("wide.png")).unwrap();
    // as large as the photo, of which the columns 6 to 33 of 39 are taken: 15 of them are white
    let middle = |x: u32, _| image::Luma([if x < 28 { 0 } else { 255 }]);
    GrayImage::from_fn(56, 40, middle).save(place.path("half.png")).unwrap();
    fs::write(place.path("notes.png"), "no picture").unwrap();
    place
}

fn tensors(place: &Workplace, name: &str) -> HashMap<String, Vec<f32>> {
    let bytes = fs::read(place.path(name)).unwrap();
    let floats = |data: &[u8]| data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, tensor)| (name, floats(tensor.data()))).collect()
}

/// The text in a PNG.
fn text(place: &Workplace, name: &str) -> HashMap<String, String> {
    let file = std::io::BufReader::new(fs::File::open(place.path(name)).unwrap());
    let reader = png::Decoder::new(file).read_info().unwrap();
    reader.info().uncompressed_latin1_text.iter().map(|text| (text.keyword.clone(), text.text.clone())).collect()
}

#[test]
fn pictures_are_edited() {
    let place = workplace();
    let sample = |model: &str, more: &str| {
        let words: Vec<&str> = more.split_whitespace().collect();
        place.run(&[&["sample", "--model", model, "--steps", "4", "--save-tensor", "t"], words.as_slice()].concat())
    };
    let refused = |model: &str, more: &str, code: i32, words: &[&str]| {
        let said = sample(model, more).expect(code).stderr();
        assert!(words.iter().all(|word| said.contains(word)), "{more}: {said}");
    };

    // from a picture
    let said = sample("run", "--init photo.png --strength 0.5 --batch 2").expect(0).stdout();
    let change = "photo.png: 56 x 40 pixels, resized, and its middle cropped, to 28 x 28; in colour, made grey.";
    assert!(said.contains(change) && said.contains("2 images in 4 steps: samples.png"), "{said}");
    let about = text(&place, "samples.png");
    assert_eq!([&about["init"], &about["strength"], &about["seed"]], ["photo.png", "0.5", "0"]);
    refused("run", "--init grey.png --strength 1.5", 2, &["--strength", "a number from 0 to 1"]);
    refused("run", "--init grey.png --strength 0.1", 2, &["none of 4 steps would be done"]);
    refused("run", "--strength 0.5", 2, &["--init"]);
    refused("run", "--init none.png", 1, &["none.png cannot be read"]);
    refused("run", "--init notes.png", 1, &["notes.png is not a picture in a known format; expected PNG"]);

    // a part of it
    let given: Vec<f32> = (0..784).map(|i| (i % 28 * 9 + i / 28) as u8 as f32 / 255.0).collect();
    for (model, way) in [("run", ""), ("ddpm", "--scheduler euler"), ("ddpm", "--mask-way repaint --eta 0.5")] {
        let said = sample(model, &format!("--init grey.png --mask right.png --batch 2 {way}")).expect(0).stdout();
        assert!(said.contains("392 of 784 pixels are repainted, those that are white in right.png."), "{said}");
        let images = &tensors(&place, "t")["images"];
        for (i, value) in images.iter().enumerate() {
            let is_kept = i % 28 < 14;
            assert!(!is_kept || *value == given[i % 784], "{way}: {i}");
        }
        assert!(images.iter().enumerate().any(|(i, value)| *value != given[i % 784]));
    }
    assert_eq!(text(&place, "samples.png")["scheduler"], "RePaintScheduler");
    assert_eq!(text(&place, "samples.png")["mask way"], "repaint");
    let said = sample("run", "--init photo.png --mask half.png --batch 1").expect(0).stdout();
    assert!(said.contains("420 of 784 pixels"), "{said}");
    refused("run", "--init grey.png --mask black.png", 2, &["black.png is black everywhere", "paint white"]);
    refused("run", "--init grey.png --mask wide.png", 1, &["wide.png has 90 x 30 pixels, which fit neither"]);
    refused("run", "--init grey.png --mask notes.png", 1, &["notes.png is not a picture"]);
    refused("run", "--init grey.png --mask right.png --mask-way repaint", 1, &["RePaintScheduler", "that fit are"]);
    refused("ddpm", "--init grey.png --mask right.png --mask-way repaint --strength 0.5", 2, &["leave it out"]);

    // inverted
    fs::create_dir(place.path("some")).unwrap();
    fs::copy(place.path("grey.png"), place.path("some/1.png")).unwrap();
    fs::copy(place.path("photo.png"), place.path("some/2.png")).unwrap();
    let said = sample("ddpm", "--invert grey.png --out inverted.png").expect(0).stdout();
    let done = "The picture inverted to noise in 4 steps and drawn again in as many; the mean error";
    assert!(said.contains(done), "{said}");
    let found = tensors(&place, "t");
    assert_eq!([found["noise"].len(), found["images"].len()], [784, 784]);
    let error = found["images"].iter().zip(&given).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / 784.0;
    assert!(said.contains(&format!("of a pixel is {error:.4} (")), "{said} {error}");
    assert_eq!(text(&place, "inverted.png")["invert"], "grey.png");
    let said = sample("ddpm", "--invert some").expect(0).stdout();
    assert!(said.contains("2 pictures inverted to noise"), "{said}");
    refused("run", "--invert grey.png", 2, &["DDIM's inversion is for", "that fit are"]);
    refused("ddpm", "--invert grey.png --scheduler euler", 2, &["--invert", "--scheduler"]);
}

#[test]
fn noises_are_interpolated_and_tables_drawn() {
    let place = workplace();
    let sample = |model: &str, more: &str| {
        let words: Vec<&str> = more.split_whitespace().collect();
        place.run(&[&["sample", "--model", model, "--steps", "3", "--save-tensor", "t"], words.as_slice()].concat())
    };
    let said = sample("run", "--interpolate 3..7 --frames 5 --out way.gif").expect(0);
    assert!(said.stdout().contains("5 images from seed 3 to seed 7 in 3 steps: way.gif") && said.stderr().is_empty());
    let way = tensors(&place, "t")["images"].clone();
    let gif = std::io::BufReader::new(fs::File::open(place.path("way.gif")).unwrap());
    let frames = image::codecs::gif::GifDecoder::new(gif).unwrap().into_frames();
    assert_eq!(frames.map(Result::unwrap).count(), 5);
    sample("run", "--seeds 3,7").expect(0);
    let ends = tensors(&place, "t")["images"].clone();
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(near(&way[..784], &ends[..784]) && near(&way[4 * 784..], &ends[784..]) && !near(&way[784..1568], &ends));
    let said = sample("ddpm", "--interpolate 3..7 --frames 3 --animate way.png --out sheet.png").expect(0);
    assert!(said.stdout().contains("The images as an animation: way.png"), "{}", said.stdout());
    assert!(said.stderr().contains("DDPMScheduler draws noise in its steps"), "{}", said.stderr());
    let about = text(&place, "way.png");
    assert_eq!([&about["interpolate"], &about["frames"]], ["3..7", "3"]);
    assert!(!about.contains_key("seed"));
    assert_eq!(image::open(place.path("sheet.png")).unwrap().width(), 3 * 90 + 6);

    let grid = "--grid seeds=5..7 scheduler=ddim,euler --out table.png --separate each";
    let said = sample("ddpm", grid).expect(0).stdout();
    assert!(said.contains("A table of 6 images: table.png"), "{said}");
    let table = tensors(&place, "t")["images"].clone();
    sample("ddpm", "--scheduler euler --seeds 6").expect(0);
    assert!(near(&table[4 * 784..5 * 784], &tensors(&place, "t")["images"]));
    let about = text(&place, "each/seed-6-scheduler-euler.png");
    assert_eq!([&about["seed"], &about["scheduler"], &about["steps"]], ["6", "euler", "3"]);
    let about = text(&place, "table.png");
    assert_eq!(about["grid"], "seeds=5..7 scheduler=ddim,euler");
    assert!(!about.contains_key("seed") && !about.contains_key("scheduler"));
    sample("run", "--init grey.png --grid strength=0.4,1").expect(0);

    for (more, words) in [
        ("--interpolate 3..3", ["two different seeds, as in 3..7", "--interpolate"]),
        ("--interpolate 3..7 --seed 5", ["--interpolate", "--seed"]),
        ("--frames 5", ["--interpolate", "--frames"]),
        ("--grid seeds", ["expected a setting and its values, as in seeds=0..7", "strength"]),
        ("--grid colour=1", ["there is no setting `colour`", "guidance"]),
        ("--grid steps=0,4", ["`0`: expected a whole number from 1 to", "--grid"]),
        ("--grid seeds=0..3 --seed 5", ["--seed has no effect where --grid varies it", "leave out"]),
        ("--grid seeds=0..3 seeds=1,2", ["both sides of the grid are of seed", "two settings"]),
        ("--grid strength=0.5", ["needs a picture to start from", "--init"]),
        ("--grid seeds=0..3 --batch 3", ["--grid", "--batch"]),
    ] {
        let said = sample("run", more).expect(2).stderr();
        assert!(words.iter().all(|word| said.contains(word)), "{more}: {said}");
    }
}
