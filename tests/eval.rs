//! The command `eval`.

#[path = "support/command.rs"]
mod command;

use std::fs;
use std::path::Path;

use command::{Done, Workplace, config};
use kakusan::data::{ImageSet, draw_digits};
use kakusan::rng::Generator;
use serde_json::Value;

/// Few drawn digits of the classes 1, 4 and 8, as the data of `configs/184.toml`.
const DRAWN: [&str; 4] = ["--set", "data.sources=[\"drawn\"]", "--set", "data.drawn_per_class=60"];

impl Workplace {
    fn eval(&self, out: &str, args: &[&str]) -> Done {
        self.run(&[&["eval", "--out", out], args].concat())
    }

    fn result(&self, out: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(out).join("eval.json")).unwrap()).unwrap()
    }

    /// Pictures in a folder.
    fn pictures(&self, folder: &str, [channels, height, width]: [usize; 3], images: &[Vec<u8>]) {
        fs::create_dir_all(self.path(folder)).unwrap();
        for (i, planes) in images.iter().enumerate() {
            let size = height * width;
            let pixels: Vec<u8> = (0..size).flat_map(|at| (0..channels).map(move |c| planes[c * size + at])).collect();
            let file = fs::File::create(self.path(folder).join(format!("{i:03}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, width as u32, height as u32);
            encoder.set_color(if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        }
    }
}

fn all(set: &ImageSet) -> Vec<Vec<u8>> {
    (0..set.len()).map(|i| set.image(i).unwrap().into_owned()).collect()
}

fn noise(count: usize, size: usize) -> Vec<Vec<u8>> {
    let mut rng = Generator::new(1);
    (0..count).map(|_| rng.rand(size).into_iter().map(|x| (x * 255.0) as u8).collect()).collect()
}

#[test]
fn a_model_is_measured_beside_held_out_images_and_twice_the_same() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "2"]).expect(0);
    let args = ["--model", "run", "--images", "24", "--steps", "2"];
    let done = place.run(&[&["eval"], args.as_slice()].concat()).expect(0);
    let said = done.stdout();
    for part in ["Classifier: trained now", "test split", "Fréchet distance", "precision", "class 8", "run/eval.json"]
    {
        assert!(said.contains(part), "{said}");
    }
    assert!(done.stderr().contains("24 images are fewer than the 64 features"), "{}", done.stderr());
    for picture in ["eval-samples.png", "eval-neighbours.png"] {
        assert!(fs::read(place.path("run").join(picture)).unwrap().starts_with(b"\x89PNG"));
    }
    let report = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(report.contains("<h2>How good the images are</h2>") && report.contains("24 samples were drawn by"));
    let result = place.result("run");
    assert_eq!((&result["sampling"]["steps"], &result["samples"]["images"]), (&2.into(), &24.into()));
    assert_eq!(result["held_out"]["images"], "test split");

    // other threads and batches, and the classifier of the cache
    let again = place.eval("again", &[&args[..], &["--threads", "1", "--batch", "7"]].concat()).expect(0);
    assert!(again.stdout().contains("Classifier: from the cache"), "{}", again.stdout());
    let file = |out: &str| fs::read(place.path(out).join("eval.json")).unwrap();
    assert_eq!(file("run"), file("again"));
    place.eval("other", &[&args[..], &["--seed", "100"]].concat()).expect(0);
    assert_ne!(result["samples"], place.result("other")["samples"]);
    assert_eq!(result["held_out"], place.result("other")["held_out"]);
}

#[test]
fn real_images_are_near_noise_is_far_and_copies_are_seen() {
    let place = Workplace::new();
    let data = config("184.toml");
    let data = [&["--data", data.to_str().unwrap()], DRAWN.as_slice()].concat();
    place.pictures("real", [1, 28, 28], &all(&draw_digits(&[1, 4, 8], 50, 7).unwrap()));
    place.pictures("copied", [1, 28, 28], &all(&draw_digits(&[1, 4, 8], 50, 0).unwrap()));
    place.pictures("noise", [1, 28, 28], &noise(150, 784));
    let measure = |folder: &str| {
        place.eval(folder, &[&["--from-images", folder], &data[..]].concat()).expect(0);
        place.result(folder)
    };
    let [real, copied, noise] = ["real", "copied", "noise"].map(measure);
    let figure = |result: &Value, name: &str| result["samples"][name].as_f64().unwrap();
    let yardstick = real["held_out"]["figures"]["frechet_distance"].as_f64().unwrap();
    assert!(figure(&real, "frechet_distance") < 2.0 * yardstick, "{real:#}");
    assert!(figure(&noise, "frechet_distance") > 20.0 * yardstick, "{noise:#}");
    assert!(figure(&real, "precision") > 0.5 && figure(&noise, "precision") < 0.1, "{real:#} {noise:#}");
    assert!(figure(&real, "kid") < figure(&noise, "kid") / 10.0, "{real:#} {noise:#}");
    assert!(figure(&copied, "nearest") < 1e-3 && figure(&real, "nearest") > 0.1, "{copied:#}");
    assert_eq!(real["samples"]["classes"].as_array().unwrap()[0]["reference"].as_f64().unwrap(), 1.0 / 3.0);
}

