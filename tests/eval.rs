//! The command `eval`.

#[path = "support/command.rs"]
mod command;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use command::{Done, Workplace, config};
use kakusan::data::{ImageSet, draw_digits};
use kakusan::pipeline::Labels;
use kakusan::rng::Generator;
use serde_json::Value;

/// Few drawn digits of the classes 1, 4 and 8, as the data of `configs/184.toml`.
const DRAWN: [&str; 4] = ["--set", "data.sources=[\"drawn\"]", "--set", "data.drawn_per_class=60"];

/// A scheduler that adds noise.
const DDPM: &str = "scheduler._class_name=\"DDPMScheduler\"";

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

    /// Digits in a folder, with a subfolder for each class.
    fn digits(&self, folder: &str, digits: &ImageSet) {
        for class in digits.labels().iter().collect::<std::collections::BTreeSet<_>>() {
            let some = (0..digits.len()).filter(|&i| digits.label(i) == *class);
            let some: Vec<_> = some.map(|i| digits.image(i).unwrap().into_owned()).collect();
            self.pictures(&format!("{folder}/{class}"), [1, 28, 28], &some);
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
fn images_of_the_data_are_restored_from_noise() {
    let place = Workplace::new();
    // an untrained network that predicts hardly any noise, so that the little that was added stays
    place.train("run", &["--max-steps", "1", "--set", "train.learning_rate=1e-9", "--set", DDPM]).expect(0);
    let restore = |share: &str| {
        place.run(&["eval", "--model", "run", "--images", "24", "--steps", "10", "--restore", share]).expect(0);
        place.result("eval")
    };
    let [little, all] = ["0.1", "1"].map(restore);
    assert_eq!(little["sampling"]["restored"], 0.1);
    assert!(!place.path("run/eval.json").exists());
    let nearest = |result: &Value| result["samples"]["nearest"].as_f64().unwrap();
    assert!(nearest(&little) < nearest(&all) / 2.0, "{little:#} {all:#}");
    let others = ["--model", "run", "--images", "24", "--steps", "10", "--restore", "0.1", "--batch", "5"];
    place.eval("others", &others).expect(0);
    assert_eq!(place.result("others")["samples"], little["samples"]);

    let refused = |args: &[&str]| place.eval("refused", args).expect(2).stderr();
    assert!(refused(&["--from-images", "run/images", "--restore", "0.5"]).contains("--restore"));
    assert!(refused(&["--model", "run", "--restore", "1.5"]).contains("--restore"));
    let none = refused(&["--model", "run", "--steps", "2", "--restore", "0.1"]);
    assert!(none.contains("none of 2 steps would be done"), "{none}");
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
    place.digits("data", &draw_digits(&[1, 8], 30, 0).unwrap());
    place.pictures("coloured", [3, 20, 30], &noise(12, 3 * 20 * 30));
    let said = place.eval("e", &["--from-images", "coloured", "--data", "data"]).expect(0).stdout();
    for part in ["other half", "are made grey of 28 x 28 pixels", "data, 30 images"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn grey_pictures_are_compared_with_coloured_data() {
    let place = Workplace::new();
    for (class, at) in [("cats", 0), ("dogs", 20)] {
        place.pictures(&format!("data/{class}"), [3, 12, 16], &noise(40, 3 * 12 * 16)[at..at + 20]);
    }
    place.pictures("grey", [1, 28, 28], &noise(12, 784));
    let said = place.eval("e", &["--from-images", "grey", "--data", "data"]).expect(0).stdout();
    assert!(said.contains("are made coloured of 12 x 16 pixels"), "{said}");
}

#[test]
fn a_model_of_one_class_is_compared_with_that_class() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1", "--set", "data.classes=[8]"]).expect(0);
    place.eval("e", &["--model", "run", "--images", "8", "--steps", "1"]).expect(0);
    let result = place.result("e");
    assert_eq!((&result["reference"], &result["held_out"]["figures"]["images"]), (&40.into(), &8.into()));
    let of_data = |class: &Value| (class["name"].as_str().unwrap().to_owned(), class["reference"].as_f64().unwrap());
    let classes: Vec<_> = result["samples"]["classes"].as_array().unwrap().iter().map(of_data).collect();
    assert!(classes.contains(&("8".to_owned(), 1.0)), "{classes:?}");
    // no figure is NaN, which JSON writes as null, though there are fewer samples than features
    for name in ["frechet_distance", "kid", "kid_std", "precision", "recall", "nearest", "sure"] {
        assert!(result["samples"][name].as_f64().is_some_and(f64::is_finite), "{name}: {result:#}");
    }
}

#[test]
fn pictures_without_classes_can_be_divided_into_clusters() {
    let place = Workplace::new();
    place.pictures("pictures", [1, 16, 16], &noise(24, 256));
    for class in ["light", "dark"] {
        place.pictures(&format!("labelled/{class}"), [1, 16, 16], &noise(24, 256));
    }
    let fields = "sample_size = 16\nin_channels = 1\nout_channels = 1\nblock_out_channels = [4, 8]\n\
                  norm_num_groups = 4\nadd_attention = false\nnum_class_embeds = 3\n\
                  down_block_types = [\"DownBlock2D\", \"DownBlock2D\"]\nup_block_types = [\"UpBlock2D\", \"UpBlock2D\"]\n";
    let text = format!(
        "[data]\nname = \"folder\"\n[model]\n_class_name = \"UNet2DModel\"\n{fields}[scheduler]\n\
         _class_name = \"DDPMScheduler\"\n[train]\nepochs = 1\nbatch_size = 8\n[sample]\nsteps = 2\nbatch_size = 4\n"
    );
    fs::write(place.path("c.toml"), text).unwrap();
    let train = ["train", "--config", "c.toml", "--data", "pictures", "--out", "run"];
    let refused = place.run(&train).expect(2).stderr();
    assert!(refused.contains("the images have none: ") && refused.contains("data.clusters"), "{refused}");
    let said = place.run(&[&train[..], &["--set", "data.clusters=3"]].concat()).expect(0).stdout();
    assert!(said.contains("Classes: pictures (24), in 3 clusters.") && !said.contains("no classes"), "{said}");
    // the only class need not be named
    let tensor = |class: &[&str]| {
        let head = ["sample", "--model", "run", "--steps", "2", "--batch", "4", "--save-tensor", "t"];
        place.run(&[&head[..], class].concat()).expect(0);
        fs::read(place.path("t")).unwrap()
    };
    assert!(tensor(&[]) == tensor(&["--class", "pictures"]));
    // whatever the classes of other data are
    place.eval("e", &["--model", "run", "--data", "labelled", "--images", "12", "--steps", "2"]).expect(0);
    assert_eq!(place.result("e")["samples"]["images"], 12);
    let train = ["train", "--config", "c.toml", "--data", "labelled", "--out", "light"];
    place.run(&[&train[..], &["--set", "data.classes=[\"light\"]"]].concat()).expect(0);
    fs::write(place.path("both.toml"), "[data]\nname = \"folder\"\ndir = \"labelled\"\n").unwrap();
    let samples = |class: &[&str]| {
        let head = ["--model", "light", "--data", "both.toml", "--images", "12", "--steps", "2"];
        place.eval("f", &[&head[..], class].concat()).expect(0);
        fs::read(place.path("f/eval-samples.png")).unwrap()
    };
    assert!(samples(&[]) == samples(&["--class", "light"]));
}

#[test]
fn the_clusters_of_a_class_are_one_class() {
    let place = Workplace::new();
    let fast = config("184-fast.toml");
    let small = ["model.block_out_channels=[4,8,8]", "model.norm_num_groups=4", "model.attention_head_dim=4"];
    let quick = ["data.sources=[\"drawn\"]", "data.drawn_per_class=24", "train.batch_size=8", "sample.batch_size=6"];
    let rest = ["sample.steps=2", "sample.trajectory_steps=2", "data.clusters=4", "model.num_class_embeds=40"];
    let train = |out: &str, more: &[&str]| {
        let sets = [small.as_slice(), &quick, &rest, more].concat();
        let sets = sets.iter().flat_map(|setting| ["--set", setting]);
        let head = ["train", "--config", fast.to_str().unwrap(), "--out", out, "--max-steps", "2"];
        place.run(&head.into_iter().chain(sets).collect::<Vec<_>>())
    };
    let said = train("run", &["data.validation=\"test\"", "train.eval_every=1", "train.epochs=1"]).expect(0).stdout();
    assert!(said.contains("Classes: 1 (24), 4 (24), 8 (24), in 12 clusters."), "{said}");
    let index = fs::read(place.path("run/model_index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let names = index["_id2label"].as_object().unwrap();
    let counts: BTreeMap<u32, u64> = serde_json::from_value(index["_label_counts"].clone()).unwrap();
    let known = Labels::new(serde_json::from_value(index["_id2label"].clone()).unwrap()).with_counts(counts.clone());
    assert!(counts.len() == 12 && (32..36).map(|label| counts[&label]).sum::<u64>() == 24, "{counts:?}");
    assert_eq!((names.len(), &names["4"], &names["19"], &names["35"]), (12, &"1".into(), &"4".into(), &"8".into()));
    assert!(place.run(&["info", "run"]).expect(0).stdout().contains("classes: 4 to 7 1, 16 to 19 4, 32 to 35 8\n"));

    let tensor = |class: &str| {
        let head = ["sample", "--model", "run", "--steps", "2", "--batch", "4", "--class", class, "--save-tensor", "t"];
        place.run(&head).expect(0);
        fs::read(place.path("t")).unwrap()
    };
    // a class takes its labels as often as it has images of them
    let [fours, eights] = [vec![16, 17, 18, 19], vec![32, 33, 34, 35]];
    for (classes, labels) in
        [("8", &[eights.clone()][..]), ("4,8", &[fours.clone(), eights.clone()]), ("4..8", &[fours, eights])]
    {
        let labels: Vec<String> = known.in_turn(labels)[..4].iter().map(u32::to_string).collect();
        assert!(tensor(classes) == tensor(&labels.join(",")), "{classes}: {labels:?}");
    }
    let sample = ["sample", "--model", "run", "--steps", "2", "--batch", "1", "--class"];
    for (class, is_said) in [("8", false), ("33", false), ("3", true)] {
        let said = place.run(&[&sample[..], &[class]].concat()).expect(0).stderr();
        assert_eq!(
            said.contains("the training had no images of it") && said.contains("had 1, 4, 8"),
            is_said,
            "{said}"
        );
    }
    // images that belong together have one label of their class, the commonest, and no other class
    let one = known.in_turn(&[known.by_class()[2].1.clone()])[0].to_string();
    for edit in [&["--interpolate", "0..1", "--frames", "3"][..], &["--grid", "seed=1,2"]] {
        let head = ["sample", "--model", "run", "--steps", "2", "--scheduler", "ddim", "--save-tensor", "t", "--class"];
        let drawn = |class: &str| {
            place.run(&[&head[..], &[class], edit].concat()).expect(0);
            fs::read(place.path("t")).unwrap()
        };
        assert!(drawn("8") == drawn(&one), "{edit:?}");
        let said = place.run(&[&head[..], &["1,8"], edit].concat()).expect(2).stderr();
        assert!(said.contains("draw one class"), "{said}");
    }
    let fit = ["fit-sampler", "--model", "run", "--steps", "4", "--fine-steps", "20", "--scheduler", "dpmsolver"];
    let said = place.run(&[&fit[..], &["--out", "fitted"]].concat()).expect(0).stdout();
    assert!(said.contains(" --class 1,4,8 --steps 4"), "{said}");
    // data without clusters is drawn by the names of its classes
    fs::write(place.path("plain.toml"), fs::read_to_string(&fast).unwrap().replace("clusters", "# clusters")).unwrap();
    let plain = ["--data", "plain.toml", "--set", quick[0], "--set", quick[1]];
    for more in [&[][..], &["--class", "8"], &["--restore", "0.5"], &plain] {
        place.eval("e", &[&["--model", "run", "--images", "12", "--steps", "2"], more].concat()).expect(0);
        let result = place.result("e");
        let classes = result["samples"]["classes"].as_array().unwrap();
        let eights = classes.iter().filter(|class| class["name"] == "8" && class["reference"].as_f64() > Some(0.3));
        assert!(classes.len() <= 10 && eights.count() == 1, "the classes are digits: {result:#}");
    }

    for (setting, code, message) in [
        ("model.num_class_embeds=12", 2, "set model.num_class_embeds to 36"),
        ("data.clusters=1", 2, "`clusters` is 1; it must be from 2 to 256"),
        ("data.clusters=32", 1, "is 32, but class 1 has only 24 images"),
    ] {
        let said = train("bad", &[setting]).expect(code).stderr();
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn a_share_held_out_of_the_training_is_not_in_the_reference() {
    let place = Workplace::new();
    let digits = draw_digits(&[1, 8], 30, 0).unwrap();
    place.digits("data", &digits);
    place.pictures("all", [1, 28, 28], &all(&digits));
    let share = ["--set", "data.validation=0.2"];
    let args = [&["--from-images", "all", "--data", "data"], &share[..]].concat();
    let said = place.eval("folder", &args).expect(0).stdout();
    assert!(said.contains("the share of data.validation is the yardstick"), "{said}");
    let result = place.result("folder");
    assert_eq!((&result["reference"], &result["samples"]["images"]), (&48.into(), &60.into()));
    assert_eq!(result["held_out"]["images"], "held-out share");
    assert_eq!(result["held_out"]["figures"]["images"], 12);
    // of all images, those of the reference are at distance 0 from it, and of the held-out ones none is
    assert!(result["samples"]["nearest"].as_f64().unwrap() < 1e-3, "{result:#}");
    assert!(result["held_out"]["figures"]["nearest"].as_f64().unwrap() > 0.01, "{result:#}");

    // a set with a test split keeps that as the yardstick
    place.train("run", &[&["--max-steps", "1"], &share[..]].concat()).expect(0);
    place.eval("split", &["--model", "run", "--images", "8", "--steps", "1"]).expect(0);
    let result = place.result("split");
    assert_eq!((&result["reference"], &result["held_out"]["images"]), (&96.into(), &"test split".into()));
}

#[test]
fn samples_that_are_not_numbers_are_refused() {
    let place = Workplace::new();
    place.train("run", &["--max-steps", "1"]).expect(0);
    let file = place.path("run/unet/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // NaN is refused when the model is loaded; these weights are finite, and what they compute is not
    bytes[header..].chunks_exact_mut(4).for_each(|value| value.copy_from_slice(&f32::MAX.to_le_bytes()));
    fs::write(&file, bytes).unwrap();
    let said = place.eval("e", &["--model", "run", "--images", "8", "--steps", "1"]).expect(1).stderr();
    assert!(said.contains("8 of 8 images hold numbers that are not finite") && said.contains("diverged"), "{said}");
    assert!(!place.path("e/eval.json").exists());
}

/// What a kill leaves: whole files, no result without its pictures, no half classifier.
#[test]
fn a_killed_eval_leaves_nothing_half_written() {
    const ARGS: [&str; 8] = ["eval", "--out", "e", "--model", "run", "--images", "24", "--steps=2"];
    let (place, undisturbed) = (Workplace::new(), Workplace::new());
    for place in [&place, &undisturbed] {
        place.train("run", &["--max-steps", "1"]).expect(0);
    }
    let begin = Instant::now();
    undisturbed.run(&ARGS).expect(0);
    let whole = begin.elapsed();
    for fifth in 1..5 {
        let mut child = place.kakusan(&ARGS).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * fifth / 5);
        child.kill().unwrap();
        child.wait().unwrap();
        let files = fs::read_dir(place.path("e")).into_iter().flatten().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| !file.file_name().unwrap().to_str().unwrap().starts_with('.')) {
            let bytes = fs::read(&file).unwrap();
            match file.extension().unwrap().to_str().unwrap() {
                "png" => assert!(bytes.ends_with(b"IEND\xaeB`\x82"), "{}", file.display()),
                _ => {
                    serde_json::from_slice::<Value>(&bytes).unwrap();
                    assert!(place.path("e/eval-neighbours.png").is_file());
                }
            }
        }
    }
    let said = place.run(&ARGS).expect(0).stdout();
    assert!(said.contains("Classifier: trained now") || said.contains("Classifier: from the cache"), "{said}");
    for file in ["eval.json", "eval-samples.png", "eval-neighbours.png"] {
        let of = |place: &Workplace| fs::read(place.path("e").join(file)).unwrap();
        assert!(of(&place) == of(&undisturbed), "{file} differs from that of an undisturbed run");
    }
}

#[test]
fn what_cannot_be_measured_says_what_to_do() {
    let place = Workplace::new();
    let data = config("184.toml");
    let data = [&["--data", data.to_str().unwrap()], DRAWN.as_slice()].concat();
    fs::create_dir(place.path("empty")).unwrap();
    place.pictures("few", [1, 28, 28], &noise(4, 784));
    place.pictures("one-class/7", [1, 28, 28], &noise(30, 784));
    place.pictures("flat", [1, 28, 28], &noise(30, 784));
    place.train("run", &["--max-steps", "1"]).expect(0);
    fs::write(place.path("weights.pth"), "no weights").unwrap();
    let flat = ["--from-images", "flat", "--data", "flat"];
    for (args, code, parts) in [
        ([&["--from-images", "empty"], &data[..]].concat(), 1, vec!["empty", "no picture"]),
        ([&["--from-images", "few"], &data[..]].concat(), 2, vec!["there are 4 images, and 5 are the fewest"]),
        (vec!["--from-images", "flat", "--data", "few"], 2, vec!["the data to compare with has 2 images", "add some"]),
        (vec!["--from-images", "flat", "--data", "empty"], 1, vec!["empty", "no picture"]),
        (flat.to_vec(), 2, vec!["labelled images", "--features pt_inception"]),
        (vec!["--from-images", "flat", "--data", "one-class"], 2, vec!["of one class, `7`", "--features pt_inception"]),
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

/// While its classifier is trained, a training stops as promptly as in a step, and what was learnt is saved.
#[test]
#[cfg(unix)]
fn an_interrupted_measurement_saves_the_run() {
    let place = Workplace::new();
    let set = ["data.classes=[1]", "data.drawn_per_class=640", "train.epochs=50", "train.eval_every=1"];
    let args = Workplace::quick("run", &set.map(|set| ["--set", set]).concat());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child = place.kakusan(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("Classifier: it is being trained") {
        assert!(stdout.read_line(&mut said).unwrap() > 0, "{said}");
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130), "{said}");
    assert!(said.contains("Stopped and saved.") && said.contains("train --resume run\n"), "{said}");
    // it did not finish what it had begun
    assert!(!said.contains("Classifier: trained now") && !place.path("cache/classifiers").exists(), "{said}");
    assert!(!place.path("run/eval.jsonl").exists());
    assert!(place.path("run/checkpoints/checkpoint-20").is_dir());
}