#[test]
fn pictures_of_another_shape_and_data_without_a_test_split() {
    let place = Workplace::new();
    let digits = draw_digits(&[1, 8], 30, 0).unwrap();
    for class in [1, 8] {
        let some: Vec<_> = (0..digits.len()).filter(|&i| digits.label(i) == class).collect();
        let some: Vec<_> = some.into_iter().map(|i| digits.image(i).unwrap().into_owned()).collect();
        place.pictures(&format!("data/{class}"), [1, 28, 28], &some);
    }
    place.pictures("coloured", [3, 20, 30], &noise(12, 3 * 20 * 30));
    let said = place.eval("e", &["--from-images", "coloured", "--data", "data"]).expect(0).stdout();
    for part in ["other half", "are made grey of 28 x 28 pixels", "data, 30 images"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn what_cannot_be_measured_says_what_to_do() {
    let place = Workplace::new();
    let data = config("184.toml");
    let data = [&["--data", data.to_str().unwrap()], DRAWN.as_slice()].concat();
    fs::create_dir(place.path("empty")).unwrap();
    place.pictures("few", [1, 28, 28], &noise(3, 784));
    place.pictures("flat", [1, 28, 28], &noise(30, 784));
    place.train("run", &["--max-steps", "1"]).expect(0);
    fs::write(place.path("weights.pth"), "no weights").unwrap();
    let flat = ["--from-images", "few", "--data", "flat"];
    for (args, code, parts) in [
        ([&["--from-images", "empty"], &data[..]].concat(), 1, vec!["empty", "no picture"]),
        ([&["--from-images", "few"], &data[..]].concat(), 2, vec!["at least 4 images, and there are 3"]),
        (flat.to_vec(), 2, vec!["labelled images", "--features pt_inception"]),
        (vec!["--from-images", "few"], 2, vec!["--data DIR, or --data FILE.toml"]),
        ([&["--from-images", "few", "--steps", "9"], &data[..]].concat(), 2, vec!["--from-images", "--steps"]),
        (vec!["--model", "run", "--features", "resnet"], 2, vec!["expected classifier, a file of weights"]),
        (vec!["--model", "run", "--features", "weights.pth"], 1, vec!["weights.pth"]),
        (vec!["--model", "run", "--class", "3"], 2, vec!["this model has no classes"]),
        (vec!["--model", "run", "--set", "train.seed=3"], 2, vec!["only the data can be set here"]),
        (vec!["--model", "run", "--set", "data.channels=3"], 2, vec!["[1, 28, 28]", "[3, 28, 28]", "data.channels"]),
        (vec!["--model", "run", "--against", "val"], 1, vec!["`split` is \"val\""]),
    ] {
        let done = place.eval("out", &args).expect(code);
        for part in parts {
            assert!(done.stderr().contains(part), "{args:?}: {}", done.stderr());
        }
        assert!(!Path::new(&place.path("out")).join("eval.json").exists(), "{args:?}");
    }
}

#[test]
fn a_training_measures_its_samples_every_so_many_epochs() {
    let place = Workplace::new();
    let set = ["--set", "train.eval_every=1", "--set", "sample.steps=1"];
    let done = place.train("run", &set).expect(0);
    assert!(done.stdout().contains("Samples of epoch 2: Fréchet distance"), "{}", done.stdout());
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(place.path("run/eval.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = lines();
    assert_eq!(first.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 8]);
    for line in &first {
        let distance = |key: &str| line[key].as_f64().unwrap();
        assert!(distance("frechet_distance") > distance("held_out_frechet_distance"), "{line}");
    }
    // resumed at an earlier step, it measures the same again, and keeps each step once
    place.run(&["train", "--resume", "run", "--checkpoint", "4"]).expect(0);
    assert_eq!(lines(), first);
}

#[test]
fn a_training_that_cannot_be_measured_goes_on() {
    let place = Workplace::new();
    place.pictures("plain", [1, 28, 28], &noise(8, 784));
    let config = r#"
        data = { name = "folder", dir = "plain" }
        model = { _class_name = "BasicUNet" }
        scheduler = { _class_name = "LinearMixScheduler" }
        train = { epochs = 2, batch_size = 4, eval_every = 1 }
        sample = { batch_size = 1, steps = 1 }
    "#;
    fs::write(place.path("plain.toml"), config).unwrap();
    let done = place.run(&["train", "--config", "plain.toml", "--out", "run"]).expect(0);
    let warnings = done.stderr();
    assert_eq!(warnings.matches("train.eval_every has no effect: the classifier needs labelled images").count(), 1);
    assert!(!place.path("run/eval.jsonl").exists() && place.path("run/model_index.json").is_file());
}
